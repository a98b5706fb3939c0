"""Tensors of the GPU in files."""

import tilegrad as tg


def test_to_the_gpu_and_back(tmp_path):
    path = tmp_path / "file"
    x = tg.arange(6.0, device="cuda").reshape(2, 3)
    tg.save({"a": x.t(), "b": x.t()}, path)
    loaded = tg.load(path, device="cuda")
    assert loaded["a"] is loaded["b"]
    assert loaded["a"].device == "cuda"
    assert loaded["a"].tolist() == tg.load(path)["b"].tolist() == x.t().tolist()
    assert tg.load(path)["a"].device == "cpu"
