"""`wgmma.mma_async`: four warps multiply a matrix in shared memory or registers with one in shared memory.

Source: PTX ISA, "Asynchronous Multiply-and-Accumulate Instruction: wgmma.mma_async" (9.7.15.5.2). When a product may
be read is pending.py's subject; here are its values.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.tensor_cores.descriptors import decode, matrix
from tilegrad.kernels.simulate.ptx.tensor_cores.elements import BYTES, values
from tilegrad.kernels.simulate.ptx.tensor_cores.fragments import (
    LANES,
    Registers,
    a_words,
    accumulator_registers,
    accumulators,
)
from tilegrad.kernels.simulate.ptx.tensor_cores.mma import multiply

WARPS = 4  # of a warpgroup
ROWS = 64

_OPCODE = re.compile(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)\.f32\.(\w+)\.(\w+)")


class Form(NamedTuple):
    """wgmma.mma_async.sync.aligned.m64n`n`k`k`.f32.`dtype`.`dtype`"""

    n: int
    k: int
    dtype: str


class Options(NamedTuple):
    """The immediate operands. Scales are 1 or -1; a transposed operand has m or n as its major dimension, not k."""

    scale_a: int = 1
    scale_b: int = 1
    trans_a: int = 0
    trans_b: int = 0


def read(opcode: str) -> Form:
    """The form of a `wgmma.mma_async` opcode; ValueError for one that is not known here."""
    found = _OPCODE.fullmatch(opcode)
    if found:
        form = Form(int(found[1]), int(found[2]), found[3])
        if found[3] == found[4] and form.k * BYTES.get(form.dtype, 0) == 32 and form.n in range(8, 257, 8):
            return form
    raise ValueError(
        f"{opcode}: not a known form; expected wgmma.mma_async.sync.aligned.m64nNkK.f32.T.T with N a multiple of 8 up "
        "to 256, and K 16 for T f16 or bf16, 8 for tf32"
    )


def read_options(form: Form, immediates: tuple[int, ...], a_in_registers: bool) -> Options:
    """The immediates that follow scale-d, by their number and order in the manual's syntax."""
    count = 2 if form.dtype == "tf32" else 3 if a_in_registers else 4
    if len(immediates) != count:
        raise ValueError(f"wgmma: got {len(immediates)} immediates after scale-d; expected {count}")
    scale_a, scale_b, *trans = immediates
    trans_a, trans_b = (0, 0) if not trans else (0, *trans) if a_in_registers else trans
    if {scale_a, scale_b} - {1, -1} or {trans_a, trans_b} - {0, 1}:
        raise ValueError(f"wgmma: got immediates {immediates}; expected scales of 1 or -1, transpositions of 0 or 1")
    return Options(scale_a, scale_b, trans_a, trans_b)


def wgmma(
    form: Form,
    options: Options,
    shared: np.ndarray,
    block: np.ndarray,
    d: Registers,
    a: Registers | np.ndarray,
    b: np.ndarray,
    scale_d: np.ndarray,
) -> list[np.ndarray]:
    """D = A B + D where scale-d is true, D = A B where it is not: the n / 2 registers of D.

    Warps 4 i to 4 i + 3 are a warpgroup. `a` is its 4 registers, or a descriptor like `b`: (warps, 32) of uint64.
    `scale_d` is (warps, 32) of bool. Descriptors must be the same in all lanes of a warpgroup; that scale-d must be is
    assumed. Raises ValueError where they are not, SharedFault for a matrix that is out of bounds. Sums, their rounding
    and subnormals are as in `mma`.
    """
    if len(d) != form.n // 2:
        raise ValueError(f"wgmma: got {len(d)} registers for D; expected {form.n // 2}")
    warps = len(block)
    if warps % WARPS or (block.reshape(-1, WARPS) != block[::WARPS, None]).any():
        raise ValueError(f"wgmma: got {warps} warps in blocks {block}; expected four neighbours of one block")
    home = block[::WARPS]

    if isinstance(a, np.ndarray):
        rows = matrix("wgmma: A", shared, home, decode(agree("A", a)), ROWS, form.dtype, bool(options.trans_a))
    else:
        if len(a) != 4:
            raise ValueError(f"wgmma: got {len(a)} registers for A; expected 4")
        rows = values(a_words(a), form.dtype).reshape(-1, ROWS, form.k)
    columns = matrix("wgmma: B", shared, home, decode(agree("B", b)), form.n, form.dtype, bool(options.trans_b))

    adding = agree("scale-d", scale_d)
    held = accumulators(d).reshape(-1, ROWS, form.n)
    kept = np.where(adding[:, None, None], held, np.float32(0)) if adding.any() else None
    product = multiply(rows * np.float32(options.scale_a), columns * np.float32(options.scale_b), kept)
    return accumulator_registers(product.reshape(warps, ROWS // WARPS, form.n))


def agree(what: str, register: np.ndarray) -> np.ndarray:
    """The value (warpgroups,) that all lanes of a warpgroup have. Raises ValueError where they differ."""
    lanes = register.reshape(-1, WARPS * LANES)
    differs = (lanes != lanes[:, :1]).any(axis=1)
    if differs.any():
        raise ValueError(f"wgmma: {what} differs among the lanes of warpgroup {int(differs.argmax())}")
    return lanes[:, 0]
