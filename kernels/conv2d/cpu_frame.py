"""Tiles over images in a frame of zeros: what convolutions read where a window leaves its image.

A frame around all images would be written to memory and read again. Here each thread has memory for one image in its
frame, which stays in its cache, and all that reads the image comes while it is there. Milliseconds of a residual net's
step on one core:

    | frames        | batch 64 | batch 256 |
    | of all images |   23.2   |   108.1   |
    | of one        |   21.7   |    90.8   |
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.cpu.tile import NO_BIAS, NO_SHIFT, call_tiles, tiles, tiles_address, walk_array
from tilegrad.kernels.windows import Pair

_ZERO = np.float32(0)
_NO_ROWS = np.empty(0, np.intp)


class Tiles(NamedTuple):
    """What `tiles` takes beside x, an item being an image. Where that is framed, walks have x_item = 0."""

    walks: np.ndarray
    y: np.ndarray
    y_at: np.ndarray
    x_at: np.ndarray
    run_at: np.ndarray
    w: np.ndarray
    bias: np.ndarray = NO_BIAS


NO_TILES = Tiles(walk_array(), NO_BIAS, _NO_ROWS, _NO_ROWS, _NO_ROWS, NO_BIAS)


def over_images(x: np.ndarray, frame: Pair, first: Tiles, second: Tiles = NO_TILES) -> None:
    """Both sets of tiles over x (N, H, W, C), float32, with so many rows of zeros above and below each image, and so
    many columns left and right.

    Traffic: reads 4 N H W C bytes once, if an image in its frame fits the cache, and what the tiles read and write.
    """
    x = contiguous(x)
    above, left = frame
    images, height, width, channels = x.shape
    if not (above or left):
        for t in (first, second):
            if len(t.walks):
                threads.share(
                    tiles, images, images,
                    t.walks, t.y, t.y_at, NO_SHIFT, x.reshape(-1), t.x_at, t.run_at, t.w, t.bias,
                )  # fmt: skip
        return
    framed = (min(threads.num_threads(), images), (height + 2 * above) * (width + 2 * left) * channels)
    threads.share(
        _framed_tiles, images, images,
        x.reshape(-1), buffers.empty(framed, np.float32), height, width * channels, above, left * channels, NO_SHIFT,
        tiles_address(), *first, *second,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _framed_tiles(
    x, frames, height, row, above, left, no_shift, tiles_at,
    walks, y, y_at, x_at, run_at, w, bias,
    walks_2, y_2, y_2_at, x_2_at, run_2_at, w_2, bias_2,
    begin, stop, part, team,
):  # fmt: skip
    """x (images, height, row), each in its turn in frames[part] (height + 2 above, row + 2 left)."""
    if team:
        share(begin, stop, part, team)
        return
    frame, wide = frames[part], row + 2 * left
    for j in range(frame.size):
        frame[j] = _ZERO
    for n in range(begin, stop):
        for i in range(height):
            at, source = (above + i) * wide + left, (n * height + i) * row
            for j in range(row):
                store(frame, at + j, load(x, source + j))
        call_tiles(tiles_at, walks, y, y_at, no_shift, frame, x_at, run_at, w, bias, n, n + 1, part)
        call_tiles(tiles_at, walks_2, y_2, y_2_at, no_shift, frame, x_2_at, run_2_at, w_2, bias_2, n, n + 1, part)
