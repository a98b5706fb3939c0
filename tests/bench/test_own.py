"""bench.op: an op that is not in the bench, with all that built-in rows have."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tilegrad import bench
from tilegrad.bench import own
from tilegrad.bench.ops import OPS
from tilegrad.kernels.device import gpu


@pytest.fixture(autouse=True)
def _ops():
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def swish(x, w):
    s = 1 / (1 + np.exp(-x))
    return x * s * w, s


def swish_grad(dy, x, w, y, s):
    return dy * w * s * (1 + x * (1 - s)), (dy * x * s).sum(0)


def draw(rng, shape):
    return {"x": rng.standard_normal(shape), "w": rng.standard_normal(shape[1]), "dy": rng.standard_normal(shape)}


WHAT = {
    "axes": ("N", "C"),
    "cpu": {(8, 6): "small", (30, 20): "larger"},
    "cuda": {(64, 32): "small"},
    "toy": (3, 5),
    "inputs": draw,
    "reference": swish,
    "gradient": swish_grad,
    "bytes": {"forward": lambda s, b: 2 * s[0] * s[1] * b, "backward": lambda s, b: 3 * s[0] * s[1] * b},
    "flops": {"forward": lambda s: 5 * s[0] * s[1], "backward": lambda s: 9 * s[0] * s[1]},
    "terms": {"forward": lambda s: 1, "backward": lambda s: s[0]},
    "torch": lambda torch, x, w: (torch.nn.functional.silu(x.double()) * w.double()).to(x.dtype),  # rounded once
}


def test_its_rows_are_as_those_of_any_op(command):
    bench.op("swish", **WHAT)

    @bench.provider("mine", op="swish")
    def forward(x, w):
        return x / (1 + np.exp(-x)) * w

    @bench.provider("mine", op="swish", mode="backward")
    def backward(dy, x, w, y, s):
        return swish_grad(dy, x, w, y, s)

    status, found, told = command("swish", "--device", "cpu", "--quick")
    assert status == 0, told
    rows = {(row["mode"], row["provider"]): row for row in found["rows"]}
    assert {provider for _, provider in rows} == {"reference", "cpu", "torch", "mine"}
    for mode, flops, arrays in (("forward", 5, 2), ("backward", 9, 3)):
        row = rows[mode, "mine"]
        assert (row["op"], row["variant"], row["shape"], row["status"]) == ("swish", "swish", [8, 6], "ok")
        assert (row["flops"], row["bytes"]) == (flops * 48, arrays * 48 * 4)
        assert row["ms"] > 0 and row["of_ceiling"] > 0 and row["best_rival"] == "torch" and row["times_rival"] > 0
        assert rows[mode, "cpu"]["reason"] == "swish is no primitive of the contract"
    assert "8 x 6: small" in told and "30 x 20" not in told
    _, found, _ = command("swish", "--device", "cpu", "--shapes", "4,3", "--mode", "both", "--providers", "torch")
    assert found["rows"][0]["bytes"] == 5 * 12 * 4
    _, _, listed = command("--list")
    assert "swish  --shapes N,C" in listed and "swish(x, w): forward, backward, both" in listed


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_what_is_wrong_is_not_timed_in_any_dtype_or_mode(command, dtype):
    bench.op("swish", **WHAT)
    bench.provider("off", op="swish")(lambda x, w: (swish(x.astype("f8"), w.astype("f8"))[0] * 1.02).astype(x.dtype))
    bench.provider("off", op="swish", mode="backward")(lambda *given: [2 * g for g in swish_grad(*given)])
    arguments = ("swish", "--device", "cpu", "--dtype", dtype, "--shapes", "30,20")
    status, found, _ = command(*arguments, "--providers", "reference,torch,off")
    by = {(row["mode"], row["provider"]): row["status"] for row in found["rows"]}
    assert status == 1 and by["forward", "off"] == by["backward", "off"] == "wrong"
    assert {kind for (_, name), kind in by.items() if name != "off"} == {"ok"}


@pytest.mark.skipif(not gpu.is_simulated(), reason="the device is a real one")
def test_on_the_simulated_device_it_is_checked_at_its_toy_size(command):
    bench.op("swish", **WHAT)
    bench.provider("mine", op="swish", device="cuda")(lambda x, w: x / (1 + gpu.xp().exp(-x)) * w)
    status, found, told = command("swish", "--device", "cuda", "--dtype", "float32", "--mode", "forward")
    rows = {row["provider"]: row for row in found["rows"]}
    assert status == 0 and rows["mine"]["status"] == "unmeasured" and rows["mine"]["shape"] == [3, 5], told
    assert rows["triton"]["reason"] == "swish is no primitive of the contract"


def test_without_a_gradient_and_a_rival_there_are_forward_rows_alone(command):
    only = {name: WHAT[name] for name in ("axes", "cpu", "cuda", "toy", "inputs", "reference")}
    bench.op("swish", bytes=lambda s, b: 2 * s[0] * s[1] * b, flops=lambda s: 5 * s[0] * s[1], **only)
    bench.provider("theirs", op="swish", rival=True)(lambda x, w: swish(x, w)[0])
    _, found, _ = command("swish", "--device", "cpu", "--shapes", "4,3", "--providers", "reference,torch,theirs")
    rows = {row["provider"]: row for row in found["rows"]}
    assert {row["mode"] for row in found["rows"]} == {"forward"}
    assert rows["torch"]["reason"] == "no function of torch's was given for swish"
    assert rows["theirs"]["rival"] and rows["reference"]["best_rival"] == "theirs"


def test_narrow_inputs_come_to_the_specification_as_float32_and_are_rounded_once():
    seen = []
    forward = own._promoted(lambda x, index: (seen.append((x.dtype, index.dtype)), (x * 3, x.sum()))[1], 1)
    x = np.asarray([1.0, 2.0], ml_dtypes.bfloat16)
    y, total = forward(x, np.arange(2, dtype=np.int16))
    assert seen == [(np.float32, np.int16)] and y.dtype == ml_dtypes.bfloat16 and total.dtype == np.float32
    (y,) = own._promoted(lambda x: x * 3, None)(np.ones(2, np.float16))
    assert y.dtype == np.float16
    (y,) = own._promoted(lambda x: x * 3, None)(np.ones(2))
    assert y.dtype == np.float64


@pytest.mark.parametrize(
    "change, text",
    [
        ({"name": "softmax"}, "the name 'softmax' is taken"),
        ({"name": "log_softmax"}, "the name 'log_softmax' is taken"),
        ({"name": "train"}, "the name 'train' is taken"),
        ({"dtypes": ("float8",)}, "dtype 'float8'; expected some of float32"),
        ({"toy": (3,)}, r"swish's shape \(3,\); expected one number for each of N, C"),
        ({"reference": lambda x, v: x}, "swish's inputs are x, w, dy; expected v too"),
        ({"incoming": "g"}, "swish's inputs are x, w, dy; expected g too"),
        ({"bytes": lambda s, b: 1}, "swish's bytes are of forward; expected forward and backward"),
        ({"flops": {"backward": lambda s: 1}}, "swish's flops are of backward; expected forward and backward"),
    ],
)
def test_what_it_refuses(change, text):
    given = {"name": "swish", **WHAT, **change}
    with pytest.raises(ValueError, match=f"bench.op: {text}"):
        bench.op(given.pop("name"), **given)
    assert "swish" not in OPS
