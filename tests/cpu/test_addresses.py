"""Every primitive gives the same bits wherever its operands and results lie, and however close together.

LLVM chooses between two forms of a loop by the distance of the arrays' addresses. They must add in the same order.
"""

import itertools

import numpy as np
import pytest

from kernels import PRIMITIVES, cpu

_empty = np.empty
GAPS = [*range(40), 63, 64, 65]  # numbers between arrays: two vectors of 16 unrolled four times reach over 64
OFFSETS = 0, 1, 8, 15  # of the first one, in numbers, from a cache line


class Arena:
    """Memory in which arrays follow each other at a given distance."""

    def __init__(self) -> None:
        memory = _empty(1 << 18, np.uint8)
        self._memory = memory[-memory.ctypes.data % 64 :]

    def begin(self, offset: int, gap: int) -> None:
        self._at, self._gap = 4 * offset, 4 * gap

    def empty(self, shape, dtype=np.float64, order="C"):
        """np.empty's arrays, here."""
        dtype = np.dtype(dtype)
        at = -(-self._at // dtype.itemsize) * dtype.itemsize
        array = np.ndarray(shape, dtype, self._memory, at, order=order)
        self._at = at + array.nbytes + self._gap
        return array

    def placed(self, x):
        if isinstance(x, (list, tuple)):
            return type(x)(map(self.placed, x))
        if not isinstance(x, np.ndarray):
            return x
        order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
        array = self.empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order))
        array[...] = x
        return array


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cases():
    """name, primitive, arguments: sizes below and above a vector, its unrolled loop, and a tile."""
    for name in ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"):
        for n in (3, 21, 70):
            yield name, getattr(cpu, name), (floats(n),)
            yield f"{name}_grad", getattr(cpu, f"{name}_grad"), (floats(n), abs(floats(n, seed=1)) % 1)
    for n in (3, 21, 70):
        yield "gelu, tanh", cpu.gelu, (floats(n), "tanh")
        yield "gelu_grad, tanh", cpu.gelu_grad, (floats(n), floats(n, seed=1), "tanh")
    for shape in ((4, 3), (2, 10), (1, 28), (1, 33), (3, 100)):
        for name in ("softmax", "log_softmax"):
            yield name, getattr(cpu, name), (floats(*shape),)
            y = getattr(cpu, name)(floats(*shape, seed=1))
            yield f"{name}_grad", getattr(cpu, f"{name}_grad"), (floats(*shape), y)
        z, t = floats(*shape), np.arange(shape[0]) % shape[1]
        yield "softmax_xent", cpu.softmax_xent, (z, t)
        yield "softmax_xent_grad", cpu.softmax_xent_grad, (np.ones((), np.float32), z, t, *cpu.softmax_xent(z, t)[1:])
        yield "sum over rows", cpu.sum, (floats(*shape), (0,))
        yield "sum over columns", cpu.sum, (floats(*shape), (1,))
        yield "sum", cpu.sum, (floats(*shape), (0, 1))
    for m, k, n in ((1, 5, 3), (4, 20, 10), (7, 33, 18), (33, 40, 48)):
        a, b, bias = floats(m, k), floats(k, n, seed=1), floats(n, seed=2)
        for form, (left, right) in {"a b": (a, b), "a' b": (floats(k, m).T, b), "a b'": (a, floats(n, k).T)}.items():
            yield f"matmul {form}", cpu.matmul, (left, right)
        yield "matmul, bias, gelu", cpu.matmul, (a, b, bias, "gelu")
    geometry = (1, 1), (0, 0), (1, 1), 1
    for channels, filters in ((1, 4), (3, 5), (16, 32)):
        x, w, bias = floats(2, channels, 6, 7), floats(filters, channels, 3, 3, seed=1), floats(filters, seed=2)
        y = cpu.conv2d(x, w, bias)
        yield "conv2d", cpu.conv2d, (x, w, bias)
        yield "conv2d_grad_input", cpu.conv2d_grad_input, (y, w, x.shape, *geometry)
        yield "conv2d_grad_weight", cpu.conv2d_grad_weight, (y, x, w.shape, *geometry)
        yield "conv2d_grad_bias", cpu.conv2d_grad_bias, (y,)
        y, tap = cpu.max_pool2d(x, (2, 2), (2, 2))
        yield "max_pool2d", cpu.max_pool2d, (x, (2, 2), (2, 2))
        yield "max_pool2d_grad", cpu.max_pool2d_grad, (y, tap, x.shape, (2, 2), (2, 2))
        yield "avg_pool2d", cpu.avg_pool2d, (x, (2, 2), (2, 2))
        yield "avg_pool2d_grad", cpu.avg_pool2d_grad, (y, x.shape, (2, 2), (2, 2))
    for n in (3, 21, 70):
        lists = [[floats(n, seed=i)] for i in range(3)]
        yield "adam_step", cpu.adam_step, (*lists, [abs(floats(n, seed=3))], 3, 0.1)
        yield "sgd_step", cpu.sgd_step, (*lists, 0.1, 0.9)
        yield "clip_norm_step", cpu.clip_norm_step, (lists[0], 0.5)
        yield "dropout", cpu.dropout, (floats(n), 0.5, 1, 0)
        yield "take_rows", cpu.take_rows, (floats(5, n), np.array([4, 0, 2]))


def arrays(x):
    if isinstance(x, np.ndarray):
        return [x]
    return [array for item in x for array in arrays(item)] if isinstance(x, (list, tuple)) else []


CASES = list(cases())


@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in CASES))
def test_addresses_leave_no_trace_in_the_bits(name, monkeypatch):
    arena = Arena()
    monkeypatch.setattr(np, "empty", arena.empty)
    for _, primitive, arguments in (case for case in CASES if case[0] == name):
        want = None
        for offset, gap in itertools.product(OFFSETS, GAPS):
            arena.begin(offset, gap)
            placed = arena.placed(arguments)
            bits = [array.tobytes() for array in arrays((primitive(*placed), placed))]
            want = want or bits
            assert bits == want, f"the first array at {offset}, gaps of {gap} numbers"


def test_every_primitive_of_the_contract_is_tried():
    tried = {primitive.__name__ for _, primitive, _ in CASES}
    assert tried == set(PRIMITIVES) - {"random_bits"}  # whose result is integers
