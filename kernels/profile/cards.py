"""The cards that bounds are given for. Peaks are those of the data sheets: dense, without sparsity.

Sources: the data sheets and architecture white papers of NVIDIA's A100 (SXM, 80 GB), H100 (SXM5) and H200 Tensor Core
GPUs. What a multiprocessor holds: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; what
it does in a clock: "Throughput of Native Arithmetic Instructions" there.
"""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """A GPU. Rates are of the whole card, a second."""

    arch: int  # compute capability, 90 for 9.0
    multiprocessors: int
    clock: float  # Hz, boost
    bandwidth: float  # bytes, of its memory
    fp32_lanes: int  # of a multiprocessor: one fused multiply-add a clock each
    tensor: dict[str, float]  # operations by the type of the factors
    shared: int  # bytes of shared memory, of a multiprocessor

    # The same for compute capabilities 8.0 and 9.0, of a multiprocessor:
    schedulers: int = 4  # each issues an instruction of one warp a clock
    special_lanes: int = 16  # results of reciprocals, exponentials and the like a clock
    fp64_lanes: int = 32
    fp16_operations: int = 512  # a clock
    shared_bytes: int = 128  # a clock: 32 banks of 4
    registers: int = 65536
    warps: int = 64
    blocks: int = 32

    @property
    def fp32(self) -> float:
        """Operations of the float32 lanes; a fused multiply-add is two."""
        return self.multiprocessors * self.fp32_lanes * 2 * self.clock

    def rate(self, a_clock: float) -> float:
        """A second, of what each multiprocessor does so often a clock."""
        return self.multiprocessors * a_clock * self.clock


def _tensor(f16: float) -> dict[str, float]:
    """By the peak of float16: tf32 is half of it, 8 bits are twice."""
    double = dict.fromkeys(("s8", "u8"), 2 * f16)
    return {"f16": f16, "bf16": f16, "tf32": f16 / 2, **double}


_HOPPER = _tensor(989.4e12) | dict.fromkeys(("e4m3", "e5m2"), 1978.9e12)

CARDS = {
    "A100": Card(80, 108, 1.41e9, 2.039e12, 64, _tensor(312e12), 164 << 10),
    "H100": Card(90, 132, 1.98e9, 3.35e12, 128, _HOPPER, 228 << 10, fp64_lanes=64),
    "H200": Card(90, 132, 1.98e9, 4.8e12, 128, _HOPPER, 228 << 10, fp64_lanes=64),
}
