"""Type promotion: every pair of dtypes, as tensor with dimensions, 0-dim tensor and Python number, as torch has it."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tests.oracle import to_array, to_tensor
from tilegrad.dtypes import DTYPES, FLOATS, UNSIGNED

RULED = [dtype for dtype in DTYPES if dtype not in UNSIGNED]  # that torch has rules for

ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "eq": operator.eq,
    "lt": operator.lt,
    "and": operator.and_,
    "maximum": lambda a, b: a.maximum(b),
}
KINDS = [*(f"{kind} {dtype}" for dtype in RULED for kind in ("vector", "scalar")), "bool", "int", "float"]


def make(kind: str):
    """The same operand for both libraries."""
    if kind in ("bool", "int", "float"):
        value = {"bool": True, "int": 2, "float": 1.5}[kind]
        return value, value
    shape, name = kind.split()
    array = np.full(() if shape == "scalar" else (2,), 1 if name == "bool" else 4, name)
    return tg.Tensor(array.copy()), to_tensor(array)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_every_pair_of_operands_gives_the_dtype_and_values_of_torch(name):
    op = ARITHMETIC[name]
    differing = []
    for left in KINDS:
        for right in KINDS:
            (a, x), (b, y) = make(left), make(right)
            tensors = isinstance(x, torch.Tensor) + isinstance(y, torch.Tensor)
            if tensors < (2 if name == "maximum" else 1):  # torch's maximum takes no numbers
                continue
            got, want = outcome(op, a, b), outcome(op, x, y)
            if got != want and not is_bool_oddity(name, left, right):
                differing.append(f"{left} {name} {right}: {got}, torch {want}")
    assert not differing, "\n".join(differing)


def is_bool_oddity(name: str, left: str, right: str) -> bool:
    """torch refuses to subtract where only one operand is bool, and takes a bool tensor to the power True."""
    bools = ("bool" in left) + ("bool" in right)
    return (name == "sub" and bools == 1) or (name == "pow" and bools == 2)


def outcome(op, a, b) -> str:
    """dtype and values of the result, or that it is refused."""
    try:
        y = op(a, b)
    except (TypeError, RuntimeError, NotImplementedError):
        return "refused"
    return f"{str(y.dtype).removeprefix('torch.')} {y.tolist()}"


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_to_converts_as_torch(source, target):
    x = np.array([0, 1, 3.7, -2.5, 100]) if source in FLOATS else np.array([0, 1, 3, 2, 100])
    x = x.astype(source)
    if source in FLOATS and target.kind == "u":
        x = np.abs(x)  # negative to unsigned is undefined
    assert_same(tg.tensor(x).to(target).numpy(), to_array(to_tensor(x).to(getattr(torch, target.name))))
    assert_same(tg.tensor(x).to(target.name).numpy(), tg.tensor(x, dtype=target).numpy())


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("half", "float16"),
        ("bfloat16", "bfloat16"),
        ("float", "float32"),
        ("double", "float64"),
        ("int", "int32"),
        ("long", "int64"),
        ("bool", "bool"),
    ],
)
def test_casting_methods(method, dtype):
    x = tg.tensor([0.0, 1.5, -2.0], dtype="float64", requires_grad=True)
    y = getattr(x, method)()
    assert_same(y.detach().numpy(), x.detach().numpy().astype(dtype))
    if y.is_floating_point():
        (y * tg.tensor([1.0, 2.0, 3.0])).sum().backward()
        assert_same(x.grad.numpy(), np.array([1.0, 2.0, 3.0]))
    else:
        assert not y.requires_grad


def test_to_returns_the_tensor_itself_where_nothing_changes():
    x = tg.ones(3, requires_grad=True)
    other = tg.ones(1, dtype="float64")
    assert x.to("float32") is x and x.float() is x and x.to("cpu") is x and x.cpu() is x and x.type_as(x) is x
    assert x.to("cpu", "float64").dtype == x.to(other).dtype == x.type_as(other).dtype == np.float64


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("uint16", "uint8", "uint16"),
        ("uint16", "int8", "int32"),
        ("uint32", "int32", "int64"),
        ("uint32", "float16", "float16"),
        ("uint64", "uint16", "uint64"),
        ("uint64", "bfloat16", "bfloat16"),
    ],
)
def test_wide_unsigned_integers_promote_as_in_numpy(left, right, result):
    for a, b in ((left, right), (right, left)):
        y = tg.tensor([3], dtype=a) + tg.tensor([1], dtype=b)
        assert (y.dtype, y.tolist()) == (result, [4])
    assert (tg.tensor([3], dtype=left) * 2).dtype == (tg.tensor([True]) * tg.tensor([3], dtype=left)).dtype == left


def test_no_integer_holds_uint64_and_a_signed_one():
    with pytest.raises(TypeError, match="promote: no integer holds uint64 and int64; expected one of them cast first"):
        tg.ones(2, dtype="uint64") + tg.ones(2, dtype="int64")


@pytest.mark.parametrize("op", ["cat", "stack", "where"])
def test_joins_promote_as_torch(op):
    for left in RULED:
        for right in RULED:
            a, b = np.ones((2,), left), np.ones((2,), right)
            if op == "where":
                got = tg.where(tg.tensor([True, False]), tg.tensor(a), tg.tensor(b))
                want = torch.where(torch.tensor([True, False]), to_tensor(a), to_tensor(b))
            else:
                got = getattr(tg, op)([tg.tensor(a), tg.tensor(b)])
                want = getattr(torch, op)([to_tensor(a), to_tensor(b)])
            assert_same(got.numpy(), to_array(want))


REDUCTIONS = ("sum", "prod", "cumsum", "cumprod", "mean", "amax", "argmax", "any", "max")


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_widen_as_torch(name):
    for dtype in RULED:
        arguments = (0,) if name.startswith("cum") else ()
        x = np.ones((3,), dtype)
        got = outcome(lambda x, options: getattr(x, name)(*options), tg.tensor(x), arguments)
        want = outcome(lambda x, options: getattr(x, name)(*options), to_tensor(x), arguments)
        if name == "argmax" and dtype.kind == "b":
            want = "int64 0"  # refused by torch
        assert got == want, dtype


@pytest.mark.parametrize("name", ["sum", "prod", "cumsum", "mean"])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "float16", "bfloat16", "float64"])
def test_reductions_take_a_dtype(name, dtype):
    x = np.array([1, 2, 3])
    arguments = (0,) if name.startswith("cum") else ()
    got = outcome(lambda x, d: getattr(x, name)(*arguments, dtype=d), tg.tensor(x), dtype)
    want = outcome(lambda x, d: getattr(x, name)(*arguments, dtype=d), to_tensor(x), getattr(torch, dtype))
    assert got == want
