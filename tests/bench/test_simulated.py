"""--device cuda on the simulated device: every kernel is run and checked, and nothing is measured."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad import bench
from tilegrad.bench import launch
from tilegrad.bench.providers import PROVIDERS
from tilegrad.kernels.device import gpu

pytestmark = pytest.mark.skipif(not gpu.is_simulated(), reason="the device is a real one")

TOY = {
    "matmul": "4,8,3", "activations": "20", "softmax": "3,7", "softmax_xent": "3,7", "adam": "20",
    "conv": "1,2,4,3,3,1", "pool": "1,2,4,5", "attention": "1,2,5,4", "recurrent": "2,2,3",
}  # fmt: skip


@pytest.mark.parametrize("op", TOY)
def test_every_op_runs_on_triton_and_says_that_nothing_is_measured(command, op):
    status, found, told = command(op, "--device", "cuda", "--shapes", TOY[op], "--providers", "triton,torch,cpu")
    assert status == 0, told
    assert "SIMULATED DEVICE: every kernel runs once and is checked; nothing is measured" in told
    assert found["simulated"] and found["ceilings"] == {} and "simulated" in found["provenance"]["card"]
    assert "skipped: torch: torch has no simulated device" in told and "skipped: cpu: runs on device cpu" in told
    assert found["rows"] and {row["status"] for row in found["rows"]} == {"unmeasured"}
    assert all(row["ms"] is row["graph_ms"] is row["host_ms"] is row["rate"] is None for row in found["rows"])
    assert " ms " not in told


def test_precisions_have_rows_and_numba_says_what_it_has_not(command):
    arguments = ("matmul", "--device", "cuda", "--shapes", "4,8,3", "--mode", "forward", "--providers", "triton,numba")
    _, found, _ = command(*arguments)
    kinds = {(row["dtype"], row["precision"], row["provider"]): row["reason"] for row in found["rows"]}
    assert len(kinds) == 8
    assert kinds["float32", "tf32x3", "triton"] is None
    assert kinds["float32", "tf32", "numba"] == "it uses no tensor cores: no tf32"
    assert kinds["bfloat16", "ieee", "numba"] == "it does not serve bfloat16"


def test_a_wrong_kernel_is_found_there_too(command):
    @bench.provider("off", op="relu", device="cuda")
    def off(x):
        return gpu.xp().maximum(x, 0) * 1.01

    arguments = ("activations", "--device", "cuda", "--shapes", "20", "--mode", "forward", "--dtype", "float32")
    status, found, told = command(*arguments, "--providers", "off")
    assert status == 1 and found["rows"][0]["status"] == "wrong" and "WRONG: output 0" in told


def test_programs_run_there(command):
    status, found, told = command("overhead", "--device", "cuda", "--providers", "triton")
    assert status == 0, told
    assert [row["status"] for row in found["rows"]] == ["unmeasured"] * 4 + ["skipped"] * 3
    assert found["rows"][-1]["reason"] == launch.missing()


def test_a_picture_of_nothing_is_not_drawn(command, tmp_path):
    arguments = ("pool", "--device", "cuda", "--shapes", "1,1,2,2", "--providers", "triton")
    _, _, told = command(*arguments, "--plot", str(tmp_path / "a.png"))
    assert "nothing was measured that a picture could show" in told and not (tmp_path / "a.png").exists()


def test_without_gpu_and_simulation_the_device_is_refused(monkeypatch, capsys):
    def missing():
        raise RuntimeError('device "cuda": CuPy cannot be imported')

    monkeypatch.setattr(gpu, "xp", missing)
    with pytest.raises(SystemExit) as refused:
        bench.main(["matmul", "--device", "cuda"])
    assert refused.value.code == 2
    assert '--device: device "cuda": CuPy cannot be imported' in capsys.readouterr().err


def test_images_are_as_channels_last_on_the_device_as_on_the_host():
    x = np.arange(120, dtype=np.float32).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    there = PROVIDERS["triton"].own(x, "cuda")
    assert there.strides == x.strides and there.shape == x.shape
    assert_same(PROVIDERS["triton"].host(there), x)
