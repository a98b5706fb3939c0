"""PyTorch's zip files, written by torch and read without it."""

import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

import tilegrad as tg
from tilegrad import nn, optim


def saved(obj, tmp_path, **options):
    path = tmp_path / "file.pt"
    torch.save(obj, path, **options)
    return path


def numbers(x):
    return x.float().tolist() if isinstance(x, torch.Tensor) else x.data.astype(np.float32).tolist()


@pytest.mark.parametrize("dtype", "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64".split())
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_every_dtype_and_shape(dtype, shape, tmp_path):
    x = (torch.arange(float(np.prod(shape))).reshape(shape) % 2).to(getattr(torch, dtype))
    y = tg.load(saved(x, tmp_path))
    assert (str(y.dtype), y.shape, numbers(y)) == (dtype, x.shape, numbers(x))


@pytest.mark.parametrize("view", [lambda x: x.t(), lambda x: x[1:, ::2], lambda x: x[2], lambda x: x[:, :0]])
def test_views_of_a_larger_storage(view, tmp_path):
    x = view(torch.arange(12.0).reshape(3, 4))
    y = tg.load(saved(x, tmp_path))
    assert numbers(y) == numbers(x)
    assert y.data.base is None  # in memory of its own size


def test_a_training_goes_on_here(tmp_path):
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    theirs[2].weight = theirs[0].weight
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.1)
    x = torch.randn(6, 4)

    def step(model, optimizer, x):
        optimizer.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    step(theirs, their_optimizer, x)
    path = saved({"model": theirs.state_dict(), "optimizer": their_optimizer.state_dict(), "epoch": 3}, tmp_path)
    found = tg.load(path)
    assert found["epoch"] == 3
    assert found["model"]["2.weight"] is found["model"]["0.weight"]
    ours = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    ours[2].weight = ours[0].weight
    optimizer = optim.AdamW(ours.parameters(), lr=0.1)
    ours.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    for _ in range(3):
        assert step(ours, optimizer, tg.tensor(x.numpy())) == pytest.approx(step(theirs, their_optimizer, x), rel=1e-4)


def test_parameters_become_tensors(tmp_path):
    y = tg.load(saved(torch.nn.Parameter(torch.ones(2)), tmp_path))
    assert type(y) is tg.Tensor and not y.requires_grad


def test_torch_is_not_imported(tmp_path):
    path = saved({"x": torch.ones(2)}, tmp_path)
    code = "import sys, tilegrad as tg; print(tg.load(sys.argv[1])['x'].tolist(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[1.0,", "1.0]", "False"]


def test_big_endian_storages(tmp_path):
    whole = saved(torch.tensor([1.0, 2.0]), tmp_path)
    with zipfile.ZipFile(whole) as before, zipfile.ZipFile(tmp_path / "big.pt", "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            if name.endswith("data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            after.writestr(name, content)
    assert tg.load(tmp_path / "big.pt").tolist() == [1, 2]


# --- what is refused


def archive(tmp_path, content, storage=b"\0" * 8, compression=zipfile.ZIP_STORED):
    path = tmp_path / "forged.pt"
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/data/0", storage)
    return path


class Forged(pickle.Pickler):
    """Writes torch's names without torch's objects."""

    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and obj and obj[0] == "storage" else None


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def forged(*args):
    stream = io.BytesIO()
    storage = "storage", torch.FloatStorage, "0", "cpu", 2
    Forged(stream, 2).dump(Call(torch._utils._rebuild_tensor_v2, storage, *args, False, {}))
    return stream.getvalue()


def test_a_forged_tensor_that_is_whole_is_read(tmp_path):
    assert tg.load(archive(tmp_path, forged(0, (2,), (1,)))).tolist() == [0, 0]


@pytest.mark.parametrize(
    "args",
    [
        (1, (2,), (1,)),  # one beyond the end
        (0, (2,), (2,)),
        (-1, (1,), (1,)),
        (0, (1 << 40,), (0,)),  # it would take terabytes
        (0, (2, 2), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (1.0,), (1,)),
        (0, 2, (1,)),
        ("0", (2,), (1,)),
        (9, (1,), (1,)),
    ],
)
def test_a_tensor_outside_its_storage(args, tmp_path):
    with pytest.raises(ValueError, match=r"load: .*forged.pt cannot be read: a tensor (in|of)"):
        tg.load(archive(tmp_path, forged(*args)))


def test_a_pickle_that_calls_a_function(tmp_path):
    path = tmp_path / "called"
    with pytest.raises(ValueError, match="it names posix.system; expected tensors"):
        import os

        tg.load(archive(tmp_path, pickle.dumps(Call(os.system, f"touch {path}"))))
    assert not path.exists()


def test_a_module(tmp_path):
    with pytest.raises(ValueError, match="it names torch.nn.modules.linear.Linear"):
        tg.load(saved(torch.nn.Linear(2, 2), tmp_path))


def test_a_dtype_that_we_lack(tmp_path):
    with pytest.raises(ValueError, match="torch.ComplexFloatStorage"):
        tg.load(saved(torch.zeros(2, dtype=torch.complex64), tmp_path))


def test_the_format_before_1_6(tmp_path):
    with pytest.raises(ValueError, match="before PyTorch 1.6; expected its zip files"):
        tg.load(saved(torch.zeros(2), tmp_path, _use_new_zipfile_serialization=False))


def test_a_compressed_archive(tmp_path):
    with pytest.raises(ValueError, match="is compressed"):
        tg.load(archive(tmp_path, forged(0, (2,), (1,)), compression=zipfile.ZIP_DEFLATED))


def test_another_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("readme", "text")
    with pytest.raises(ValueError, match="a zip file without a data.pkl"):
        tg.load(tmp_path / "a.zip")


def test_a_storage_of_half_an_element(tmp_path):
    with pytest.raises(ValueError, match="storage 0 has 7 bytes, of float32"):
        tg.load(archive(tmp_path, forged(0, (1,), (1,)), storage=b"\0" * 7))
