"""The vector registers of the processor that Numba compiles for: this one, or the one that NUMBA_CPU_FEATURES names."""

from __future__ import annotations

import platform
from typing import NamedTuple

import llvmlite.binding as llvm
from numba.core import config


class VectorUnit(NamedTuple):
    nbytes: int  # of one register
    registers: int


def vector_unit() -> VectorUnit:
    """AVX-512, AVX2, NEON or SSE: the widest registers there are."""
    named = vars(config)["CPU_FEATURES"]  # None: this processor's
    features = llvm.get_host_cpu_features() if named is None else dict.fromkeys(_switched_on(named), True)
    if features.get("avx512f"):
        return VectorUnit(64, 32)
    if features.get("avx2"):
        return VectorUnit(32, 16)
    return VectorUnit(16, 32 if platform.machine().lower() in ("aarch64", "arm64") else 16)


def _switched_on(features: str) -> list[str]:
    return [feature[1:] for feature in features.split(",") if feature.startswith("+")]
