"""One Philox stream: every random number of the engine comes from here.

A Generator is a seed and an offset into the counter-based stream Philox4x32-10 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011). Drawing n words moves the offset by n. So one number fixes the randomness of a
whole program, and an op that is given (seed, offset) makes the same bits on any device, in any order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad import capture_hooks, kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system import forks

_ON_HOST = np.empty(0)


class Generator:
    """A position in the Philox stream of one seed. Seeds are taken modulo 2^64."""

    _lock: Any  # from forks.give_lock

    def __init__(self, seed: int = 0) -> None:
        forks.give_lock(self)
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start again at offset 0 of the stream with this seed."""
        capture_hooks.refuse("sets the random stream, once and for all; expected it before the step")
        if not isinstance(seed, (int, np.integer)):
            raise TypeError(f"manual_seed: expected an int; got {type(seed).__name__}")
        self.seed = int(seed) % 2**64
        self.offset = 0
        return self

    def get_state(self) -> tuple[int, int]:
        """(seed, offset), which is the whole state."""
        return self.seed, self.offset

    def set_state(self, state: tuple[int, int]) -> None:
        """Go back to a state that get_state gave."""
        capture_hooks.refuse("sets the random stream, once and for all; expected it before the step")
        self.seed, self.offset = state

    def take(self, n: int) -> tuple[int, int]:
        """Reserve the next n words: (seed, the offset of the first of them)."""
        capture_hooks.refuse("draws on the CPU, once and for all; expected it before the step, as an argument")
        return self._take(n)

    def take_for(self, array: Any, n: int) -> tuple[int, Any]:
        """As `take`, for a draw beside this array. Where a step is captured the offset is in device memory."""
        account = capture_hooks.on_device(array)
        if account is None:
            return self.take(n)
        seed, state = self.seed, self.get_state()
        account.holds(lambda: self.seed == seed, self)
        account.undo(lambda: self.set_state(state))
        return seed, account.number(lambda: self._take(n)[1] % 2**64, np.uint64)

    def _take(self, n: int) -> tuple[int, int]:
        with self._lock:
            offset = self.offset
            self.offset += n
        return self.seed, offset

    def bits(self, n: int) -> np.ndarray:
        """The next n words, uint32."""
        return kernels.of().random_bits(*self.take_for(_ON_HOST, n), n)

    def uniform(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Uniform on [0, 1): as many bits of a word as the dtype holds below 1 (53 of two words for float64)."""
        n = math.prod(shape)
        if dtype == np.float64:
            words = self.bits(2 * n).astype(np.uint64)
            mantissa = ((words[0::2] << np.uint64(32)) | words[1::2]) >> np.uint64(11)
            values = mantissa * 2.0**-53
        elif dtype == np.float32:
            values = (self.bits(n) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
        else:
            bits = 11 if dtype == np.float16 else 8  # more would round up to 1
            values = (self.bits(n) >> np.uint32(32 - bits)).astype(np.float32) * np.float32(2.0**-bits)
        return values.astype(dtype, copy=False).reshape(shape)

    def normal(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Standard normal by Box and Muller (1958), in pairs; computed in float64."""
        n = math.prod(shape)
        pairs = (n + 1) // 2
        u = self.uniform((2, pairs), np.dtype(np.float64))
        radius, angle = np.sqrt(-2.0 * np.log1p(-u[0])), 2.0 * np.pi * u[1]  # 1 - u lies in (0, 1]
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return values[:n].astype(dtype, copy=False).reshape(shape)

    def integers(self, low: int, high: int, shape: Sequence[int]) -> np.ndarray:
        """Uniform integers in [low, high), int64, from 64 random bits modulo the range (bias below range / 2^64)."""
        if not -(2**63) <= low < high <= 2**63:
            raise ValueError(f"randint: expected low < high within int64; got low={low}, high={high}")
        n = math.prod(shape)
        words = self.bits(2 * n).astype(np.uint64)
        wide = (words[0::2] << np.uint64(32)) | words[1::2]
        if high - low < 2**64:
            wide %= np.uint64(high - low)
        return (np.int64(low) + wide.view(np.int64)).reshape(shape)  # modulo 2^64, which brings it back into range

    def permutation(self, n: int, device: str = "cpu") -> Any:
        """A random order of range(n), int64: the stable sort of n keys of 64 bits, drawn and sorted on the device."""
        xp = np if device == "cpu" else gpu.xp()
        beside = xp.empty(0, np.uint32)
        words = kernels.of(beside).random_bits(*self.take_for(beside, 2 * n), 2 * n).astype(np.uint64)
        return xp.argsort((words[0::2] << np.uint64(32)) | words[1::2], kind="stable").astype(np.int64)


# As in PyTorch, an unseeded run differs from the one before.
default_generator = Generator(int.from_bytes(os.urandom(8), "little"))


def manual_seed(seed: int) -> Generator:
    """Fix all randomness that follows (initialisation, dropout, shuffles). Returns the default generator."""
    return default_generator.manual_seed(seed)
