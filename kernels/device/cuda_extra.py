"""Which extra of this project serves the machine's NVIDIA driver: python3 kernels/device/cuda_extra.py

Prints "cuda13" or "cuda12" and says on stderr what it found; prints nothing where no driver serves. Run by
the Makefile before anything is installed, so it needs Python alone.
"""

from __future__ import annotations

import ctypes
import sys

OLDEST, NEWEST = 12, 13  # the CUDA versions that an extra exists for


def extra_for(version: int | None) -> tuple[str, str]:
    """(the extra, what to tell) for a driver's CUDA version as cuDriverGetVersion counts it, 13000 for 13.0."""
    if version is None:
        return "", "no NVIDIA driver here: the CPU kernels are installed"
    major, minor = version // 1000, version % 1000 // 10
    if major < OLDEST:
        return "", f"the NVIDIA driver serves CUDA {major}.{minor}; expected {OLDEST}.0 or newer: the GPU stays unused"
    extra = f"cuda{min(major, NEWEST)}"
    return extra, f"the NVIDIA driver serves CUDA {major}.{minor}: installing the extra [{extra}]"


def driver_version() -> int | None:
    """The CUDA version that the driver serves; None where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


if __name__ == "__main__":
    extra, message = extra_for(driver_version())
    print(message, file=sys.stderr)
    print(extra)
