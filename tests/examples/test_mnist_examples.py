"""The examples as a user runs them: a process of their own, on a small data set in a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tilegrad.data.idx import write_idx
from tilegrad.kernels.device import gpu

EXAMPLES = Path(__file__).parents[2] / "examples"
FIELDS = {
    "device": str,
    "kernels": str,
    "epochs": int,
    "batch_size": int,
    "seed": int,
    "first_step_seconds": float,
    "epoch_seconds": list,
    "train_seconds": float,
    "images_per_second": float,
    "losses": list,
    "test_accuracy": float,
}


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Ten classes that a net can learn in a few steps: a bright bar at a height that tells the class, in noise."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for part, n in (("train", 640), ("t10k", 200)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels):
            image[4 + 2 * label : 6 + 2 * label] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


def run(example, *flags, **variables):
    command = [sys.executable, EXAMPLES / example, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | variables)


@pytest.mark.parametrize("example", ["mnist_cnn.py", "mnist_mlp.py"])
def test_learns_and_reports(example, digits, tmp_path):
    path = tmp_path / "report.json"
    done = run(example, "--data", digits, "--epochs", 3, "--batch-size", 32, "--seed", 1, "--json", path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where nobody watches
    report = json.loads(path.read_text())
    assert {name: type(value) for name, value in report.items()} == FIELDS
    assert (report["device"], report["epochs"], report["batch_size"], report["seed"]) == ("cpu", 3, 32, 1)
    assert len(report["losses"]) == 3 * 20
    assert len(report["epoch_seconds"]) == 3
    assert report["train_seconds"] == pytest.approx(sum(report["epoch_seconds"]))
    assert report["images_per_second"] == pytest.approx(3 * 640 / report["train_seconds"])
    assert report["test_accuracy"] > 0.9
    assert f"test accuracy {100 * report['test_accuracy']:.2f} %" in done.stdout
    assert f"first step done {report['first_step_seconds']:.1f} s after the start" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_one_seed_one_result(digits, tmp_path):
    reports = []
    for i, seed in enumerate((3, 3, 4)):
        path = tmp_path / f"{i}.json"
        done = run("mnist_mlp.py", "--data", digits, "--epochs", 1, "--limit", 100, "--seed", seed, "--json", path)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(path.read_text()))
    assert len(reports[0]["losses"]) == 2  # 64 + 36 images
    assert reports[0]["losses"] == reports[1]["losses"]
    assert reports[0]["losses"] != reports[2]["losses"]


def test_device_cuda_has_the_losses_of_the_cpu(digits, tmp_path):
    """On a GPU, or a simulated one."""
    reports = {}
    for device in ("cpu", "cuda"):
        path = tmp_path / f"{device}.json"
        flags = ("--epochs", 1, "--limit", 32, "--batch-size", 8, "--device", device, "--json", path)
        done = run("mnist_mlp.py", "--data", digits, *flags)
        assert done.returncode == 0, done.stderr
        reports[device] = json.loads(path.read_text())
    assert "step(int64[8]): " in done.stdout and " nodes, " in done.stdout  # captured
    assert reports["cuda"]["device"] == "cuda" and reports["cuda"]["kernels"] == "triton"
    np.testing.assert_allclose(reports["cuda"]["losses"], reports["cpu"]["losses"], rtol=1e-4)
    assert abs(reports["cuda"]["test_accuracy"] - reports["cpu"]["test_accuracy"]) < 0.02


@pytest.mark.skipif(gpu.is_available(), reason="there is a GPU")
def test_device_cuda_without_a_gpu_is_one_clear_line(digits):
    done = run("mnist_mlp.py", "--data", digits, "--device", "cuda", TRITON_INTERPRET="0", NUMBA_ENABLE_CUDASIM="0")
    assert done.returncode != 0
    assert 'device "cuda": ' in done.stderr and "expected" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kernels", "triton", "--device", "cpu"], "--kernels: triton does not serve device cpu"),
        (["--device", "tpu"], "device: expected"),
        (["--epochs", "0"], "expected a number above 0"),
        (["--limit", "641"], "641 images wanted; the train set has 640"),
        (["--json", "/no/such/folder/report.json"], "cannot write to the folder /no/such/folder"),
    ],
)
def test_bad_flags_are_one_clear_line(digits, flags, message):
    done = run("mnist_mlp.py", "--data", digits, *flags)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_names_the_files(tmp_path):
    done = run("mnist_mlp.py", "--data", tmp_path)
    assert done.returncode != 0
    assert "train-images-idx3-ubyte" in done.stderr
    assert str(tmp_path) in done.stderr
