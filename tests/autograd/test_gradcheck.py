"""gradcheck and gradgradcheck themselves: they must see a wrong rule, and pass a right one."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import gradcheck, gradgradcheck
from tilegrad.autograd.record import record
from tilegrad.gradcheck import GradcheckError


def inputs(*shapes):
    rng = np.random.default_rng(0)
    return [tg.Tensor(np.asarray(rng.standard_normal(s)), requires_grad=True) for s in shapes]


def cube(x, slope):
    """x^3 with a rule of our choice."""
    return record("cube", x.data**3, (x,), lambda dy: (slope(dy, x),))


RIGHT = lambda dy, x: dy * 3.0 * x * x  # noqa: E731
WRONG = {
    "1 % too large": lambda dy, x: dy * 3.0 * x * x * 1.01,
    "1 % too small": lambda dy, x: dy * 3.0 * x * x * 0.99,
    "transposed": lambda dy, x: (dy * 3.0 * x * x).T,
    "of the other sign": lambda dy, x: dy * -3.0 * x * x,
    "nothing": lambda dy, x: dy * 0.0,
    "nan": lambda dy, x: dy * np.nan,
    "not multiplied by dy": lambda dy, x: 3.0 * x * x,
    "one element 1 % off": lambda dy, x: dy * 3.0 * x * x * tg.where(tg.arange(9).reshape(3, 3) == 4, 1.01, 1.0),
    "summed where it was not stretched": lambda dy, x: (dy * 3.0 * x * x).sum(0, keepdim=True).expand(3, 3),
}


def test_a_right_rule_passes():
    assert gradcheck(lambda x: cube(x, RIGHT), inputs((3, 3)))
    assert gradgradcheck(lambda x: cube(x, RIGHT), inputs((3, 3)))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_caught(name):
    with pytest.raises(GradcheckError, match="gradcheck: along a random direction the gradient is"):
        gradcheck(lambda x: cube(x, WRONG[name]), inputs((3, 3)))
    assert gradcheck(lambda x: cube(x, WRONG[name]), inputs((3, 3)), raise_exception=False) is False


def test_a_rule_that_is_only_wrong_for_a_gradient_of_stride_0_is_caught():
    def rule(dy, x):
        return dy * 3.0 * x * x * (1.0 if all(dy.data.strides) else 1.01)

    assert gradcheck(lambda x: cube(x, rule), inputs((3, 3)))
    assert not gradcheck(lambda x: cube(x, rule).sum(), inputs((3, 3)), raise_exception=False)


def test_a_wrong_gradient_of_one_of_several_inputs_is_caught():
    def product(a, b, factor=1.0):
        return record("product", a.data * b.data, (a, b), lambda dy: (dy * b, dy * a * factor))

    assert gradcheck(product, inputs((3, 2), (2,)))
    assert not gradcheck(lambda a, b: product(a, b, 1.01), inputs((3, 2), (2,)), raise_exception=False)
    assert not gradcheck(lambda a, b: (a * 2.0, product(a, b, 1.01)), inputs((3, 2), (2,)), raise_exception=False)


def test_a_lost_connection_is_caught():
    assert not gradcheck(lambda x: x.detach() * 2.0, inputs((3,)), raise_exception=False)
    assert not gradcheck(lambda x: (x * 1.0, x.detach() * 2.0), inputs((3,)), raise_exception=False)
    assert not gradcheck(lambda x: x.detach() * x, inputs((3,)), raise_exception=False)


@pytest.mark.parametrize(
    "slope",
    [
        lambda dy, x: dy * 3.0 * x.detach() * x,  # the value is right, its history is not
        lambda dy, x: (dy * 3.0 * x * x).detach() + 0.0 * dy * x,
        lambda dy, x: dy.detach() * 3.0 * x * x,
    ],
)
def test_a_wrong_second_derivative_is_caught(slope):
    assert gradcheck(lambda x: cube(x, slope), inputs((3, 3)))
    with pytest.raises(GradcheckError):
        gradgradcheck(lambda x: cube(x, slope), inputs((3, 3)))


def test_other_arguments_pass_through_and_0_dim_inputs_count():
    x, n = inputs(())[0], tg.tensor([1, 2])
    assert gradcheck(lambda x, n, k, flag: x * n * k if flag else None, [x, n, 3.0, True])
    assert gradcheck(tg.sin, x)
    assert not gradcheck(lambda x: x.detach() * x, x, raise_exception=False)


def test_what_is_computed_leaves_the_inputs_alone():
    (x,) = inputs((3,))
    before = x.detach().numpy().copy()
    gradcheck(tg.exp, x)
    gradgradcheck(tg.exp, x)
    assert x.grad is None and x.tolist() == before.tolist() and x._version == 0


def test_it_works_without_grad_mode():
    with tg.no_grad():
        assert gradcheck(tg.exp, inputs((3,))) and gradgradcheck(tg.exp, inputs((3,)))


def test_one_tensor_twice():
    (x,) = inputs((3,))
    assert gradcheck(lambda a, b: a * b * b, [x, x])


def test_what_it_refuses():
    with pytest.raises(ValueError, match="gradcheck: no input requires grad"):
        gradcheck(tg.exp, tg.ones(3, dtype="float64"))
    with pytest.raises(ValueError, match="gradcheck: an input is the result of an op"):
        gradcheck(tg.exp, inputs((3,))[0] * 2.0)
    with pytest.raises(ValueError, match="gradcheck: func gave no floating-point tensor"):
        gradcheck(lambda x: x > 0, inputs((3,)))
    with pytest.raises(ValueError, match="gradgradcheck: the gradient depends on nothing"):
        gradgradcheck(lambda x: x.detach() * tg.ones(3, dtype="float64"), inputs((3,)))


# --- narrower dtypes, and a GPU (simulated where there is none)

NARROW = [("float32", "cpu"), ("float16", "cpu"), ("bfloat16", "cpu"), ("float32", "cuda"), ("float16", "cuda")]
LARGE = {"float32": 1.01, "float16": 1.1, "bfloat16": 1.4}  # a factor that cannot be rounding


def narrow(dtype, device, *shapes):
    rng = np.random.default_rng(0)
    return [
        tg.tensor(rng.standard_normal(s).astype("float32"), dtype=dtype, device=device, requires_grad=True)
        for s in shapes
    ]


def mixed(a, b):
    return tg.softmax(tg.matmul(a, b), -1) * (a.square().sum() + 1.0).log()


@pytest.mark.parametrize("dtype, device", NARROW)
def test_narrow_inputs_are_checked_against_float64(dtype, device):
    assert gradcheck(mixed, narrow(dtype, device, (5, 7), (7, 4)))
    assert gradcheck(lambda x: cube(x, RIGHT), narrow(dtype, device, (3, 3)))
    wrong = lambda x: cube(x, lambda dy, x: dy * 3.0 * x * x * LARGE[dtype])  # noqa: E731
    with pytest.raises(GradcheckError, match="finite differences give"):
        gradcheck(wrong, narrow(dtype, device, (3, 3)))
    assert not gradcheck(lambda x: x.detach() * x, narrow(dtype, device, (40,)), raise_exception=False)


@pytest.mark.parametrize("dtype, device", NARROW)
@pytest.mark.parametrize("seed", range(5))
def test_what_takes_no_float64_is_checked_against_itself(dtype, device, seed):
    """Its differences are coarse, and so is what it finds."""
    weight = narrow(dtype, device, (7, 4))[0].detach()

    def own(x, factor=1.0):
        y = tg.tanh(tg.matmul(x, weight)) * 0.5
        return record("own", y.data, (y,), lambda dy: (dy * factor,))

    tg.manual_seed(seed)
    x = tg.randn(5, 7).to(dtype).to(device).requires_grad_()
    with pytest.raises(TypeError):
        own(tg.tensor(np.ones((5, 7)), device=device))
    assert gradcheck(own, x)
    with pytest.raises(GradcheckError, match="finite differences of the function as it is give"):
        gradcheck(lambda x: own(x, 2.0), x)


def test_a_function_that_goes_back_to_float32_is_checked_against_itself():
    def casts(x):
        return (x.to(tg.float32) * 2.0).exp().to(x.dtype)

    assert gradcheck(casts, narrow("float32", "cpu", (3,)))
    assert gradcheck(lambda x, y: casts(x) * y, narrow("float32", "cpu", (3,), (3,)))
    with pytest.raises(GradcheckError, match="of the function as it is"):
        gradcheck(lambda x: record("c", casts(x).data, (x,), lambda dy: (dy * 3.0,)), narrow("float32", "cpu", (3,)))
    with pytest.raises(GradcheckError, match="of the function as it is"):
        gradcheck(lambda x: record("c", x.data.astype("float32"), (x,), lambda dy: (dy * 3.0,)), inputs((3,)))


def test_a_reference_stands_for_the_function_in_the_differences():
    def only_float32(x):
        if x.dtype != np.float32:
            raise TypeError("takes float32")
        return cube(x, RIGHT)

    (x,) = narrow("float32", "cpu", (3, 3))
    assert gradcheck(only_float32, x, reference=lambda x: x * x * x)
    with pytest.raises(GradcheckError, match="finite differences of the reference give"):
        gradcheck(only_float32, x, reference=lambda x: x * x * x * 1.01)
    with pytest.raises(ValueError, match=r"gradcheck: the reference's outputs are \[\(\)\] but func's \[\(3, 3\)\]"):
        gradcheck(only_float32, x, reference=lambda x: (x * x * x).sum())
    with pytest.raises(ZeroDivisionError):
        gradcheck(only_float32, x, reference=lambda x: 1 // 0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_second_derivatives_of_narrow_inputs(device):
    assert gradgradcheck(mixed, narrow("float32", device, (3, 5), (5, 4)))
    with pytest.raises(GradcheckError):
        gradgradcheck(lambda x: cube(x, lambda dy, x: dy * 3.0 * x.detach() * x), narrow("float32", device, (3, 3)))


def test_step_and_tolerances_can_be_given():
    (x,) = narrow("float32", "cpu", (3, 3))
    assert gradcheck(lambda x: cube(x, WRONG["1 % too large"]), x, rtol=0.05)
    assert not gradcheck(tg.exp, x, eps=1.0, raise_exception=False)
    assert not gradcheck(lambda x: cube(x, RIGHT), x, atol=0.0, rtol=1e-12, raise_exception=False)
