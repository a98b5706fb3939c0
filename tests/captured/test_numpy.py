"""NumPy's functions on arrays of a captured step: their bits, whatever the layout of what they read and write."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import kernels

LAYOUTS = {
    "C": lambda x: x,
    "F": lambda x: x.transpose(2, 1, 0).copy().transpose(2, 1, 0),
    "axes exchanged": lambda x: x.swapaxes(0, 1).copy().swapaxes(0, 1),
    "backwards": lambda x: x[:, ::-1],
    "with gaps": lambda x: x[:, :, ::2],
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "small": lambda x: x[:3, :2, :5],
}
REDUCING = {
    "sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "mean": np.mean, "add.reduce": np.add.reduce,
    "a method": lambda x, axis: x.sum(axis), "the mean by a method": lambda x, axis: x.mean(axis),
    "of float16 by a method": lambda x, axis: x.astype(np.float16).mean(axis, keepdims=True).astype(np.float32),
    "a ufunc's": lambda x, axis: np.maximum.reduce(x, axis),
    "in float64": lambda x, axis: np.sum(x, axis, dtype=np.float64),
    "of float16": lambda x, axis: np.sum(x.astype(np.float16), axis),
    "keeping axes": lambda x, axis: np.sum(x, axis, keepdims=True),
    "any": lambda x, axis: (x > 1).any(axis).astype(np.float32),
}  # fmt: skip
OTHERS = {
    "argmax": lambda x: np.argmax(x, 1), "argmin": lambda x: x.argmin(2), "cumsum": lambda x: np.cumsum(x, 1),
    "cumprod": lambda x: x.cumprod(0), "concatenate": lambda x: np.concatenate([x, x * 2], 1),
    "stack": lambda x: np.stack([x, -x], 2), "where": lambda x: np.where(x > 0, x, 0),
    "clip": lambda x: np.clip(x, 0, 1),
    "sort": lambda x: np.sort(x, 1), "argsort": lambda x: np.argsort(x, 2, kind="stable"),
    "round": lambda x: np.round(x, 1), "astype": lambda x: x.astype(np.float64) + x.astype(np.int32),
    "a copy": lambda x: x.copy(), "a copy in order": lambda x: x.copy(order="F"),
    "reshape": lambda x: x.reshape(-1) * 2,
    "reshape of a transpose": lambda x: x.transpose(1, 2, 0).reshape(len(x), -1), "take": lambda x: x[[0, 2, 1]],
    "take along two": lambda x: x[:, [1, 0], [3, 4]], "roll": lambda x: np.roll(x, 1, 1),
    "flip": lambda x: np.flip(x, 0) + x,
    "pad": lambda x: np.pad(x, 1), "svd": lambda x: np.linalg.svd(x, full_matrices=False)[1],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


def assert_as_plain(fn, layout):
    step = tg.capture(lambda x: tg.from_numpy(fn(x.data + 0)), warmup=1)
    for seed in range(4):
        x = LAYOUTS[layout](np.random.default_rng(seed).standard_normal((40, 30, 20)).astype(np.float32))
        got = step(tg.from_numpy(x)).numpy()
        assert_same(got, fn(x + 0))
    assert graphs(step), step.summary()


@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 1), (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reductions(layout, axis):
    """Their order of summation is that of a result that NumPy lays out itself."""

    def planned(x):
        parts = [reduce(x, axis).astype(np.float64).reshape(-1) for reduce in REDUCING.values()]
        return np.concatenate(parts)

    assert_as_plain(planned, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", OTHERS)
def test_other_functions(function, layout):
    assert_as_plain(OTHERS[function], layout)


def test_what_is_computed_of_constants_alone_is_computed_once():
    """Until they are written to: what comes after that is a part of the program."""

    def fn(x):
        a = tg.tensor([1.0, 2.0, 3.0])
        b = (a * 2).exp().to(tg.int32)
        c = a[1:]  # a view is no copy
        a += x
        return a + b, a * 2, c, b.sum().float() + x

    step = tg.capture(fn)
    for i in range(5):
        x = tg.tensor([i, i + 1.0, i - 1.0])
        for got, want in zip(step(x), fn(x), strict=True):
            assert got.numpy().tobytes() == want.numpy().tobytes()
    (account,) = graphs(step)
    nodes = account.graph.nodes()
    assert "exp_kernel" not in nodes and nodes["multiply_kernel"] == 1
