"""`mma.sync`: a warp multiplies two matrices that are in its registers, and adds a third.

Source: PTX ISA, "Multiply-and-Accumulate Instruction: mma" (9.7.14.5.14).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.tensor_cores.elements import BYTES, rounded, values
from tilegrad.kernels.simulate.ptx.tensor_cores.fragments import (
    Registers,
    a_words,
    accumulator_registers,
    accumulators,
    b_words,
)

_OPCODE = re.compile(r"mma\.sync\.aligned\.m16n8k(\d+)\.row\.col\.f32\.(\w+)\.(\w+)\.f32")
_K = {"f16": (8, 16), "bf16": (8, 16), "tf32": (4, 8)}


class Form(NamedTuple):
    """mma.sync.aligned.m16n8k`k`.row.col.f32.`dtype`.`dtype`.f32"""

    k: int
    dtype: str

    @property
    def registers(self) -> tuple[int, int, int]:
        """How many registers A, B, and C or D have."""
        words = self.k * BYTES[self.dtype] // 4
        return words // 2, words // 4, 4


def read(opcode: str) -> Form:
    """The form of an `mma.sync` opcode; ValueError for one that is not known here."""
    found = _OPCODE.fullmatch(opcode)
    if found:
        form = Form(int(found[1]), found[2])
        if found[2] == found[3] and form.k in _K.get(form.dtype, ()):
            return form
    raise ValueError(
        f"{opcode}: not a known form; expected mma.sync.aligned.m16n8kK.row.col.f32.T.T.f32 with "
        "K 8 or 16 for T f16 or bf16, 4 or 8 for tf32"
    )


def mma(form: Form, a: Registers, b: Registers, c: Registers) -> list[np.ndarray]:
    """D = A B + C: the 4 registers of D. `form.registers` says how many registers the others have.

    The manual wants products exact and sums in at least float32, and leaves their order, their rounding, and what
    becomes of subnormal inputs open. Here the sum is float64's, rounded once to float32; subnormals are kept; a NaN is
    0x7fffffff. A GPU may differ by a few float32 roundings of the largest partial sum. So two results of which one is a
    GPU's are compared with that tolerance, never by bits.
    """
    got = len(a), len(b), len(c)
    if got != form.registers:
        raise ValueError(f"mma: got {got} registers for A, B and C; expected {form.registers}")
    dtype = form.dtype
    return accumulator_registers(multiply(values(a_words(a), dtype), values(b_words(b), dtype), accumulators(c)))


def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray | None) -> np.ndarray:
    """a (..., m, k) times the transpose of b (..., n, k), plus c (..., m, n) or nothing, as float32, rounded once."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = a.astype(np.float64) @ b.astype(np.float64).swapaxes(-1, -2)
        return rounded(exact if c is None else exact + c)
