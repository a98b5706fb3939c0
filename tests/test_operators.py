"""Operators between a tensor and what it does not know: the other side is asked, and the last word is Python's."""

from __future__ import annotations

import operator
from decimal import Decimal

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import Tensor, nn

BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "@": operator.matmul,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
INPLACE = {
    "+": operator.iadd,
    "-": operator.isub,
    "*": operator.imul,
    "/": operator.itruediv,
    "**": operator.ipow,
}
NAMES = {"+": "add", "-": "sub", "*": "mul", "/": "truediv", "//": "floordiv", "%": "mod", "**": "pow", "@": "matmul"}
NAMES |= {"&": "and", "|": "or", "^": "xor"}


class Answers:
    """Answers every operator with its symbol and the side that it stood on."""


for symbol, name in NAMES.items():
    setattr(Answers, f"__{name}__", lambda self, other, symbol=symbol: ("left", symbol, other))
    setattr(Answers, f"__r{name}__", lambda self, other, symbol=symbol: ("right", symbol, other))
for symbol, name in {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}.items():
    setattr(Answers, f"__{name}__", lambda self, other, symbol=symbol: ("compared", symbol, other))


def known():
    return [tg.ones(2), tg.tensor(1), tg.tensor([True]), tg.ones(2, requires_grad=True) * 2]


@pytest.mark.parametrize("symbol", BINARY)
def test_the_other_side_answers(symbol):
    for x in known():
        assert BINARY[symbol](x, Answers()) == ("right", symbol, x)
        assert BINARY[symbol](Answers(), x) == ("left", symbol, x)
        y = x
        if symbol in INPLACE:
            y = INPLACE[symbol](y, Answers())
            assert y == ("right", symbol, x)


def test_the_other_side_answers_comparisons():
    for x in known():
        for symbol, compare in ORDER.items():
            assert compare(x, Answers()) == ("compared", MIRRORED[symbol], x)
        assert (x == Answers()) == ("compared", "==", x) and (x != Answers()) == ("compared", "!=", x)


@pytest.mark.parametrize(
    "other", [None, "1", [1.0, 2.0], (1,), {}, object(), 1j, Decimal(1)], ids=lambda x: type(x).__name__
)
def test_where_nobody_answers_it_is_a_type_error_and_nothing_is_equal(other):
    x = tg.ones(2)
    for symbol, op in BINARY.items():
        if not (symbol == "%" and isinstance(other, str)):
            for act in (lambda op=op: op(x, other), lambda op=op: op(other, x)):
                with pytest.raises(TypeError):
                    act()
        if symbol in INPLACE:
            with pytest.raises(TypeError, match="'Tensor'"):
                INPLACE[symbol](x, other)
    for op in ORDER.values():
        with pytest.raises(TypeError, match="not supported between instances of 'Tensor' and"):
            op(x, other)
    assert (x == other) is False and (x != other) is True and (other == x) is False
    assert x.tolist() == [1.0, 1.0]


class Wrapper:
    """An array of another library, which becomes a NumPy array and knows tensors."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(2)

    def __radd__(self, other):
        return type(other)

    __array_ufunc__ = None


def test_an_array_like_of_another_library_answers():
    assert tg.ones(2) + Wrapper() is Tensor


def test_a_subclass_is_known_and_answers_first():
    class Weight(nn.Parameter):
        def __rmul__(self, other):
            return "mine"

    weight = Weight(tg.ones(2))
    assert tg.ones(2) * weight == "mine" and (tg.ones(2) + weight).tolist() == [2.0, 2.0]


def test_an_operator_is_its_op_in_a_traceback():
    with pytest.raises(ValueError, match="mul: ") as caught:
        tg.ones(2) * tg.ones(3)
    assert "mul" in [entry.name for entry in caught.traceback]
