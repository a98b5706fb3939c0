"""Running kernels in Triton's interpreter, on the host memory of kernels/simulate/arrays.py.

Imported if TRITON_INTERPRET=1. The interpreter computes each tile with NumPy. Where its results differ from a GPU's, it
is corrected here and not in the kernels (Triton 3.9, runtime/interpreter.py):

    float32 -> bfloat16    truncates; a GPU rounds to nearest, ties to even
    dot of bfloat16        multiplies the bit patterns as integers
    dot in TF32            computes in float32; a GPU drops 13 bits of each operand, and tests should see that
    ints beyond 2^31       are unsigned up to 2^32, although their type says int64
    sum over an axis       adds one by one unless the axis is the last; a GPU adds in a tree, and loses less to rounding

The interpreter also checks every 32-bit integer operation for overflow, in 64 bits. That doubles its time, and is
turned off here.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, TensorHandle, interpreter_builder

from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import addresses
from tilegrad.kernels.simulate import arrays, tape

_TF32_BITS = 13  # of a float32's 23-bit fraction, which TF32 does not have


def run(name: str, function: Any, grid: tuple[int, ...], args: tuple[Any, ...], constexprs: dict[str, Any]) -> None:
    """Run every program of the grid, one after another, then check the guards around the arrays; or record that."""

    def launch() -> None:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # a GPU does not warn
            warnings.simplefilter("ignore", RuntimeWarning)  # for rows of NaN
            function[grid](*map(_argument, args), **constexprs)
        arrays.assert_guards(name, *(a for a in args if hasattr(a, "dtype")))

    tape.do(name, launch)


def _argument(a: Any) -> Any:
    """An argument as the interpreter takes it; an int as wide as launch/triton_kernel.py makes it."""
    if hasattr(a, "dtype"):
        return _Pointer(a)
    if type(a) is int and not addresses.fits(a):
        return tl.tensor(TensorHandle(np.array([a], np.int64), tl.int64), tl.int64)
    return a


class _Pointer:
    """A host address as Triton's interpreter takes it: the few of torch.Tensor's methods that it calls."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = array.dtype

    def data_ptr(self) -> int:
        return self.array.data.ptr

    # The interpreter copies arguments to the host and back. They are on the host already: a copy is the object itself.

    def untyped_storage(self) -> _Pointer:
        return self

    def cpu(self) -> _Pointer:
        return self

    def new_empty(self, *_: Any, **__: Any) -> _Pointer:
        return _Pointer(self.array)

    def set_(self, *_: Any) -> None:
        pass

    def copy_(self, _: Any) -> None:
        pass

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return ()


_cast = InterpreterBuilder.cast_impl


def _cast_rounding(self: InterpreterBuilder, src: TensorHandle, dst_type: Any) -> TensorHandle:
    kinds = src.dtype.scalar, dst_type.scalar
    if kinds == (tl.float32, tl.bfloat16):
        return TensorHandle(src.data.astype(bfloat16).view(np.uint16), tl.bfloat16)
    if kinds == (tl.bfloat16, tl.float32):
        return TensorHandle(src.data.view(bfloat16).astype(np.float32), tl.float32)
    return _cast(self, src, dst_type)


def _dot(
    self: InterpreterBuilder,
    a: TensorHandle,
    b: TensorHandle,
    d: TensorHandle,
    input_precision: Any,
    max_num_imprecise_acc: Any,
) -> Any:
    """a @ b + d, in d's dtype; input_precision is an enum."""
    x, y = _operand(a), _operand(b)
    name = input_precision.name
    if name == "TF32" and x.dtype == np.float32:
        x, y = _tf32(x), _tf32(y)
    elif name == "TF32x3" and x.dtype == np.float32:
        x_large, y_large = _tf32(x), _tf32(y)
        x_small, y_small = _tf32(x - x_large), _tf32(y - y_large)
        rest = np.matmul(x_small, y_large) + np.matmul(x_large, y_small)
        return TensorHandle(rest + np.matmul(x_large, y_large) + d.data, d.dtype.scalar)
    return TensorHandle(np.matmul(x, y, dtype=d.data.dtype) + d.data, d.dtype.scalar)


def _operand(x: TensorHandle) -> np.ndarray:
    return x.data.view(bfloat16).astype(np.float32) if x.dtype.scalar == tl.bfloat16 else x.data


def _tf32(x: np.ndarray) -> np.ndarray:
    """Rounded to TF32's 10-bit fraction, ties away from zero (PTX ISA, cvt.rna.tf32.f32); NaN and infinity stay."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + np.uint32(1 << (_TF32_BITS - 1))) & np.uint32(0xFFFFFFFF << _TF32_BITS & 0xFFFFFFFF)
    return np.where(np.isfinite(x), rounded.view(np.float32), x)


def _sum_pairwise(self: ReduceOps, input: Any) -> Any:
    """The sum along self.axis. NumPy adds pairwise if the axis is the last and contiguous, so it is made that."""
    data = input.handle.data
    if self.axis is not None:
        data = np.ascontiguousarray(np.moveaxis(data, self.axis, -1))
    total = data.sum(None if self.axis is None else -1)
    if self.keep_dims:
        total = total.reshape((1,) * input.handle.data.ndim) if self.axis is None else np.expand_dims(total, self.axis)
    return self.to_tensor(total, input.dtype)


InterpreterBuilder.cast_impl = _cast_rounding
InterpreterBuilder.create_dot = _dot
ReduceOps.sum = _sum_pairwise
interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
