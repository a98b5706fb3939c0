"""Programs whose memory is poisoned where nothing lives in it: an array that is read then gives NaN, or -1."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from tilegrad.kernels.capture import program
from tilegrad.kernels.cpu import buffers

SMALLEST = 64  # bytes: nearly all arrays of a small net are planned


@contextlib.contextmanager
def poisoned() -> Iterator[list[int]]:
    """In the block, programs fill the memory of each planned array before the first call that uses it, and behind the
    last one. Arrays of a few bytes are planned as large ones are elsewhere. Gives how many arrays each program plans.
    """
    counts, plan_memory, planned = [], program.Program._plan_memory, program.planned

    def poisoning(it):
        pieces = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(program, "planned", lambda given: (pieces.extend(given), planned(given))[1])
            plan_memory(it)
        counts.append(len(pieces))
        steps, guards = [], {}
        for i, step in enumerate(it._steps):
            steps += [(np.ndarray.fill, (bytes_of(piece), 255)) for piece in pieces if piece.first == i]
            if i in it._guards:
                guards[len(steps)] = it._guards[i]
            steps.append(step)
            steps += [(np.ndarray.fill, (bytes_of(piece), 255)) for piece in pieces if piece.last == i]
        it._steps, it._guards = steps, guards

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "SMALLEST", SMALLEST)
        patch.setattr(program.Program, "_plan_memory", poisoning)
        yield counts


def bytes_of(piece) -> np.ndarray:
    return np.ndarray(piece.nbytes, np.uint8, (ctypes.c_char * piece.nbytes).from_address(piece.start))
