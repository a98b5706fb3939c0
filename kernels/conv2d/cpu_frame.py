"""A frame of zeros around images, compiled: what convolutions read where a window leaves its image."""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.windows import Pair

_ZERO = np.float32(0)


def framed(x: np.ndarray, frame: Pair) -> np.ndarray:
    """x (N, H, W, C), float32, with so many rows of zeros above and below, and so many columns left and right.

    x itself, in C order, where the frame is of no width. Traffic: reads 4 N H W C bytes, writes that and the frame.
    """
    x = contiguous(x)
    above, left = frame
    if not (above or left):
        return x
    images, height, width, channels = x.shape
    wide = buffers.empty((images, height + 2 * above, width + 2 * left, channels), np.float32)
    most = images if wide.nbytes > threads.WORTH_SHARING else 1
    threads.share(
        _frame, most, images,
        x.reshape(-1), wide.reshape(-1), height, width * channels, above, left * channels,
    )  # fmt: skip
    return wide


@njit(nogil=True, cache=True)
def _frame(x, wide, height, row, above, left, begin, stop, part, team):
    """x (images, height, row) in wide (images, height + 2 above, row + 2 left)."""
    if team:
        share(begin, stop, part, team)
        return
    wide_row = row + 2 * left
    edge = above * wide_row + left  # zeros before the first row of an image, and after the last one
    for n in range(begin, stop):
        first = n * (height + 2 * above) * wide_row
        wide[first : first + edge] = _ZERO
        first += edge
        for i in range(n * height, n * height + height):
            # A slice set to a slice takes a second more to compile: the words of its error are code.
            source, target = borrowed(x, i * row, row), borrowed(wide, first, row)
            for j in range(row):
                target[j] = source[j]
            wide[first + row : first + wide_row] = _ZERO  # right of this row, and left of the next one
            first += wide_row
        wide[first : first + edge - 2 * left] = _ZERO
