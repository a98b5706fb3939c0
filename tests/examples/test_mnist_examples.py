"""The examples as a user runs them: a process of their own, on a small data set in a folder."""

import json
import re

import numpy as np
import pytest

from tests.examples.programs import run
from tilegrad.kernels.device import gpu

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
        (["--patience", "2"], "--patience: needs --validation SHARE"),
        (["--resume"], "--resume: needs --save DIR"),
        (["--checkpoint-every", "5"], "--checkpoint-every: needs --save DIR"),
        (["--validation", "0"], "--validation: expected a share between 0 and 1; got 0"),
        (["--validation", "1"], "--validation: expected a share between 0 and 1; got 1"),
        (["--validation", "nan"], "--validation: expected a share between 0 and 1; got nan"),
        (["--patience", "0", "--validation", "0.1"], "--patience: expected a number above 0; got 0"),
        (["--weight-decay", "-1"], "--weight-decay: expected a number above 0; got -1"),
        (["--dataset", "letters"], "--dataset: invalid choice"),
        (["--save", "/no/such/folder", "--resume"], "/no/such/folder/run.json: "),
        (["--report", "/dev/null/folder"], "/dev/null/folder"),
        (["--save", "/dev/null/folder"], "/dev/null/folder"),
    ],
)
def test_bad_flags_are_one_clear_line(digits, flags, message):
    done = run("mnist_mlp.py", "--data", digits, *flags)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "first step" not in done.stdout  # nothing was computed


def test_help_names_every_flag():
    done = run("mnist_cnn.py", "--help", COLUMNS="100")
    flags = "epochs batch-size lr weight-decay augment validation patience seed dataset data limit save resume"
    for flag in f"{flags} checkpoint-every report json device kernels".split():
        assert re.search(rf"^  --{flag} .*\S", done.stdout, re.MULTILINE), flag
    assert done.stdout.startswith("usage: mnist_cnn.py [flags]\n\nA convolutional net on MNIST: >= 99 %")
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_fashion_mnist_has_its_own_mean_and_names(digits, tmp_path):
    done = run("mnist_mlp.py", "--dataset", "fashion", "--data", digits, "--epochs", 1, "--report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / "report.json").read_text())["test"]["classes"])[:2] == ["top", "trouser"]
    plain = run("mnist_mlp.py", "--data", digits, "--epochs", 1)
    loss = r"epoch 1/1  loss (\S+)"
    assert re.search(loss, done.stdout)[1] != re.search(loss, plain.stdout)[1]


def test_fashion_mnist_is_not_looked_for_where_mnist_is(digits, tmp_path):
    found = run("mnist_mlp.py", "--dataset", "fashion", "--epochs", 1, TILEGRAD_FASHION_DATA=str(digits))
    assert found.returncode == 0, found.stderr
    elsewhere = {"TILEGRAD_DATA": str(digits), "TILEGRAD_FASHION_DATA": str(tmp_path)}
    missing = run("mnist_mlp.py", "--dataset", "fashion", "--epochs", 1, **elsewhere)
    assert f"fashion_mnist: {tmp_path} holds no train-images-idx3-ubyte" in missing.stderr


def test_missing_data_names_the_files(tmp_path):
    done = run("mnist_mlp.py", "--data", tmp_path)
    assert done.returncode != 0
    assert "train-images-idx3-ubyte" in done.stderr
    assert str(tmp_path) in done.stderr
