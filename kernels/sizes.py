"""Arithmetic of sizes on the host: how many blocks cover an array, and how large a block is."""

from __future__ import annotations


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is >= n; 1 for n <= 1."""
    return 1 << max(0, n - 1).bit_length()
