"""The threads over images in channels-last memory, for the Numba kernels that write images.

    row i of what is written:   c0 c1 c2 | c0 c1 c2 | c0 c1 c2 | ...
                                column 0   column 1   column 2
    threadIdx.x                  0  1  2    3  4  5    6  7  8   ...     neighbours write neighbours
    threadIdx.y                 rows i, i + 1, ... of an image; blockIdx.z: images

A kernel takes `along, first_row, first_image = cuda.grid(3)`, returns where along >= columns * channels, and steps
through the rows and images by the size of the grid: CUDA counts blocks along y and z in 16 bits.
"""

from __future__ import annotations

from typing import Any

from tilegrad.kernels.launch.driver import MOST_ALONG
from tilegrad.kernels.launch.numba_kernel import Axes
from tilegrad.kernels.launch.numba_target import SIMULATED
from tilegrad.kernels.sizes import cdiv, next_power_of_2

THREADS = 16 if SIMULATED else 256
MOST_BLOCKS = 2 if SIMULATED else MOST_ALONG[1]  # along y and z


def threads_over(written: Any) -> tuple[Axes, Axes]:
    """(grid, block) for an array (images, rows, columns, channels)."""
    images, rows, columns, channels = written.shape
    wide = min(THREADS, next_power_of_2(columns * channels))
    high = THREADS // wide
    grid = cdiv(columns * channels, wide), min(cdiv(rows, high), MOST_BLOCKS), min(images, MOST_BLOCKS)
    return grid, (wide, high)
