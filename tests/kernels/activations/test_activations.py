"""Activations and their gradients against torch in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.kernels.epilogues import EPILOGUES
from tests.layouts import assert_border, channels_last, inside_frame, untouched
from tilegrad import kernels
from tilegrad.kernels.activations.reference import ACTIVATIONS, apply_activation
from tilegrad.kernels.activations.reference_erf import erf
from tilegrad.kernels.device import gpu

SHAPES = [
    (),  # 0-d, as a loss is
    (1, 1),  # degenerate
    (5, 10),  # ragged
    (0, 10),  # empty
    (33, 257),  # one past a tile
    (3, 4096),  # wide
    (2, 3, 4, 5),  # images
]


@dataclass(frozen=True)
class Case:
    name: str
    forward: Callable  # (backend, x) -> y
    backward: Callable  # (backend, dy, x, y) -> dx
    torch: Callable  # (x) -> y


CASES = [
    Case("relu", lambda k, x: k.relu(x), lambda k, dy, x, y: k.relu_grad(dy, y), F.relu),
    Case("relu_from_x", lambda k, x: k.relu(x), lambda k, dy, x, y: k.relu_grad(dy, x), F.relu),
    Case(
        "leaky_relu",
        lambda k, x: k.leaky_relu(x),
        lambda k, dy, x, y: k.leaky_relu_grad(dy, x),
        F.leaky_relu,
    ),
    Case(
        "leaky_relu_2",  # a slope above 1, where a maximum would be wrong
        lambda k, x: k.leaky_relu(x, 2.0),
        lambda k, dy, x, y: k.leaky_relu_grad(dy, x, negative_slope=2.0),
        lambda x: F.leaky_relu(x, 2.0),
    ),
    Case("gelu", lambda k, x: k.gelu(x), lambda k, dy, x, y: k.gelu_grad(dy, x), F.gelu),
    Case(
        "gelu_tanh",
        lambda k, x: k.gelu(x, "tanh"),
        lambda k, dy, x, y: k.gelu_grad(dy, x, "tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    Case("silu", lambda k, x: k.silu(x), lambda k, dy, x, y: k.silu_grad(dy, x), F.silu),
    Case("tanh", lambda k, x: k.tanh(x), lambda k, dy, x, y: k.tanh_grad(dy, y), torch.tanh),
    Case("sigmoid", lambda k, x: k.sigmoid(x), lambda k, dy, x, y: k.sigmoid_grad(dy, y), torch.sigmoid),
    Case("erf", lambda k, x: k.erf(x), lambda k, dy, x, y: k.erf_grad(dy, x), torch.erf),
]
CANCELS = {"gelu", "gelu_tanh"}  # torch: 1 + erf and 1 + tanh lose their last digits far below zero


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


def sample(rng, shape, dtype):
    """Normal numbers, three wide, with exact zeros among them."""
    x = np.asarray(3 * rng.standard_normal(shape))
    x[rng.random(shape) < 0.1] = 0
    return x.astype(dtype)


FROM_RESULT = {"tanh": lambda dy, y: dy * (1 - y * y), "sigmoid": lambda dy, y: dy * (y * (1 - y))}


def gradient(case, dy, x, y) -> oracle.Pair:
    """(want, baseline) of the gradient. A gradient from a result of 8 bits is judged by that result, not by x."""
    if x.dtype != ml_dtypes.bfloat16 or case.name not in FROM_RESULT:
        return oracle.gradients(case.torch, dy, x)[0]
    formula = FROM_RESULT[case.name]
    want, single = (formula(dy.astype(kind), y.astype(kind)) for kind in (np.float64, np.float32))
    return want, single.astype(x.dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(backend, case, shape, dtype, rng):
    x, dy = sample(rng, shape, dtype), sample(rng, shape, dtype)
    with untouched(x, dy):
        y = case.forward(backend, x)
        dx = case.backward(backend, dy, x, y)
    assert_close(y, *oracle.value(case.torch, x), elementwise=case.name not in CANCELS)
    assert_close(dx, *gradient(case, dy, x, y))


@pytest.mark.parametrize("shape", [(5, 10), (2, 3, 4, 5)], ids=str)
def test_layouts_do_not_matter_and_memory_order_is_kept(backend, case, shape, layout, dtype, rng):
    x, dy = layout(sample(rng, shape, dtype)), layout(sample(rng, shape, dtype))
    with untouched(x, dy):
        y = case.forward(backend, x)
        dx = case.backward(backend, dy, x, layout(y))
    assert_close(y, *oracle.value(case.torch, x))
    assert_close(dx, *gradient(case, dy, x, y))
    assert _memory_order(y) == _memory_order(x) == _memory_order(dx)


def test_an_incoming_gradient_in_another_memory_order(backend, case, dtype, rng):
    x, dy = sample(rng, (2, 3, 4, 5), dtype), channels_last(sample(rng, (2, 3, 4, 5), dtype))
    y = case.forward(backend, x)
    assert_close(case.backward(backend, dy, x, y), *gradient(case, dy, x, y))


def test_an_incoming_gradient_of_stride_0(backend, case, dtype, rng):
    """What the gradient of sum() is: one number, seen at every place."""
    x = sample(rng, (5, 10), dtype)
    y = case.forward(backend, x)
    for dy in (np.array(0.75, dtype), sample(rng, (5, 1), dtype), sample(rng, (10,), dtype)):
        dy = np.broadcast_to(dy, x.shape)
        with untouched(dy, x, y):
            dx = case.backward(backend, dy, x, y)
        assert_close(dx, *gradient(case, dy, x, y))


@pytest.mark.parametrize("value", ["0", "-0.", "1e4", "-1e4", "max", "-max", "tiny", "inf", "-inf", "nan"])
def test_extreme_arguments(backend, case, value, dtype):
    """One at a time, so that a large value cannot hide a small one. Nothing may warn."""
    named = {
        "max": ml_dtypes.finfo(dtype).max,
        "-max": -ml_dtypes.finfo(dtype).max,
        "tiny": ml_dtypes.finfo(dtype).tiny,
    }
    x = np.array([named.get(value, value)], np.float64).astype(dtype)
    dy = np.ones(1, dtype)
    y = case.forward(backend, x)
    want, _ = oracle.value(case.torch, x)
    assert_close(y, want, _rounded(want, dtype))
    # beyond 1e30 no derivative changes any more, but torch's own x^3 would overflow and meet a 0
    within = x if np.isinf(x) else np.clip(x.astype(np.float64), -1e30, 1e30)
    ((want, _),) = oracle.gradients(case.torch, dy, within)
    assert_close(case.backward(backend, dy, x, y), want, _rounded(want, dtype))


def test_a_nan_gradient_arrives(backend, case, dtype):
    x, dy = np.array([0.5, 0.5], dtype), np.array([np.nan, 1], dtype)
    dx = case.backward(backend, dy, x, case.forward(backend, x))
    assert_same(np.isnan(dx), np.array([True, False]))


def test_overflow_of_the_result_is_infinity_without_a_warning(backend, dtype):
    big = np.array([ml_dtypes.finfo(dtype).max, -1], dtype)
    assert_same(backend.leaky_relu(-big, 4.0), np.array([-np.inf, 1], dtype))
    assert_same(backend.leaky_relu_grad(big, -np.ones(2, dtype), 4.0), np.array([np.inf, -4], dtype))


def test_relu_is_exact_and_its_derivative_at_0_is_0(backend, dtype):
    x = np.array([-1, -0.0, 0, 2, np.nan, np.inf, -np.inf], dtype)
    dy = np.array([np.inf, np.inf, np.nan, 3, 4, 5, 6], dtype)
    assert_same(backend.relu(x), np.array([0, 0, 0, 2, np.nan, np.inf, 0], dtype))
    assert_same(backend.relu_grad(dy, x), np.array([0, 0, 0, 3, 4, 5, 0], dtype))


@pytest.mark.parametrize("shape", [(33, 257), (3, 257)], ids=str)
def test_float16_is_float32_rounded_once(backend, case, shape, rng):
    x, dy = sample(rng, shape, np.float16), sample(rng, shape, np.float16)
    x_wide, dy_wide = x.astype(np.float32), dy.astype(np.float32)
    y = case.forward(backend, x)
    assert_same(y, case.forward(backend, x_wide).astype(np.float16))
    dx = case.backward(backend, dy_wide, x_wide, y.astype(np.float32))
    assert_same(case.backward(backend, dy, x, y), dx.astype(np.float16))


def test_sigmoid_and_silu_keep_their_digits_in_the_tail(backend, dtype):
    """exp(-x) overflows here, but the result is small, not zero."""
    ends = {np.float16: (8, 16), ml_dtypes.bfloat16: (60, 85), np.float32: (80, 100), np.float64: (700, 740)}
    first, last = ends[dtype]
    x = -np.linspace(first, last, 50).astype(dtype)
    sigmoids = [np.exp(x) / (1 + np.exp(x)) for x in (x.astype(np.float64), x)]
    assert_close(backend.sigmoid(x), *sigmoids, elementwise=True)
    assert_close(backend.silu(x), *(x * s for s in sigmoids), elementwise=True)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_erf_to_a_few_ulp(kind, rng):
    """Everywhere: at the nodes of the table, between them, near 0, beyond the last node."""
    nodes = np.arange(-1600, 1601) / 256
    parts = (
        nodes,
        nodes + 1 / 512,
        10.0 ** rng.uniform(-30, 0, 500),
        rng.standard_normal(5000),
        [0, 20, -1e30],
    )
    x = np.concatenate(parts).astype(kind)
    want = np.array([math.erf(v) for v in x.tolist()])
    baseline = want.astype(kind)
    assert_close(erf(x), want, baseline, elementwise=True)
    ulp = np.spacing(np.abs(baseline)).astype(np.float64)
    assert (np.abs(erf(x).astype(np.float64) - want) / ulp).max() <= 2
    assert_same(erf(np.array([np.nan, np.inf, -np.inf], kind)), np.array([np.nan, 1, -1], kind))


# --- the epilogue


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_apply_activation_is_the_activation_in_place(backend, name, dtype, rng):
    x = sample(rng, (5, 10), dtype)
    whole, y = inside_frame(x)
    assert apply_activation(y, name) is y
    want = backend.gelu(x, "tanh") if name == "gelu_tanh" else getattr(backend, name)(x)
    assert_close(y, want.astype(np.float64), want)
    assert_border(whole, y)


def test_apply_activation_of_none_is_the_identity(dtype, rng):
    x = sample(rng, (5, 10), dtype)
    y = x.copy()
    assert apply_activation(y, None) is y
    assert_same(y, x)


def test_apply_activation_lists_its_names():
    y = np.full(3, -1.0)
    with pytest.raises(ValueError) as error:
        apply_activation(y, "softplus")
    assert str(error.value) == (
        "apply_activation: activation is 'softplus'; expected one of 'relu', 'leaky_relu', 'gelu', 'gelu_tanh', "
        "'silu', 'tanh', 'sigmoid'"
    )
    assert_same(y, np.full(3, -1.0))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.gpu] if gpu.is_available() else []) for name in EPILOGUES]
)
def test_the_triton_epilogue_is_the_activation(name, rng):
    """What the accumulators of matmul and conv2d go through, for every name that those take."""
    kernels.load("triton")
    from tilegrad.kernels.activations.gpu_triton import BLOCK, _activation_kernel

    x = sample(rng, (33, 17), np.float32)
    x[0, :3] = np.nan, np.inf, 1e4
    device = gpu.xp().asarray(x)
    y = gpu.xp().empty(x.shape, np.float32)
    _activation_kernel((1,), device, y, x.size, 0.01, NAME=name, BLOCK=BLOCK)
    assert_close(gpu.xp().asnumpy(y), *oracle.value(EPILOGUES[name], x))


# --- errors


FORWARDS = ["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "erf"]


@pytest.mark.parametrize("name", FORWARDS)
def test_wrong_dtypes(backend, name):
    function = getattr(backend, name)
    with pytest.raises(TypeError, match=f"^{name}: x is int64; expected float16, bfloat16, float32 or float64$"):
        function(np.arange(3))
    with pytest.raises(TypeError, match=f"^{name}: x is a list; expected an array$"):
        function([1.0])


@pytest.mark.parametrize("name", FORWARDS)
def test_gradients_take_one_dtype_and_one_shape(backend, name):
    function, saved = getattr(backend, f"{name}_grad"), "y" if name in ("relu", "tanh", "sigmoid") else "x"
    message = rf"^{name}_grad: dy is \(10,\) but {saved} is \(5, 10\); expected one shape$"
    with pytest.raises(ValueError, match=message):
        function(np.ones(10, np.float32), np.ones((5, 10), np.float32))
    message = f"^{name}_grad: dy is float16, {saved} is float32; expected one dtype for all$"
    with pytest.raises(TypeError, match=message):
        function(np.ones(3, np.float16), np.ones(3, np.float32))


def test_wrong_arguments(backend):
    x = np.ones(3, np.float32)
    message = "approximate is 'erf'; expected one of 'none', 'tanh'$"
    with pytest.raises(ValueError, match="^gelu: " + message):
        backend.gelu(x, "erf")
    with pytest.raises(ValueError, match="^gelu_grad: " + message):
        backend.gelu_grad(x, x, "erf")
    message = "negative_slope is a str; expected a real number$"
    with pytest.raises(TypeError, match="^leaky_relu: " + message):
        backend.leaky_relu(x, "0.1")
    with pytest.raises(TypeError, match="^leaky_relu_grad: " + message):
        backend.leaky_relu_grad(x, x, "0.1")


def _rounded(want: np.ndarray, dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        return want.astype(dtype)


def _memory_order(x: np.ndarray) -> list[int]:
    """The axes from the outermost in memory to the innermost."""
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
