"""Which configuration a kernel is launched with: the shipped default, or what was fastest on this card.

A launcher whose best tile depends on shapes owns a `Tuned`: at most 8 configurations for an architecture, and a rule
that picks the default among them. On first use of a *bucket* (shapes that ought to want the same configuration) all of
them are timed on the arguments themselves with CUDA events, and the winner is kept, also on disk
(launch/tuning_cache.py).

The default is taken where TILEGRAD_AUTOTUNE=0, on the simulated device, and during stream capture, which forbids
waiting for an event: what is captured should have run once before.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.launch import tuning_cache
from tilegrad.kernels.system.modes import Block

MOST = 8
Config = Mapping[str, int]  # keyword arguments of the kernel: its constexprs, num_warps, num_stages
Bucket = tuple[Any, ...]

_ROUNDS = 5  # each configuration is timed once a round, so that a change of clock touches all alike
_ROUND_MS = 2.0  # of one configuration: long beside the resolution of an event, half a microsecond


class _Local(threading.local):
    forced: int | None = None  # which configuration of each list is taken


_here = _Local()


class Tuned:
    """The configurations of one launcher.

    name     the launcher's, in the cache and in tables
    configs  by architecture: the entry of the largest one that is not beyond the card's serves it (80 is the least)
    default  (arch, bucket) -> index into the list of that entry
    kernels  whose sources a measurement depends on
    """

    def __init__(
        self,
        name: str,
        configs: Mapping[int, Sequence[Config]],
        default: Callable[[int, Bucket], int],
        kernels: Sequence[launch.Kernel] = (),
    ) -> None:
        assert all(0 < len(each) <= MOST for each in configs.values()), f"{name}: more than {MOST} configurations"
        self.name = name
        self.configs = configs
        self.default = default
        self.kernels = kernels
        self._chosen: dict[Any, Config] = {}

    def of(self, arch: int) -> Sequence[Config]:
        """The configurations for that architecture."""
        return self.configs[max(a for a in self.configs if a <= arch)]

    def choose(self, bucket: Bucket, dtype: np.dtype, run: Callable[[Config], None]) -> Config:
        """The configuration for these arguments.

        bucket   what the choice depends on, besides the dtype: numbers and strings
        run      launches with a configuration; called any number of times with each, so it must not build on what
                 it wrote before
        """
        forced = _here.forced
        if forced is None and not launch.is_collecting():
            chosen = self._chosen.get((bucket, dtype))
            if chosen is not None:
                return chosen
        configs = self.of(launch.architecture())
        if forced is not None:
            return configs[forced % len(configs)]
        default = configs[self.default(launch.architecture(), bucket)]
        if launch.is_collecting():
            with launch.alternatives():
                for config in configs:
                    if config is not default:
                        run(config)
            return default
        if not is_enabled() or gpu.is_simulated():
            self._chosen[bucket, dtype] = default
            return default
        if gpu.xp().cuda.get_current_stream().is_capturing():
            return default
        chosen = self._chosen[bucket, dtype] = self._remembered(bucket, dtype, configs, run)
        return chosen

    def _remembered(
        self, bucket: Bucket, dtype: np.dtype, configs: Sequence[Config], run: Callable[[Config], None]
    ) -> Config:
        """From the cache on disk; otherwise measured, and put there."""
        key = tuning_cache.key(self.name, self.kernels, bucket, dtype)
        found = tuning_cache.load(key)
        for config in configs:
            if found == dict(config):
                return config
        fastest = measure(configs, run)
        tuning_cache.store(key, dict(fastest))
        return fastest


def is_enabled() -> bool:
    """Whether configurations are timed: not where TILEGRAD_AUTOTUNE=0."""
    return os.environ.get("TILEGRAD_AUTOTUNE", "1") != "0"


def forced(index: int) -> Block:
    """Within the block every Tuned takes its configuration of that index (modulo their number): to test each."""
    return Block((_here, "forced", index))


def measure(configs: Sequence[Config], run: Callable[[Config], None]) -> Config:
    """The configuration with the least median time on the current stream; one that the card refuses is left out.

    Raises the last refusal if all are refused.
    """
    repeats: dict[int, int] = {}
    refusal: Exception | None = None
    for i, config in enumerate(configs):
        try:
            run(config)  # compiles and loads
            once = max(_milliseconds(run, config, 1), 1e-3)
            repeats[i] = max(1, min(100, round(_ROUND_MS / once)))
        except Exception as e:  # too much shared memory or too many registers for this card: no error type says so
            refusal = e
    if not repeats:
        assert refusal is not None
        raise refusal
    times: dict[int, list[float]] = {i: [] for i in repeats}
    for _ in range(_ROUNDS):
        for i, n in repeats.items():
            times[i].append(_milliseconds(run, configs[i], n) / n)
    return configs[min(times, key=lambda i: statistics.median(times[i]))]


def _milliseconds(run: Callable[[Config], None], config: Config, repeats: int) -> float:
    cuda = gpu.xp().cuda
    start, stop = cuda.Event(), cuda.Event()
    start.record()
    for _ in range(repeats):
        run(config)
    stop.record()
    stop.synchronize()
    return cuda.get_elapsed_time(start, stop)
