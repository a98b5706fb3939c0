"""The functions of `keras.ops` that NumPy has too: its values, and Keras' dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from keras.src.backend import standardize_dtype

from tests.keras.versions import op

X = np.array([[0.5, -1.25, 2.0], [-0.0, 3.5, -2.75]], np.float32)
Y = np.array([[2.0, 0.5, -1.5], [1.0, -3.0, 0.25]], np.float32)
POSITIVE = np.abs(X) + 0.25
UNIT = X / 4
INTEGERS = np.array([[3, -1, 0], [2, 7, -4]], np.int32)
BOOLS = np.array([[True, False, True], [False, False, True]])
SQUARE = np.arange(9, dtype=np.float32).reshape(3, 3) - 4
STACK = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

INFINITE = np.array([np.nan, np.inf, -np.inf, 1], np.float32)

UNARY = {
    "absolute": X, "negative": X, "sign": X, "square": X, "reciprocal": Y, "exp": X, "expm1": X, "log": POSITIVE,
    "log2": POSITIVE, "log10": POSITIVE, "log1p": POSITIVE, "sqrt": POSITIVE, "exp2": X, "cbrt": X, "sin": X, "cos": X,
    "tan": X, "arcsin": UNIT, "arccos": UNIT, "arctan": X, "sinh": X, "cosh": X, "tanh": X, "ceil": X, "floor": X,
    "trunc": X, "round": X * 1.3, "deg2rad": X, "rad2deg": X, "isnan": X, "isinf": X, "isfinite": X, "logical_not": X,
    "ravel": X, "fliplr": X, "flipud": X, "transpose": X, "nan_to_num": INFINITE,
    "isposinf": INFINITE, "fabs": X,
    "isneginf": INFINITE, "copy": X, "trace": SQUARE, "tril": SQUARE,
    "triu": SQUARE, "diag": SQUARE, "diagonal": SQUARE,
}  # fmt: skip

BINARY = (
    "add subtract multiply divide true_divide floor_divide mod maximum minimum equal not_equal less less_equal greater "
    "greater_equal logical_and logical_or logical_xor logaddexp logaddexp2 hypot fmod"
).split()

CALLS = [  # name, arguments, keywords: the same for NumPy
    ("power", (POSITIVE, Y), {}),
    ("clip", (X, -1.0, 2.0), {}),
    ("matmul", (X, Y.T), {}),
    ("matmul", (STACK, STACK.transpose(0, 2, 1)), {}),
    ("dot", (X, Y.T), {}),
    ("dot", (STACK, STACK.transpose(0, 2, 1)), {}),
    ("vdot", (X, Y), {}),
    ("inner", (X, Y), {}),
    ("outer", (X, Y), {}),
    ("tensordot", (STACK, STACK), {"axes": ([1, 2], [1, 2])}),
    ("tensordot", (X, Y.T), {"axes": 1}),
    ("einsum", ("ij,kj->ik", X, Y), {}),
    ("reshape", (STACK, (4, -1)), {}),
    ("transpose", (STACK,), {"axes": (2, 0, 1)}),
    ("swapaxes", (STACK, 0, 2), {}),
    ("moveaxis", (STACK, 0, -1), {}),
    ("squeeze", (X[:, None],), {"axis": 1}),
    ("expand_dims", (X, (0, -1)), {}),
    ("broadcast_to", (X[0], (4, 3)), {}),
    ("concatenate", ((X, Y),), {"axis": 1}),
    ("concatenate", ((X, Y),), {"axis": None}),
    ("append", (X, Y), {}),
    ("stack", ((X, Y),), {"axis": 1}),
    ("hstack", ((X, Y),), {}),
    ("vstack", ((X, Y),), {}),
    ("dstack", ((X, Y),), {}),
    ("split", (STACK, 2), {"axis": 2}),
    ("split", (STACK, [1, 3]), {"axis": 2}),
    ("array_split", (np.arange(7), 3), {}),
    ("tile", (X, (2, 1, 3)), {}),
    ("repeat", (X, 2), {"axis": 1}),
    ("repeat", (X, 3), {}),
    ("flip", (STACK,), {"axis": (0, 2)}),
    ("roll", (STACK, 5), {}),
    ("roll", (STACK, 2), {"axis": 1}),
    *[("rot90", (STACK, k), {"axes": (0, 2)}) for k in range(4)],
    *[("pad", (SQUARE, ((1, 2), (0, 1))), {"mode": mode}) for mode in ("constant", "reflect", "symmetric", "edge")],
    ("pad", (SQUARE, 1), {"mode": "constant", "constant_values": 7}),
    ("meshgrid", (X[0], Y[0]), {}),
    ("meshgrid", (X[0], Y[0, :2], X[1]), {"indexing": "ij"}),
    ("diag", (X[0],), {"k": 1}),
    ("diag", (X[0],), {"k": -2}),
    ("select", ([X > 1, X > 0], [X, Y]), {"default": 5.0}),
    ("where", (BOOLS, X, Y), {}),
    ("where", (BOOLS,), {}),
    ("nonzero", (INTEGERS,), {}),
    ("take", (X, INTEGERS % 3), {}),
    ("take", (X, np.array([1, -1, 0])), {"axis": 1}),
    ("take_along_axis", (X, np.array([[0, 2, 1], [1, 1, -1]])), {"axis": 1}),
    ("sort", (X,), {"axis": 0}),
    ("argsort", (X,), {}),
    ("searchsorted", (np.sort(X[0]), Y), {}),
    ("searchsorted", (np.array([1, 1, 2]), np.array([0, 1, 2, 3])), {"side": "right"}),
    ("digitize", (X, np.array([-1.0, 0.5, 2.0])), {}),
    ("bitwise_and", (INTEGERS, 6), {}),
    ("bitwise_or", (INTEGERS, INTEGERS[0]), {}),
    ("bitwise_xor", (INTEGERS, INTEGERS[0]), {}),
    ("bitwise_not", (INTEGERS,), {}),
    ("left_shift", (INTEGERS, np.array([1, 0, 3], np.int32)), {}),
    ("right_shift", (INTEGERS, np.array([1, 0, 3], np.int32)), {}),
    ("right_shift", (np.array([-128, 127], np.int8), np.array([7, 7], np.int8)), {}),
    ("isin", (INTEGERS, np.array([2, 3])), {}),
    ("isclose", (X, X + 1e-6), {}),
    ("average", (X,), {"axis": 1, "weights": POSITIVE}),
    ("average", (X,), {"axis": 1, "weights": POSITIVE[0]}),
    ("arange", (7,), {}),
    ("arange", (1, 7, 2), {}),
    ("linspace", (0.0, 5.0), {"num": 11}),
    ("linspace", (X[0], Y[0]), {"num": 4, "endpoint": False, "axis": 1}),
    ("eye", (3, 4), {"k": 1}),
    ("tri", (3, 4), {"k": -1}),
    ("identity", (3,), {}),
    ("full", ((2, 3), 7.0), {}),
    ("zeros_like", (X,), {}),
    ("ones_like", (INTEGERS,), {}),
    ("full_like", (X, 2.5), {}),
]  # fmt: skip

REDUCTIONS = "sum mean var std prod max min any all amax amin ptp".split()


def check(name, got, want):
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            check(name, g, w)
        return
    got = ops.convert_to_numpy(got)
    want = np.asarray(want)
    assert got.shape == want.shape and got.dtype.kind == want.dtype.kind, name
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", UNARY)
def test_of_one(name):
    check(name, op(name)(UNARY[name]), getattr(np, name)(UNARY[name]))


@pytest.mark.parametrize("name", BINARY)
def test_of_two(name):
    for a, b in ((X, Y), (STACK, X[0, 0]), (X[:, :1], Y), (X, 2.0), (2.0, X)):
        with np.errstate(divide="ignore", invalid="ignore"):
            want = getattr(np, name)(a, b)
        check(name, op(name)(a, b), want)


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS, ids=[f"{c[0]}-{i}" for i, c in enumerate(CALLS)])
def test_calls(name, args, kwargs):
    check(name, op(name)(*args, **kwargs), getattr(np, name)(*args, **kwargs))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name, axis, keepdims):
    x = STACK / 7 - 1
    check(name, op(name)(x, axis=axis, keepdims=keepdims), getattr(np, name)(x, axis=axis, keepdims=keepdims))


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_places_and_counts(axis):
    for name in ("argmax", "argmin"):
        check(name, op(name)(X, axis=axis), getattr(np, name)(X, axis=axis))
        want = np.expand_dims(getattr(np, name)(X, axis=axis), (0, 1) if axis is None else axis)
        check(name, op(name)(X, axis=axis, keepdims=True), want)
    for name in ("cumsum", "cumprod"):
        check(name, op(name)(X, axis=axis), getattr(np, name)(X, axis=axis))
    check("count_nonzero", ops.count_nonzero(INTEGERS, axis=axis), np.count_nonzero(INTEGERS, axis=axis))


def test_reductions_from_an_initial_value():
    check("max", ops.max(X, axis=1, initial=2.5), np.max(X, axis=1, initial=2.5))
    check("min", ops.min(X, axis=1, initial=-2.0), np.min(X, axis=1, initial=-2.0))
    check("max", ops.max(np.zeros((2, 0), np.float32), axis=1, initial=1), np.ones(2))


def test_division_without_nan():
    got = ops.divide_no_nan(np.array([1, 2, 0], np.float32), np.array([0, 4, 0], np.float32))
    np.testing.assert_array_equal(got, [0, 0.5, 0])


DTYPES = [  # what is called, and its dtype
    (lambda: ops.add(INTEGERS, 1), "int32"),
    (lambda: ops.add(INTEGERS, 1.5), "float32"),
    (lambda: ops.add(BOOLS, 1), "int32"),
    (lambda: ops.add(ops.cast(INTEGERS, "int8"), ops.cast(INTEGERS, "uint8")), "int16"),
    (lambda: ops.add(ops.cast(X, "float16"), ops.cast(X, "bfloat16")), "float32"),
    (lambda: ops.add(ops.cast(X, "bfloat16"), 1.5), "bfloat16"),
    (lambda: ops.add(X.astype(np.float64), X), "float64"),
    (lambda: ops.add(INTEGERS.astype(np.int64), INTEGERS), "int64"),
    (lambda: ops.multiply(2, 3), "int32"),
    (lambda: ops.divide(INTEGERS, INTEGERS + 9), "float32"),
    (lambda: ops.sqrt(np.abs(INTEGERS)), "float32"),
    (lambda: ops.mean(INTEGERS), "float32"),
    (lambda: ops.sum(INTEGERS), "int32"),
    (lambda: ops.sum(BOOLS), "int32"),
    (lambda: ops.argmax(X), "int32"),
    (lambda: ops.arange(3), "int32"),
    (lambda: ops.arange(3.0), "float32"),
    (lambda: ops.ones(3), "float32"),
    (lambda: ops.convert_to_tensor([1, 2]), "int32"),
    (lambda: ops.convert_to_tensor([1.0, 2]), "float32"),
    (lambda: ops.convert_to_tensor([True]), "bool"),
    (lambda: ops.convert_to_tensor([]), "float32"),
    (lambda: ops.convert_to_tensor(np.array([1], np.uint16)), "uint16"),
    (lambda: ops.convert_to_tensor(np.array([1], np.uint32)), "uint32"),
    (lambda: ops.convert_to_tensor([ops.ones(2), ops.zeros(2, "int32")]), "float32"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DTYPES)))
def test_dtypes(number):
    call, want = DTYPES[number]
    assert standardize_dtype(call().dtype) == want


def test_products_of_int8_are_summed_in_int32():
    a, b = np.full((2, 300), 100, np.int8), np.full((300, 3), 100, np.int8)
    for got in (ops.matmul(a, b), ops.einsum("ij,jk->ik", a, b)):
        assert standardize_dtype(got.dtype) == "int32"
        np.testing.assert_array_equal(got, np.full((2, 3), 3_000_000))


def test_what_is_no_tensor():
    for x, told in ((["a"], "expected numbers"), (np.array([1j]), "complex128")):
        with pytest.raises(TypeError, match=told):
            ops.convert_to_tensor(x)
    with pytest.raises(ValueError, match="sparse=True` is not supported"):
        ops.convert_to_tensor([1.0], sparse=True)


def test_tensors_of_another_backend_are_read_as_arrays_or_refused():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(ops.add(torch.ones(2), 1), [2, 2])
    with pytest.raises(RuntimeError, match="requires grad"):
        ops.add(torch.ones(2, requires_grad=True), 1)


@pytest.mark.parametrize(
    "name", "sum mean var std prod max min all any nansum nanmean nanmax median count_nonzero".split()
)
def test_over_no_axes_each_element_is_reduced_by_itself(name):
    x = np.array([[0.0, 2.0, 3.0], [3.0, 2.0, -1.0]], np.float32)
    np.testing.assert_array_equal(op(name)(x, axis=()), getattr(np, name)(x, axis=()))


def test_a_nan_is_no_other_nan():
    assert op("unique")(np.array([1.0, np.nan, 2.0, np.nan], np.float32)).shape == (4,)


def test_integers_are_rounded_to_tens():
    np.testing.assert_array_equal(ops.round(np.array([14, 25, 36]), -1), [10, 20, 40])
