"""bfloat16 through the whole engine: values, gradients, promotion of numbers, creation, modules, optimisers, files.

An op that is one formula is judged as everywhere: by the float64 truth and by float32 rounded once (tests/oracle.py).
What torch itself composes of bfloat16 steps is judged by torch's own bfloat16.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from ml_dtypes import bfloat16

import tilegrad as tg
from tests import oracle
from tests.compare import assert_close, assert_same
from tests.ops.same import random
from tests.ops.test_elementwise import UNARY
from tests.ops.test_float16 import OPS as HALF_OPS
from tests.oracle import to_array, to_tensor
from tilegrad import kernels, nn, optim
from tilegrad.data import DataLoader, TensorDataset
from tilegrad.nn import functional as F


def halves(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal bfloat16."""
    return np.asarray(random(*shape, seed=seed)).astype(bfloat16)


@pytest.fixture(params=["reference", "cpu"])
def on_backend(request: pytest.FixtureRequest):
    with kernels.use(request.param):
        yield


# --- values and gradients --------------------------------------------------------------------------------------------

METHODS = """
    abs arctan ceil cos cosh exp expm1 floor neg reciprocal round sign sin sinh square tan tanh trunc
""".split()
ACTIVATIONS = """
    elu glu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 selu softplus softsign
""".split()
LABELS = np.array([1, 0, 3, 9, 2])
ROWS = np.array([[0, 3], [3, 3]])


def method(name: str, *args, **options) -> Callable:
    return lambda *x: getattr(x[0], name)(*x[1:], *args, **options)


def both(name: str, *args, **options) -> tuple[Callable, Callable]:
    """A function of nn.functional here and there; arrays among the arguments become tensors."""

    def call(library, to):
        given = [to(a) if isinstance(a, np.ndarray) else a for a in args]
        return lambda *x: getattr(library, name)(*x, *given, **options)

    return call(F, tg.tensor), call(TF, torch.from_numpy)


ONE_FORMULA = {
    **HALF_OPS,
    "div": (lambda a, b: a / (b.abs() + 1), None, (5, 10), (5, 10)),
    **{name: (method(name), None, (5, 10)) for name in METHODS},
    **{name: (*both(name), (5, 10)) for name in ACTIVATIONS},
    "gelu by tanh": (*both("gelu", approximate="tanh"), (5, 10)),
    "remainder": (lambda a, b: a % b, None, (5, 10), (5, 10)),
    "cumprod": (method("cumprod", 1), None, (5, 10)),
    "1-norm": (method("norm", 1, 1), None, (5, 10)),
    "3-norm": (method("norm", 3, 1), None, (5, 10)),
    "largest norm": (method("norm", math.inf, 1), None, (5, 10)),
    "max": (lambda a: a.max(1)[0], None, (5, 10)),
    "sort": (lambda a: a.sort(1)[0], None, (5, 10)),
    "tril": (method("tril"), None, (5, 7)),
    "pad": (*both("pad", (1, 2)), (5, 7)),
    "embedding": (
        lambda w: F.embedding(tg.tensor(ROWS), w),
        lambda w: TF.embedding(torch.from_numpy(ROWS), w),
        (5, 7),
    ),
    "max_pool2d": (*both("max_pool2d", 2), (2, 3, 6, 4)),
    "avg_pool2d": (*both("avg_pool2d", 2), (2, 3, 6, 4)),
    "conv2d with bias": (*both("conv2d"), (2, 3, 6, 5), (4, 3, 3, 3), (4,)),
    "layer_norm": (*both("layer_norm", (10,)), (5, 10)),
    "group_norm": (*both("group_norm", 2), (5, 4, 3)),
    "batch_norm": (*both("batch_norm", None, None, training=True), (5, 10)),
    "nll_loss": (*both("nll_loss", LABELS), (5, 10)),
    "nll_loss sum": (*both("nll_loss", LABELS, reduction="sum"), (5, 10)),
    "mse_loss": (*both("mse_loss"), (5, 10), (5, 10)),
    "l1_loss": (*both("l1_loss"), (5, 10), (5, 10)),
    "huber_loss": (*both("huber_loss"), (5, 10), (5, 10)),
}


def _chosen(a, b):
    return (tg if isinstance(a, tg.Tensor) else torch).where(a > b, a, b)


ONE_FORMULA["where"] = (_chosen, None, (5, 10), (5, 10))


@pytest.mark.parametrize("name", ONE_FORMULA)
def test_an_op_is_the_truth_rounded(name, on_backend):
    ours, theirs, *shapes = ONE_FORMULA[name]
    arrays = [halves(*s, seed=i) for i, s in enumerate(shapes)]
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    y = ours(*leaves)
    assert_close(y.detach().numpy(), *oracle.value(theirs or ours, *arrays))
    dy = halves(*y.shape, seed=9)
    y.backward(tg.Tensor(dy))
    for leaf, pair in zip(leaves, oracle.gradients(theirs or ours, dy, *arrays), strict=True):
        assert_close(leaf.grad.numpy(), *pair)


def attend(q, k, v):
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, -1)
    return weights @ v


COMPOSED = {
    "div": (lambda a, b: a / b, None, (5, 10), (5, 10)),
    "log2": (lambda a: (a * a).log2(), None, (5, 10)),
    "log10": (lambda a: (a * a).log10(), None, (5, 10)),
    "sqrt": (lambda a: (a * a + 1).sqrt(), None, (5, 10)),
    "rsqrt": (lambda a: (a * a + 1).rsqrt(), None, (5, 10)),
    "normalize": (*both("normalize"), (5, 10)),
    "mse_loss": (*both("mse_loss", reduction="none"), (5, 10), (5, 10)),
    "smooth_l1_loss": (*both("smooth_l1_loss", reduction="sum"), (5, 10), (5, 10)),
    "logits": (*both("binary_cross_entropy_with_logits", reduction="none"), (5, 10), (5, 10)),
    "bce": (
        lambda a, b: F.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
        lambda a, b: TF.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
        (5, 10),
        (5, 10),
    ),
    "kl_div": (
        lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean"),
        lambda a, b: TF.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean"),
        (5, 10),
        (5, 10),
    ),
    "soft labels": (
        lambda a, b: F.cross_entropy(a, b.softmax(1)),
        lambda a, b: TF.cross_entropy(a, b.softmax(1)),
        (5, 10),
        (5, 10),
    ),
    "attention": (F.scaled_dot_product_attention, attend, (2, 5, 8), (2, 6, 8), (2, 6, 4)),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_an_op_composed_of_others_loses_at_most_twice_what_torch_loses(name):
    ours, theirs, *shapes = COMPOSED[name]
    arrays = [halves(*s, seed=i) for i, s in enumerate(shapes)]
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    y = ours(*leaves)
    dy = halves(*y.shape, seed=9)
    y.backward(tg.Tensor(dy))
    native = [to_tensor(a).requires_grad_() for a in arrays]
    z = (theirs or ours)(*native)
    z.backward(to_tensor(dy))
    got = [y.detach(), *(leaf.grad for leaf in leaves)]
    baseline = [z.detach(), *(x.grad for x in native)]
    wants = [oracle.value(theirs or ours, *arrays), *oracle.gradients(theirs or ours, dy, *arrays)]
    for ours_, theirs_, (want, _) in zip(got, baseline, wants, strict=True):
        assert ours_.dtype == bfloat16 and ours_.shape == want.shape
        lost, torch_lost = (np.linalg.norm(to_wide(x) - want) for x in (ours_.numpy(), to_array(theirs_)))
        assert lost <= 2 * torch_lost <= 0.025 * np.linalg.norm(want)


def to_wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_class_indices_is_float32(reduction, on_backend):
    x = halves(5, 10)
    leaf = tg.Tensor(x, requires_grad=True)
    loss = F.cross_entropy(leaf, tg.tensor(LABELS), reduction=reduction)
    ours, theirs = both("cross_entropy", LABELS, reduction=reduction)
    assert_close(loss.detach().numpy(), *oracle.value(theirs, x.astype(np.float32)))
    dy = np.asarray(random(*loss.shape, seed=9)).astype(np.float32)
    loss.backward(tg.Tensor(dy))
    wide = torch.from_numpy(to_wide(x)).requires_grad_()
    theirs(wide).backward(torch.from_numpy(to_wide(dy)))
    assert_close(leaf.grad.numpy(), wide.grad.numpy(), wide.grad.numpy().astype(bfloat16))


# --- nan, order, comparison ------------------------------------------------------------------------------------------

SPECIAL = np.array([[1.5, -2.0, np.nan, 3.0], [np.inf, 0.1, -np.inf, -0.0], [0.0, 1.5, np.nan, np.nan]], bfloat16)
OTHER = np.array([[1.5, 7.0, 1.0, np.nan], [np.inf, 0.2, 1.0, 0.0], [-1.0, np.nan, np.nan, -np.inf]], bfloat16)


EXACT_UNARY = {
    **{name: method(name) for name in "max min argmax argmin isnan isinf isfinite abs floor ceil trunc round".split()},
    **{f"{name} of rows": method(name, 1) for name in "amax amin argmax argmin any all sum cumsum cumprod".split()},
    **{
        f"{name} of rows {k}": lambda x, name=name, k=k: getattr(x, name)(1)[k]
        for name in ("max", "min")
        for k in (0, 1)
    },
    "logical_not": method("logical_not"),
    "clamp": method("clamp", -1.0, 1.0),
    "relu": method("relu"),
    "> number": lambda x: x > 0.1,
    "number <=": lambda x: 2 <= x,
    "masked_fill": lambda x: x.masked_fill(x != x, 7.0),
    "to bool": lambda x: x.bool(),
}
EXACT_BINARY = {
    **{name: method(name) for name in "eq ne lt le gt ge maximum minimum logical_and logical_or logical_xor".split()},
    "clamp from below": lambda x, y: x.clamp(min=y),
    "clamp from above": lambda x, y: x.clamp(max=y),
    "where": lambda x, y: _chosen(x, y),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "floor_divide": lambda x, y: x // y,
}


@pytest.mark.parametrize("name", [*EXACT_UNARY, *EXACT_BINARY])
def test_special_values_are_torchs_and_never_a_warning(name):
    op, arrays = (EXACT_UNARY[name], [SPECIAL]) if name in EXACT_UNARY else (EXACT_BINARY[name], [SPECIAL, OTHER])
    assert_same(op(*map(tg.Tensor, arrays)).numpy(), to_array(op(*map(to_tensor, arrays))))


@pytest.mark.parametrize("name", [name for name in UNARY if name not in EXACT_UNARY])
def test_special_values_of_functions(name):
    with np.errstate(all="ignore"):
        x = np.array(
            [0.0, -0.0, 0.5, 1, -1, 60, -60, 1000, -1000, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-40], bfloat16
        )
        got = getattr(tg.Tensor(x), name)().numpy()
        want = getattr(tg.Tensor(x.astype(np.float32)), name)().numpy().astype(bfloat16)
    assert got.dtype == bfloat16
    for where in (np.isnan, np.isposinf, np.isneginf):
        assert (where(got) == where(want)).all()
    got, want = (to_wide(y[np.isfinite(want)]) for y in (got, want))
    assert (abs(got - want) <= 2.0**-7 * abs(want)).all(), "more than one ulp"


@pytest.mark.parametrize("descending", [False, True])
def test_sorting_puts_nan_last_as_the_largest_and_keeps_the_order_of_equals(descending):
    x = np.array([2, np.nan, -1, 2, np.inf, -np.inf, np.nan, -1, 0], bfloat16)
    values, places = tg.Tensor(x).sort(descending=descending)
    want_values, want_places = to_tensor(x).sort(descending=descending, stable=True)
    assert_same(values.numpy(), to_array(want_values))
    assert_same(places.numpy(), want_places.numpy())
    assert_same(tg.Tensor(x).argsort(descending=descending).numpy(), want_places.numpy())
    top, at = tg.Tensor(x[x == x]).topk(3, largest=descending)
    want, want_at = to_tensor(x[x == x]).topk(3, largest=descending)
    assert_same(top.numpy(), to_array(want))
    assert_same(x[x == x][at.numpy()], to_array(to_tensor(x[x == x])[want_at]))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_the_gradient_of_extrema_passes_nan_and_ties_as_torch(name):
    leaves = [tg.Tensor(a, requires_grad=True) for a in (SPECIAL, OTHER)]
    getattr(leaves[0], name)(leaves[1]).backward(tg.ones(3, 4, dtype="bfloat16"))
    wants = [to_tensor(a).requires_grad_() for a in (SPECIAL, OTHER)]
    getattr(wants[0], name)(wants[1]).backward(torch.ones(3, 4, dtype=torch.bfloat16))
    for leaf, want in zip(leaves, wants, strict=True):
        assert_same(leaf.grad.numpy(), to_array(want.grad))


def test_allclose_and_equal():
    x = tg.tensor([1.0, math.nan], dtype="bfloat16")
    assert not tg.allclose(x, x) and tg.allclose(x, x, equal_nan=True) and not tg.equal(x, x)
    y = tg.tensor([1.0, 2.0], dtype="bfloat16")
    assert tg.equal(y, y.clone()) and tg.allclose(y, y + 0.001)


# --- sums ------------------------------------------------------------------------------------------------------------


def test_sums_are_kept_in_float32():
    """In bfloat16 256 + 1 is 256."""
    x = tg.ones(4096, dtype="bfloat16", requires_grad=True)
    assert x.sum().item() == 4096 and x.mean().item() == 1 and x.norm().item() == 64 and x.cumsum(0)[-1].item() == 4096
    assert x.reshape(64, 64).sum(0).tolist() == [64.0] * 64 and (x @ x).item() == 4096
    assert tg.einsum("i->", x).item() == 4096 and x.var().item() == 0
    x[[0] * 4096].sum().backward()
    assert x.grad[:2].tolist() == [4096.0, 0.0]
    weight = tg.zeros(2, 1, dtype="bfloat16", requires_grad=True)
    F.embedding(tg.zeros(4096, dtype="int64"), weight).sum().backward()
    assert weight.grad.tolist() == [[4096.0], [0.0]]
    scores = tg.full((4096, 2), -1.0, dtype="bfloat16")
    assert F.nll_loss(scores, tg.zeros(4096, dtype="int64")).item() == 1
    table = tg.zeros(3, dtype="bfloat16").scatter_add(0, tg.zeros(4096, dtype="int64"), x.detach())
    assert table.tolist() == [4096.0, 0.0, 0.0]
    bias = tg.zeros(1, dtype="bfloat16", requires_grad=True)
    F.linear(tg.ones(4096, 1, dtype="bfloat16"), tg.ones(1, 1, dtype="bfloat16"), bias).sum().backward()
    assert bias.grad.item() == 4096


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_python_numbers_leave_the_dtype():
    x = tg.tensor([1.0, 3.0], dtype="bfloat16")
    for y in (x * 2.5, 2.5 * x, x + 1, 1 - x, x / 3, 3 / x, x**2, 2**x, x // 2, x % 2, -x, x * True, x + 10**30):
        assert y.dtype == tg.bfloat16
    assert (x * 2.5).tolist() == [2.5, 7.5] and (x + 10**30).tolist() == [float(np.array(1e30, bfloat16))] * 2
    assert (x * tg.tensor(2.5)).dtype == tg.bfloat16 and (x * tg.tensor([2.5])).dtype == tg.float32
    x += 1.5
    x *= tg.tensor([2.0, 2.0])
    assert x.tolist() == [5.0, 9.0] and x.dtype == tg.bfloat16
    with pytest.raises(ValueError, match="mul: 1.*0 does not fit bfloat16"):
        x * 10**400
    with pytest.raises(TypeError, match="add_: the result is float32 but x is int64"):
        y = tg.tensor([1])
        y += tg.tensor([1.5])


def test_out_of_the_engine():
    x = tg.tensor([0.1, -2.0], dtype="bfloat16")
    assert x.numpy().dtype == ml_dtypes.bfloat16 and x.numpy() is x.data
    assert x.tolist() == [0.10009765625, -2.0] and all(
        type(v) is float for v in [*x.tolist(), x[0].item(), float(x[1])]
    )
    assert int(x[1]) == -2 and bool(x[0]) and f"{x[0]:.3f}" == "0.100" and -2 in x and 5 not in x
    assert x.itemsize == 2 and x.nbytes == 4 and x.is_floating_point() and x.stride() == (1,)
    assert np.asarray(x).dtype == bfloat16 and np.asarray(x, np.float32).dtype == np.float32
    with pytest.raises(TypeError, match="index: expected an integer scalar; got bfloat16"):
        range(3)[x[1]]
    with pytest.raises(TypeError, match="bitwise_and: the operands are bfloat16"):
        x & x


def test_repr():
    assert repr(tg.tensor([0.1, -2.0], dtype="bfloat16")) == "tensor([ 0.1001, -2.    ], dtype=bfloat16)"
    assert repr(tg.tensor(1.0, dtype="bfloat16", requires_grad=True)) == (
        "tensor(1., dtype=bfloat16, requires_grad=True)"
    )


# --- creation --------------------------------------------------------------------------------------------------------


def test_creation():
    for x, want in [
        (tg.tensor([1, 2.5], dtype=tg.bfloat16), [1, 2.5]),
        (tg.tensor(np.array([1, 2.5], bfloat16)), [1, 2.5]),
        (tg.as_tensor(np.array([1, 2.5], bfloat16)), [1, 2.5]),
        (tg.from_numpy(np.array([1, 2.5], bfloat16)), [1, 2.5]),
        (tg.tensor([tg.tensor(1.0, dtype="bfloat16"), tg.tensor(2.5, dtype="bfloat16")]), [1, 2.5]),
        (tg.tensor(bfloat16(2.5)), 2.5),
        (tg.zeros(2, dtype="bfloat16"), [0, 0]),
        (tg.ones(2, dtype="bfloat16"), [1, 1]),
        (tg.full((2,), 0.1, dtype="bfloat16"), [0.10009765625] * 2),
        (tg.arange(0, 2, 0.5, dtype="bfloat16"), [0, 0.5, 1, 1.5]),
        (tg.linspace(0, 1, 3, dtype="bfloat16"), [0, 0.5, 1]),
        (tg.eye(2, dtype="bfloat16"), [[1, 0], [0, 1]]),
        (tg.tensor([True, False]).bfloat16(), [1, 0]),
        (tg.tensor([2**31, -3]).to(tg.bfloat16), [2.0**31, -3]),
        (tg.tensor([1e39, -1e-45], dtype="float64").to("bfloat16"), [math.inf, -0.0]),
    ]:
        assert x.dtype == tg.bfloat16 and x.tolist() == want
    x = tg.ones(2, 3, dtype="bfloat16")
    for like in (tg.zeros_like, tg.ones_like, tg.empty_like, tg.rand_like, tg.randn_like):
        assert like(x).dtype == tg.bfloat16 and like(x).shape == (2, 3)
    assert tg.randint(0, 5, (3,), dtype="bfloat16").dtype == tg.randperm(3, dtype="bfloat16").dtype == bfloat16


def test_moves_between_dtypes_and_back():
    x = tg.tensor([1.0, 1 / 3], dtype="float64", requires_grad=True)
    y = x.bfloat16()
    assert y.dtype == tg.bfloat16 and y.bfloat16() is y and y.type_as(x).dtype == tg.float64
    assert (y.float().dtype, y.half().dtype, y.double().dtype) == (tg.float32, tg.float16, tg.float64)
    (y * y).sum().backward()
    assert x.grad.dtype == np.float64 and x.grad.tolist() == [2.0, 2 * float(np.array(1 / 3, bfloat16))]


def test_an_array_that_lost_its_dtype_in_a_file_is_refused(tmp_path):
    """NumPy's own format knows no bfloat16: it reads back as two bytes of anything, not as numbers."""
    np.save(tmp_path / "x.npy", np.ones(2, bfloat16))
    with pytest.raises(TypeError, match="expected numbers; got |V2"):
        tg.tensor(np.load(tmp_path / "x.npy"))
    with pytest.raises(TypeError, match="Tensor: the array is |V2"):
        tg.Tensor(np.load(tmp_path / "x.npy"))


def test_random_numbers():
    tg.manual_seed(0)
    x = tg.rand(100_000, dtype="bfloat16")
    assert x.dtype == tg.bfloat16 and 0 <= x.min().item() and x.max().item() < 1
    assert len(np.unique(x.float().numpy())) == 256, "as many as bfloat16 holds evenly below 1"
    normal = tg.randn(100_000, dtype="bfloat16")
    assert normal.dtype == tg.bfloat16 and abs(normal.float().mean().item()) < 0.02
    assert abs(normal.float().std().item() - 1) < 0.02
    tg.manual_seed(1)
    wide = tg.randn(1000)
    tg.manual_seed(1)
    assert_same(tg.randn(1000, dtype="bfloat16").numpy(), wide.numpy().astype(bfloat16))


def test_filling_with_random_numbers_draws_them_in_float32():
    x = tg.empty(100_000, dtype="bfloat16").uniform_(-0.1, 0.1)
    values = to_wide(x.numpy())
    assert values.min() >= -0.1001 and values.max() < 0.1 and abs(values.mean()) < 0.001
    assert len(np.unique(values)) > 1000, "small numbers have digits of their own"
    tg.manual_seed(1)
    wide = tg.empty(1000).normal_(0.5, 0.1)
    tg.manual_seed(1)
    assert_same(tg.empty(1000, dtype="bfloat16").normal_(0.5, 0.1).numpy(), wide.numpy().astype(bfloat16))
    with pytest.raises(TypeError, match="rand: dtype is int64"):
        tg.rand(2, dtype="int64")


FILLERS = [n for n in dir(nn.init) if n.endswith("_") and not n.startswith("_") and n != "default_"]


@pytest.mark.parametrize("name", FILLERS)
def test_initialisation(name):
    function = getattr(nn.init, name)
    arguments = (0.5,) if name == "constant_" else ()
    x = tg.empty(20, 30, dtype="bfloat16")
    tg.manual_seed(0)
    assert function(x, *arguments) is x and x.dtype == tg.bfloat16
    tg.manual_seed(0)
    wide = function(tg.empty(20, 30), *arguments).numpy()
    assert np.isfinite(to_wide(x.numpy())).all()
    assert_close(x.numpy(), wide.astype(np.float64), wide.astype(bfloat16))


# --- modules and training --------------------------------------------------------------------------------------------


def mlp(dtype: str = "float32") -> nn.Sequential:
    tg.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 10)).to(dtype)


def torch_mlp(values: Sequence[np.ndarray], dtype: torch.dtype) -> torch.nn.Sequential:
    net = torch.nn.Sequential(
        torch.nn.Linear(20, 32), torch.nn.GELU(), torch.nn.LayerNorm(32), torch.nn.Linear(32, 10)
    ).to(dtype)
    with torch.no_grad():
        for p, value in zip(net.parameters(), values, strict=True):
            p.copy_(torch.from_numpy(to_wide(value)))
    return net


def test_the_gradients_of_a_net_lose_at_most_twice_what_torch_loses():
    net = mlp("bfloat16")
    values = [p.detach().numpy() for p in net.parameters()]
    x, labels = halves(64, 20), np.arange(64) % 10
    F.cross_entropy(net(tg.Tensor(x)), tg.tensor(labels)).backward()
    native, true = (torch_mlp(values, dtype) for dtype in (torch.bfloat16, torch.float64))
    TF.cross_entropy(native(to_tensor(x)), torch.from_numpy(labels)).backward()
    TF.cross_entropy(true(torch.from_numpy(to_wide(x))), torch.from_numpy(labels)).backward()
    for p, theirs, want in zip(net.parameters(), native.parameters(), true.parameters(), strict=True):
        assert p.grad.dtype == p.dtype == tg.bfloat16
        lost, torch_lost = (
            np.linalg.norm(to_wide(g) - want.grad.numpy()) for g in (p.grad.numpy(), to_array(theirs.grad))
        )
        assert lost <= 2 * torch_lost <= 0.05 * np.linalg.norm(want.grad.numpy())


def test_a_module_is_moved_whole_and_keeps_its_integers():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    net(tg.randn(3, 1, 4, 4)).sum().backward()
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    parameters = list(net.parameters())
    assert net.bfloat16() is net and all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    for name, value in net.state_dict().items():
        kind = np.int64 if name.endswith("num_batches_tracked") else bfloat16
        assert_same(value.numpy(), before[name].astype(kind))
    assert all(p.grad.dtype == tg.bfloat16 and p.requires_grad for p in parameters)
    for move, dtype in (("half", "float16"), ("float", "float32"), ("double", "float64"), ("bfloat16", "bfloat16")):
        getattr(net, move)()
        assert {p.dtype for p in net.parameters()} == {np.dtype(dtype)} == {net[1].running_mean.dtype}
    assert net.to(tg.float32).to("cpu", "bfloat16")[0].weight.dtype == tg.bfloat16
    assert net.to(tg.ones(1)).to(dtype=tg.bfloat16)[0].weight.dtype == tg.bfloat16
    y = net(tg.randn(3, 1, 4, 4, dtype="bfloat16"))
    assert y.dtype == tg.bfloat16 and net.eval()(tg.randn(3, 1, 4, 4, dtype="bfloat16")).dtype == bfloat16


def test_running_statistics_are_moved_in_float32():
    """1 - 0.1 is 0.8984 in bfloat16: rounded on the way, they would drift."""
    layer = nn.BatchNorm1d(5).bfloat16()
    for step in range(20):
        x = halves(64, 5, seed=step) * np.array(4, bfloat16) + np.array(1, bfloat16)
        mean, variance = (0.9 * to_wide(running.numpy()) for running in (layer.running_mean, layer.running_var))
        layer(tg.Tensor(x))
        assert_same(layer.running_mean.numpy(), (mean + 0.1 * to_wide(x).mean(0)).astype(bfloat16))
        assert_same(layer.running_var.numpy(), (variance + 0.1 * to_wide(x).var(0, ddof=1)).astype(bfloat16))


OPTIMIZERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda params: optim.Adam(params, lr=0.01, weight_decay=0.01),
    "AdamW": lambda params: optim.AdamW(params, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_float32_moments_and_rounds_the_parameter_once_a_step(name, on_backend):
    p = nn.Parameter(tg.Tensor(halves(7, 5)))
    optimizer = OPTIMIZERS[name]([p])
    wide = nn.Parameter(tg.Tensor(p.detach().numpy().astype(np.float32)))
    exact = OPTIMIZERS[name]([wide])
    for step in range(5):
        g = halves(7, 5, seed=step)
        p.grad, wide.grad = tg.Tensor(g), tg.Tensor(g.astype(np.float32))
        optimizer.step()
        exact.step()
        assert_same(p.detach().numpy(), wide.detach().numpy().astype(bfloat16))
        with tg.no_grad():
            wide.copy_(p)
    for moment in optimizer.state.get(p, {}).values():
        assert moment.dtype == tg.float32


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_state_survives_a_round_trip(name):
    def trained(steps: int, p: nn.Parameter, optimizer: optim.Optimizer) -> None:
        for step in range(steps):
            p.grad = tg.Tensor(halves(7, 5, seed=step))
            optimizer.step()

    p = nn.Parameter(tg.Tensor(halves(7, 5)))
    optimizer = OPTIMIZERS[name]([p])
    trained(3, p, optimizer)
    saved = pickle.loads(pickle.dumps((p.detach(), optimizer.state_dict())))
    q = nn.Parameter(saved[0])
    restored = OPTIMIZERS[name]([q])
    restored.load_state_dict(saved[1])
    trained(2, p, optimizer)
    trained(2, q, restored)
    assert_same(q.detach().numpy(), p.detach().numpy())
    halved = copy.deepcopy(saved[1])  # moments that another program kept in bfloat16
    for entries in halved["state"].values():
        entries.update({k: v.to("bfloat16") for k, v in entries.items() if k != "step"})
    restored.load_state_dict(halved)
    assert all(v.dtype == tg.float32 for v in restored.state.get(q, {}).values())


def test_training_in_bfloat16_follows_float32():
    def losses(dtype: str) -> list[float]:
        net = mlp(dtype)
        optimizer = optim.Adam(net.parameters(), lr=0.01)
        x, labels = tg.Tensor(random(64, 20)).to(dtype), tg.tensor(np.arange(64) % 10)
        found = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), labels)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    wide, narrow = losses("float32"), losses("bfloat16")
    assert narrow[-1] < 0.5 * narrow[0]
    assert np.abs(np.array(wide) - narrow).max() < 0.05


def test_gradients_are_clipped():
    x = tg.zeros(300, dtype="bfloat16", requires_grad=True)
    x.grad = tg.ones(300, dtype="bfloat16")
    total = nn.utils.clip_grad_norm_([x], 1.0)
    assert_close(total.numpy(), np.array(300**0.5), np.array(300**0.5, np.float32))
    assert_same(x.grad.numpy(), np.full(300, 300**-0.5, bfloat16))
    nn.utils.clip_grad_value_([x], 0.01)
    assert_same(x.grad.numpy(), np.full(300, 0.01, bfloat16))


def test_dropout(on_backend):
    tg.manual_seed(0)
    x = tg.ones(1000, dtype="bfloat16", requires_grad=True)
    y = F.dropout(x, 0.5)
    y.sum().backward()
    assert y.dtype == tg.bfloat16 and set(y.tolist()) == {0.0, 2.0}
    assert_same(x.grad.numpy(), y.detach().numpy())


def test_gradcheck_takes_it():
    """Against differences in float64."""
    x = tg.ones(2, dtype="bfloat16", requires_grad=True)
    assert tg.gradcheck(lambda x: x * 2, x)


def test_second_derivatives():
    x = tg.tensor([0.5, 2.0], dtype="bfloat16", requires_grad=True)
    (g,) = tg.grad((x**3).sum(), x, create_graph=True)
    g.sum().backward()
    assert x.grad.dtype == tg.bfloat16 and x.grad.tolist() == [3.0, 12.0]


# --- files, batches, other libraries ---------------------------------------------------------------------------------


def test_copies_and_pickles():
    x = tg.tensor([0.1, -2.0], dtype="bfloat16", requires_grad=True)
    x.sum().backward()
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), tg.Tensor(x), x.clone(), x.detach()):
        assert_same(y.detach().numpy(), x.detach().numpy())
    assert copy.deepcopy(x).grad.dtype == tg.bfloat16


def test_a_state_dict_survives_a_file_and_fits_modules_of_other_dtypes(tmp_path):
    net = mlp("bfloat16")
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net.state_dict()))
    saved = pickle.loads((tmp_path / "net.pickle").read_bytes())
    for dtype in ("bfloat16", "float32", "float16"):
        other = mlp(dtype)
        for p in other.parameters():
            nn.init.zeros_(p)
        other.load_state_dict(saved)
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert_same(q.detach().numpy(), p.detach().numpy().astype(dtype))
    arrays = {name: value.numpy() for name, value in saved.items()}
    mlp("float32").load_state_dict(arrays)
    rounded = mlp("bfloat16")
    rounded.load_state_dict(mlp("float32").state_dict())
    assert rounded[0].weight.dtype == tg.bfloat16


def test_batches():
    x, labels = halves(10, 3), np.arange(10)
    for data in (
        TensorDataset(tg.Tensor(x), tg.tensor(labels)),
        list(zip(x, labels)),
        list(zip(x[:, 0], labels)),
    ):
        batches = list(DataLoader(data, batch_size=4))
        assert {batch[0].dtype for batch in batches} == {np.dtype(bfloat16)}
        joined = np.concatenate([batch[0].numpy() for batch in batches])
        assert_same(joined, x if joined.ndim == 2 else x[:, 0])


def test_torchs_bfloat16_comes_and_goes_as_bits():
    theirs = torch.tensor([0.1, -2.0, math.inf], dtype=torch.bfloat16)
    ours = tg.from_numpy(theirs.view(torch.int16).numpy().view(bfloat16))
    assert ours.tolist() == theirs.tolist()
    ours[0] = 7.0  # one memory
    assert theirs[0].item() == 7
    with pytest.raises(BufferError, match="DLPack"):  # NumPy has no word for it there
        torch.from_dlpack(ours)
