"""The inputs of a case: drawn once on the host, the same for every provider."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from tilegrad.bench.ops.op import Shape, Variant
from tilegrad.kernels.checks import bfloat16

DTYPES = {name: np.dtype(name) for name in ("float32", "float16", "float64")} | {"bfloat16": bfloat16}


class Traffic(NamedTuple):
    """What one call of a row does with memory.

    read, written   bytes
    copies          of what is read: calls take them in turn
    in_place        whether what is written lies where it was read
    """

    read: int
    written: int
    copies: int = 1
    in_place: bool = False


def drawn(variant: Variant, shape: Shape, dtype: str) -> dict[str, np.ndarray]:
    """The inputs by name, in dtype; beside a 16-bit dtype the variant's wide inputs are float32."""
    seed = zlib.crc32(f"{variant.name} {shape}".encode())  # other numbers for other rows, the same in every run
    arrays = variant.draw(np.random.default_rng(seed), shape)
    return {name: cast(x, dtype, name in variant.wide) for name, x in arrays.items()}


def cast(x: np.ndarray, dtype: str, wide: bool = False) -> np.ndarray:
    """x rounded to dtype, in its memory order. Integers and bools stay; what is wide, too, unless dtype is float64."""
    if x.dtype.kind in "iub" or (wide and dtype != "float64"):
        return x
    return x.astype(DTYPES[dtype], copy=False)


def to_tf32(x: np.ndarray) -> np.ndarray:
    """float32 cut to 10 bits of mantissa, as coarse as TF32 may be.

    mma rounds its operands before it multiplies them; wgmma reads them from shared memory as they are and ignores
    their last 13 bits (the PTX that Triton writes for it has no cvt.rna.tf32).
    """
    if x.dtype != np.float32:
        return x
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def copies(nbytes: int, cold_bytes: int, most: int = 64) -> int:
    """How many copies of the inputs a provider rotates through, so that cold_bytes lie between two uses of a copy."""
    return max(1, min(most, -(-cold_bytes // max(1, nbytes))))
