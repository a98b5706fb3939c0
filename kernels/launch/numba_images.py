"""Images in channels-last memory, and the threads over them, for the Numba kernels that write images.

    row i of what is written:   c0 c1 c2 | c0 c1 c2 | c0 c1 c2 | ...
                                column 0   column 1   column 2
    threadIdx.x                  0  1  2    3  4  5    6  7  8   ...     neighbours write neighbours
    threadIdx.y                 rows i, i + 1, ... of an image; blockIdx.z: images

A kernel takes `along, first_row, first_image = cuda.grid(3)`, leaves where along >= columns * channels, and steps
through the rows and images by the grid's size: CUDA counts blocks along y and z in 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.driver import MOST_ALONG
from tilegrad.kernels.launch.numba_kernel import Axes
from tilegrad.kernels.launch.numba_target import SIMULATED
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.windows import Pair

THREADS = 16 if SIMULATED else 256
MOST_BLOCKS = 2 if SIMULATED else MOST_ALONG[1]  # along y and z


def empty_images(images: int, size: Pair, channels: int, dtype: np.dtype) -> Any:
    """New memory (images, *size, channels)."""
    return gpu.xp().empty((images, *size, channels), dtype)


def channels_last(x: Any) -> Any:
    """x (N, C, H, W) as a dense (N, H, W, C) array: a view where x is that already."""
    return gpu.xp().ascontiguousarray(x.transpose(0, 2, 3, 1))


def channels_first(y: Any) -> Any:
    """y (N, H, W, C) as an array that is logically (N, C, H, W): a view."""
    return y.transpose(0, 3, 1, 2)


def threads_over(written: Any) -> tuple[Axes, Axes]:
    """(grid, block) for an array (images, rows, columns, channels)."""
    images, rows, columns, channels = written.shape
    wide = min(THREADS, next_power_of_2(columns * channels))
    high = THREADS // wide
    grid = cdiv(columns * channels, wide), min(cdiv(rows, high), MOST_BLOCKS), min(images, MOST_BLOCKS)
    return grid, (wide, high)
