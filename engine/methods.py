"""What Tensor offers as methods: the functions of tilegrad.ops and tilegrad.ops.inplace, bound by name.

A method *is* the function: x.relu() is ops.relu(x). An operator of two operands is the function for operands that it
knows, tensors, numbers and arrays; any other is left to Python, which then asks the other side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import dtypes, ops
from tilegrad.autograd.backward import backward
from tilegrad.autograd.hooks import register_hook, retain_grad
from tilegrad.device import is_array
from tilegrad.ops import inplace, moves
from tilegrad.ops.operands import cast
from tilegrad.tensor import Tensor

FUNCTIONS = """
    abs acos add all allclose amax amin any arccos arcsin arctan argmax argmin argsort asin atan bitwise_and
    bitwise_not bitwise_or bitwise_xor bmm broadcast_to ceil chunk clamp clip clone contiguous cos cosh cumprod
    cumsum detach diagonal div dot eq equal exp expand expand_as expm1 flatten flip floor floor_divide gather ge gt
    index_select isfinite isinf isnan le log log10 log1p log2 log_softmax logical_and logical_not logical_or
    logical_xor logsumexp lt masked_fill masked_select matmul max maximum mean min minimum mm movedim mul narrow ne
    neg nonzero norm outer permute pow prod reciprocal relu remainder repeat repeat_interleave reshape roll round
    rsqrt scatter scatter_add select sigmoid sign sin sinh softmax sort split sqrt square squeeze std sub sum t
    take_along_dim tan tanh tile topk trace transpose tril triu trunc unbind unflatten unsqueeze var view where
""".split()

INPLACE = """
    add_ clamp_ copy_ div_ exp_ fill_ masked_fill_ mul_ neg_ normal_ pow_ relu_ sigmoid_ sqrt_ sub_ tanh_ uniform_ zero_
""".split()


UNARY = {
    "__neg__": ops.neg,
    "__abs__": ops.abs,
    "__invert__": ops.bitwise_not,
    "__getitem__": ops.getitem,
    "__setitem__": ops.setitem,
}

OPERATORS = {
    "__add__": ops.add,
    "__sub__": ops.sub,
    "__mul__": ops.mul,
    "__truediv__": ops.div,
    "__floordiv__": ops.floor_divide,
    "__mod__": ops.remainder,
    "__pow__": ops.pow,
    "__matmul__": ops.matmul,
    "__and__": ops.bitwise_and,
    "__or__": ops.bitwise_or,
    "__xor__": ops.bitwise_xor,
    "__eq__": ops.eq,
    "__ne__": ops.ne,
    "__lt__": ops.lt,
    "__le__": ops.le,
    "__gt__": ops.gt,
    "__ge__": ops.ge,
    "__iadd__": inplace.add_,
    "__isub__": inplace.sub_,
    "__imul__": inplace.mul_,
    "__itruediv__": inplace.div_,
    "__ipow__": inplace.pow_,
}

REFLECTED = {
    "__radd__": ops.add,
    "__rsub__": ops.sub,
    "__rmul__": ops.mul,
    "__rtruediv__": ops.div,
    "__rfloordiv__": ops.floor_divide,
    "__rmod__": ops.remainder,
    "__rpow__": ops.pow,
    "__rmatmul__": ops.matmul,
    "__rand__": ops.bitwise_and,
    "__ror__": ops.bitwise_or,
    "__rxor__": ops.bitwise_xor,
}


def _caster(name: str, dtype: Any) -> Any:
    def method(self: Tensor) -> Tensor:
        return cast(self, dtype)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"The tensor as {dtype}."
    return method


# What NumPy computes an operator of its arrays with.
UFUNCS = {
    np.add: ops.add,
    np.subtract: ops.sub,
    np.multiply: ops.mul,
    np.divide: ops.div,
    np.floor_divide: ops.floor_divide,
    np.remainder: ops.remainder,
    np.power: ops.pow,
    np.matmul: ops.matmul,
    np.bitwise_and: ops.bitwise_and,
    np.bitwise_or: ops.bitwise_or,
    np.bitwise_xor: ops.bitwise_xor,
    np.equal: ops.eq,
    np.not_equal: ops.ne,
    np.less: ops.lt,
    np.less_equal: ops.le,
    np.greater: ops.gt,
    np.greater_equal: ops.ge,
}


_KNOWN = (Tensor, float, int, np.ndarray, np.generic)  # a bool is an int


def _is_operand(x: Any) -> bool:
    return isinstance(x, _KNOWN) or is_array(x)


def _operator(name: str, op: Any) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        if isinstance(other, _KNOWN) or is_array(other):
            return op(self, other)
        return NotImplemented

    return _named(method, name, op)


def _reflected(name: str, op: Any) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        return op(other, self) if _is_operand(other) else NotImplemented

    return _named(method, name, op)


def _named(method: Any, name: str, op: Any) -> Any:
    """The method under its name; in a traceback, from which errors of captured steps are told, under the op's."""
    method.__name__ = method.__qualname__ = name
    method.__code__ = method.__code__.replace(co_name=op.__name__)
    return method


def __array_ufunc__(self: Tensor, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
    """NumPy's question when one of its functions is called with a tensor: array + tensor is a tensor, as
    tensor + array is; array += tensor writes to the array. To any other function the tensor is the array that it gives.

    Raises what `numpy()` raises for a tensor that gives none.
    """
    if out is None and not options and method == "__call__" and ufunc in UFUNCS and all(map(_is_operand, inputs)):
        return UFUNCS[ufunc](*inputs)
    written = inputs[:1] if method == "at" else out or ()
    if not all(type(x) is np.ndarray for x in written):
        return NotImplemented  # a write to a tensor would go unnoticed
    if out is not None:
        options["out"] = out
    return getattr(ufunc, method)(*[x.numpy() if isinstance(x, Tensor) else x for x in inputs], **options)


def bind() -> None:
    """Give Tensor its methods; called once, when the engine is imported."""
    for name in FUNCTIONS:
        setattr(Tensor, name, getattr(ops, name))
    for name in INPLACE:
        setattr(Tensor, name, getattr(inplace, name))
    for name, op in UNARY.items():
        setattr(Tensor, name, op)
    for name, op in OPERATORS.items():
        setattr(Tensor, name, _operator(name, op))
    for name, op in REFLECTED.items():
        setattr(Tensor, name, _reflected(name, op))
    for name, dtype in (
        ("half", dtypes.float16),
        ("bfloat16", dtypes.bfloat16),
        ("float", dtypes.float32),
        ("double", dtypes.float64),
        ("int", dtypes.int32),
        ("long", dtypes.int64),
        ("bool", dtypes.bool_),
    ):
        setattr(Tensor, name, _caster(name, dtype))
    for function in (moves.to, moves.cpu, moves.cuda, moves.type_as):
        setattr(Tensor, function.__name__, function)
    for function in (backward, register_hook, retain_grad):
        setattr(Tensor, function.__name__, function)
    Tensor.__array_ufunc__ = __array_ufunc__
    Tensor.T = property(_transposed, doc="The dimensions in reverse order; a view.")
    Tensor.mT = property(lambda x: ops.transpose(x, -2, -1), doc="The last two dimensions exchanged; a view.")


def _transposed(x: Tensor) -> Tensor:
    return ops.transpose(x, 0, 1) if x.ndim == 2 else ops.permute(x, tuple(range(x.ndim))[::-1])


bind()
