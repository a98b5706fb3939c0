"""The fundamental types (PTX ISA 5.2), and how they lie in registers and in NumPy arrays.

A register's lanes are an array of unsigned integers of its width, a predicate's of bool. An instruction views them as
its own type. bfloat16 and the packed pairs (f16x2, bf16x2) stay integers: floating.py knows their arithmetic.
"""

from __future__ import annotations

import numpy as np

WIDTHS = {
    "pred": 1,
    "b8": 8, "u8": 8, "s8": 8,
    "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
    "b32": 32, "u32": 32, "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32, "tf32": 32,
    "b64": 64, "u64": 64, "s64": 64, "f64": 64,
}  # fmt: skip
STORED = {1: np.dtype(np.bool_), 8: np.dtype("u1"), 16: np.dtype("u2"), 32: np.dtype("u4"), 64: np.dtype("u8")}
_VIEWED = {"s": "i", "f": "f", "u": "u", "b": "u"}


def dtype_of(name: str) -> np.dtype:
    """How NumPy sees values of that type."""
    width = WIDTHS[name]
    if name in ("pred", "bf16", "f16x2", "bf16x2", "tf32"):
        return STORED[width]
    return np.dtype(f"{_VIEWED[name[0]]}{width // 8}")
