"""matmul against torch: products, batches, epilogue, strides, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.kernels.epilogues import EPILOGUES
from tests.layouts import untouched

SHAPES = [  # M, K, N
    (1, 1, 1),  # degenerate
    (5, 7, 10),  # ragged
    (33, 257, 65),  # one past a tile
    (128, 64, 128),  # exact
    (2, 4096, 3),  # long sums
    (1, 16, 9),  # a row
    (9, 16, 1),  # a column
    (0, 4, 10),  # empty rows
    (4, 3, 0),  # empty columns
    (4, 0, 10),  # empty sum: zeros
]

BATCHES = [
    ((3,), (3,)),  # one each
    ((2, 3), (3,)),  # a has more axes
    ((), (4,)),  # one a for all b
    ((2, 3), ()),  # one b for all a
    ((2, 1), (1, 3)),  # both stretched
    ((0,), ()),  # empty batch
    ((1,), (0,)),  # empty batch by broadcasting
]


def operands(rng, dtype, m, k, n, batch_a=(), batch_b=()):
    a = rng.standard_normal((*batch_a, m, k)).astype(dtype)
    b = rng.standard_normal((*batch_b, k, n)).astype(dtype)
    return a, b, rng.standard_normal(n).astype(dtype)


def size_of_terms(a, b):
    """|a| @ |b|: rounding in a sum is relative to it (Higham 2002, 3.5). float16 is not summed in float16."""
    return 0.0 if a.dtype == np.float16 else float((np.abs(a) @ np.abs(b)).max(initial=0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(backend, layout, dtype, rng, shape):
    a, b, bias = operands(rng, dtype, *shape)
    a, b, bias = layout(a), layout(b), layout(bias)
    scale = size_of_terms(a, b)
    with untouched(a, b, bias):
        assert_close(backend.matmul(a, b), *oracle.value(torch.matmul, a, b), scale=scale)
        biased = backend.matmul(a, b, bias)
    assert_close(biased, *oracle.value(lambda a, b, bias: a @ b + bias, a, b, bias), scale=scale)


@pytest.mark.parametrize(("batch_a", "batch_b"), BATCHES, ids=str)
def test_leading_axes_broadcast(backend, layout, dtype, rng, batch_a, batch_b):
    a, b, bias = operands(rng, dtype, 4, 5, 6, batch_a, batch_b)
    a, b = layout(a), layout(b)
    with untouched(a, b):
        y = backend.matmul(a, b, bias)
    assert_close(y, *oracle.value(lambda a, b, bias: a @ b + bias, a, b, bias))


@pytest.mark.parametrize("activation", EPILOGUES)
def test_activation_in_the_epilogue(backend, dtype, rng, activation):
    a, b, bias = operands(rng, dtype, 33, 8, 10)
    y = backend.matmul(a, b, bias, activation)
    assert_close(y, *oracle.value(lambda a, b, bias: EPILOGUES[activation](a @ b + bias), a, b, bias))


@pytest.mark.parametrize("activation", [*EPILOGUES, None])
def test_the_activation_s_argument_is_kept_beside_it(backend, dtype, rng, activation):
    """With the bits of the products that give either alone; results do not share memory."""
    a, b, bias = operands(rng, dtype, 33, 8, 10)
    with untouched(a, b, bias):
        z, y = backend.matmul_kept(a, b, bias, activation)
    assert_same(z, backend.matmul(a, b, bias))
    assert_same(y, backend.matmul(a, b, bias, activation))
    assert not np.may_share_memory(z, y)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_all_sizes_keep_the_activation_s_argument(backend, layout, dtype, rng, shape):
    a, b, bias = operands(rng, dtype, *shape, (2,), ())
    for given in ((layout(a), layout(b), layout(bias)), (a[0], b, None)):
        z, y = backend.matmul_kept(*given, "gelu")
        assert_same(z, backend.matmul(*given))
        assert_same(y, backend.matmul(*given, "gelu"))


def test_an_empty_sum_still_has_its_epilogue(backend, dtype):
    bias = np.array([-1, 2, 0.5], dtype)
    y = backend.matmul(np.ones((4, 0), dtype), np.ones((0, 3), dtype), bias, "relu")
    assert_same(y, np.tile(np.array([0, 2, 0.5], dtype), (4, 1)))


@pytest.mark.parametrize("shape", [(5, 7, 10), (33, 65, 17)], ids=str)
def test_gradients_are_products_of_transposed_views(backend, dtype, rng, shape):
    """da = dy @ b.T and db = a.T @ dy, with the views the engine passes."""
    a, b, _ = operands(rng, dtype, *shape, (2,), (2,))
    dy = rng.standard_normal((2, shape[0], shape[2])).astype(dtype)
    da, db = oracle.gradients(torch.matmul, dy, a, b)
    assert_close(backend.matmul(dy, b.swapaxes(-1, -2)), *da)
    assert_close(backend.matmul(a.swapaxes(-1, -2), dy), *db)


@pytest.mark.parametrize("stretched", ["scalar", "row", "column"])
def test_stride_0_operand(backend, dtype, rng, stretched):
    """What the gradient of a sum or a mean looks like."""
    _, b, _ = operands(rng, dtype, 5, 7, 10)
    seed = {"scalar": (1, 1), "row": (1, 7), "column": (5, 1)}[stretched]
    a = np.broadcast_to(rng.standard_normal(seed).astype(dtype), (5, 7))
    with untouched(a, b):
        assert_close(backend.matmul(a, b), *oracle.value(torch.matmul, a, b))
        assert_close(backend.matmul(b.T, a.T), *oracle.value(lambda a, b: b.T @ a.T, a, b))


def test_every_other_row_and_column(backend, dtype, rng):
    """Slices with a step along both axes: no axis is dense."""
    a, b, _ = operands(rng, dtype, 10, 14, 20)
    a, b = a[::2, ::2], b[::2, ::-2]
    assert_close(backend.matmul(a, b), *oracle.value(torch.matmul, a, b))


@pytest.mark.parametrize("half", [np.float16, bfloat16])
def test_half_precision_accumulates_in_float32(backend, half):
    """Added one by one, ones stop counting at 2048 in float16, at 256 in bfloat16."""
    ones = np.ones((1, 4096), half)
    assert_same(backend.matmul(ones, ones.T), np.array([[4096]], half))


def test_half_precision_overflows_to_infinity_only_at_the_end(backend):
    """60000 + 60000 - 60000 fits; 60000 + 60000 does not."""
    big = np.float16(60000)
    a = np.array([[1, 1, -1], [1, 1, 0]], np.float16)
    b = np.full((3, 1), big)
    assert_same(backend.matmul(a, b), np.array([[big], [np.inf]], np.float16))
    assert_same(backend.matmul(a, b, bias=np.array([-big])), np.array([[0], [big]], np.float16))


def test_nan_and_infinity_stay_in_their_rows(backend, dtype, rng):
    a, b, _ = operands(rng, dtype, 5, 7, 10)
    a[1, 2], a[3, 4], b[4, :5] = np.nan, np.inf, 0
    y = backend.matmul(a, b)
    assert_close(y, *oracle.value(torch.matmul, a, b))
    assert np.isnan(y[1]).all()
    assert np.isnan(y[3, :5]).all()  # infinity * 0


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_small_integers_are_exact_in_every_precision(backend, rng, precision):
    """Ten bits of mantissa hold them, so that TF32 loses nothing either."""
    a = rng.integers(-8, 9, (33, 65)).astype(np.float32)
    b = rng.integers(-8, 9, (65, 17)).astype(np.float32)
    want = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float32)
    assert_same(backend.matmul(a, b, precision=precision), want)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


ERRORS = {
    "inner sizes": (
        dict(a=zeros(64, 784), b=zeros(512, 10)),
        ValueError,
        "matmul: a is (64, 784) but b is (512, 10); expected b.shape[-2] == 784",
    ),
    "inner size 1 does not broadcast": (
        dict(a=zeros(2, 1), b=zeros(3, 4)),
        ValueError,
        "matmul: a is (2, 1) but b is (3, 4); expected b.shape[-2] == 1",
    ),
    "vector a": (
        dict(a=zeros(3), b=zeros(3, 4)),
        ValueError,
        "matmul: a is (3,); expected at least 2 dimensions",
    ),
    "vector b": (
        dict(a=zeros(2, 3), b=zeros(3)),
        ValueError,
        "matmul: b is (3,); expected at least 2 dimensions",
    ),
    "batches": (
        dict(a=zeros(2, 3, 4), b=zeros(3, 4, 5)),
        ValueError,
        "matmul: a is (2, 3, 4) but b is (3, 4, 5); expected leading axes that broadcast",
    ),
    "bias size": (
        dict(a=zeros(2, 3), b=zeros(3, 4), bias=zeros(3)),
        ValueError,
        "matmul: bias is (3,); expected (4,)",
    ),
    "bias of size 1 does not broadcast": (
        dict(a=zeros(2, 3), b=zeros(3, 4), bias=zeros(1)),
        ValueError,
        "matmul: bias is (1,); expected (4,)",
    ),
    "activation": (
        dict(a=zeros(2, 3), b=zeros(3, 4), activation="swish"),
        ValueError,
        "matmul: activation is 'swish'; expected one of None, 'relu', 'leaky_relu', 'gelu', ",
    ),
    "precision": (
        dict(a=zeros(2, 3), b=zeros(3, 4), precision="fp32"),
        ValueError,
        "matmul: precision is 'fp32'; expected one of 'ieee', 'tf32', 'tf32x3'",
    ),
    "two dtypes": (
        dict(a=zeros(2, 3), b=zeros(3, 4, dtype=np.float64)),
        TypeError,
        "matmul: a is float32, b is float64; expected one dtype for all",
    ),
    "bias dtype": (
        dict(a=zeros(2, 3), b=zeros(3, 4), bias=zeros(4, dtype=np.float16)),
        TypeError,
        "matmul: a is float32, b is float32, bias is float16; expected one dtype for all",
    ),
    "integers": (
        dict(a=zeros(2, 3, dtype=np.int64), b=zeros(3, 4, dtype=np.int64)),
        TypeError,
        "matmul: a is int64, b is int64; expected float16, bfloat16, float32 or float64",
    ),
    "no array": (
        dict(a=[[1.0]], b=zeros(1, 1)),
        TypeError,
        "matmul: a is a list; expected an array",
    ),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(backend, arguments, kind, message):
    with pytest.raises(kind) as error:
        backend.matmul(**arguments)
    assert str(error.value).startswith(message)
    with pytest.raises(kind) as error:
        backend.matmul_kept(**{"bias": None, "activation": "gelu"} | arguments)
    assert str(error.value).startswith(message)


# --- the gradients of a linear layer together

LINEAR = [  # M, O, K
    (1, 1, 1),  # degenerate
    (5, 10, 7),  # ragged
    (33, 65, 257),  # one past a tile
    (64, 64, 128),  # exact
    (600, 3, 5),  # long sums, in parts
    (0, 4, 10),  # no rows: sums of nothing
    (4, 0, 3),  # no columns
]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", LINEAR, ids=str)
def test_gradients_together(backend, layout, dtype, rng, shape, relu):
    m, o, k = shape
    x, w, bias = operands(rng, dtype, m, k, o)
    w, dy = w.T, rng.standard_normal((m, o)).astype(dtype)
    y = np.maximum(np.asarray(x.astype(np.float64) @ w.T.astype(np.float64) + bias, dtype), 0)
    zero = y == 0
    x, w, dy, y = map(layout, (x, w, dy, y))

    def linear(x, w, bias):
        y = x @ w.T + bias
        return torch.where(torch.tensor(zero), 0, y) if relu else y

    want = oracle.gradients(linear, dy, x, w, bias)
    scales = [size_of_terms(dy, w), size_of_terms(dy.T, x), size_of_terms(np.ones((1, m), dtype), dy)]
    y = y if relu else None
    with untouched(x, w, dy, *([] if y is None else [y])):
        together = backend.linear_grad(dy, y, x, w, True)
        apart = [*backend.linear_grad(dy, y, None, w), *backend.linear_grad(dy, y, x, None)]
        apart += backend.linear_grad(dy, y, None, None, True)
    for found in (together, apart):
        for got, expected, scale in zip(found, want, scales, strict=True):
            assert_close(got, *expected, scale=scale)
    assert backend.linear_grad(dy, y, None, None) == ()


def test_gradients_together_keep_nan_and_leave_out_what_relu_cut(backend, dtype, rng):
    x, w, bias = operands(rng, dtype, 9, 6, 5)
    y, w = np.maximum(x @ w, 0).astype(dtype), w.T
    dy = np.where(y == 0, np.inf, 1).astype(dtype)
    assert all(np.isfinite(each).all() for each in backend.linear_grad(dy, y, x, w, True))
    y[3, 2] = dy[3, 2] = np.nan
    dx, dw, db = backend.linear_grad(dy, y, x, w, True)
    assert_same(np.isnan(db), np.arange(5) == 2)
    assert np.isnan(dx[3]).all() and np.isnan(dw[2]).all() and np.isfinite(np.delete(dx, 3, 0)).all()


def test_errors_of_gradients_together(backend):
    dy, x, w = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32), np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"matmul: a is \(4, 3\) but b is \(2, 3\)"):
        backend.linear_grad(dy, None, x, w.T)
    with pytest.raises(ValueError, match="relu_grad: "):
        backend.linear_grad(dy, dy[:3], x, w)
    with pytest.raises(TypeError, match="float64"):
        backend.linear_grad(dy, dy, x.astype(np.float64), None)
