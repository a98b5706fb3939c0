"""cvt and cvta: PTX ISA 9.7.9 (data movement and conversion).

To a float the rounding modes are of the last digit; to an integer rni, rzi, rmi, rpi choose among neighbours, what does
not fit becomes the nearest that does, and NaN 0 (2^63 in 64 bits).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx import rounding
from tilegrad.kernels.simulate.ptx.floating import HALVES, rounded, saturated, widened
from tilegrad.kernels.simulate.ptx.integer import INTEGERS
from tilegrad.kernels.simulate.ptx.operands import LOCAL_WINDOW, SHARED_WINDOW, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Pure
from tilegrad.kernels.simulate.ptx.types import dtype_of

_NUMBERS = INTEGERS | {"u8", "s8"}
_TO_WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def cvt(instruction: Instruction) -> Pure:
    match instruction.modifiers:
        case [to, of] if to in _NUMBERS and of in _NUMBERS:
            dtype = dtype_of(to)
            return Pure(to, (of,), lambda a: a.astype(dtype), extends=True)
        case ["sat", to, of] if to in _NUMBERS and of in _NUMBERS:
            return Pure(to, (of,), _clipped(to, of), extends=True)
        case ["rn", "f32", of] if of in _NUMBERS:
            return Pure("f32", (of,), lambda a: a.astype(np.float32))
        case ["f32", "f16" | "bf16" as of]:
            return Pure("f32", (of,), widened(of))
        case ["rn", "f16" | "bf16" as to, "f32"]:
            return Pure(to, ("f32",), rounded(to))
        case ["rn", "f16x2" | "bf16x2" as to, "f32"]:
            return Pure(to, ("f32", "f32"), _packed(to[:-2]))
        case ["rna", "tf32", "f32"]:
            return Pure("b32", ("f32",), _tf32)
        case ["sat", "f32", "f32"]:
            return Pure("f32", ("f32",), saturated)
        case ["ftz", "f32", "f32"]:
            return Pure("f32", ("f32",), rounding.flushed)
        case ["ftz", "sat", "f32", "f32"]:
            return Pure("f32", ("f32",), lambda a: saturated(rounding.flushed(a)))
        case [mode, "f32", "f32"] if mode in _TO_WHOLE:
            return Pure("f32", ("f32",), _TO_WHOLE[mode])
        case [mode, to, "f32" | "f16" | "bf16" as of] if mode in _TO_WHOLE and to in _NUMBERS:
            return Pure(to, (of,), _to_integer(mode, to, of, False), extends=True)
        case [mode, "ftz", to, "f32"] if mode in _TO_WHOLE and to in _NUMBERS:
            return Pure(to, ("f32",), _to_integer(mode, to, "f32", True), extends=True)
        case ["f64", "f32"]:
            return Pure("f64", ("f32",), lambda a: a.astype(np.float64))
        case ["rn", "f32", "f64"]:
            return Pure("f32", ("f64",), lambda a: a.astype(np.float32))
    raise unknown(instruction)


def _clipped(to: str, of: str) -> Any:
    low, high = (max(np.iinfo(dtype_of(to)).min, np.iinfo(dtype_of(of)).min), 0)
    high = min(np.iinfo(dtype_of(to)).max, np.iinfo(dtype_of(of)).max)
    source, result = dtype_of(of).type, dtype_of(to)
    return lambda a: np.minimum(np.maximum(a, source(low)), source(high)).astype(result)


def _to_integer(mode: str, to: str, of: str, ftz: bool) -> Any:
    dtype = dtype_of(to)
    info, is_wide = np.iinfo(dtype), dtype.itemsize == 8
    wide, whole = widened(of) if of in HALVES else (lambda a: a), _TO_WHOLE[mode]
    no_number = (
        dtype.type((1 << 63) - (1 << 64 if dtype.kind == "i" else 0)) if is_wide and of == "f64" else dtype.type(0)
    )
    above = float(info.max) + 1 if not is_wide else 2.0 ** (64 if dtype.kind == "u" else 63)

    def convert(a: Any) -> Any:
        a = wide(a)
        x = whole((rounding.flushed(a) if ftz else a).astype(np.float64))
        fits = (x >= float(info.min)) & (x < above)
        inside = np.where(fits, x, 0.0).astype(dtype)
        clipped = np.where(x > 0, dtype.type(info.max), dtype.type(info.min))
        return np.where(np.isnan(x), no_number, np.where(fits, inside, clipped))

    return convert


def _packed(kind: str) -> Any:
    """d, a, b: a becomes the upper half, b the lower."""
    narrow = rounded(kind)

    def pack(a: Any, b: Any) -> Any:
        high, low = (narrow(x).view(np.uint16).astype(np.uint32) for x in (a, b))
        return high << np.uint32(16) | low

    return pack


def _tf32(a: Any) -> Any:
    """To the 10 bits of a fraction, ties away from zero; the 13 bits below, which the manual leaves open, are 0."""
    bits = a.view(np.uint32)
    result = bits + np.uint32(0x1000) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(a), np.uint32(0x7FFFE000), np.where(np.isinf(a), bits, result))


def cvta(instruction: Instruction) -> Pure:
    """Between an address in a space and a generic one; a generic address of global memory is the address itself."""
    windows = {"global": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
    match instruction.modifiers:
        case [space, "u64"] if space in windows:
            window = np.uint64(windows[space])
            return Pure("u64", ("u64",), lambda a: a + window)
        case ["to", space, "u64"] if space in windows:
            window = np.uint64(windows[space])
            return Pure("u64", ("u64",), lambda a: a - window)
    raise unknown(instruction)
