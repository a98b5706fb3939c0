"""Every documented error of the ops: its type, and a text that names the op, what it got and what it expected."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import ops
from tilegrad.ops.linalg import dense

X = tg.zeros(2, 3)
V = tg.zeros(3)
I = tg.tensor([[0, 1, 2], [2, 1, 0]])
B = X == 0
S = tg.tensor(1.0)

CASES = [
    # op's name, what is done, error, what the text must hold besides the op's name
    ("add", lambda: X + tg.zeros(2, 4), ValueError, "(2, 3) and (2, 4)"),
    ("mul", lambda: tg.zeros(3, 2) * X, ValueError, "(3, 2) and (2, 3)"),
    ("where", lambda: ops.where(B, tg.zeros(2, 4), S), ValueError, "(2, 3)"),
    ("lt", lambda: X < tg.zeros(4), ValueError, "(4,)"),
    ("add", lambda: ops.add(X, "1"), TypeError, "got str"),
    ("add", lambda: X.add(None), TypeError, "got NoneType"),
    ("add", lambda: ops.add([1.0, 2.0, 3.0], X), TypeError, "got list"),
    ("mul", lambda: X * np.array([1j, 2, 3]), TypeError, "complex128"),
    ("mul", lambda: X * np.array([1, 2, 3], np.longdouble), TypeError, "float128"),
    ("add", lambda: tg.zeros(1, dtype="uint8") + 300, ValueError, "300 does not fit uint8"),
    ("sub", lambda: B - B, TypeError, "bool"),
    ("neg", lambda: -B, TypeError, "bool"),
    ("abs", lambda: abs(B), TypeError, "bool"),
    ("pow", lambda: B**B, TypeError, "bool"),
    ("pow", lambda: I**-1, ValueError, "negative power"),
    ("floor_divide", lambda: B // B, TypeError, "bool"),
    ("floor_divide", lambda: I // 0, ZeroDivisionError, "0"),
    ("remainder", lambda: I % I, ZeroDivisionError, "0"),
    ("div", lambda: I.div(0, rounding_mode="trunc"), ZeroDivisionError, "0"),
    ("div", lambda: X.div(X, rounding_mode="up"), ValueError, "'up'"),
    ("bitwise_and", lambda: X & X, TypeError, "float32"),
    ("bitwise_not", lambda: ~X, TypeError, "float32"),
    ("clamp", lambda: X.clamp(), ValueError, "at least one"),
    ("where", lambda: ops.where(X, X, X), TypeError, "float32; expected bool"),
    ("masked_fill", lambda: X.masked_fill(tg.ones(4, 3) == 0, 1.0), ValueError, "(4, 3)"),
    ("masked_fill", lambda: X.masked_fill(X, 1.0), TypeError, "float32"),
    ("masked_fill", lambda: I.masked_fill(I > 0, np.inf), ValueError, "int64"),
    ("exp", lambda: ops.exp("a"), TypeError, "str"),
    # reductions
    ("sum", lambda: X.sum(2), IndexError, "dim is 2; expected -2 <= dim < 2"),
    ("sum", lambda: X.sum((0, -2)), ValueError, "each dimension once"),
    ("sum", lambda: X.sum(0.5), TypeError, "0.5"),
    ("mean", lambda: I.mean(), TypeError, "int64"),
    ("amax", lambda: tg.zeros(0, 3).amax(0), ValueError, "(0, 3)"),
    ("max", lambda: tg.zeros(0, 3).max(0), ValueError, "(0, 3)"),
    ("argmax", lambda: tg.zeros(0).argmax(), ValueError, "(0,)"),
    ("max", lambda: X.max(5), IndexError, "dim is 5"),
    ("argmin", lambda: X.argmin(-3), IndexError, "dim is -3"),
    ("norm", lambda: X.norm("max"), TypeError, "'max'; expected a number, 'fro' or 'nuc'"),
    ("norm", lambda: X.norm("nuc", 1), ValueError, "dim 1; expected two dimensions"),
    ("cumsum", lambda: X.cumsum(2), IndexError, "dim is 2"),
    ("softmax", lambda: X.softmax(2), IndexError, "dim is 2"),
    # shapes
    ("reshape", lambda: X.reshape(4, 2), ValueError, "(2, 3) has 6 elements"),
    ("reshape", lambda: X.reshape(-1, 4), ValueError, "(-1, 4)"),
    ("reshape", lambda: X.reshape(-1, -1), ValueError, "(-1, -1)"),
    ("reshape", lambda: X.reshape(2.0, 3), TypeError, "2.0"),
    ("reshape", lambda: tg.zeros(0).reshape(0, -1), ValueError, "(0, -1)"),
    ("view", lambda: X.view(5), ValueError, "(5,)"),
    ("view", lambda: X.view(np.dtype("int32")), TypeError, "dtype"),
    ("view", lambda: X.T.view(6), RuntimeError, "expected reshape"),
    ("permute", lambda: X.permute(0), ValueError, "(0,)"),
    ("permute", lambda: X.permute(()), ValueError, "()"),
    ("permute", lambda: X.permute(0, 0), ValueError, "each dimension once"),
    ("transpose", lambda: X.transpose(0, 2), IndexError, "dim is 2"),
    ("t", lambda: tg.zeros(1, 2, 3).t(), ValueError, "(1, 2, 3)"),
    ("movedim", lambda: X.movedim((0, 1), 0), ValueError, "expected as many of each"),
    ("flatten", lambda: X.flatten(1, 0), ValueError, "start_dim is 1"),
    ("unflatten", lambda: X.unflatten(1, (2, 2)), ValueError, "(2, 2)"),
    ("squeeze", lambda: X.squeeze(3), IndexError, "dim is 3"),
    ("unsqueeze", lambda: X.unsqueeze(4), IndexError, "dim is 4"),
    ("expand", lambda: X.expand(2, 4), ValueError, "(2, 4)"),
    ("expand", lambda: X.expand(3), ValueError, "(3,)"),
    ("expand", lambda: X.expand(-1, 2, 3), ValueError, "(-1, 2, 3)"),
    ("broadcast_tensors", lambda: tg.broadcast_tensors(X, tg.zeros(2)), ValueError, "(2,)"),
    ("flip", lambda: X.flip(2), IndexError, "dim is 2"),
    ("roll", lambda: X.roll((1, 2), 0), ValueError, "2 shifts for 1 dims"),
    ("repeat", lambda: X.repeat(2), ValueError, "(2,)"),
    ("repeat", lambda: X.repeat(2, -1), ValueError, "(2, -1)"),
    ("repeat_interleave", lambda: X.repeat_interleave(-1), ValueError, "-1"),
    ("repeat_interleave", lambda: X.repeat_interleave(X), TypeError, "float32"),
    ("repeat_interleave", lambda: X.repeat_interleave(I[0], 0), ValueError, "3 elements; expected 1 or 2"),
    ("repeat_interleave", lambda: X.repeat_interleave(2, 0, output_size=5), ValueError, "expected 4"),
    ("cat", lambda: tg.cat([X, tg.zeros(3, 2)]), ValueError, "tensor 1 is (3, 2)"),
    ("cat", lambda: tg.cat([]), ValueError, "at least one"),
    ("cat", lambda: tg.cat([S, S]), ValueError, "at least 1"),
    ("cat", lambda: tg.cat([X, X], 2), IndexError, "dim is 2"),
    ("stack", lambda: tg.stack([X, V]), ValueError, "tensor 1 is (3,)"),
    ("stack", lambda: tg.stack([]), ValueError, "at least one"),
    ("split", lambda: X.split(0), ValueError, "split_size is 0"),
    ("split", lambda: X.split([1, 2]), ValueError, "add up to 3; expected 2"),
    ("split", lambda: X.split([3, -1]), ValueError, "[3, -1]"),
    ("split", lambda: S.split(1), IndexError, "no dimensions"),
    ("chunk", lambda: X.chunk(0), ValueError, "chunks is 0"),
    ("unbind", lambda: S.unbind(), IndexError, "no dimensions"),
    ("narrow", lambda: X.narrow(1, 2, 2), IndexError, "start is 2 and length 2"),
    ("select", lambda: X.select(1, 3), IndexError, "index is 3; expected -3 <= index < 3"),
    ("pad", lambda: ops.pad(X, (1,)), ValueError, "(1,)"),
    ("pad", lambda: ops.pad(V, (1, 1, 1, 1)), ValueError, "a pair a dimension"),
    ("pad", lambda: ops.pad(V, (-2, -2)), ValueError, "(-2, -2)"),
    ("pad", lambda: ops.pad(V, (-4, 2)), ValueError, "(-4, 2)"),
    ("pad", lambda: ops.pad(V, (3, 0), "reflect"), ValueError, "reflect"),
    ("pad", lambda: ops.pad(V, (4, 0), "circular"), ValueError, "expected no more"),
    ("pad", lambda: ops.pad(tg.zeros(0), (1, 0), "replicate"), ValueError, "replicate"),
    ("pad", lambda: ops.pad(V, (1, 0), "edge"), ValueError, "'edge'"),
    ("tril", lambda: V.tril(), ValueError, "(3,)"),
    ("triu", lambda: V.triu(), ValueError, "(3,)"),
    # indices
    ("getitem", lambda: X[2], IndexError, "(2, 3)"),
    ("getitem", lambda: X[0, 0, 0], IndexError, "(2, 3)"),
    ("getitem", lambda: X[[0, 5]], IndexError, "(2, 3)"),
    ("getitem", lambda: X[1.0], IndexError, "1.0"),
    ("getitem", lambda: X[V], IndexError, "float32"),
    ("getitem", lambda: X[V == 0], IndexError, "(2, 3)"),
    ("setitem", lambda: X.__setitem__(2, 1.0), IndexError, "(2, 3)"),
    ("setitem", lambda: X.__setitem__(0, tg.zeros(2)), ValueError, "(2,)"),
    ("setitem", lambda: X.__setitem__(0, tg.zeros(2, 3)), ValueError, "(2, 3)"),
    ("setitem", lambda: X.__setitem__(0, "a"), TypeError, "str"),
    ("setitem", lambda: tg.zeros(2, dtype="uint8").__setitem__(0, 256), ValueError, "256"),
    ("index_select", lambda: X.index_select(0, I), ValueError, "(2, 3)"),
    ("index_select", lambda: X.index_select(0, tg.tensor([True, False])), TypeError, "bool"),
    ("gather", lambda: X.gather(0, tg.tensor([0])), ValueError, "(1,)"),
    ("gather", lambda: X.gather(0, I), IndexError, "from 0 to 2; expected 0 <= index < 2"),
    ("gather", lambda: X.gather(1, -I), IndexError, "from -2 to 0"),
    ("gather", lambda: X.gather(1, X), TypeError, "float32"),
    ("scatter", lambda: X.scatter(1, I, tg.zeros(1, 3)), ValueError, "(1, 3)"),
    ("scatter_add", lambda: X.scatter_add(1, I, V), ValueError, "(3,)"),
    ("scatter", lambda: X.scatter(0, tg.zeros(2, 4, dtype="int64"), 1.0), ValueError, "(2, 4)"),
    ("take_along_dim", lambda: X.take_along_dim(tg.tensor([0]), 0), ValueError, "(1,)"),
    ("masked_select", lambda: X.masked_select(I), TypeError, "int64"),
    ("masked_select", lambda: X.masked_select(tg.ones(4) == 1), ValueError, "(4,)"),
    ("topk", lambda: X.topk(4), ValueError, "k is 4"),
    ("one_hot", lambda: ops.one_hot(X), TypeError, "float32"),
    ("one_hot", lambda: ops.one_hot(I, 2), ValueError, "from 0 to 2; expected 0 <= value < 2"),
    ("one_hot", lambda: ops.one_hot(-I), ValueError, "from -2"),
    # products
    ("matmul", lambda: X @ X, ValueError, "(2, 3) but b is (2, 3); expected b.shape[-2] == 3"),
    ("matmul", lambda: X @ tg.zeros(2), ValueError, "expected b.shape[0] == 3"),
    ("matmul", lambda: X @ S, ValueError, "()"),
    ("matmul", lambda: X @ tg.zeros(3, 1, dtype="float64"), TypeError, "float32 but b is float64"),
    ("matmul", lambda: X.matmul("a"), TypeError, "str"),
    ("matmul", lambda: tg.zeros(2, 4, 3) @ tg.zeros(3, 3, 5), ValueError, "(2,) and (3,)"),
    ("mm", lambda: ops.mm(X, V), ValueError, "(3,)"),
    ("bmm", lambda: ops.bmm(X, X), ValueError, "(2, 3)"),
    ("dot", lambda: ops.dot(V, tg.zeros(4)), ValueError, "(4,)"),
    ("outer", lambda: ops.outer(X, V), ValueError, "(2, 3)"),
    ("trace", lambda: V.trace(), ValueError, "(3,)"),
    ("linear", lambda: ops.linear(X, tg.zeros(4, 2)), ValueError, "weight is (4, 2)"),
    ("linear", lambda: ops.linear(X, tg.zeros(4, 3), V), ValueError, "bias is (3,)"),
    ("linear", lambda: ops.linear(I, tg.zeros(4, 3)), TypeError, "int64"),
    ("linear", lambda: ops.linear(X, tg.zeros(4, 3), activation="selu"), ValueError, "'selu'"),
    ("dense", lambda: dense(X, tg.zeros(2, 3), None), ValueError, "kernel is (2, 3)"),
    ("dense", lambda: dense(X, tg.zeros(3, 4), V), ValueError, "bias is (3,)"),
    ("dense", lambda: dense(I, tg.zeros(3, 4), None), TypeError, "int64"),
    ("einsum", lambda: ops.einsum("ij,jk", X), ValueError, "got 1 operands; expected 2"),
    ("einsum", lambda: ops.einsum("ij,jk", X, X), ValueError, "'j' the sizes 3 and 2"),
    ("einsum", lambda: ops.einsum("ijk", X), ValueError, "'ijk'"),
    ("einsum", lambda: ops.einsum("i...k...", X), ValueError, "(2, 3)"),
    ("einsum", lambda: ops.einsum("ij->k", X), ValueError, "'k'"),
    ("einsum", lambda: ops.einsum("ij->ii", X), ValueError, "repeats"),
    ("einsum", lambda: ops.einsum("ii", X), ValueError, "the sizes 2 and 3"),
    ("einsum", lambda: ops.einsum("i1->i", X), ValueError, "'1'"),
    ("einsum", lambda: ops.einsum("ij", [[1.0]]), TypeError, "list"),
    ("dropout", lambda: ops.dropout(X, 1.5), ValueError, "p is 1.5"),
    ("dropout", lambda: ops.dropout(I, 0.5), TypeError, "int64"),
    ("conv2d", lambda: ops.conv2d(tg.zeros(1, 2, 5, 5), tg.zeros(1, 3, 3, 3)), ValueError, "3"),
    ("softmax_xent", lambda: ops.softmax_xent(X, tg.tensor([0, 3])), ValueError, "3"),
    # moves
    ("device", lambda: X.to("cuda:7"), ValueError, "cuda:7"),
    ("device", lambda: X.to(device="tpu"), ValueError, "'tpu'"),
    ("dtype", lambda: X.to("complex64"), TypeError, "complex64"),
    ("size", lambda: X.size(2), IndexError, "dim is 2"),
    ("item", lambda: X.item(), RuntimeError, "(2, 3)"),
    ("bool", lambda: bool(X), RuntimeError, "(2, 3)"),
    ("index", lambda: [0][S], TypeError, "float32"),
    ("in", lambda: "a" in X, TypeError, "str"),
]


@pytest.mark.parametrize(("name", "act", "error", "text"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_error(name, act, error, text):
    with pytest.raises(error) as caught:
        act()
    assert str(caught.value).startswith(f"{name}: "), caught.value
    assert text in str(caught.value), caught.value
    assert not X.numpy().any(), "the failed op wrote to its operand"


def test_every_message_says_what_was_expected():
    """op: actual; expected ..."""
    silent = []
    for name, act, error, _ in CASES:
        try:
            act()
        except error as caught:
            if not re.search("expected|ambiguous", str(caught)):
                silent.append(f"{name}: {caught}")
    allowed = ("getitem", "setitem")  # NumPy's own words about the index, and the tensor's shape
    assert [s for s in silent if not s.startswith(allowed)] == []


def test_a_failed_broadcast_does_not_reach_numpy():
    """The text is ours, and no half-done arithmetic is behind it."""
    with pytest.raises(ValueError, match=r"^add: shapes \(2, 3\) and \(3, 2\) do not broadcast") as caught:
        X + tg.zeros(3, 2)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
