"""Products of matrices against torch: matmul in every combination of dimensions, linear, einsum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tests.kernels.epilogues import EPILOGUES
from tests.ops.same import assert_same_op, random
from tilegrad import kernels
from tilegrad.ops.activations import ACTIVATIONS
from tilegrad.ops.linalg import dense

MATMULS = [
    ((1, 1), (1, 1)),  # degenerate
    ((5, 7), (7, 10)),  # ragged
    ((33, 65), (65, 17)),  # one past a tile
    ((7,), (7,)),
    ((7,), (7, 10)),
    ((5, 7), (7,)),
    ((7,), (3, 7, 10)),
    ((3, 5, 7), (7,)),
    ((3, 5, 7), (3, 7, 2)),
    ((3, 5, 7), (7, 2)),
    ((5, 7), (3, 7, 2)),
    ((2, 1, 5, 7), (3, 7, 2)),  # batches stretched
    ((1, 5, 7), (4, 7, 2)),
    ((0, 7), (7, 10)),  # no rows
    ((5, 0), (0, 10)),  # sums of nothing
    ((0, 5, 7), (7, 2)),  # no matrices
    ((0,), (0,)),
]


@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_matmul(shapes):
    a, b = random(*shapes[0], seed=1), random(*shapes[1], seed=2)
    assert_same_op(lambda a, b: a @ b, None, a, b, scale=1.0)


def test_a_stack_of_matrices_by_one_is_one_product(monkeypatch):
    """And so is each gradient: the matrix's is no sum of a stack of its own size."""
    shapes = []
    backend = kernels.load("reference")
    real = backend.matmul

    def seen(a, b, *options, **named):
        shapes.append((a.shape, b.shape))
        return real(a, b, *options, **named)

    monkeypatch.setattr(backend, "matmul", seen)
    with kernels.use("reference"):
        a, b = (tg.tensor(random(*shape), requires_grad=True) for shape in ((2, 3, 5, 7), (7, 4)))
        (a @ b).sum().backward()
    assert shapes == [((30, 7), (7, 4)), ((30, 4), (4, 7)), ((7, 30), (30, 4))]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_matmul_of_integers(dtype):
    for left, right in MATMULS[:8]:
        a, b = (np.round(5 * np.abs(random(*s))).astype(dtype) for s in (left, right))
        assert_same_op(lambda a, b: a @ b, None, a, b, layouts=["contiguous", "transposed"])


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("mm", ((5, 7), (7, 2))), ("bmm", ((3, 5, 7), (3, 7, 2))), ("dot", ((7,), (7,))), ("outer", ((5,), (7,)))],
)
def test_named_products(name, shapes):
    a, b = random(*shapes[0], seed=1), random(*shapes[1], seed=2)
    assert_same_op(lambda a, b: getattr(a, name)(b), None, a, b, scale=1.0)
    assert_same_op(getattr(tg, name), getattr(torch, name), a, b, layouts=["contiguous"], scale=1.0)


def test_matmul_with_a_stretched_operand():
    """A stride of 0 in what is saved for the gradient."""
    assert_same_op(lambda a, b: a.expand(4, 5) @ b, None, random(5), random(5, 3), scale=1.0)
    assert_same_op(lambda a, b: b.T @ a.expand(5, 4), None, random(5, 1), random(5, 3), scale=1.0)


# --- linear ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 7), (0, 7), (2, 0, 7)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_linear(shape, biased):
    arrays = [random(*shape), random(4, 7, seed=1), random(4, seed=2)][: 2 + biased]
    assert_same_op(tg.ops.linear, torch.nn.functional.linear, *arrays, scale=1.0)


def test_linear_without_features():
    assert_same_op(tg.ops.linear, torch.nn.functional.linear, random(2, 3, 0), random(4, 0), random(4))


def test_linear_with_one_output_and_a_vector_as_weight():
    assert_same_op(tg.ops.linear, torch.nn.functional.linear, random(3, 5), random(5, seed=1), scale=1.0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_linear_with_its_activation(name):
    def ours(x, w, b):
        return tg.ops.linear(x, w, b, activation=name)

    def theirs(x, w, b):
        return EPILOGUES[name](torch.nn.functional.linear(x, w, b))

    arrays = random(2, 3, 7), random(4, 7, seed=1), random(4, seed=2)
    assert_same_op(ours, theirs, *arrays, scale=1.0)
    with tg.no_grad():
        assert_same_op(ours, theirs, *arrays, gradients=False, scale=1.0)  # all in one primitive


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (0, 7)], ids=str)
def test_dense_is_linear_of_the_transposed_weight(shape, name):
    def ours(x, w, b):
        return dense(x, w, b, name)

    def theirs(x, w, b):
        y = torch.nn.functional.linear(x, w.T, b)
        return y if name is None else EPILOGUES[name](y)

    assert_same_op(ours, theirs, random(*shape), random(7, 4, seed=1), random(4, seed=2), scale=1.0)
    if name is None:
        assert_same_op(lambda x, w: dense(x, w, None), lambda x, w: x @ w, random(*shape), random(7, 4), scale=1.0)


def test_the_gradient_of_a_dense_kernel_lies_as_the_kernel_does():
    x, w, b = (tg.tensor(random(*shape), requires_grad=True) for shape in ((6, 7), (7, 4), (4,)))
    dense(x, w, b, "relu").sum().backward()
    assert w.grad.data.flags.c_contiguous and w.grad.shape == w.shape


# --- einsum ----------------------------------------------------------------------------------------------------------

EQUATIONS = [
    ("ij->ji", (3, 4)),
    ("ij->", (3, 4)),
    ("ij->j", (3, 4)),
    ("ij", (3, 4)),  # implicit output
    ("ba", (3, 4)),  # implicit output is in alphabetical order: a transposition
    ("ii", (4, 4)),  # trace
    ("ii->i", (4, 4)),  # diagonal
    ("iji->ji", (3, 4, 3)),
    ("iii->i", (3, 3, 3)),
    ("...ij->...ji", (2, 3, 4)),
    ("i...->...i", (2, 3, 4)),
    ("...", (2, 3)),
    ("...ii->...i", (2, 3, 3)),
    ("i,i->", (4,), (4,)),
    ("i,i", (4,), (4,)),
    ("i,j->ij", (3,), (4,)),
    ("i,j->ji", (3,), (4,)),
    ("i,i->i", (4,), (4,)),
    (",i->i", (), (4,)),
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("ij,jk", (3, 4), (4, 5)),
    ("ij,kj->ik", (3, 4), (5, 4)),
    ("ij,jk->ki", (3, 4), (4, 5)),
    ("ij,jk->", (3, 4), (4, 5)),
    ("ij,kl->il", (3, 4), (5, 2)),  # labels of one operand only are summed away
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("bij,jk->bik", (2, 3, 4), (4, 5)),
    ("bij,bij->b", (2, 3, 4), (2, 3, 4)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
    ("...ij,jk", (2, 3, 4), (4, 5)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),  # "..." broadcasts
    ("ij,ij->ij", (3, 1), (3, 4)),  # a size of 1 broadcasts
    ("ij,jk->ik", (3, 1), (4, 5)),
    ("ii,i->i", (3, 3), (3,)),
    ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ("ij,ik,il->jkl", (2, 3), (2, 4), (2, 5)),
    ("a,ab,b->", (2,), (2, 3), (3,)),
    ("i,i,i->i", (4,), (4,), (4,)),
    ("i,i,i", (4,), (4,), (4,)),
    ("Ba,aC->BC", (2, 3), (3, 4)),  # capitals
    (" i j , j k -> i k ", (3, 4), (4, 5)),
    ("ij,jk->ik", (0, 4), (4, 5)),
    ("ij,jk->ik", (3, 0), (0, 5)),  # sums of nothing
]


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in EQUATIONS], ids=str)
def test_einsum(equation, shapes):
    arrays = [random(*s, seed=i) for i, s in enumerate(shapes)]
    assert_same_op(
        lambda *x: tg.einsum(equation, *x),
        lambda *x: torch.einsum(equation, *x),
        *arrays,
        scale=1.0,
        layouts=["contiguous", "transposed", "framed"],
    )


def test_einsum_takes_a_list_and_integers():
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)
    assert_same_op(lambda *x: tg.einsum("ij,jk", x), lambda *x: torch.einsum("ij,jk", x), a, b)
    a, b = a.astype(np.int32), b.astype(np.int32)
    for equation in ("ij,jk", "ij,kl->", "ij,kl->il"):  # torch widens what it sums, but not what it multiplies
        got = tg.einsum(equation, tg.tensor(a), tg.tensor(b))
        assert_same(got.numpy(), torch.einsum(equation, torch.tensor(a), torch.tensor(b)).numpy())
