"""The place in the Philox stream where a seed of Keras' begins.

A seed is a tensor of two numbers, which a SeedGenerator changes at each draw. On a GPU the place is computed where the
seed is: nothing waits for it. On the CPU it is a number, while a step is captured a recorded one. So each launch draws
others.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from keras.src.random.seed_generator import draw_seed

from tilegrad import capture_hooks, kernels
from tilegrad.random import Generator
from tilegrad.tensor import Tensor

_WORDS = 2**64
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64


def stream_of(seed: Any) -> Stream:
    """The words of a seed of Keras', an int or a SeedGenerator, where the seed is."""
    return Stream(cast(Tensor, draw_seed(seed)))


def stream_of_host(seed: Any) -> Stream:
    """The same words on the host, for what is computed there."""
    return Stream(cast(Tensor, draw_seed(seed)).cpu())


class Stream(Generator):
    """The words from the place of one seed on."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed
        self._taken = 0

    def take_for(self, array: Any, n: int) -> tuple[int, Any]:
        """(0, the place of the next n words); all seeds are places in the stream of one."""
        before, self._taken = self._taken, self._taken + n
        seed, account = self._seed.data, capture_hooks.current()
        if account is not None:
            account.reads(self._seed)
        if not isinstance(seed, np.ndarray):
            return 0, place_on_gpu(seed, before)
        if account is None:
            return 0, place(seed, before)
        held = account.graph.plain(seed, "seed")  # type: ignore[attr-defined]  # of a program
        return 0, account.number(lambda: place(held, before), np.uint64)

    def bits(self, n: int) -> Any:
        """The next n words, uint32, where the seed is: what is computed from them is as well."""
        beside = self._seed.data
        return kernels.of(beside).random_bits(*self.take_for(beside, n), n)


def place(seed: Any, behind: int = 0) -> int:
    """The place so many words behind where the seed, an array of two integers, begins.

    Seeds that are alike begin far from each other: both numbers are mixed by the finaliser of SplitMix64 (Steele, Lea
    & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Of a million draws of a million numbers
    the chance is 3 % that any two overlap.
    """
    first, second = map(int, seed)
    return (_mixed(_mixed(first) + second) + behind) % _WORDS


def _mixed(x: int) -> int:
    x = (x + _STEP) % _WORDS
    x = (x ^ (x >> 30)) * _FIRST % _WORDS
    x = (x ^ (x >> 27)) * _SECOND % _WORDS
    return x ^ (x >> 31)


def place_on_gpu(seed: Any, behind: int = 0) -> Any:
    """As `place`, for an array of the GPU's: a 0-d one of uint64, whose arithmetic is modulo 2^64."""
    first, second = seed.astype(np.uint64)
    return _mixed_on_gpu(_mixed_on_gpu(first) + second) + np.uint64(behind)


def _mixed_on_gpu(x: Any) -> Any:
    x = x + np.uint64(_STEP)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))
