"""The place in the Philox stream where a seed of Keras' begins.

A seed is a tensor of two numbers, which a SeedGenerator changes at each draw. It is read on the host: while a step is
captured as a recorded number, so that each launch draws others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.device import on_host
from tilegrad.kernels.capture.program import Program
from tilegrad.random import Generator
from tilegrad.tensor import Tensor

_WORDS = 2**64


class Stream(Generator):
    """The words from the place of one seed on."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed
        self._taken = 0

    def take_for(self, array: Any, n: int) -> tuple[int, Any]:
        """(0, the place of the next n words); all seeds are places in the stream of one."""
        before, self._taken = self._taken, self._taken + n
        account = capture_hooks.current()
        if account is None:
            return 0, place(on_host(self._seed.data), before)
        if not isinstance(account.graph, Program):
            raise capture_hooks.CaptureError("draws by a seed in the GPU's memory; expected run_eagerly=True")
        account.reads(self._seed)
        seed = account.graph.plain(self._seed.data, "seed")
        return 0, account.number(lambda: place(seed, before), np.uint64)


def place(seed: Any, behind: int = 0) -> int:
    """The place so many words behind where the seed, an array of two integers, begins.

    Seeds that are alike begin far from each other: both numbers are mixed by the finaliser of SplitMix64 (Steele, Lea
    & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Of a million draws of a million numbers
    the chance is 3 % that any two overlap.
    """
    first, second = map(int, seed)
    return (_mixed(_mixed(first) + second) + behind) % _WORDS


def _mixed(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % _WORDS
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % _WORDS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % _WORDS
    return x ^ (x >> 31)
