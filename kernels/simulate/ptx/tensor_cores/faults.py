"""What a warp may not do with shared memory: an error that says which warp and lane, and at which address."""

from __future__ import annotations

import numpy as np

ROW = 16  # bytes that every matrix instruction reads or writes in one piece, and their alignment


class SharedFault(ValueError):
    """An access to shared memory that the manual does not allow.

    `warp` counts along the registers' first axis. `lane` is the lane that gave the address, or None where a descriptor
    did. `address` is in bytes from the start of the block's shared memory.
    """

    def __init__(self, what: str, warp: int, lane: int | None, address: int) -> None:
        super().__init__(f"{what} (warp {warp}{'' if lane is None else f', lane {lane}'}, shared address {address})")
        self.warp, self.lane, self.address = warp, lane, address


def rows_of(shared: np.ndarray) -> np.ndarray:
    """A view (blocks, bytes // 16) of shared memory (blocks, bytes), 16 bytes an element.

    complex128 stands for those 16 bytes, because NumPy moves such elements fastest; nothing is computed with them.
    """
    if shared.dtype != np.uint8 or shared.ndim != 2:
        raise ValueError(f"shared memory: got {shared.shape} of {shared.dtype}; expected (blocks, bytes) of uint8")
    return shared[:, : shared.shape[1] // ROW * ROW].view(np.complex128)


def check_rows(what: str, addresses: np.ndarray, size: int, warps: int = 1) -> None:
    """Raise SharedFault at the first of the addresses (n, rows) at which there is no aligned row of 16 bytes.

    The addresses in each line are those of so many warps; of one warp, the columns are the lanes that gave them.
    """
    for wrong, fault in (
        (addresses % ROW != 0, f"{what}: misaligned; a matrix row starts at a multiple of {ROW} bytes"),
        ((addresses < 0) | (addresses + ROW > size), f"{what}: out of bounds; the block has {size} bytes"),
    ):
        if wrong.any():
            line, at = (int(i) for i in np.argwhere(wrong)[0])
            raise SharedFault(fault, line * warps, at if warps == 1 else None, int(addresses[line, at]))
