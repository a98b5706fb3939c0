"""The clock of the host that calls are timed by."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

# Compiled code reads the same one (kernels/cpu/nanoseconds.py), where there is POSIX's clock_gettime.
IS_POSIX = hasattr(time, "clock_gettime_ns")
now: Callable[[], int] = partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC) if IS_POSIX else time.perf_counter_ns
