"""What a program is launched on: arrays in any memory order, read where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad import kernels
from tilegrad.kernels.capture import program

CPU = kernels.load("cpu")
SHAPE = (3, 5, 4)


def in_a_frame(x):
    frame = np.full([2 * n + 3 for n in x.shape], np.nan, x.dtype)
    inner = frame[tuple(slice(2, 2 + 2 * n, 2) for n in x.shape)]
    inner[...] = x
    return inner


def misaligned(x):
    memory = np.empty(x.nbytes + 1, np.uint8)
    y = memory[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.fixture
def rng():
    return np.random.default_rng(0)


ORDERS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "last two axes swapped": lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
    "backwards": lambda x: x[::-1].copy()[::-1],
    "in a frame": in_a_frame,
    "misaligned": misaligned,
    "read-only": read_only,
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
}


def captured(function, *arrays):
    """A program of function(primitives, *inputs), whose inputs are laid out as the arrays, and its result."""
    it = program.Program()
    with it.capturing():
        result = function(it.primitives(CPU), *it.inputs(arrays))
    return it, result.view(np.ndarray)


# Of one kernel; of parts of an input, which begin behind its address; of what is a NumPy call or reads another order.
FUNCTIONS = {
    "relu": lambda k, x, y: k.relu(x),
    "both": lambda k, x, y: k.relu_grad(x, y),
    "parts": lambda k, x, y: k.relu_grad(x[1:], y[:-1]),
    "by NumPy": lambda k, x, y: k.tanh(x),
    "transposed": lambda k, x, y: k.relu(x.transpose(2, 0, 1)),
    "sum": lambda k, x, y: k.sum(x, (1,)),
    "product": lambda k, x, y: k.matmul(x.reshape(15, 4), y.reshape(4, 15)),
    "twice": lambda k, x, y: k.relu_grad(k.relu_grad(x, y), x),
}


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_a_launch_is_the_call_whatever_the_memory_order(function, first, rng):
    """On arrays laid out as those that the program was captured with, one after the other."""
    for second in dict.fromkeys(("C", first)):

        def arrays(orders=(first, second)):
            return [ORDERS[order](rng.standard_normal(SHAPE, dtype=np.float32)) for order in orders]

        it, result = captured(function, *arrays())
        for _ in range(3):
            given = arrays()
            before = [x.copy("K") for x in given]
            assert it.take(given)
            it.launch()
            np.testing.assert_array_equal(result, function(CPU, *given))
            for x, unchanged in zip(given, before, strict=True):
                assert_same(x, unchanged)


@pytest.mark.parametrize("order", [order for order in ORDERS if order not in ("read-only", "one row for all")])
def test_an_array_is_read_where_it_lies(order, rng):
    """And as it is at the launch, not at `take`."""
    it, result = captured(lambda k, x: k.relu(x), ORDERS[order](rng.standard_normal(SHAPE, dtype=np.float32)))
    given = ORDERS[order](rng.standard_normal(SHAPE, dtype=np.float32))
    it.take([given])
    given[0] = 7
    it.launch()
    assert (result[0] == 7).all()
