"""What this machine can do at most, measured in the process that measures the rest, and before it.

    copy, triad      GB/s read + written, of arrays beyond any cache; on a GPU CuPy's copy of 1 GiB
    float32          GFLOP/s: on the CPU of multiply-adds in registers (bench/peak.py), or of the best product where
                     that is more; on a GPU of cuBLAS, by torch or otherwise by CuPy. Every dtype of the rows has one
    float32 product  on the CPU, GFLOP/s of a large product by the fastest BLAS, NumPy's or torch's: for comparison

"float32 tf32" is its own ceiling; tf32x3, three products for one, is compared with it too.

A row of the CPU that memory bounds is compared with the copy, triad or sum of its own size (bench/bandwidth.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tilegrad.bench.clock import Events, wall
from tilegrad.bench.inputs import DTYPES, Traffic
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu

Ceiling = dict[str, Any]  # value, unit, how
LEAST_SECONDS = 0.5


def of_cpu(dtypes: Iterable[str], quick: bool) -> dict[str, Ceiling]:
    """The copy and the triad; of each dtype the best product, and the most that arithmetic gives."""
    found = {}
    array = 1 << 26 if quick else 1 << 27
    for name, arrays in (("copy", 2), ("triad", 3)):
        if top := of_memory(Traffic((arrays - 1) * array, array)):
            found[name] = top | {"how": f"{top['how']}, {arrays} x {array >> 20} MiB"}
    n = 1024 if quick else 2048
    for dtype in dtypes:
        calls = {"NumPy": _numpy_product(dtype, n)} if dtype in ("float32", "float64") else {}
        if importlib.util.find_spec("torch") is not None:
            calls["torch"] = _torch_product(dtype, n, "cpu")
        tops = []
        if calls:
            tops.append(_best_product(calls, n, _least))
            found[f"{dtype} product"] = tops[0]
        if top := _peak("float64" if dtype == "float64" else "float32"):  # kernels compute 16-bit types in float32
            tops.append(top)
        if tops:
            found[dtype] = max(tops, key=lambda top: top["value"])
    return found


def of_memory(traffic: Traffic) -> Ceiling | None:
    """What the CPU's memory gives to so much traffic; None where Numba is not there to compile a loop."""
    try:
        bandwidth = importlib.import_module("tilegrad.bench.bandwidth")
    except ImportError:
        return None
    value, how = bandwidth.best(traffic)
    return {"value": value / 1e9, "unit": "GB/s", "how": how}


def _peak(dtype: str) -> Ceiling | None:
    try:
        peak = importlib.import_module("tilegrad.bench.peak")
    except ImportError:
        return None
    value, how = peak.best(dtype)
    return {"value": value / 1e9, "unit": "GFLOP/s", "how": how}


def of_gpu(events: Events, pairs: Iterable[tuple[str, str]]) -> dict[str, Ceiling]:
    """The copy, and cuBLAS for each (dtype, precision)."""
    xp = gpu.xp()
    x = xp.zeros(1 << 28, np.float32)
    y = xp.empty_like(x)

    def copy() -> None:
        y[...] = x

    ms = _median(events.kernel, copy)
    found = {"copy": {"value": 2 * x.nbytes / ms / 1e6, "unit": "GB/s", "how": "CuPy, 1 GiB"}}
    n = 8192
    has_torch = importlib.util.find_spec("torch") is not None and importlib.import_module("torch").cuda.is_available()
    for dtype, precision in pairs:
        name = product_name(dtype, precision)
        if name in found:
            continue
        if has_torch:
            torch = importlib.import_module("torch")
            torch.backends.cuda.matmul.allow_tf32 = name.endswith("tf32")
            calls = {"torch": _torch_product(dtype, n, "cuda")}
        elif name.endswith("tf32") or dtype == "bfloat16":
            continue
        else:
            a = xp.asarray(np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)).astype(dtype)
            calls = {"CuPy": lambda a=a: a @ a}
        found[name] = _best_product(calls, n, lambda call: _median(events.kernel, call), "cuBLAS by ")
    return found


def product_name(dtype: str, precision: str) -> str:
    """The name of the ceiling for a row's arithmetic."""
    return f"{dtype} tf32" if precision in ("tf32", "tf32x3") else dtype


def _median(clock: Callable[[Callable], float], call: Callable) -> float:
    for _ in range(3):
        call()
    return statistics.median(clock(call) for _ in range(15))


def _least(call: Callable) -> float:
    """The fastest of some calls, so that what else the machine does is no part of a ceiling."""
    stop = time.perf_counter() + LEAST_SECONDS
    times = [wall(call) for _ in range(3)]
    while time.perf_counter() < stop:
        times.append(wall(call))
    return min(times)


def _numpy_product(dtype: str, n: int) -> Callable[[], Any]:
    a = np.random.default_rng(0).standard_normal((n, n)).astype(DTYPES[dtype])
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def _torch_product(dtype: str, n: int, device: str) -> Callable[[], Any]:
    torch = importlib.import_module("torch")
    host = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    a = torch.from_numpy(host).to(device, getattr(torch, "bfloat16" if DTYPES[dtype] == bfloat16 else dtype))
    out = torch.empty_like(a)
    return lambda: torch.matmul(a, a, out=out)


def _best_product(calls: dict[str, Callable], n: int, best_ms: Callable[[Callable], float], by: str = "") -> Ceiling:
    times = {name: best_ms(call) for name, call in calls.items()}
    name = min(times, key=lambda by: times[by])
    value = 2 * n**3 / times[name] / 1e6
    return {"value": value, "unit": "GFLOP/s", "how": f"{by}{name}, {n} x {n} x {n}"}
