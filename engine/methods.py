"""What Tensor offers as methods: the functions of `tilegrad.ops` by their names, and the operators.

A method *is* the function: x.relu() is ops.relu(x). So its parameters and its docstring are written once. An operator
of two operands is the function too, for the operands that it knows: tensors, numbers and arrays. Any other operand is
left to Python, which then asks the other side.

The class `Methods` is written for two readers. At run time its members are bound to Tensor, once, when the engine is
imported. A type checker sees Tensor inherit from it (tensor.py says so), and so knows each method as it is declared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad import dtypes, ops
from tilegrad.autograd.backward import backward
from tilegrad.autograd.hooks import register_hook, retain_grad
from tilegrad.device import is_array
from tilegrad.ops import inplace, moves
from tilegrad.ops.operands import cast
from tilegrad.tensor import Tensor

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


def _operator(name: str, op: Callable[..., Any]) -> Callable[[Tensor, Any], Tensor]:
    def method(self: Tensor, other: Any) -> Any:
        if isinstance(other, _KNOWN) or is_array(other):
            return op(self, other)
        return NotImplemented

    return _named(method, name, op)


def _reflected(name: str, op: Callable[..., Any]) -> Callable[[Tensor, Any], Tensor]:
    def method(self: Tensor, other: Any) -> Any:
        return op(other, self) if _is_operand(other) else NotImplemented

    return _named(method, name, op)


def _named(method: Any, name: str, op: Any) -> Any:
    """The method under its name. In a traceback it has the op's, which errors of captured steps then say."""
    method.__name__ = method.__qualname__ = name
    method.__code__ = method.__code__.replace(co_name=op.__name__)
    return method


def _caster(name: str, dtype: np.dtype) -> Callable[[Tensor], Tensor]:
    def method(self: Tensor) -> Tensor:
        return cast(self, dtype)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"The tensor as {dtype}."
    return method


def _array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
    """What NumPy calls when one of its ufuncs is given a tensor (NEP 13).

    array + tensor is a tensor, as tensor + array is. array += tensor writes to the array. For any other ufunc a tensor
    stands for its array. Raises what `numpy()` raises where a tensor has none to give.

    NumPy declares array + tensor to be an array, and type checkers believe it; tensor + array is a tensor to them.
    """
    if out is None and not options and method == "__call__" and ufunc in UFUNCS and all(map(_is_operand, inputs)):
        return UFUNCS[ufunc](*inputs)
    written = inputs[:1] if method == "at" else out or ()
    if not all(type(x) is np.ndarray for x in written):
        return NotImplemented  # autograd would not notice the write to a tensor
    if out is not None:
        options["out"] = out
    return getattr(ufunc, method)(*[x.numpy() if isinstance(x, Tensor) else x for x in inputs], **options)


# NumPy calls the method of that name with keywords of its own, axis and out, which ours do not have.
REDUCTIONS = {np.sum, np.prod, np.mean, np.std, np.var, np.max, np.min, np.amax, np.amin, np.any, np.all}


def _array_function(self: Tensor, function: Any, types: Any, args: Any, options: Any) -> Any:
    """What NumPy calls when one of its other functions is given a tensor (NEP 18).

    np.mean(tensor) is what np.mean(tensor.numpy()) is, and so with every reduction. Other functions do what they do
    with any object that has `__array__`.
    """
    if not all(issubclass(each, (Tensor, np.ndarray)) for each in types):
        return NotImplemented
    if function in REDUCTIONS and args and isinstance(args[0], Tensor):
        args = args[0].numpy(), *args[1:]
    return function._implementation(*args, **options)


class Methods:
    """The methods of Tensor that are functions of the engine."""

    abs = ops.abs
    acos = ops.acos
    add = ops.add
    all = ops.all
    allclose = ops.allclose
    amax = ops.amax
    amin = ops.amin
    any = ops.any
    arccos = ops.arccos
    arcsin = ops.arcsin
    arctan = ops.arctan
    argmax = ops.argmax
    argmin = ops.argmin
    argsort = ops.argsort
    asin = ops.asin
    atan = ops.atan
    bitwise_and = ops.bitwise_and
    bitwise_not = ops.bitwise_not
    bitwise_or = ops.bitwise_or
    bitwise_xor = ops.bitwise_xor
    bmm = ops.bmm
    broadcast_to = ops.broadcast_to
    ceil = ops.ceil
    chunk = ops.chunk
    clamp = ops.clamp
    clip = ops.clip
    clone = ops.clone
    contiguous = ops.contiguous
    cos = ops.cos
    cosh = ops.cosh
    cumprod = ops.cumprod
    cumsum = ops.cumsum
    detach = ops.detach
    diagonal = ops.diagonal
    div = ops.div
    dot = ops.dot
    eq = ops.eq
    equal = ops.equal
    erf = ops.erf
    exp = ops.exp
    expand = ops.expand
    expand_as = ops.expand_as
    expm1 = ops.expm1
    flatten = ops.flatten
    flip = ops.flip
    floor = ops.floor
    floor_divide = ops.floor_divide
    gather = ops.gather
    ge = ops.ge
    gt = ops.gt
    index_select = ops.index_select
    isfinite = ops.isfinite
    isinf = ops.isinf
    isnan = ops.isnan
    le = ops.le
    log = ops.log
    log10 = ops.log10
    log1p = ops.log1p
    log2 = ops.log2
    log_softmax = ops.log_softmax
    logical_and = ops.logical_and
    logical_not = ops.logical_not
    logical_or = ops.logical_or
    logical_xor = ops.logical_xor
    logsumexp = ops.logsumexp
    lt = ops.lt
    masked_fill = ops.masked_fill
    masked_select = ops.masked_select
    matmul = ops.matmul
    max = ops.max
    maximum = ops.maximum
    mean = ops.mean
    min = ops.min
    minimum = ops.minimum
    mm = ops.mm
    movedim = ops.movedim
    mul = ops.mul
    narrow = ops.narrow
    ne = ops.ne
    neg = ops.neg
    nonzero = ops.nonzero
    norm = ops.norm
    outer = ops.outer
    permute = ops.permute
    pow = ops.pow
    prod = ops.prod
    reciprocal = ops.reciprocal
    relu = ops.relu
    remainder = ops.remainder
    repeat = ops.repeat
    repeat_interleave = ops.repeat_interleave
    reshape = ops.reshape
    roll = ops.roll
    round = ops.round
    rsqrt = ops.rsqrt
    scatter = ops.scatter
    scatter_add = ops.scatter_add
    select = ops.select
    sigmoid = ops.sigmoid
    sign = ops.sign
    sin = ops.sin
    sinh = ops.sinh
    softmax = ops.softmax
    sort = ops.sort
    split = ops.split
    sqrt = ops.sqrt
    square = ops.square
    squeeze = ops.squeeze
    std = ops.std
    sub = ops.sub
    sum = ops.sum
    t = ops.t
    take_along_dim = ops.take_along_dim
    tan = ops.tan
    tanh = ops.tanh
    tile = ops.tile
    topk = ops.topk
    trace = ops.trace
    transpose = ops.transpose
    tril = ops.tril
    triu = ops.triu
    trunc = ops.trunc
    unbind = ops.unbind
    unflatten = ops.unflatten
    unsqueeze = ops.unsqueeze
    var = ops.var
    view = ops.view
    where = ops.where

    add_ = inplace.add_
    clamp_ = inplace.clamp_
    copy_ = inplace.copy_
    div_ = inplace.div_
    exp_ = inplace.exp_
    fill_ = inplace.fill_
    masked_fill_ = inplace.masked_fill_
    mul_ = inplace.mul_
    neg_ = inplace.neg_
    normal_ = inplace.normal_
    pow_ = inplace.pow_
    relu_ = inplace.relu_
    sigmoid_ = inplace.sigmoid_
    sqrt_ = inplace.sqrt_
    sub_ = inplace.sub_
    tanh_ = inplace.tanh_
    uniform_ = inplace.uniform_
    zero_ = inplace.zero_

    to = moves.to
    cpu = moves.cpu
    cuda = moves.cuda
    type_as = moves.type_as

    backward = backward
    register_hook = register_hook
    retain_grad = retain_grad

    __neg__ = ops.neg
    __abs__ = ops.abs
    __invert__ = ops.bitwise_not
    __getitem__ = ops.getitem
    __setitem__ = ops.setitem

    __add__ = _operator("__add__", ops.add)
    __sub__ = _operator("__sub__", ops.sub)
    __mul__ = _operator("__mul__", ops.mul)
    __truediv__ = _operator("__truediv__", ops.div)
    __floordiv__ = _operator("__floordiv__", ops.floor_divide)
    __mod__ = _operator("__mod__", ops.remainder)
    __pow__ = _operator("__pow__", ops.pow)
    __matmul__ = _operator("__matmul__", ops.matmul)
    __and__ = _operator("__and__", ops.bitwise_and)
    __or__ = _operator("__or__", ops.bitwise_or)
    __xor__ = _operator("__xor__", ops.bitwise_xor)
    if TYPE_CHECKING:  # `object` declares a bool, these give tensors

        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]

        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]

        def __hash__(self) -> int: ...
    else:
        __eq__ = _operator("__eq__", ops.eq)
        __ne__ = _operator("__ne__", ops.ne)
    __lt__ = _operator("__lt__", ops.lt)
    __le__ = _operator("__le__", ops.le)
    __gt__ = _operator("__gt__", ops.gt)
    __ge__ = _operator("__ge__", ops.ge)
    __iadd__ = _operator("__iadd__", inplace.add_)
    __isub__ = _operator("__isub__", inplace.sub_)
    __imul__ = _operator("__imul__", inplace.mul_)
    __itruediv__ = _operator("__itruediv__", inplace.div_)
    __ipow__ = _operator("__ipow__", inplace.pow_)

    __radd__ = _reflected("__radd__", ops.add)
    __rsub__ = _reflected("__rsub__", ops.sub)
    __rmul__ = _reflected("__rmul__", ops.mul)
    __rtruediv__ = _reflected("__rtruediv__", ops.div)
    __rfloordiv__ = _reflected("__rfloordiv__", ops.floor_divide)
    __rmod__ = _reflected("__rmod__", ops.remainder)
    __rpow__ = _reflected("__rpow__", ops.pow)
    __rmatmul__ = _reflected("__rmatmul__", ops.matmul)
    __rand__ = _reflected("__rand__", ops.bitwise_and)
    __ror__ = _reflected("__ror__", ops.bitwise_or)
    __rxor__ = _reflected("__rxor__", ops.bitwise_xor)

    __array_function__ = _array_function
    __array_ufunc__ = _array_ufunc

    # Last: below these lines `float`, `int` and `bool` are methods.
    half = _caster("half", dtypes.float16)
    bfloat16 = _caster("bfloat16", dtypes.bfloat16)
    float = _caster("float", dtypes.float32)
    double = _caster("double", dtypes.float64)
    int = _caster("int", dtypes.int32)
    long = _caster("long", dtypes.int64)
    bool = _caster("bool", dtypes.bool_)


class _Bare:
    """What Python itself puts into a class that defines `__eq__`, such as `__hash__`."""

    __eq__ = object.__eq__


for _name in vars(Methods).keys() - vars(_Bare).keys() | {"__eq__"}:
    setattr(Tensor, _name, vars(Methods)[_name])
