"""How many blocks of a kernel a multiprocessor holds at once, and what keeps it from holding more.

The rules are those of NVIDIA's occupancy calculator (Nsight Compute) for compute capabilities 8.0 and 9.0: a warp gets
registers in units of 256, a block shared memory in units of 128 bytes, beside 1 KB that the system keeps.
"""

from __future__ import annotations

from typing import NamedTuple

from tilegrad.kernels.profile.cards import Card

_REGISTER_UNIT, _WARP_UNIT = 256, 4  # registers; warps, a share of each scheduler
_SHARED_UNIT, _SHARED_OF_SYSTEM = 128, 1024  # bytes


class Occupancy(NamedTuple):
    blocks: int  # of a multiprocessor
    share: float  # of the warps that it could hold
    limit: str  # what keeps it from holding another block: warps, blocks, registers or shared memory


def occupancy(card: Card, warps: int, registers: int, shared: int) -> Occupancy:
    """Of blocks of so many warps, registers a thread and bytes of shared memory, static and dynamic together."""
    of_warp = -(-registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    warps_by_registers = card.registers // of_warp // _WARP_UNIT * _WARP_UNIT if registers else card.warps
    of_block = -(-(shared + _SHARED_OF_SYSTEM) // _SHARED_UNIT) * _SHARED_UNIT
    limits = {
        "warps": card.warps // warps,
        "blocks": card.blocks,
        "registers": warps_by_registers // warps,
        "shared memory": card.shared // of_block,
    }
    limit = min(limits, key=lambda name: limits[name])
    return Occupancy(limits[limit], limits[limit] * warps / card.warps, limit)
