"""Which tiles matmul is cut into, and into how many parts its sum.

Reasoned, not measured: no figure here comes from a GPU. What a configuration is taken for:

    half    128 x 256 on 8 warps is 128 sums a thread, the most that two warp groups hold: 85 FLOP for a byte read from
            the L2 cache, against 64 at 128 x 128. A step of 64 is the 128 bytes of a row of shared memory, four of them
            in flight on sm_90. 128 x 128 on 4 warps fits a multiprocessor twice: the one stores while the other sums
    tf32    elements are twice as large, so a step of 32 is the same 128 bytes. wgmma takes TF32 only from operands that
            are dense along the sum; others are turned in registers, for which 128 sums a thread leave no room
    tf32x3  each operand is split in registers into its 11 leading bits and the rest, three products are added: what a
            thread holds doubles, hence smaller tiles. Where both operands of a product come from registers (not on
            sm_90 and 100), 128 x 128 spills
    ieee    the float32 pipes. Operands of a step are held in registers, hence steps of 16; 8 x 8 sums a thread read 16
            values of shared memory for 64 multiply-adds
    few M   16 or 32 rows: the product is bound by reading b, and a taller tile would multiply padding. The wgmma
            instruction of sm_90 takes 64 rows or more: there the tile is flipped, and its rows are columns of b

Shared memory: num_stages tiles of both operands on sm_90 (an asynchronous product still reads the oldest), one fewer
elsewhere. The entries for 86 and 120 keep within the 99 KB of a consumer card.

Which one is the default is decided by `_cycles`, an estimate from the tile, the clock-for-clock rates of the
architecture and the number of multiprocessors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from tilegrad.kernels.launch.triton_kernel import Kernel
from tilegrad.kernels.launch.tuning import Bucket, Config, Tuned
from tilegrad.kernels.sizes import cdiv


def _tile(block_m: int, block_n: int, block_k: int, num_warps: int, num_stages: int, flipped: bool = False) -> Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "FLIPPED": flipped}
    return {**blocks, "num_warps": num_warps, "num_stages": num_stages}


# From the largest tile to the smallest; at most 8 an architecture. 100 takes what 90 takes.
_HALF = (_tile(64, 128, 64, 4, 4), _tile(64, 64, 64, 4, 4), _tile(128, 32, 64, 4, 4))
_HALF_FEW = (_tile(32, 64, 128, 4, 4), _tile(16, 64, 128, 4, 5))
_HALF_FEW_90 = (_tile(32, 64, 128, 4, 4, flipped=True), _tile(16, 64, 128, 4, 5, flipped=True))
_TF32 = (_tile(64, 128, 32, 4, 4), _tile(64, 64, 32, 4, 4), _tile(128, 32, 32, 4, 4))
_TF32_FEW = (_tile(32, 64, 64, 4, 4), _tile(16, 64, 64, 4, 5))
_TF32_FEW_90 = (_tile(32, 64, 64, 4, 4, flipped=True), _tile(16, 64, 64, 4, 5, flipped=True))
_TF32X3 = (
    _tile(128, 64, 32, 8, 3),
    _tile(64, 128, 32, 8, 3),
    _tile(64, 64, 32, 4, 3),
    _tile(128, 32, 32, 4, 3),
)
_TF32X3_FEW = (_tile(32, 64, 32, 4, 3), _tile(16, 64, 32, 4, 4))
_TF32X3_FEW_90 = (_tile(32, 64, 32, 4, 3, flipped=True), _tile(16, 64, 32, 4, 4, flipped=True))
_HALF_99_KB = (_tile(128, 256, 64, 8, 3), _tile(256, 128, 64, 8, 3), _tile(128, 128, 64, 8, 4), *_HALF, *_HALF_FEW)
_TF32_99_KB = (_tile(128, 256, 32, 8, 3), _tile(256, 128, 32, 8, 3), _tile(128, 128, 32, 8, 4), *_TF32, *_TF32_FEW)
CONFIGS: dict[str, dict[int, tuple[Config, ...]]] = {
    "half": {
        80: (_tile(128, 256, 64, 8, 4), _tile(256, 128, 64, 8, 4), _tile(128, 128, 64, 8, 4), *_HALF, *_HALF_FEW),
        86: _HALF_99_KB,
        90: (_tile(128, 256, 64, 8, 4), _tile(256, 128, 64, 8, 4), _tile(128, 128, 64, 4, 3), *_HALF, *_HALF_FEW_90),
        120: _HALF_99_KB,
    },
    "tf32": {
        80: (_tile(128, 256, 32, 8, 4), _tile(256, 128, 32, 8, 4), _tile(128, 128, 32, 8, 4), *_TF32, *_TF32_FEW),
        86: _TF32_99_KB,
        90: (_tile(128, 256, 32, 8, 3), _tile(256, 128, 32, 8, 3), _tile(128, 128, 32, 8, 4), *_TF32, *_TF32_FEW_90),
        120: _TF32_99_KB,
    },
    "tf32x3": {
        80: (*_TF32X3, *_TF32X3_FEW),
        90: (_tile(128, 128, 32, 8, 3), *_TF32X3, *_TF32X3_FEW_90),
        120: (*_TF32X3, *_TF32X3_FEW),
    },
    "ieee": {
        80: (
            _tile(128, 128, 16, 8, 4),
            _tile(128, 64, 16, 4, 4),
            _tile(64, 128, 16, 4, 4),
            _tile(64, 64, 16, 2, 4),
            _tile(64, 16, 32, 4, 4),
            _tile(32, 32, 32, 4, 4),
            _tile(16, 64, 32, 4, 4),
        ),
    },
}

# Multiply-adds a clock of one multiprocessor. A100: NVIDIA A100 whitepaper, table 1 and figure 7. H100: NVIDIA H100
# whitepaper, tables 1 and 2. RTX 3090, RTX 5090: NVIDIA Ampere GA102 whitepaper, table 2; RTX Blackwell whitepaper,
# appendix A (tensor cores with float32 sums). tf32x3 is three products of tf32.
RATES = {
    80: {"half": 1024, "tf32": 512, "tf32x3": 171, "ieee": 64},
    86: {"half": 256, "tf32": 128, "tf32x3": 43, "ieee": 128},
    90: {"half": 2048, "tf32": 1024, "tf32x3": 341, "ieee": 128},
    120: {"half": 256, "tf32": 128, "tf32x3": 43, "ieee": 128},
}
# The largest cards sold, from the same papers: A100, RTX 3090 Ti, H100 SXM, RTX 5090. The card at hand is not asked: on
# every card of an architecture the same sums are to be added in the same order.
MULTIPROCESSORS = {80: 108, 86: 84, 90: 132, 120: 170}
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # what a sum may be cut into

_STEPS = 4  # of a part, at least: as many as are in flight
_L2_BYTES = 40  # a clock and multiprocessor: 5120 a clock in all, NVIDIA A100 whitepaper
_LATENCY = 800  # clocks from asking for a step's operands to having them, where nobody else asks
_PROGRAM = 1500  # clocks before the first step and after the last one
_SECOND_LAUNCH = 8000  # clocks: about 5 us, which a launch costs the host; where the GPU is ahead, it is what counts
_REGISTERS = 65536


def kind_of(dtype: np.dtype, precision: str) -> str:
    """Which arithmetic multiplies elements of that dtype: a key of CONFIGS."""
    return "half" if dtype.itemsize == 2 else precision


def bucket_of(batch: int, m: int, n: int, k: int, a_dense: bool, b_dense: bool) -> Bucket:
    """What the choice of a configuration depends on; a_dense and b_dense: along the sum."""
    return (batch, _rounded(m), _rounded(n), _rounded(k), ("n" if a_dense else "t") + ("t" if b_dense else "n"))


def parts_of(kind: str, arch: int, config: Config, batch: int, m: int, n: int, k: int) -> int:
    """Into how many parts the sum over K is cut: many where there are few tiles to share out and K is long."""
    tiles = batch * cdiv(m, config["BLOCK_M"]) * cdiv(n, config["BLOCK_N"])
    most = min(_of(MULTIPROCESSORS, arch) // tiles, k // (_STEPS * config["BLOCK_K"]))
    fits = [parts for parts in PARTS if parts <= max(1, most)]
    return min(fits, key=lambda parts: _cycles(kind, arch, config, parts, batch, m, n, k))


def _cycles(kind: str, arch: int, config: Config, parts: int, batch: int, m: int, n: int, k: int) -> float:
    """The estimated clocks of a product."""
    block_m, block_n, block_k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    itemsize = 2 if kind == "half" else 4
    multiprocessors, threads = _of(MULTIPROCESSORS, arch), 32 * config["num_warps"]
    resident = min(4, _REGISTERS // threads // (block_m * block_n // threads + 80))
    waves = cdiv(batch * cdiv(m, block_m) * cdiv(n, block_n) * parts, multiprocessors)
    steps = cdiv(cdiv(k, block_k), parts)

    multiplying = block_m * block_n * block_k / _of(RATES, arch)[kind]
    reading = (block_m + block_n) * block_k * itemsize / _L2_BYTES
    waiting = _LATENCY / (config["num_stages"] - 1)
    # Added, as if nothing overlapped: of tiles that are equally well fed, the one that reads less is then preferred.
    cycles = max(waves * steps * (multiplying + reading), cdiv(waves, resident) * steps * waiting)
    cycles += waves * _PROGRAM
    if parts > 1:
        cycles += _SECOND_LAUNCH + 8 * batch * m * n * parts / (_L2_BYTES * multiprocessors)
    return cycles


def _default(kind: str) -> Callable[[int, Bucket], int]:
    """The configuration with the least estimate."""

    @cache
    def default(arch: int, bucket: Bucket) -> int:
        *sizes, layout = bucket
        estimates = {}
        for i, config in enumerate(_of(CONFIGS[kind], arch)):
            if not (kind == "tf32" and 90 <= arch < 120 and layout != "nt" and sums_of(config) > 64):
                estimates[i] = _cycles(kind, arch, config, parts_of(kind, arch, config, *sizes), *sizes)
        return min(estimates, key=estimates.__getitem__)

    return default


def sums_of(config: Config) -> int:
    """How many sums a thread holds."""
    return config["BLOCK_M"] * config["BLOCK_N"] // (32 * config["num_warps"])


def tuned_products(kernels: Sequence[Kernel]) -> dict[str, Tuned]:
    """The Tuned of matmul for each kind of arithmetic."""
    return {kind: Tuned(f"matmul {kind}", each, _default(kind), kernels) for kind, each in CONFIGS.items()}


def _rounded(n: int) -> int:
    """n rounded up to two bits behind its leading one."""
    unit = 1 << max(0, n.bit_length() - 3)
    return cdiv(n, unit) * unit


def _of(table: Mapping[int, Any], arch: int) -> Any:
    """The entry of the largest architecture that is not beyond this one."""
    return table[max(a for a in table if a <= arch)]
