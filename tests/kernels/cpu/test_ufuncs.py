"""NumPy's functions that are compiled for large arrays: its bits, or left to it. Plainly, and in a captured step."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests import dirty
from tests.captured.steps import graphs
from tests.kernels.cpu.test_pieces import in_order
from tilegrad import kernels
from tilegrad.kernels.cpu import threads, ufuncs

SIZE = threads.WORTH_SHARING // 4 + 5  # numbers: just too many
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1.0], np.float32)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def images(*shape, seed=0):
    n, c, h, w = shape
    return numbers(n, h, w, c, seed=seed).transpose(0, 3, 1, 2)


def special(n):
    """Every pair of the special values, again and again."""
    a, b = (x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL))
    return np.resize(a, n), np.resize(b, n)


SERVED = {
    "a row": (numbers(SIZE), numbers(SIZE, seed=1)),
    "C order": (numbers(9, 3, 40, 41), numbers(9, 3, 40, 41, seed=1)),
    "channels last": (images(9, 3, 40, 41), images(9, 3, 40, 41, seed=1)),
    "special values": special(SIZE),
}
LEFT = {  # to NumPy
    "small": (numbers(SIZE - 5), numbers(SIZE - 5)),
    "broadcast": (numbers(9, 5000), numbers(5000)),
    "repeated": (np.broadcast_to(numbers(5000), (9, 5000)),) * 2,
    "a number": (numbers(SIZE), 2.0),
    "two orders": (images(9, 3, 40, 41), numbers(9, 3, 40, 41)),
    "gaps": (numbers(SIZE, 2)[:, 0], numbers(SIZE, 2)[:, 1]),
    "backwards": (numbers(SIZE)[::-1], numbers(SIZE)[::-1]),
    "float64": (numbers(SIZE).astype(np.float64),) * 2,
    "misaligned": (np.frombuffer(bytes(4 * SIZE + 1), np.float32, offset=1),) * 2,
}


@pytest.mark.parametrize("case", SERVED)
def test_a_sum_has_the_bits_of_numpys(case, monkeypatch):
    a, b = SERVED[case]
    with np.errstate(all="ignore"):
        want = a + b
    for order in (iter, reversed):
        monkeypatch.setattr(threads, "share", in_order(order))
        with dirty.memory():
            got = ufuncs.add(a, b)
        assert got.strides == want.strides
        assert np.isnan(got).tolist() == np.isnan(want).tolist()
        assert got[~np.isnan(got)].tobytes() == want[~np.isnan(want)].tobytes()


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_numpy(case):
    assert ufuncs.add(*LEFT[case]) is None


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_engine_adds_large_tensors_by_the_backends_loop(backend, monkeypatch):
    seen, compiled = [], ufuncs.COMPILED[np.add]
    monkeypatch.setitem(ufuncs.COMPILED, np.add, lambda a, b: seen.append(a) or compiled(a, b))
    a, b = map(tg.tensor, SERVED["channels last"])
    with kernels.use(backend):
        y = a + b
    assert np.array_equal(y.numpy(), a.numpy() + b.numpy())
    assert len(seen) == (backend == "cpu")


@pytest.mark.parametrize("case", ["channels last", "two orders"])
def test_a_captured_step_has_the_sum_as_a_kernel_of_its_own(case):
    a, b = map(tg.tensor, {**SERVED, **LEFT}[case])
    step = tg.capture(lambda a, b: a + b, warmup=1)
    for _ in range(3):
        a, b = b, a + 1
        assert np.array_equal(step(a, b).numpy(), (a + b).numpy())
    assert graphs(step)[0].graph.nodes() == ({"add_kernel": 1} if case == "channels last" else {"add": 1})


def test_the_gradients_of_a_tensor_that_is_used_twice_are_added_by_it():
    x = tg.tensor(SERVED["channels last"][0]).requires_grad_()

    def step():
        return tg.grad((tg.relu(x) + tg.sigmoid(x)).sum(), x)[0]

    want, captured = step().numpy(), tg.capture(step, warmup=1)
    for _ in range(3):
        got = captured().numpy()
    assert got.tobytes() == want.tobytes()
    assert graphs(captured)[0].graph.nodes()["add_kernel"] == 2
