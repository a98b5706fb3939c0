"""Every op's gradient, and its gradient's gradient, against finite differences in float64.

Each op is run with the four shapes that gradients get wrong: an incoming gradient of stride 0, one of 0 dimensions,
one for each element (reduction="none"), and saved arrays that are not contiguous.
"""

from __future__ import annotations

import types

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import Tensor, gradcheck, gradgradcheck, ops
from tilegrad.ops.linalg import dense

LABELS = tg.tensor([1, 0, 3])
INDEX = tg.tensor([[2, 0, 0, 1], [1, 1, 2, 0]])
MASK = tg.tensor([[True, False, True, False], [False, False, True, True], [True, True, False, False]])


def normal(*shape):
    """Numbers away from 0 and from each other, so that no difference steps over a kink or a tie."""
    rng = np.random.default_rng(sum(shape) + len(shape))
    n = int(np.prod(shape))
    return rng.permutation(np.linspace(0.31, 1.97, n) * rng.choice([-1, 1], n)).reshape(shape)


def positive(*shape):
    return np.abs(normal(*shape))


def small(*shape):
    return 0.4 * normal(*shape)


def setitem(x, value):
    y = x * 1.0
    y[1, 2:] = value
    y[[0, 2], 0] = 2.0
    return y


def inplace(x, y):
    z = x * 1.0
    z += y
    z *= y
    z.clamp_(min=-1.5)
    return z.exp_()


# Each op: the function of its tensors, and how to make them, in float64. (3, 4) unless the op wants another shape.
X = (normal, (3, 4))
P = (positive, (3, 4))
S = (small, (3, 4))
D = (lambda *shape: 0.83 * positive(*shape) + 0.05, (3, 4))  # as a divisor of X: no quotient near an integer
ROW = (normal, (4,))
IMAGE = (normal, (2, 2, 5, 4))
KERNEL = (small, (4, 2, 2, 3))
OPS = {
    "abs": (ops.abs, X),
    "acos": (ops.acos, S),
    "add": (ops.add, X, ROW),
    "amax": (lambda x: ops.amax(x, 1), X),
    "amin": (lambda x: ops.amin(x, (0, 1)), X),
    "arccos": (ops.arccos, S),
    "arcsin": (ops.arcsin, S),
    "arctan": (ops.arctan, X),
    "asin": (ops.asin, S),
    "atan": (ops.atan, X),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, (2, 3), (1, 2), (1, 1)), IMAGE),
    "bmm": (ops.bmm, (normal, (2, 3, 4)), (normal, (2, 4, 2))),
    "broadcast_tensors": (lambda x, y: ops.broadcast_tensors(x, y), X, ROW),
    "broadcast_to": (lambda x: ops.broadcast_to(x, (2, 3, 4)), X),
    "cat": (lambda x, y: ops.cat([x, y, x], 0), X, X),
    "ceil": (ops.ceil, X),
    "chunk": (lambda x: ops.chunk(x, 2, 1), X),
    "clamp": (lambda x, low: ops.clamp(x, low, 1.0), X, (lambda *s: -positive(*s) / 2, (3, 4))),
    "clip": (lambda x: ops.clip(x, -1.0, 1.0), X),
    "clone": (ops.clone, X),
    "concat": (lambda x, y: ops.concat([x, y], 1), X, X),
    "concatenate": (lambda x, y: ops.concatenate([x, y], -1), X, X),
    "contiguous": (ops.contiguous, X),
    "conv2d": (lambda x, w, b: ops.conv2d(x, w, b, (2, 1), (1, 1)), IMAGE, KERNEL, ROW),
    "conv2d and tanh": (lambda x, w: ops.conv2d(x, w, activation="tanh"), IMAGE, KERNEL),
    "cos": (ops.cos, X),
    "cosh": (ops.cosh, X),
    "cumprod": (lambda x: ops.cumprod(x, 1), X),
    "cumsum": (lambda x: ops.cumsum(x, 0), X),
    "dense and tanh": (lambda x, w, b: dense(x, w, b, "tanh"), (normal, (2, 3, 4)), (normal, (4, 2)), (normal, (2,))),
    "dense and silu": (lambda x, w, b: dense(x, w, b, "silu"), X, (normal, (4, 2)), (normal, (2,))),
    "diagonal": (lambda x: ops.diagonal(x, 1), X),
    "div": (ops.div, X, ROW),
    "dot": (ops.dot, ROW, ROW),
    "dropout": (lambda x: ops.dropout(x, 0.4, generator=tg.Generator(1)), X),
    "einsum": (lambda x, y, z: ops.einsum("ij,kj,j->ki", x, y, z), X, (normal, (2, 4)), ROW),
    "exp": (ops.exp, X),
    "expand": (lambda x: ops.expand(x, 2, 3, 4), X),
    "expand_as": (lambda x, y: ops.expand_as(x, y) * y, ROW, X),
    "expm1": (ops.expm1, X),
    "flatten": (lambda x: ops.flatten(x), X),
    "flip": (lambda x: ops.flip(x, 0), X),
    "floor": (ops.floor, X),
    "floor_divide": (ops.floor_divide, X, D),
    "gather": (lambda x: ops.gather(x, 0, INDEX), X),
    "gelu": (ops.gelu, X),
    "gelu by tanh": (lambda x: ops.gelu(x, "tanh"), X),
    "getitem": (lambda x: ops.getitem(x, (slice(None, None, 2), None, [0, 0, 3])), X),
    "getitem of a view": (lambda x: ops.getitem(x, (1, slice(1, None))), X),
    "index_select": (lambda x: ops.index_select(x, 1, INDEX[0]), X),
    "inplace": (inplace, S, S),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.3), X),
    "linear": (lambda x, w, b: ops.linear(x, w, b), (normal, (2, 3, 4)), (normal, (2, 4)), (normal, (2,))),
    "linear and sigmoid": (lambda x, w, b: ops.linear(x, w, b, "sigmoid"), X, (normal, (2, 4)), (normal, (2,))),
    "linear and gelu": (lambda x, w, b: ops.linear(x, w, b, "gelu"), X, (normal, (2, 4)), (normal, (2,))),
    "linear and gelu by tanh": (lambda x, w: ops.linear(x, w, None, "gelu_tanh"), X, (normal, (2, 4))),
    "linear and silu": (
        lambda x, w, b: ops.linear(x, w, b, "silu"),
        (normal, (2, 3, 4)),
        (normal, (2, 4)),
        (normal, (2,)),
    ),
    "log": (ops.log, P),
    "log10": (ops.log10, P),
    "log1p": (ops.log1p, P),
    "log2": (ops.log2, P),
    "log_softmax": (lambda x: ops.log_softmax(x, 1), X),
    "logsumexp": (lambda x: ops.logsumexp(x, 0), X),
    "masked_fill": (lambda x: ops.masked_fill(x, MASK, 2.0), X),
    "masked_select": (lambda x: ops.masked_select(x, MASK), X),
    "matmul": (ops.matmul, (normal, (2, 3, 4)), (normal, (4, 2))),
    "max": (lambda x: ops.max(x, 1)[0], X),
    "max of all": (lambda x: ops.max(x), X),
    "max_pool2d": (lambda x: ops.max_pool2d(x, (2, 3), (1, 2), (1, 1)), IMAGE),
    "maximum": (ops.maximum, X, ROW),
    "mean": (lambda x: ops.mean(x, 1), X),
    "min": (lambda x: ops.min(x, 0, keepdim=True)[0], X),
    "minimum": (ops.minimum, X, ROW),
    "mm": (ops.mm, X, (normal, (4, 2))),
    "movedim": (lambda x: ops.movedim(x, 0, 1), X),
    "mul": (ops.mul, X, ROW),
    "narrow": (lambda x: ops.narrow(x, 1, 1, 2), X),
    "neg": (ops.neg, X),
    "norm": (lambda x: ops.norm(x, 2, 1), X),
    "norm 3": (lambda x: ops.norm(x, 3), X),
    "outer": (ops.outer, ROW, (normal, (3,))),
    "pad": (lambda x: ops.pad(x, (1, -1, 0, 2)), X),
    "pad by reflection": (lambda x: ops.pad(x, (3, 1), "reflect"), X),
    "permute": (lambda x: ops.permute(x, 1, 0), X),
    "pow": (ops.pow, P, ROW),
    "pow by 3": (lambda x: x**3, X),
    "prod": (lambda x: ops.prod(x, 1), X),
    "reciprocal": (ops.reciprocal, X),
    "relu": (ops.relu, X),
    "remainder": (ops.remainder, X, D),
    "repeat": (lambda x: ops.repeat(x, 2, 1, 2), X),
    "repeat_interleave": (lambda x: ops.repeat_interleave(x, 2, 1), X),
    "reshape": (lambda x: ops.reshape(x, 2, 6), X),
    "roll": (lambda x: ops.roll(x, 1, 0), X),
    "round": (ops.round, X),
    "rsqrt": (ops.rsqrt, P),
    "scatter": (lambda x, src: ops.scatter(x, 0, INDEX[:1], src), X, X),
    "scatter_add": (lambda x, src: ops.scatter_add(x, 0, INDEX, src), X, X),
    "select": (lambda x: ops.select(x, 0, 1), X),
    "setitem": (setitem, X, (normal, ())),
    "sigmoid": (ops.sigmoid, X),
    "sign": (ops.sign, X),
    "silu": (ops.silu, X),
    "erf": (ops.erf, X),
    "sin": (ops.sin, X),
    "sinh": (ops.sinh, X),
    "softmax": (lambda x: ops.softmax(x, 0), X),
    "softmax_xent": (lambda z: ops.softmax_xent(z, LABELS, None, 0.1, 0), X),
    "softmax_xent of each": (
        lambda z: ops.softmax_xent(z, LABELS, tg.tensor([1.0, 2.0, 3.0, 0.5]).to(z), 0.1, 0, "none"),
        X,
    ),
    "sort": (lambda x: ops.sort(x, 1, descending=True)[0], X),
    "split": (lambda x: ops.split(x, [1, 3], 1), X),
    "sqrt": (ops.sqrt, P),
    "square": (ops.square, X),
    "squeeze": (lambda x: ops.squeeze(x), (normal, (1, 3))),
    "stack": (lambda x, y: ops.stack([x, y], 1), X, X),
    "std": (lambda x: ops.std(x, 1), X),
    "sub": (ops.sub, X, ROW),
    "sum": (lambda x: ops.sum(x, 0), X),
    "t": (ops.t, X),
    "take_along_dim": (lambda x: ops.take_along_dim(x, INDEX[:1], 0), X),
    "tan": (ops.tan, S),
    "tanh": (ops.tanh, X),
    "tile": (lambda x: ops.tile(x, 2), X),
    "topk": (lambda x: ops.topk(x, 2, 1)[0], X),
    "trace": (ops.trace, X),
    "transpose": (lambda x: ops.transpose(x, 0, 1), X),
    "tril": (ops.tril, X),
    "triu": (ops.triu, X),
    "trunc": (ops.trunc, X),
    "unbind": (lambda x: ops.unbind(x, 1), X),
    "unflatten": (lambda x: ops.unflatten(x, 1, (2, 2)), X),
    "unsqueeze": (lambda x: ops.unsqueeze(x, 1), X),
    "var": (lambda x: ops.var(x, 0), X),
    "view": (lambda x: ops.view(x.contiguous(), 4, 3), X),
    "where": (lambda x, y: ops.where(MASK, x, y), X, ROW),
}
WITHOUT_GRADIENT = """
    ACTIVATIONS all allclose any argmax argmin argsort bitwise_and bitwise_not bitwise_or bitwise_xor detach eq equal
    ge gt isfinite isinf isnan le logical_and logical_not logical_or logical_xor lt ne nonzero one_hot
""".split()

STEPWISE = "ceil floor floor_divide round sign trunc".split()  # their gradient is 0, and depends on nothing


def test_no_op_is_left_out():
    public = {n for n, v in vars(ops).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert public - set(OPS) == set(WITHOUT_GRADIENT)


def inputs_of(name):
    return [Tensor(np.asarray(make(*shape)), requires_grad=True) for make, shape in OPS[name][1:]]


def outputs_of(y):
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def for_each(f):
    """reduction="none": the incoming gradient is random."""
    return lambda *xs: outputs_of(f(*xs))


def summed(f):
    """The incoming gradient has stride 0; to sum it up, 0 dimensions."""
    return lambda *xs: sum(y.sum() for y in outputs_of(f(*xs)))


def transposed(f):
    """What is saved is not contiguous."""
    return lambda *xs: outputs_of(f(*(reversed_dims(reversed_dims(x).contiguous()) for x in xs)))


def stretched(f):
    """What is saved has stride 0."""
    return lambda *xs: outputs_of(f(*(x[:1].expand(x.shape) if x.ndim else x for x in xs)))


def reversed_dims(x):
    return x.permute(tuple(range(x.ndim))[::-1])


def squared(f):
    """So that the second derivative of a linear op is not nothing."""
    return lambda *xs: tuple(y * y for y in outputs_of(f(*xs)))


@pytest.mark.parametrize("variant", [for_each, summed, transposed, stretched], ids=lambda v: v.__name__)
@pytest.mark.parametrize("name", OPS)
def test_gradient(name, variant):
    assert gradcheck(variant(OPS[name][0]), inputs_of(name), directions=2)


@pytest.mark.parametrize(
    "variant", [squared, lambda f: summed(squared(f)), transposed], ids=["each", "sum", "transposed"]
)
@pytest.mark.parametrize("name", [n for n in OPS if n not in STEPWISE])
def test_second_order(name, variant):
    assert gradgradcheck(variant(OPS[name][0]), inputs_of(name), directions=2)


SCALARS = """
    abs acos add arccos arcsin arctan asin atan cos cosh clamp clip div erf exp expm1 flatten gelu leaky_relu log log10
    log1p log2 maximum mul neg pow reciprocal relu remainder rsqrt sigmoid silu sin sinh sqrt square sub tan tanh where
    unsqueeze sum mean prod softmax log_softmax logsumexp amax max norm std cumsum cumprod sort reshape repeat
""".split()
OTHERWISE = {  # what the table's function does not do without dimensions, or not for two equal numbers
    "maximum": lambda x, y: ops.maximum(x, 0.5 * y),
    "remainder": lambda x, y: ops.remainder(x, 0.7 * y),
    "where": lambda x, y: ops.where(tg.tensor(True), x, y),
    "unsqueeze": lambda x: ops.unsqueeze(x, 0),
    "logsumexp": lambda x: ops.logsumexp(x, 0),
    "reshape": lambda x: ops.reshape(x, 1, 1),
    "repeat": lambda x: ops.repeat(x, 2),
    "std": lambda x: ops.std(x, correction=0) + x,
    "prod": lambda x: ops.prod(x, 0),
    "cumprod": lambda x: ops.cumprod(x, 0),
    "softmax": lambda x: ops.softmax(x, 0) * x,
    "log_softmax": lambda x: ops.log_softmax(x, 0) * x,
    "norm": lambda x: ops.norm(x, 3),
    "max": lambda x: ops.max(x, 0)[0],
    "amax": lambda x: ops.amax(x),
    "mean": lambda x: ops.mean(x),
    "sort": lambda x: ops.sort(x, 0)[0],
}


@pytest.mark.parametrize("name", SCALARS)
def test_without_dimensions(name):
    f, *makers = OPS[name]
    f = OTHERWISE.get(name, f)
    inputs = [Tensor(np.asarray(make()), requires_grad=True) for make, _ in makers]
    assert gradcheck(f, inputs)
    assert gradgradcheck(squared(f), inputs)


@pytest.mark.parametrize(
    "name",
    [
        "exp",
        "tanh",
        "sigmoid",
        "silu",
        "erf",
        "gelu",
        "gelu by tanh",
        "pow",
        "div",
        "matmul",
        "softmax",
        "conv2d and tanh",
        "linear and silu",
        "prod",
    ],
)
def test_third_order(name):
    """gradgradcheck of the gradient."""
    f = OPS[name][0]

    def gradient(*xs):
        return tg.grad(squared(f)(*xs)[0].sum(), xs, create_graph=True)

    assert gradgradcheck(gradient, inputs_of(name), directions=2)
