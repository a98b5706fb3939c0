"""What this machine can do at most, measured when it is first asked for: some hundredths of a second each.

    bandwidth   bytes a second of a copy that moves as many bytes, so that what fits a cache is compared with a cache
    products    FLOP a second of a matrix product, by the fastest that is here: NumPy's BLAS or this package's kernels

They are for orientation. `python -m tilegrad.bench` measures ceilings with more care. A small product, whose matrices
stay in a cache, may be faster than the one here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.clock import now
from tilegrad.kernels.timing import clocks

_LEAST, _MOST = 1 << 16, 1 << 27  # bytes that a copy moves: with fewer its call is what costs
_SECONDS = 0.01  # that a measurement takes


def of_call(device: str, dtype: np.dtype, nbytes: int, flop: int) -> float | None:
    """Seconds that such a call takes at the ceilings; None on a simulated device, which has none, and for no work."""
    if device == "cuda" and gpu.is_simulated():
        return None
    needs = nbytes / bandwidth(device, nbytes) if nbytes else 0.0
    if flop:
        needs = max(needs, flop / products(device, dtype))
    return needs or None


def bandwidth(device: str, nbytes: int) -> float:
    """Bytes a second, read and written, of a copy that moves about so many."""
    if device == "cuda":
        return _copy(device, 1 << 29)
    return _copy(device, min(_MOST, max(_LEAST, 1 << max(nbytes - 1, 1).bit_length())))


def products(device: str, dtype: np.dtype) -> float:
    """FLOP a second. The CPU's kernels compute 16-bit types in float32."""
    name = dtype.name if dtype.name in ("float64", "float16") else "float32"
    if dtype.name == "bfloat16" and device == "cuda":
        name = "float16"  # the tensor cores have one peak for both
    return _product(device, "float32" if name == "float16" and device == "cpu" else name)


@cache
def _copy(device: str, nbytes: int) -> float:
    xp: Any = np if device == "cpu" else gpu.xp()
    x, y = xp.ones(nbytes // 8, np.float32), xp.empty(nbytes // 8, np.float32)
    ways: list[Callable[[], Any]] = [lambda: xp.copyto(y, x)]
    ours = getattr(_backend(), "UFUNCS", None) if device == "cpu" else None
    if ours is not None:
        ways.append(lambda: ours.copy(y, x))
    return nbytes / min(_seconds(device, way) for way in ways)


@cache
def _product(device: str, dtype: str) -> float:
    xp: Any = np if device == "cpu" else gpu.xp()
    n = 512 if device == "cpu" else 4096
    a = xp.asarray(np.random.default_rng(0).standard_normal((n, n)).astype(dtype))
    ways: list[Callable[[], Any]] = [lambda: xp.matmul(a, a)]
    if device == "cpu":
        ways.append(lambda: _backend().matmul(a, a))
    return 2 * n**3 / min(_seconds(device, way) for way in ways)


def _backend() -> Any:
    return kernels.load("cpu") if kernels.can_compile() else kernels.load("reference")


def _seconds(device: str, call: Callable[[], Any]) -> float:
    """Of the fastest of some calls."""
    clock = clocks.of(device)
    call()
    marks: list[tuple[Any, Any]] = []
    stop = now() + int(1e9 * _SECONDS)
    while len(marks) < 5 or now() < stop:
        begin = clock.mark()
        call()
        marks.append((begin, clock.mark()))
    clock.settle()
    times = [clock.times(*pair) for pair in marks]
    return max(min(end - begin for begin, end in times), 1) / 1e9
