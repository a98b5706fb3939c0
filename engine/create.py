"""Making tensors: from data, from a shape, from random numbers. Names and defaults are PyTorch's.

Random numbers are drawn on the host and moved: a seed gives the same bits on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.device import as_device, is_array, module_of, move, on_host
from tilegrad.kernels.cpu import buffers
from tilegrad.kernels.device import gpu
from tilegrad.ops.operands import integer, quiet, rounded, scalar, shape_argument
from tilegrad.random import Generator, default_generator
from tilegrad.tensor import Tensor, adopted, wrap

_DLPACK_CUDA = 2  # kDLCUDA, of dlpack.h


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor from numbers, nested sequences, arrays or tensors; the data is copied.

    Python floats become float32, ints int64, bools bool; arrays keep their dtype, and their device unless one is given.
    Raises ValueError for ragged nesting, TypeError for anything but numbers.
    """
    if capture_hooks.capturing:
        data = _read(data)
    array = _as_array("tensor", data, dtype)
    out = _finish(array, dtype, device, requires_grad)
    if out.data is array:
        out._data = array.copy(order="K")
    return out


def as_tensor(data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Like `tensor`, but but shares memory if dtype and device already fit. A Tensor keeps its history."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    if capture_hooks.capturing:
        data = _read(data)
    return _finish(_as_array("as_tensor", data, dtype), dtype, device, False)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array; got {type(array).__name__}")
    array = adopted("from_numpy", array)
    return wrap(capture_hooks.existing(array) if capture_hooks.capturing else array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack (an array or tensor of another library)."""
    if source.__dlpack_device__()[0] == _DLPACK_CUDA:
        return wrap(adopted("from_dlpack", gpu.xp().from_dlpack(source)))
    return from_numpy(np.from_dlpack(source))


def _read(data: Any) -> Any:
    """A tensor or an array as a step that may be captured reads it; anything else as it is."""
    if isinstance(data, Tensor):
        capture_hooks.reads(data)
        return wrap(capture_hooks.planned(data.data))
    return wrap(capture_hooks.existing(data)) if isinstance(data, np.ndarray) else data


def _as_array(op: str, data: Any, dtype: Any) -> Any:
    if isinstance(data, Tensor):
        return data.data
    if isinstance(data, np.ndarray):
        array = np.asarray(data)
    elif is_array(data):
        array = data
    else:
        try:
            array = np.array(_plain(data))
        except ValueError:
            raise ValueError(f"{op}: expected nested sequences of equal lengths; got ragged ones") from None
        if dtype is None and array.dtype.kind == "f" and not _has_arrays(data):
            with quiet(over="ignore"):
                array = array.astype(np.float32)
    if not dtypes.is_number(array.dtype):
        raise TypeError(f"{op}: expected numbers; got {array.dtype} from {type(data).__name__}")
    return adopted(op, array) if dtype is None else array


def _plain(data: Any) -> Any:
    """Nested sequences with tensors replaced by their arrays, on the host."""
    if isinstance(data, Tensor):
        data = data.data
    if is_array(data):
        return on_host(data)
    return [_plain(x) for x in data] if isinstance(data, (list, tuple)) else data


def _has_arrays(data: Any) -> bool:
    """Whether a nested sequence holds arrays or tensors. Their float64 is kept; a Python float becomes float32."""
    if isinstance(data, (list, tuple)):
        return any(map(_has_arrays, data))
    return isinstance(data, (np.generic, Tensor)) or is_array(data)


def _finish(array: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    """The array as a tensor of that dtype on that device; None: as it is."""
    if dtype is not None:
        with quiet(all="ignore"):
            array = array.astype(dtypes.as_dtype(dtype), copy=False)
    out = wrap(array if device is None else move(array, as_device(device)))
    if requires_grad:
        out.requires_grad = True
    return capture_hooks.constant(out) if capture_hooks.capturing else out


# --- of a shape ------------------------------------------------------------------------------------------------------


def _size(op: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    shape = shape_argument(op, size)
    if min(shape, default=0) < 0:
        raise ValueError(f"{op}: the size is {shape}; expected no negative entry")
    return shape


def full(
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor with one value everywhere; by default of the dtype that the number becomes as a tensor."""
    fill_value = scalar("full", "fill_value", fill_value)
    dtype = dtypes.of_scalar(fill_value) if dtype is None else dtype
    shape, value = _size("full", (size,)), rounded("full", fill_value, dtypes.as_dtype(dtype))
    xp = module_of(as_device(device))
    return _finish(xp.full(shape, value.item(), value.dtype), None, None, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros; float32 by default."""
    xp = module_of(as_device(device))
    return _finish(xp.zeros(_size("zeros", size), dtypes.as_dtype(dtype or float)), None, None, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones; float32 by default."""
    xp = module_of(as_device(device))
    return _finish(xp.ones(_size("ones", size), dtypes.as_dtype(dtype or float)), None, None, requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory that is not initialised; float32 by default."""
    xp = module_of(as_device(device))
    # On the CPU large arrays begin on a cache line: products of arrays that do not are a quarter slower.
    make = buffers.empty if xp is np else xp.empty
    out = wrap(make(_size("empty", size), dtypes.as_dtype(dtype or float)))
    if requires_grad:
        out.requires_grad = True
    return capture_hooks.constant(out, has_values=False) if capture_hooks.capturing else out


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One value everywhere, with input's shape and (by default) dtype and device."""
    options = {"dtype": dtype or input.dtype, "device": device or input.device, "requires_grad": requires_grad}
    return full(input.shape, fill_value, **options)


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with input's shape and (by default) dtype and device."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with input's shape and (by default) dtype and device."""
    return full_like(input, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory that is not initialised, with input's shape and (by default) dtype and device."""
    options = {"dtype": dtype or input.dtype, "device": device or input.device, "requires_grad": requires_grad}
    return empty(input.shape, **options)


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below end; int64 if all three are integers, otherwise float32."""
    start, end = (0, start) if end is None else (start, end)
    numbers = (("start", start), ("end", end), ("step", step))
    start, end, step = (_python_number("arange", scalar("arange", *x)) for x in numbers)
    if dtype is None:
        dtype = dtypes.promote(start, end, step)
        dtype = dtypes.int64 if dtype.kind == "b" else dtype
    dtype = dtypes.as_dtype(dtype)
    given = f"arange: start={start}, end={end}, step={step}"
    if not math.isfinite(end - start) or step == 0 or (end - start) * step < 0:
        raise ValueError(f"{given}; expected a finite range and a step towards end")
    # As in PyTorch, an integer dtype cuts the numbers first, int64 for the count too.
    cut = dtype not in dtypes.FLOATS
    first, last, by = (int(start), int(end), int(step)) if cut else (start, end, step)
    if by == 0:
        raise ValueError(f"{given}, as {dtype} by 0; expected a step of at least 1")
    count = len(range(first, last, by)) if dtype == dtypes.int64 else max(math.ceil((end - start) / step), 0)
    # np.arange's own step is a rounded difference.
    return _finish(first + by * module_of(as_device(device)).arange(count), dtype, None, requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers evenly from start to end, both included; float32 by default.

    An integer dtype first cuts start and end to integers, then every number.
    """
    start, end = scalar("linspace", "start", start), scalar("linspace", "end", end)
    steps = integer("linspace", "steps", steps)
    if steps < 0:
        raise ValueError(f"linspace: steps is {steps}; expected at least 0")
    dtype = dtypes.as_dtype(dtype or float)
    start, end = (_python_number("linspace", x) for x in (start, end))
    if dtype not in dtypes.FLOATS:
        start, end = (rounded("linspace", int(x), dtype).item() for x in (start, end))
    # Each half is counted from its own end: both are exact, and the whole is symmetric.
    with quiet(all="ignore"):
        at, step = np.arange(steps), (float(end) - float(start)) / max(steps - 1, 1)
        values = np.where(at < max(steps // 2, 1), start + step * at, end - step * (steps - 1 - at))
    return _finish(values, dtype, device, requires_grad)


def _python_number(op: str, x: Any) -> int | float:
    """A number, or a tensor of one element, as Python has it: of float32 exactly, so that what follows is float64."""
    if isinstance(x, Tensor) or is_array(x) or isinstance(x, np.generic):
        return x.item()
    if not isinstance(x, (int, float)):
        raise TypeError(f"{op}: expected numbers; got {type(x).__name__}")
    return x


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix; float32 by default."""
    rows, columns = _size("eye", (n, n if m is None else m))
    return _finish(np.eye(rows, columns, dtype=dtypes.as_dtype(dtype or float)), None, device, requires_grad)


# --- random ----------------------------------------------------------------------------------------------------------


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform on [0, 1)."""
    values = (generator or default_generator).uniform(_size("rand", size), _float("rand", dtype))
    return _finish(values, None, device, requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal."""
    values = (generator or default_generator).normal(_size("randn", size), _float("randn", dtype))
    return _finish(values, None, device, requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Uniform integers in [low, high), int64 by default; randint(high, size) starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    low, high = integer("randint", "low", low), integer("randint", "high", high)
    values = (generator or default_generator).integers(low, high, _size("randint", (size,)))
    return _finish(values, dtype, device, False)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers below n in random order, int64 by default; on a GPU the same order, drawn there."""
    (n,) = _size("randperm", (n,))
    return _finish((generator or default_generator).permutation(n, as_device(device)), dtype, device, False)


def rand_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform on [0, 1), with input's shape and (by default) dtype and device."""
    options = {"dtype": dtype or input.dtype, "device": device or input.device, "requires_grad": requires_grad}
    return rand(input.shape, **options)


def randn_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Standard normal, with input's shape and (by default) dtype and device."""
    options = {"dtype": dtype or input.dtype, "device": device or input.device, "requires_grad": requires_grad}
    return randn(input.shape, **options)


def _float(op: str, dtype: Any) -> np.dtype:
    found = dtypes.as_dtype(dtype or float)
    if not dtypes.is_float(found):
        raise TypeError(f"{op}: dtype is {found}; expected a floating-point dtype")
    return found
