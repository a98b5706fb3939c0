"""Ops of the user's own in a captured step, on the CPU and on the (simulated) device: part of it like the engine's."""

from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest
import triton.language as tl
from numba import cuda

import tilegrad as tg
from tests.captured.steps import graphs
from tests.captured.test_steps import captured, refusal
from tests.compare import assert_same
from tilegrad import kernels, nn, optim
from tilegrad.autograd import Function, once_differentiable
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import numba_kernel, triton_kernel


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


# --- kernels of one's own: y = x^2 w + x, in each language


@kernels.primitive
@numba.njit
def compiled(x, w):
    y = np.empty_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * x[i, j] * w[j] + x[i, j]
    return y


@kernels.primitive
@numba.njit
def compiled_grad(dy, x, w):
    dx, dw = np.empty_like(x), np.zeros_like(w)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            dx[i, j] = dy[i, j] * (2 * x[i, j] * w[j] + 1)
            dw[j] += dy[i, j] * x[i, j] * x[i, j]
    return dx, dw


def in_numpy(x, w):
    return x * x * w + x


def in_numpy_grad(dy, x, w):
    return dy * (2 * x * w + 1), (dy * x * x).sum(0)


@triton_kernel.kernel
def _forward_triton(x_ptr, w_ptr, y_ptr, n, columns, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, at < n)
    tl.store(y_ptr + at, x * x * tl.load(w_ptr + at % columns, at < n) + x, at < n)


def in_triton(x, w):
    y = gpu.xp().empty_like(x)
    _forward_triton((-(-x.size // 64),), x, w, y, x.size, x.shape[1], BLOCK=64)
    return y


@numba_kernel.kernel
def _forward_numba(x, w, y):
    i = cuda.grid(1)
    if i < x.size:
        row, column = i // x.shape[1], i % x.shape[1]
        y[row, column] = x[row, column] * x[row, column] * w[column] + x[row, column]


def in_numba_cuda(x, w):
    y = gpu.xp().empty_like(x)
    _forward_numba((-(-x.size // 32),), (32,), x, w, y)
    return y


LANGUAGES = {
    "NumPy": ("cpu", in_numpy, in_numpy_grad),
    "Numba": ("cpu", compiled, compiled_grad),
    "Triton": ("cuda", in_triton, in_numpy_grad),
    "Numba-CUDA": ("cuda", in_numba_cuda, in_numpy_grad),
}


def by_decorator(forward, gradient):
    @tg.op
    def squares(x, w):
        return forward(x.data, w.data), lambda dy: gradient(dy.data, x.data, w.data)

    return squares


def by_function(forward, gradient):
    class Squares(Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return forward(x.data, w.data)

        @staticmethod
        @once_differentiable
        def backward(ctx, dy):
            return gradient(*[x.data for x in (dy, *ctx.saved_tensors)])

    return Squares.apply


class Training:
    """A layer with an op of one's own, a loss, an optimizer."""

    def __init__(self, op, device, is_captured):
        tg.manual_seed(0)
        self.first = nn.Linear(6, 5).to(device)
        self.w = nn.Parameter(tg.rand(5, device=device))
        self.optimizer = optim.Adam([*self.first.parameters(), self.w], lr=0.01)
        self.op = op
        self.step = tg.capture(self.plain, warmup=1) if is_captured else self.plain

    def plain(self, x):
        loss = self.op(self.first(x), self.w).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


@pytest.mark.parametrize("make", [by_decorator, by_function])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_training_with_a_kernel_of_ones_own_is_captured_bit_for_bit(language, make):
    device, *own = LANGUAGES[language]
    op, rng = make(*own), np.random.default_rng(0)
    batches = [tg.tensor(rng.standard_normal((7, 6)).astype(np.float32), device=device) for _ in range(6)]
    plain, step = (Training(op, device, is_captured) for is_captured in (False, True))
    for x in batches:
        assert_same(step.step(x).cpu().numpy(), plain.step(x).detach().cpu().numpy())
    assert graphs(step.step), step.step.summary()
    for mine, other in zip([step.w, *step.first.parameters()], [plain.w, *plain.first.parameters()]):
        assert_same(mine.detach().cpu().numpy(), other.detach().cpu().numpy())
    if language == "Numba":
        assert "compiled_grad" in step.step.summary()


def test_results_of_which_a_rule_gets_some_and_second_derivatives_are_captured():
    class Pair(Function):
        @staticmethod
        def forward(ctx, x, w):
            a, b = x * w, (x + w).exp()
            ctx.save_for_backward(x, w, b)
            return a, b

        @staticmethod
        def backward(ctx, da, db):
            x, w, b = ctx.saved_tensors
            return da * w + db * b, da * x + db * b

    def penalty(x, w):
        x, w = x.requires_grad_(), w.requires_grad_()
        a, b = Pair.apply(x * 1.0, w)
        grads = tg.grad((a * b).sum() + Pair.apply(x, w)[0].sum(), [x, w], create_graph=True)
        return tg.grad(sum((g * g).sum() for g in grads), [x, w])

    def of_copies(x, w):
        return penalty(x.clone(), w.clone())

    step = tg.capture(of_copies, warmup=1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, w = (tg.tensor(rng.standard_normal(4).astype(np.float32)) for _ in range(2))
        for mine, other in zip(step(x, w), of_copies(x, w)):
            assert_same(mine.numpy(), other.numpy())
    assert graphs(step), step.summary()


# --- what its code reads


@pytest.mark.parametrize("where", ["forward", "backward", "an op", "its rule"])
def test_what_its_code_reads_is_captured_anew_when_it_changes(where):
    ahead, back = SimpleNamespace(factor=2.0), SimpleNamespace(factor=2.0)

    class Scale(Function):
        @staticmethod
        def forward(ctx, x):
            return x * ahead.factor

        @staticmethod
        def backward(ctx, dy):
            return dy * back.factor

    @tg.op
    def scale(x):
        def gradient(dy):
            return dy * back.factor

        return x * ahead.factor, gradient

    f, w = Scale.apply if where.endswith("ward") else scale, nn.Parameter(tg.ones(3))
    config = ahead if where in ("forward", "an op") else back

    def step(x):
        w.grad = None
        y = f(w * x)
        y.sum().backward()
        return y

    both = tg.capture(step, warmup=1)
    x = tg.ones(3)
    for factor in (2.0, 2.0, 3.0, 3.0, 2.0):
        config.factor = factor
        y = both(x)
        found = y.tolist() if where in ("forward", "an op") else w.grad.tolist()
        assert found == [factor] * 3
    assert len(graphs(both)) == 2


def test_a_number_that_the_op_is_given_is_of_each_call():
    @tg.op
    def power(x, n):
        return x.data**n, lambda dy: dy * n * x ** (n - 1)

    step = tg.capture(lambda x, n: power(x, n), warmup=1)
    x = tg.full((2,), 3.0)
    assert [step(x, n).tolist()[0] for n in (2, 2, 3, 3, 2, 3)] == [9.0, 9.0, 27.0, 27.0, 9.0, 27.0]


# --- what is refused: with the op and the line, and the right result


@numba.njit
def bare(x):
    return x * 2.0


@kernels.primitive
@numba.njit
def in_place(x):
    x[:] = x * 3.0
    return x * 1.0


@kernels.primitive
@numba.njit
def a_number(x):
    return x.sum()


TABLE = np.ones(3, np.float32)


@kernels.primitive
def from_a_table(x, table):
    return x + table


def on_data(function):
    @tg.op
    def own(x):
        return function(x.data), None

    return own


REFUSED = {
    "a function compiled by Numba": (bare, "a function compiled by Numba gets an array whose values are not there"),
    "a write to an argument": (in_place, "in_place writes to an argument; expected results of its own"),
    "a number": (a_number, "a_number gives a float; expected an array, or a tuple of arrays"),
    "an array from around it": (lambda x: from_a_table(x, TABLE), "from_a_table uses an array that was made beside it"),
    "an address": (lambda x: x * float(x.ctypes.data > 0), "asks for ctypes()"),
    "memory": (lambda x: x * float(len(x.data)), "asks for data()"),
    "elements in order": (lambda x: np.asarray(list(x.flat)), "asks for flat()"),
    "a value": (lambda x: x * float(x.sum()), "asks for __float__"),
    "what NumPy makes beside it": (lambda x: np.asarray(x.tolist()), "asks for tolist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_captured_runs_plainly_and_says_why_and_where(case):
    function, text = REFUSED[case]
    own, x = on_data(function), tg.ones(3)
    summary = refusal(lambda x: own(x.clone()) * 1.0, x)
    assert text in summary and f"({__file__}:" in summary, summary


def test_a_kernel_whose_results_shapes_depend_on_values_is_an_error_at_the_launch():
    @kernels.primitive
    def until(x):
        return x[: 1 if x[0] < 1 else 2].copy()

    step = captured(lambda x: on_data(until)(x), tg.zeros(3))
    assert step(tg.zeros(3)).shape == (1,)
    with pytest.raises(ValueError, match="until: gave .*expected .*as when the step was captured"):
        step(tg.ones(3))


def test_a_primitive_may_give_none_and_views():
    @kernels.primitive
    def halves(x):
        return x.T * 0.5, None

    @tg.op
    def half(x):
        y, nothing = halves(x.data)
        return y if nothing is None else x, None

    step = captured(lambda x: half(x), tg.ones(2, 3))
    x = tg.arange(6.0).reshape(2, 3)
    assert_same(step(x).numpy(), x.numpy().T * 0.5)
    assert graphs(step)


def test_a_primitive_of_the_devices_arrays_is_not_for_a_step_of_the_cpu():
    own = on_data(kernels.primitive(lambda x: x * 2.0))
    outside = tg.ones(3, device="cuda")
    step = captured(lambda x: (own(outside).cpu(), x * 1.0)[1], tg.ones(3))
    with pytest.warns(RuntimeWarning, match="works on a GPU, in a function whose arguments are on the CPU"):
        step(tg.ones(3))
