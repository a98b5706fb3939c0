"""Where the bytes of a matrix lie in shared memory, by the 64-bit descriptor that `wgmma` takes.

    bits  0-13   start address                   bits 49-51   base offset
    bits 16-29   leading dimension byte offset   bits 62-63   swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32
    bits 32-45   stride dimension byte offset    the others are 0

Addresses and offsets are in units of 16 bytes. A matrix is made of pieces of 16 bytes, neighbours along its major
dimension: along k, or along m or n. One of its pieces is at

    major k    without swizzle   start + 16 (row % 8)       + stride (row // 8) + leading piece
               swizzled          start + 16 width (row % 8) + stride (row // 8) + 16 piece
    major mn   without swizzle   start + 16 (k % 8)         + leading (k // 8)  + stride piece
               swizzled          start + 16 width (k % 8)   + stride (k // 8)   + 16 (piece % width)
                                       + leading (piece // width)

where `width` pieces are a row of the swizzle's pattern. The swizzle then exchanges pieces: it xors the address's bits
from 4 up with those from 7 up, 1, 2 or 3 of them.

Source: PTX ISA, "Shared Memory Matrix Layout" (9.7.15.5.1.2) with its "Canonical Layouts" and "Matrix Descriptor
Format". How the base offset enters is not said there. Here it is subtracted from the address's bits from 7 up, so that
a pattern that starts at such an address begins with its first row. The bits xored are those of the address itself, not
of the offset into the matrix: so a start within a pattern reads what one at its beginning would read there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.tensor_cores.elements import BYTES, values
from tilegrad.kernels.simulate.ptx.tensor_cores.faults import ROW, check_rows, rows_of

_FIELD = 0x3FFF
_KNOWN = np.uint64(_FIELD | _FIELD << 16 | _FIELD << 32 | 7 << 49 | 3 << 62)
_WIDTHS = np.array([1, 8, 4, 2])  # by the swizzle's number
_K_PIECES = 2  # along k every instruction takes 32 bytes


class Descriptor(NamedTuple):
    """Descriptors of many matrices: each field is an array (matrices,) of int64, addresses and offsets in bytes."""

    start: np.ndarray
    leading: np.ndarray
    stride: np.ndarray
    base: np.ndarray
    width: np.ndarray


def decode(bits: np.ndarray) -> Descriptor:
    """The fields of descriptors (matrices,) of uint64; ValueError where bits are set that have no meaning."""
    for number, value in enumerate(bits.tolist()):
        if value & ~int(_KNOWN):
            raise ValueError(f"descriptor {number}: got {value:#018x}; bits 14-15, 30-31, 46-48 and 52-61 must be 0")
        if value >> 49 & 7 and not value >> 62:
            raise ValueError(f"descriptor {number}: got {value:#018x}; a base offset needs a swizzle")

    def field(low: int, mask: int) -> np.ndarray:
        return (bits >> np.uint64(low) & np.uint64(mask)).astype(np.int64)

    start, leading, stride = (ROW * field(low, _FIELD) for low in (0, 16, 32))
    return Descriptor(start, leading, stride, field(49, 7), _WIDTHS[field(62, 3)])


def piece_addresses(descriptor: Descriptor, mn: int, dtype: str, mn_major: bool) -> np.ndarray:
    """The address of every 16-byte piece of mn rows of A, or columns of B, and 32 bytes along k.

    (matrices, mn, 2) of int64 if k is the major dimension, otherwise (matrices, mn / elements a piece, k).
    """
    start, leading, stride, base, width = (field[:, None, None] for field in descriptor)
    elements = ROW // BYTES[dtype]
    swizzled = width > 1
    if mn_major:
        k, piece = np.arange(_K_PIECES * elements)[None, None, :], np.arange(mn // elements)[None, :, None]
        across = np.where(swizzled, leading * (piece // width) + ROW * (piece % width), stride * piece)
        linear = ROW * width * (k % 8) + np.where(swizzled, stride, leading) * (k // 8) + across
    else:
        row, piece = np.arange(mn)[None, :, None], np.arange(_K_PIECES)[None, None, :]
        linear = ROW * width * (row % 8) + stride * (row // 8) + np.where(swizzled, ROW, leading) * piece
    address = start + linear
    return address ^ (((address >> 7) - base) & (width - 1)) << 4


def matrix(
    what: str, shared: np.ndarray, block: np.ndarray, descriptor: Descriptor, mn: int, dtype: str, mn_major: bool
) -> np.ndarray:
    """(matrices, mn, k) of float32: the rows of A, or the columns of B, from shared memory (blocks, bytes) of uint8.

    `block` (matrices,) says which block's memory. Raises SharedFault for pieces that are out of bounds.
    """
    at = piece_addresses(descriptor, mn, dtype, mn_major)
    check_rows(what, at.reshape(len(at), -1), shared.shape[1], warps=4)
    words = rows_of(shared)[block[:, None, None], at // ROW].view(np.uint32)
    if not mn_major:
        return values(words, dtype)
    pieces = values(words.reshape(*at.shape, 4), dtype)  # (matrices, pieces, k, elements along mn)
    return pieces.swapaxes(2, 3).reshape(len(at), mn, at.shape[2])
