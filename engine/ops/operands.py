"""What every op does first: turn its arguments into tensors of one dtype and device, and check that shapes fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from operator import index
from typing import Any, TypeVar

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.autograd.record import record
from tilegrad.device import array_module, device_of, is_array
from tilegrad.ops.quiet import quiet
from tilegrad.tensor import Tensor, adopted, wrap

Op = TypeVar("Op", bound=Callable[..., Tensor])


def as_tensor(op: str, x: Any, like: Tensor | None = None) -> Tensor:
    """x as a tensor: an array is wrapped; a number gets the dtype and device of `like`, or the dtype of its own."""
    if isinstance(x, Tensor):
        return capture_hooks.operand(x) if capture_hooks.capturing else x
    if is_array(x):
        x = adopted(op, x)
        return wrap(capture_hooks.existing(x) if capture_hooks.capturing else x)
    if isinstance(x, (bool, int, float, np.generic)):
        if like is None:
            made = wrap(np.asarray(x, dtypes.of_scalar(x)))
            return capture_hooks.constant(made) if capture_hooks.capturing else made
        return number(op, x, like.dtype, array_module(like.data))
    raise TypeError(f"{op}: expected a tensor or a number; got {type(x).__name__}")


def number(op: str, x: Any, dtype: np.dtype, xp: Any = np) -> Tensor:
    """A number as a tensor of this dtype, rounded once. Raises ValueError for an integer that the dtype cannot hold.

    As in PyTorch, a negative number down to -255 is its two's complement in uint8: -1 is 255.
    """
    value = rounded(op, x, dtype)
    # On a GPU an argument of a kernel, not a copy: a captured graph would read the host's memory again.
    made = wrap(value if xp is np or capture_hooks.is_numpy(xp) else xp.full((), value.item(), dtype))
    return capture_hooks.constant(made) if capture_hooks.capturing else made


def rounded(op: str, x: Any, dtype: np.dtype) -> np.ndarray:
    """A number as an array of this dtype, as `number` has it."""
    try:
        if abs(x) <= 65504:  # the largest float16: no dtype overflows, so there is no warning to silence
            value = np.asarray(x, dtype)
        else:
            with quiet():
                value = np.asarray(float(x) if dtype == dtypes.bfloat16 else x, dtype)  # it takes no large int
    except (OverflowError, ValueError):
        if dtype != dtypes.uint8 or not -255 <= x < 0:
            raise ValueError(f"{op}: {x} does not fit {dtype}; expected a number that does") from None
        value = np.asarray(int(x) % 256, dtype)
    return value


def cast(x: Tensor, dtype: np.dtype) -> Tensor:
    """x in another dtype, with the gradient cast back; x itself where it has that dtype."""
    if x._data.dtype == dtype:
        return x
    if capture_hooks.capturing:
        x = capture_hooks.operand(x)
    with quiet():
        y = x._data.astype(dtype)
    return record("to", y, (x,), lambda dy: (dy,))


def ordered(array: Any) -> Any:
    """The array to be compared or sorted: bfloat16 as float32, exactly. NumPy warns of its nan and sorts it wrong."""
    return array.astype(dtypes.float32) if array.dtype == dtypes.bfloat16 else array


def wide(array: Any) -> Any:
    """The array in the dtype that a formula of many steps is computed in: float16 and bfloat16 as float32."""
    return array.astype(dtypes.float32) if array.dtype in dtypes.HALVES else array


def rounded_once(op: Op) -> Op:
    """An op composed of others, each of which would round: float16 and bfloat16 are computed in float32 throughout."""

    @wraps(op)
    def wrapper(input: Tensor, *args: Any, **options: Any) -> Tensor:
        if not isinstance(input, Tensor) or input.data.dtype not in dtypes.HALVES:
            return op(input, *args, **options)
        y = op(widened(input), *map(widened, args), **{name: widened(value) for name, value in options.items()})
        return cast(y, input.data.dtype)

    return wrapper  # type: ignore[return-value]  (its own parameters)


def widened(x: Any) -> Any:
    """A tensor of float16 or bfloat16 in float32, with the gradient cast back; anything else as it is."""
    return cast(x, dtypes.float32) if isinstance(x, Tensor) and x.data.dtype in dtypes.HALVES else x


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of x's shape and dtype: the gradient of what changes nothing."""
    return wrap(array_module(x.data).zeros_like(x.data))


def binary(op: str, a: Any, b: Any, xp: Any = np) -> tuple[Tensor, Tensor]:
    """Both operands as tensors of their common dtype (tilegrad.dtypes), on one device, of shapes that broadcast.

    Two numbers become tensors of xp.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if type(a._data) is not type(b._data) and a.device != b.device:
            raise _mixed_devices(op, a, b)
        if a._data.dtype != b._data.dtype:
            dtype = dtypes.promote(a._data, b._data)
            a, b = cast(a, dtype), cast(b, dtype)
    else:
        a, b = _with_number(op, a, b, xp)
    if capture_hooks.capturing:
        a, b = capture_hooks.operand(a), capture_hooks.operand(b)
    x, y = a._data, b._data
    if x.shape != y.shape and x.ndim and y.ndim:
        broadcast_shape(op, x.shape, y.shape)
    return a, b


def _with_number(op: str, a: Any, b: Any, xp: Any) -> tuple[Tensor, Tensor]:
    if isinstance(a, Tensor) and dtypes.absorbs(a._data.dtype, b):  # a short way for what is asked for most
        return a, number(op, b, a._data.dtype, array_module(a._data))
    a, b = (x if isinstance(x, (bool, int, float, np.generic)) else as_tensor(op, x) for x in (a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):  # one was an array
        require_one_device(op, a, b)
    dtype = dtypes.promote(*(x._data if isinstance(x, Tensor) else x for x in (a, b)))
    like = a if isinstance(a, Tensor) else b
    xp = array_module(like._data) if isinstance(like, Tensor) else xp
    # A number takes the common dtype directly: 0.1 becomes the nearest float64 next to a float64 tensor.
    a, b = (cast(x, dtype) if isinstance(x, Tensor) else number(op, x, dtype, xp) for x in (a, b))
    return a, b


def integer(op: str, name: str, x: Any) -> int:
    """x as an int: an int itself, or what holds one, such as an integer tensor without dimensions.

    Raises TypeError for bools and for anything else.
    """
    if type(x) is int:
        return x
    if not isinstance(x, (bool, np.bool_)) and not getattr(x, "ndim", 0) and getattr(x, "dtype", None) != dtypes.bool_:
        try:
            return index(x)
        except TypeError:
            pass
    raise TypeError(f"{op}: {name} is {_told(x)}; expected an int")


def scalar(op: str, name: str, x: Any) -> Any:
    """x as a number: itself, or what a tensor or array without dimensions holds. Raises TypeError for anything else."""
    if (isinstance(x, Tensor) or is_array(x)) and not x.ndim:
        x = x.item()
    if not isinstance(x, (bool, int, float, np.generic)):
        raise TypeError(f"{op}: {name} is {_told(x)}; expected a number")
    return x


def _told(x: Any) -> str:
    return f"{type(x).__name__} {x.shape}" if hasattr(x, "shape") and x.ndim else repr(x)


def require_one_device(op: str, *tensors: Tensor | None) -> None:
    """Raise TypeError naming the devices unless all tensors (None is passed over) are on one."""
    first = None
    for x in tensors:
        if x is not None:
            first = first or type(x._data)
            if type(x._data) is not first and isinstance(x._data, np.ndarray) != issubclass(first, np.ndarray):
                raise _mixed_devices(op, *tensors)


def _mixed_devices(op: str, *tensors: Tensor | None) -> TypeError:
    found = sorted({device_of(x.data) for x in tensors if x is not None})
    return TypeError(f"{op}: expected all tensors on one device; got {' and '.join(found)}")


def broadcast_shape(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that these broadcast to. Raises ValueError naming them if they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(tuple(s)) for s in shapes)
        raise ValueError(f"{op}: shapes {listed} do not broadcast; expected equal sizes or 1, from the right") from None


def float_operand(op: str, x: Any) -> Tensor:
    """x as a floating-point tensor: integers and bools become float32, as in PyTorch's float functions."""
    x = as_tensor(op, x)
    return x if x._data.dtype in dtypes.FLOATS else cast(x, dtypes.float32)


def require_float(op: str, *tensors: Tensor | None) -> None:
    """Raise TypeError unless all (None is passed over) are tensors of one floating dtype on one device."""
    first = None
    for x in tensors:
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: expected tensors; got {type(x).__name__}")
        if first is not None and x._data.dtype is first._data.dtype and type(x._data) is type(first._data):
            continue
        if x._data.dtype not in dtypes.FLOATS:
            raise TypeError(f"{op}: expected a floating-point tensor; got {x._data.dtype}")
        if first is None:
            first = x
        elif x._data.dtype != first._data.dtype:
            raise TypeError(f"{op}: dtypes are {first._data.dtype} and {x._data.dtype}; expected one for all")
        elif x.device != first.device:
            raise _mixed_devices(op, first, x)


def normalize_axis(op: str, axis: Any, ndim: int) -> int:
    """A dimension counted from the left. Raises IndexError if it is out of range (0-dim tensors admit 0 and -1)."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{op}: expected dim to be an int; got {axis!r}")
    span = max(ndim, 1)
    if not -span <= axis < span:
        raise IndexError(f"{op}: dim is {axis}; expected {-span} <= dim < {span} for a tensor of {ndim} dimensions")
    return int(axis) % span


def normalize_axes(op: str, axes: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the left; None (and, as in PyTorch, an empty list) means all. Duplicates raise."""
    if type(axes) is int and -ndim <= axes < ndim:  # what is asked for most
        return (axes % ndim,)
    given = tuple(axes) if isinstance(axes, (tuple, list)) else () if axes is None else (axes,)
    if len(given) == 0:
        return tuple(range(ndim))
    found = tuple(normalize_axis(op, axis, ndim) for axis in given)
    if len(set(found)) != len(found):
        raise ValueError(f"{op}: dim is {given}; expected each dimension once")
    return found if ndim else ()


def shape_argument(op: str, sizes: tuple[Any, ...], keyword: Any = None) -> tuple[int, ...]:
    """(2, 3) from f(2, 3), f((2, 3)) or f(keyword=(2, 3)). Raises TypeError for anything but integers in one form."""
    if keyword is not None:
        if sizes:
            raise TypeError(f"{op}: got {sizes!r} and, by keyword, {keyword!r}; expected one of the two")
        sizes = (keyword,)
    try:
        if len(sizes) == 1 and not isinstance(sizes[0], int) and getattr(sizes[0], "ndim", 1):
            sizes = tuple(sizes[0])
        return tuple([s if type(s) is int else integer(op, "size", s) for s in sizes])
    except TypeError:
        raise TypeError(f"{op}: got {sizes!r}; expected ints, or one sequence of them") from None


def made_together(name: str, used: Sequence[Tensor | None], arrays: Sequence[Any], asked: Sequence[Any]) -> list[Any]:
    """A primitive's results as tensors, one for each of `asked` that is not None, and None for the others.

    For gradients that need none themselves: nothing is recorded behind them.

    used    the tensors that the primitive was given, None for what it was not
    arrays  its results, in the order of `asked`
    """
    results = iter(arrays)
    if not capture_hooks.capturing:
        return [None if each is None else wrap(next(results)) for each in asked]
    parents = [x for x in used if x is not None]
    return [None if each is None else record(name, next(results), parents, _no_rule) for each in asked]


def _no_rule(dy: Tensor) -> tuple:
    raise RuntimeError("made_together: expected a mode in which nothing is recorded")
