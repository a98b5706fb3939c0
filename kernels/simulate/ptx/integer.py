"""Integer arithmetic, bits and shifts: PTX ISA 9.7.1 (integer arithmetic), 9.7.8 (logic and shift), 9.7.9 (prmt).

Integers are two's complement and wrap around. Division rounds toward zero. By zero it is a fault: the manual leaves the
result open, and LLVM takes it that no program gets there. (What ptxas makes of it is -1: less than any size.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx.operands import unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Pure, Refusal
from tilegrad.kernels.simulate.ptx.types import WIDTHS, dtype_of

INTEGERS = frozenset(["u16", "s16", "u32", "s32", "u64", "s64"])
BITS = frozenset(["b16", "b32", "b64"])
_WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def mul_hi(a: Any, b: Any) -> Any:
    """The upper half of the product."""
    width = a.dtype.itemsize * 8
    if width < 64:
        wide = np.dtype(f"{a.dtype.kind}{width // 4}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(width)).astype(a.dtype)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    high = x1 * y1 + (middle >> half) + (x0 * y1 + (middle & low) >> half)
    if a.dtype.kind == "i":  # what the sign bits stood for as unsigned
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def divide(a: Any, b: Any) -> tuple[Any, Any]:
    """(quotient, remainder), toward zero: the remainder has a's sign."""
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    signed = a.dtype.kind == "i"
    x, y = (np.where(n < 0, -n, n).view(unsigned) if signed else n for n in (a, b))
    quotient, remainder = x // y, x % y
    if signed:
        quotient = np.where((a < 0) != (b < 0), -quotient, quotient)
        remainder = np.where(a < 0, -remainder, remainder)
    return quotient.view(a.dtype), remainder.view(a.dtype)


def shift_left(a: Any, n: Any) -> Any:
    """By more than the width: 0."""
    width = a.dtype.itemsize * 8
    return np.where(n < width, a << np.minimum(n, width - 1).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Any, n: Any) -> Any:
    """By more than the width: 0, or the sign."""
    width = a.dtype.itemsize * 8
    shifted = a >> np.minimum(n, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(n < width, shifted, a.dtype.type(0))


def extract(a: Any, position: Any, length: Any) -> Any:
    """bfe: `length` bits from `position`; of signed types the field's highest bit that exists is its sign."""
    width, unsigned = a.dtype.itemsize * 8, np.dtype(f"u{a.dtype.itemsize}")
    at, n = (position & 0xFF).astype(np.int64), (length & 0xFF).astype(np.int64)
    bits = a.view(unsigned)
    one = unsigned.type(1)
    field = np.where(at < width, bits >> np.minimum(at, width - 1).astype(unsigned), unsigned.type(0))
    mask = np.where(n < width, (one << np.minimum(n, width - 1).astype(unsigned)) - one, ~unsigned.type(0))
    field = field & mask
    if a.dtype.kind == "i":
        top = np.minimum(at + n - 1, width - 1)
        sign = (n > 0) & ((bits >> np.maximum(top, 0).astype(unsigned) & one) != 0)
        field = np.where(sign, field | ~mask, field)
        # Beyond the highest bit a field of signed numbers is filled with the sign, not with zeros.
        beyond = np.clip(width - at, 0, width)
        rest = np.where(
            beyond < width, (one << np.minimum(beyond, width - 1).astype(unsigned)) - one, ~unsigned.type(0)
        )
        field = np.where(sign, field | ~rest, field)
    return field.view(a.dtype)


def insert(a: Any, b: Any, position: Any, length: Any) -> Any:
    """bfi: the lowest `length` bits of a, put into b at `position`."""
    width = a.dtype.itemsize * 8
    at, n = (position & 0xFF).astype(np.int64), (length & 0xFF).astype(np.int64)
    one, full = a.dtype.type(1), ~a.dtype.type(0)
    mask = np.where(n < width, (one << np.minimum(n, width - 1).astype(a.dtype)) - one, full)
    by = np.minimum(at, width - 1).astype(a.dtype)
    return np.where(at < width, (b & ~(mask << by)) | ((a & mask) << by), b)


def permute(a: Any, b: Any, selector: Any) -> Any:
    """prmt: each byte of the result is one of the eight of a and b, or copies of its sign."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(selector)), np.uint32)
    for place in range(4):
        choice = (selector >> np.uint32(4 * place)).astype(np.uint64)
        byte = both >> (choice & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        byte = np.where(choice & np.uint64(8), np.where(byte & np.uint64(0x80), 0xFF, 0), byte)
        result |= byte.astype(np.uint32) << np.uint32(8 * place)
    return result


def _count_bits(a: Any) -> Any:
    return np.bitwise_count(a).astype(np.uint32)


def _leading_zeros(a: Any) -> Any:
    width, filled = a.dtype.itemsize * 8, a
    shift = 1
    while shift < width:
        filled = filled | filled >> a.dtype.type(shift)
        shift *= 2
    return np.uint32(width) - _count_bits(filled)


def _reversed(a: Any) -> Any:
    width, result = a.dtype.itemsize * 8, a & a.dtype.type(0)
    for bit in range(width):
        result = result | (a >> a.dtype.type(bit) & a.dtype.type(1)) << a.dtype.type(width - 1 - bit)
    return result


_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "min": np.minimum,
    "max": np.maximum,
    "div": lambda a, b: divide(a, b)[0],
    "rem": lambda a, b: divide(a, b)[1],
}
_LOGIC: dict[str, Callable[[Any, Any], Any]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
_BY_ZERO = Refusal(lambda a, b: b == 0, "a division by zero")
_COUNTS = {"popc": _count_bits, "clz": _leading_zeros}


def two(instruction: Instruction) -> Pure:
    """add, sub, min, max, div, rem of a type without more."""
    match instruction.modifiers:
        case [kind] if kind in INTEGERS:
            name = instruction.opcode
            return Pure(kind, (kind, kind), _TWO[name], refuses=_BY_ZERO if name in ("div", "rem") else None)
    raise unknown(instruction)


def mul(instruction: Instruction) -> Pure:
    match instruction.modifiers:
        case ["lo", kind] if kind in INTEGERS:
            return Pure(kind, (kind, kind), lambda a, b: a * b)
        case ["hi", kind] if kind in INTEGERS:
            return Pure(kind, (kind, kind), mul_hi)
        case ["wide", kind] if kind in _WIDER:
            wide = dtype_of(_WIDER[kind])
            return Pure(_WIDER[kind], (kind, kind), lambda a, b: a.astype(wide) * b.astype(wide))
    raise unknown(instruction)


def mad(instruction: Instruction) -> Pure:
    """The product of mul, plus c."""
    product = mul(instruction)
    function = product.function
    return Pure(product.result, (*product.sources, product.result), lambda a, b, c: function(a, b) + c)


def logic(instruction: Instruction) -> Pure:
    """and, or, xor, not; of predicates too."""
    match instruction.modifiers:
        case [kind] if kind in BITS or kind == "pred":
            if instruction.opcode == "not":
                return Pure(kind, (kind,), lambda a: ~a)
            return Pure(kind, (kind, kind), _LOGIC[instruction.opcode])
    raise unknown(instruction)


def one(instruction: Instruction) -> Pure:
    """neg and abs."""
    match instruction.modifiers:
        case [kind] if kind in INTEGERS and kind[0] == "s":
            return Pure(kind, (kind,), np.negative if instruction.opcode == "neg" else np.abs)
    raise unknown(instruction)


def shift(instruction: Instruction) -> Pure:
    match instruction.opcode, *instruction.modifiers:
        case ["shl", kind] if kind in BITS:
            return Pure(kind, (kind, "u32"), shift_left)
        case ["shr", kind] if kind in BITS or kind in INTEGERS:
            return Pure(kind, (kind, "u32"), shift_right)
    raise unknown(instruction)


def field(instruction: Instruction) -> Pure:
    match instruction.opcode, *instruction.modifiers:
        case ["bfe", kind] if kind in INTEGERS and WIDTHS[kind] > 16:
            return Pure(kind, (kind, "u32", "u32"), extract)
        case ["bfi", kind] if kind in ("b32", "b64"):
            return Pure(kind, (kind, kind, "u32", "u32"), insert)
        case ["prmt", "b32"]:
            return Pure("b32", ("b32", "b32", "b32"), permute)
        case [("popc" | "clz") as name, kind] if kind in ("b32", "b64"):
            return Pure("u32", (kind,), _COUNTS[name])
        case ["brev", kind] if kind in ("b32", "b64"):
            return Pure(kind, (kind,), _reversed)
    raise unknown(instruction)
