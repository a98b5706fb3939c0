"""Where a program or a block of threads ends: arrays one element short of that, just as long, and one longer.

What is updated in place lies between neighbours, which must stay; what is read has numbers around it, so that a result
for an element too many is no NaN, and the guards behind fresh memory (kernels/simulate/arrays.py) see it.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []
REFERENCE = kernels.load("reference")
AROUND = 32  # elements on either side
NEIGHBOUR = 7.0


@pytest.fixture(params=["triton", "numba"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def device(name: str) -> Any:
    return kernels.load(name)


def sizes(name: str, family: str) -> list[int]:
    """Around one block of that family's kernel, and around two."""
    module = importlib.import_module(f"tilegrad.kernels.{family}.gpu_{name}")
    if hasattr(module, "BLOCK"):
        block = module.BLOCK
    else:
        block = module.THREADS * (4 if family == "dropout" else 1)
    return [n * block + more for n in (1, 2) for more in (-1, 0, 1)]


class Between:
    """n elements of a device array between neighbours; `shift` of them make its address an odd one."""

    def __init__(self, values: np.ndarray, shift: int) -> None:
        xp, self.begin, self.end = gpu.xp(), AROUND + shift, AROUND + shift + values.size
        self.whole = xp.full(values.size + 2 * AROUND + shift, NEIGHBOUR, values.dtype)
        self.inside = self.whole[self.begin : self.end]
        self.inside[...] = xp.asarray(values)

    def get(self) -> np.ndarray:
        """The elements, after a look at the neighbours."""
        whole = gpu.xp().asnumpy(self.whole)
        for side in (whole[: self.begin], whole[self.end :]):
            assert (side == NEIGHBOUR).all(), f"a neighbour of {self.end - self.begin} elements was written to"
        return whole[self.begin : self.end]


def normal(seed: int, n: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def check_step(device: Any, op: str, shift: int, lists: list[list[np.ndarray]], *numbers: float) -> None:
    """That step on arrays of these values, each between neighbours, against the reference."""
    placed = [[Between(a, shift) for a in each] for each in lists]
    getattr(device, op)(*[[b.inside for b in each] for each in placed], *numbers)
    want = [[a.astype(np.float64) for a in each] for each in lists]
    baseline = [[a.copy() for a in each] for each in lists]
    for host in (want, baseline):
        getattr(REFERENCE, op)(*host, *numbers)
    for each in zip(placed, want, baseline, strict=True):
        for got, w, b in zip(*each, strict=True):
            assert_close(got.get(), w, b, scale=1.0)


@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "odd"])
@pytest.mark.parametrize("op", ["adam", "sgd with momentum", "sgd"])
def test_optimizers(name, device, op, shift):
    for n in sizes(name, "optimizer"):
        lists = [[normal(k, n), normal(k + 4, 5)] for k in range(4)]
        lists[3] = [np.abs(a) for a in lists[3]]
        if op == "adam":
            check_step(device, "adam_step", shift, lists, 3, 0.1)
        elif op == "sgd":
            placed = [[Between(a, shift) for a in each] for each in lists[:2]]
            device.sgd_step(*[[b.inside for b in each] for each in placed], None, 0.1)
            for got, p, g in zip(placed[0], *lists[:2], strict=True):
                want = p - 0.1 * g.astype(np.float64)
                assert_close(got.get(), want, want.astype(np.float32), scale=1.0)
        else:
            check_step(device, "sgd_step", shift, lists[:3], 0.1, 0.9)


@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "odd"])
def test_clip(name, device, shift):
    for n in sizes(name, "clip_norm"):
        values = [normal(1, n), normal(2, 5)]
        placed = [Between(a, shift) for a in values]
        norm = device.clip_norm_step([b.inside for b in placed], 1.0)
        want = np.sqrt(sum(np.sum(a.astype(np.float64) ** 2) for a in values))
        assert_close(gpu.xp().asnumpy(norm), want, np.float32(want))
        for got, a in zip(placed, values, strict=True):
            w = a.astype(np.float64) / want
            assert_close(got.get(), w, w.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_activations(name, device, dtype):
    most = sizes(name, "activations")
    for n in most if name == "triton" else [*most, 4 * most[1] + 1]:  # which threads take several elements of
        x, dy = normal(1, n, dtype), normal(2, n, dtype)
        a, b = Between(x, 0), Between(dy, 0)
        assert_same(gpu.xp().asnumpy(device.relu(a.inside)), np.maximum(x, 0) + dtype(0))
        assert_same(gpu.xp().asnumpy(device.relu_grad(b.inside, a.inside)), np.where(x <= 0, dtype(0), dy))
        want = np.where(x > 0, 1, 0.25).astype(dtype)
        assert_same(gpu.xp().asnumpy(device.leaky_relu(a.inside, 0.25)), x * want)
        assert_same(gpu.xp().asnumpy(device.leaky_relu_grad(b.inside, a.inside, 0.25)), dy * want)
        silu = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
        assert_close(gpu.xp().asnumpy(device.silu(a.inside)), silu, REFERENCE.silu(x))


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_random_bits_and_dropout(name, device, offset):
    """A stream that begins within a block of four words needs one block more: the last words of a full grid are its."""
    around = sizes(name, "dropout")
    for n in (around[0] - 1, *around):  # three words skipped and one more: the least that is too much for a block
        assert_same(gpu.xp().asnumpy(device.random_bits(5, offset, n)), REFERENCE.random_bits(5, offset, n))
        for dtype in (np.float16, np.float32):
            x = normal(1, n, dtype)
            y = device.dropout(Between(x, 0).inside, 0.5, 5, offset)
            assert_same(gpu.xp().asnumpy(y), REFERENCE.dropout(x, 0.5, 5, offset))


def test_sums(name, device):
    """Rows and columns around the tile and the line."""
    for n in (31, 32, 33, 255, 256, 257) if name == "triton" else (3, 4, 5, 15, 16, 17):
        x = normal(1, 3 * n).reshape(3, n)
        view = Between(x.reshape(-1), 0).inside.reshape(3, n)
        for shape, axes in (((3, n), (1,)), ((3, n), (0,)), ((n, 3), (0,)), ((3, n), (0, 1))):
            want = x.reshape(shape).astype(np.float64).sum(axes)
            got = gpu.xp().asnumpy(device.sum(view.reshape(shape), axes))
            assert_close(got, want, x.reshape(shape).sum(axes), scale=1.0)


def test_rows(name, device):
    """Of bytes, halves and words, around the block of a program and around a warp."""
    widths = (127, 128, 129, 4095, 4096, 4097) if name == "triton" else (7, 8, 9, 31, 32, 33)
    for width in widths:
        x = np.random.default_rng(0).integers(0, 100, (4, width)).astype(np.uint8)
        index = np.array([3, 0, -1])
        placed = Between(x.reshape(-1), 0).inside.reshape(4, width)
        y = device.take_rows(placed, gpu.xp().asarray(index))
        assert_same(gpu.xp().asnumpy(y), x[index])
        y = device.take_rows(placed, gpu.xp().asarray(index), 0.5, 0.25)
        assert_same(gpu.xp().asnumpy(y), x[index] * np.float32(0.5) + np.float32(0.25))
    faults.raise_pending()


def test_recurrent_layers(name, device):
    """As many sequences as a program or a block has rows, and one more or less; half of them end before the last step,
    and the states of these lie behind those that it writes."""
    width = 8
    for batch in (31, 32, 33) if name == "triton" else (1, 2, 3):
        lengths = batch, batch, batch // 2
        x, h0, w = normal(1, sum(lengths) * 4 * width), normal(2, batch * width), normal(3, 4 * width * width) / 4
        shapes = (sum(lengths), 4 * width), (4 * width, width), (batch, width), (batch, width)
        placed = [Between(a, 0).inside.reshape(shape) for a, shape in zip((x, w, h0, h0), shapes, strict=True)]
        given = [gpu.xp().asnumpy(a) for a in placed]
        want, baseline = (REFERENCE.lstm(*each, lengths) for each in ([a.astype(np.float64) for a in given], given))
        found = device.lstm(*placed, lengths)
        for results in zip(map(gpu.xp().asnumpy, found), want, baseline, strict=True):
            assert_close(*results, scale=1.0)
        dy = Between(normal(4, sum(lengths) * width), 0).inside.reshape(sum(lengths), width)
        kept = placed[3], *found[3:], lengths
        gradient = gpu.xp().asnumpy(dy), None, None, given[1], given[3], *map(gpu.xp().asnumpy, found[3:])
        wide = [None if a is None else a.astype(np.float64) for a in gradient]
        want, baseline = (REFERENCE.lstm_grad(*each, lengths) for each in (wide, gradient))
        found = device.lstm_grad(dy, None, None, placed[1], *kept)
        for results in zip(map(gpu.xp().asnumpy, found), want, baseline, strict=True):
            assert_close(*results, scale=1.0)


def test_softmax_and_cross_entropy(name, device):
    """Rows of a power of two and one more or less, and as many rows as a program has, and one more or less."""
    for rows, n in ((7, 31), (8, 32), (9, 33), (3, 127), (4, 128), (5, 129)):
        z, t = normal(1, rows * n).reshape(rows, n), np.arange(rows) % n
        placed = Between(z.reshape(-1), 0).inside.reshape(rows, n)
        wide = z.astype(np.float64)
        assert_close(gpu.xp().asnumpy(device.softmax(placed, 1)), REFERENCE.softmax(wide, 1), REFERENCE.softmax(z, 1))
        loss, m, s, total = device.softmax_xent(placed, gpu.xp().asarray(t), None, 0.1, -100, "none")
        want, baseline = (REFERENCE.softmax_xent(a, t, None, 0.1, -100, "none") for a in (wide, z))
        assert_close(gpu.xp().asnumpy(loss), want[0], baseline[0])
        ones = gpu.xp().ones(rows, np.float32)
        options = None, 0.1, -100, "none"
        dz = device.softmax_xent_grad(ones, placed, gpu.xp().asarray(t), m, s, total, *options)
        want, baseline = (
            REFERENCE.softmax_xent_grad(np.ones(rows, a.dtype), a, t, *each[1:], *options)
            for a, each in ((wide, want), (z, baseline))
        )
        assert_close(gpu.xp().asnumpy(dz), want, baseline, scale=1.0)
    faults.raise_pending()
