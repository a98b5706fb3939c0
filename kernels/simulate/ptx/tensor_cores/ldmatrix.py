"""`ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and a warp's registers.

The 16-byte rows of matrix i are at the addresses in lanes 8 i to 8 i + 7. Register i of lane l has the elements
2 (l%4) and 2 (l%4) + 1 of row l//4; with .trans, of column l//4.

Source: PTX ISA, "Warp-level matrix load instruction: ldmatrix" (9.7.14.5.15), "... stmatrix" (9.7.14.5.16).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.tensor_cores.faults import ROW, SharedFault, check_rows, rows_of
from tilegrad.kernels.simulate.ptx.tensor_cores.fragments import LANES, Registers

_OPCODE = re.compile(r"(ldmatrix|stmatrix)\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")


class Form(NamedTuple):
    """`name`.sync.aligned.m8n8.x`count`{.trans}.shared.b16"""

    name: str
    count: int
    trans: bool


def read(opcode: str) -> Form:
    """The form of an `ldmatrix` or `stmatrix` opcode; ValueError for one that is not known here."""
    found = _OPCODE.fullmatch(opcode)
    if not found:
        raise ValueError(
            f"{opcode}: not a known form; expected ldmatrix or stmatrix .sync.aligned.m8n8.xN{{.trans}}.shared.b16 "
            "with N 1, 2 or 4"
        )
    return Form(found[1], int(found[2]), bool(found[3]))


def row_addresses(form: Form, addresses: np.ndarray) -> np.ndarray:
    """Where the rows start that are read or written, (warps, 8 count), in the order of the lanes that give them.

    Addresses (warps, 32) in the other lanes do not count.
    """
    return addresses[:, : 8 * form.count].astype(np.int64)


def ldmatrix(form: Form, shared: np.ndarray, block: np.ndarray, addresses: np.ndarray) -> list[np.ndarray]:
    """The `count` registers that are loaded from shared memory at the addresses (warps, 32) in bytes.

    Raises SharedFault for a row that is misaligned or out of bounds.
    """
    at = row_addresses(form, addresses)
    check_rows(form.name, at, shared.shape[1])
    rows = rows_of(shared)[block[:, None], at // ROW]
    matrices = rows.view(np.uint16).reshape(len(at), form.count, 8, 8)
    return list(np.moveaxis(_oriented(form, matrices).view(np.uint32), 1, 0).reshape(form.count, len(at), LANES))


def stmatrix(form: Form, shared: np.ndarray, block: np.ndarray, addresses: np.ndarray, registers: Registers) -> None:
    """Write the `count` registers to shared memory at the addresses (warps, 32) in bytes.

    Raises SharedFault for a row that is misaligned or out of bounds, and for lanes that write different values to one.
    Of equal values it does not matter whose is last: Triton stores what several lanes hold alike.
    """
    if len(registers) != form.count:
        raise ValueError(f"stmatrix: got {len(registers)} registers; expected {form.count}")
    at = row_addresses(form, addresses)
    check_rows(form.name, at, shared.shape[1])
    matrices = np.stack(registers, axis=1).view(np.uint16).reshape(len(at), form.count, 8, 8)
    rows = _oriented(form, matrices).reshape(len(at), -1).view(np.complex128)
    places = block[:, None], at // ROW
    rows_of(shared)[places] = rows
    lost = (rows_of(shared)[places].view(np.uint64) != rows.view(np.uint64)).reshape(*at.shape, 2).any(axis=2)
    if lost.any():
        warp, lane = (int(i) for i in np.argwhere(lost)[0])
        raise SharedFault("stmatrix: another lane writes another value to this row", warp, lane, int(at[warp, lane]))


def _oriented(form: Form, matrices: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrices.swapaxes(-1, -2) if form.trans else matrices)
