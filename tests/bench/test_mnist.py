"""Whole trainings beside each other, on the CPU and on a small data set: the same losses, hence the same accuracy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tilegrad.bench import mnist
from tilegrad.data import write_idx


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Images whose brightness in one half tells one of two classes."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for part, n in (("train", 100), ("t10k", 40)):
        labels = rng.integers(0, 2, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        images[labels == 1, :14] += 100
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


def test_all_train_alike_and_are_reported(digits, tmp_path, capsys):
    path = tmp_path / "new" / "mnist.json"
    only = "plain,captured,captured x 8,torch"
    flags = ["--net", "mlp", "--device", "cpu", "--epochs", "2", "--runs", "1", "--batch-size", "8"]
    assert mnist.main([*flags, "--only", only, "--data", str(digits), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["provenance"]["date"] and found["arguments"]["epochs"] == 2
    assert list(found["contestants"]) == only.split(",")
    for name, times in found["contestants"].items():
        assert len(times["seconds"]) == len(times["host_seconds"]) == 2 and min(times["host_seconds"]) > 0, name
        assert all(host <= whole for host, whole in zip(times["host_seconds"], times["seconds"], strict=True))
        assert times["accuracy"] > 0.9, name
        assert times["losses"][0] == times["losses"][1], name  # every run begins anew
    assert len({times["accuracy"] for times in found["contestants"].values()}) == 1
    printed = capsys.readouterr().out
    assert "MLP on cpu, 2 epochs of 100 images, batch 8" in printed
    assert [p.name for p in path.parent.iterdir()] == ["mnist.json"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--only", "captured,jax"],
            "--only: got jax; expected some of plain, captured, captured x 8, torch, torch-com",
        ),
        (["--net", "rnn"], "invalid choice: 'rnn'"),
        (["--device", "tpu"], 'expected "cpu", "cuda" or "auto"'),
        (["--json", "/proc/no/file.json"], "--json: /proc/no/file.json"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_bad_flags_end_it_before_anything_is_measured(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        mnist.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
