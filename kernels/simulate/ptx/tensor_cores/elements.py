"""Bits of the dtypes that tensor cores multiply, and their values."""

from __future__ import annotations

import numpy as np

BYTES = {"f16": 2, "bf16": 2, "tf32": 4}
NAN = np.uint32(0x7FFFFFFF)  # the NaN that every float32 instruction gives


def values(words: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 values in 32-bit words (..., n): (..., 2 n) of "f16" or "bf16", low half first, (..., n) of "tf32".

    Of a "tf32" the upper 19 bits count and the others are dropped. The manual calls its layout in a register
    implementation-defined ("Alternate Floating-Point Data Formats", 5.2.3); that the lower 13 bits are not read is what
    GPUs do, and is assumed here. So a NaN that has its payload in those bits alone becomes an infinity.
    """
    words = np.ascontiguousarray(words, np.uint32)
    if dtype == "f16":
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return words.view(np.float16).astype(np.float32)
    if dtype == "bf16":
        return (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32)
    raise ValueError(f"tensor cores: got {dtype}; expected one of {', '.join(BYTES)}")


def rounded(exact: np.ndarray) -> np.ndarray:
    """float64 values as float32: to nearest, ties to even; every NaN is the one that GPUs give, 0x7fffffff."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        result = exact.astype(np.float32)
    nan = np.isnan(result)
    if nan.any():
        result.view(np.uint32)[nan] = NAN
    return result


def cvt_rna_tf32_f32(register: np.ndarray) -> np.ndarray:
    """`cvt.rna.tf32.f32`: the nearest value with 10 bits of mantissa, of two equally near ones the larger in magnitude.

    uint32 of any shape, to the same. What rounds past the largest finite value is an infinity; subnormals stay. The
    manual ("Data Movement and Conversion Instructions: cvt") leaves the lower 13 bits and the payload of NaN open: here
    they are 0, and NaN is 0x7fffffff.
    """
    nan = register & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000)
    with np.errstate(over="ignore"):
        nearest = (register + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(nan, NAN, nearest)
