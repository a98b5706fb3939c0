"""Elements as bits, and the manual's figures written out lane by lane."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BITS = {"f16": 16, "bf16": 16, "tf32": 32}


def encoded(matrix: np.ndarray, dtype: str) -> np.ndarray:
    """The bits of the values, which the dtype must hold exactly: uint16, or uint32 for tf32."""
    single = matrix.astype(np.float32)
    if dtype == "f16":
        bits, back = single.astype(np.float16).view(np.uint16), single.astype(np.float16).astype(np.float32)
    else:
        word = np.ascontiguousarray(single).view(np.uint32)
        kept = word >> 16 << 16 if dtype == "bf16" else word >> 13 << 13
        bits, back = (kept >> 16).astype(np.uint16) if dtype == "bf16" else kept, kept.view(np.float32)
    assert np.array_equal(back, single, equal_nan=True), f"not exact in {dtype}"
    return bits


def random_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values that all dtypes hold: 7 bits of mantissa, magnitudes from 2^-8 to 2^2."""
    return np.ldexp(rng.integers(-127, 128, shape), rng.integers(-15, -4, shape)).astype(np.float32)


def a_places(lane: int, k: int, dtype: str) -> list[tuple[int, int]]:
    """(row, column) of a0, a1, ...: 9.7.14.5.7 and 9.7.14.5.8."""
    group, place = lane >> 2, lane % 4
    if dtype == "tf32":
        return [(group + 8 * (i in (1, 3)), place + 4 * (i >= 2)) for i in range(k // 2)]
    return [(group if i < 2 or 4 <= i < 6 else group + 8, 2 * place + (i & 1) + 8 * (i >= 4)) for i in range(k // 2)]


def b_places(lane: int, k: int, dtype: str) -> list[tuple[int, int]]:
    """(row, column) of b0, b1, ..."""
    group, place = lane >> 2, lane % 4
    if dtype == "tf32":
        return [(place + 4 * i, group) for i in range(k // 4)]
    return [(2 * place + (i & 1) + 8 * (i >= 2), group) for i in range(k // 4)]


def d_places(lane: int, n: int) -> list[tuple[int, int]]:
    """(row, column) of d0, d1, ... of a warp's 16 rows."""
    group, place = lane >> 2, lane % 4
    return [(group + 8 * (i % 4 >= 2), 8 * (i // 4) + 2 * place + (i & 1)) for i in range(n // 2)]


def a_registers(a: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Of A (warps, 16, k)."""
    return _spread(encoded(a, dtype), BITS[dtype], lambda lane: a_places(lane, a.shape[2], dtype))


def b_registers(b: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Of B (warps, k, 8)."""
    return _spread(encoded(b, dtype), BITS[dtype], lambda lane: b_places(lane, b.shape[1], dtype))


def d_registers(d: np.ndarray) -> list[np.ndarray]:
    """Of C or D (warps, 16, n) of float32."""
    bits = np.ascontiguousarray(d, np.float32).view(np.uint32)
    return _spread(bits, 32, lambda lane: d_places(lane, d.shape[2]))


def same(got: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(got) == len(expected) and all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))


def _spread(bits: np.ndarray, width: int, places: Callable[[int], list[tuple[int, int]]]) -> list[np.ndarray]:
    """Registers (warps, 32) of matrices of bits (warps, rows, columns), low half first."""
    rows, columns = np.moveaxis([places(lane) for lane in range(32)], 2, 0)  # (32, elements) each
    elements, per = bits[:, rows, columns].astype(np.uint64), 32 // width
    words = sum(elements[..., part::per] << np.uint64(width * part) for part in range(per))
    return [np.ascontiguousarray(words[..., r].astype(np.uint32)) for r in range(words.shape[-1])]
