"""Which element lies in which register of which lane: matrices from registers, and back.

The fragments of every dtype are laid out alike in units of 32-bit words: a word is two elements of 16 bits that are
neighbours along k, or one element of 32 bits. Lane l is in group l // 4 and has place l % 4 in it.

    A    register r: row l//4 + 8 (r%2),          word l%4 + 4 (r//2) of the row
    B    register r: column l//4,                 word l%4 + 4 r of the column
    D    register r: row l//4 + 8 (r//2 % 2),     column 8 (r//4) + 2 (l%4) + r%2, a float32 each

Source: PTX ISA, "Matrix Fragments for mma.m16n8k8" (9.7.14.5.7), "... mma.m16n8k16 with floating point type"
(9.7.14.5.8), "Register Fragments" of wgmma (9.7.15.5.1.1), where each of four warps has 16 of the 64 rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LANES = 32

Registers = Sequence[np.ndarray]  # each (warps, 32) of uint32


def a_words(registers: Registers) -> np.ndarray:
    """(warps, 16, words): the rows of A, from 2 registers for every 4 words of a row."""
    r = _stacked(registers, 2)
    count, warps = r.shape[:2]
    return r.reshape(count // 2, 2, warps, 8, 4).transpose(2, 1, 3, 0, 4).reshape(warps, 16, 2 * count)


def b_words(registers: Registers) -> np.ndarray:
    """(warps, 8, words): the columns of B, from a register for every 4 words of a column."""
    r = _stacked(registers, 1)
    count, warps = r.shape[:2]
    return r.reshape(count, warps, 8, 4).transpose(1, 2, 0, 3).reshape(warps, 8, 4 * count)


def accumulators(registers: Registers) -> np.ndarray:
    """(warps, 16, n) of float32: the rows of C or D that a warp has, from n / 2 registers."""
    r = _stacked(registers, 4).view(np.float32)
    count, warps = r.shape[:2]  # below: columns // 8, rows // 8, column % 2, warp, group, place
    tiles = r.reshape(count // 4, 2, 2, warps, 8, 4)
    return tiles.transpose(3, 1, 4, 0, 5, 2).reshape(warps, 16, 2 * count)


def accumulator_registers(matrix: np.ndarray) -> list[np.ndarray]:
    """The n / 2 registers of D, from its rows (warps, 16, n) of float32: the inverse of `accumulators`."""
    warps, _, n = matrix.shape
    tiles = np.ascontiguousarray(matrix, np.float32).view(np.uint32).reshape(warps, 2, 8, n // 8, 4, 2)
    return list(tiles.transpose(3, 1, 5, 0, 2, 4).reshape(n // 2, warps, LANES))


def _stacked(registers: Registers, multiple: int) -> np.ndarray:
    """(registers, warps, 32), after a check of their number and shapes."""
    if not len(registers) or len(registers) % multiple:
        raise ValueError(f"fragment: got {len(registers)} registers; expected a multiple of {multiple}")
    for register in registers:
        if register.dtype != np.uint32 or register.ndim != 2 or register.shape != (len(registers[0]), LANES):
            raise ValueError(
                f"fragment: got a register {register.shape} of {register.dtype}; expected (warps, {LANES}) of uint32, "
                "all of them alike"
            )
    return np.stack(registers)
