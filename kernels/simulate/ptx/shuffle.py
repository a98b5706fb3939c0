"""What the lanes of a warp tell each other: PTX ISA 9.7.9 (shfl.sync), 9.7.13 (vote.sync, redux.sync).

All lanes of the member mask must execute the instruction together; the manual lets threads that have ended be missing.
A value of a lane that does not execute it is undefined, and taking it is a fault.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx.machine import WARP, Machine
from tilegrad.kernels.simulate.ptx.operands import Scope, expect, items, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.types import dtype_of

_FIVE = np.int64(31)  # bits of a lane's number: a mask


def members(m: Machine, mask: Any) -> np.ndarray:
    """(warps, 32): whether the lane executes this instruction. Raises Fault where one of the mask is missing."""
    lanes = m.lanes_now()
    here = np.zeros((m.blocks * m.warps, WARP), np.bool_)
    laneids = m.thread_of[lanes] % WARP
    here[m.warp_of[lanes], laneids] = True
    masks = np.broadcast_to(np.asarray(mask, np.uint32), lanes.shape)
    own = masks >> laneids.astype(np.uint32) & np.uint32(1)
    if not own.all():
        m.fault(int(lanes[np.argmin(own)]), "the member mask lacks the lane itself")
    wanted = np.zeros(m.blocks * m.warps, np.uint32)
    wanted[m.warp_of[lanes]] = masks
    if (wanted[m.warp_of[lanes]] != masks).any():
        m.fault(int(lanes[0]), "the lanes of a warp name different member masks")
    asked = (wanted[:, None] >> np.arange(WARP, dtype=np.uint32) & np.uint32(1)).astype(np.bool_)
    missing = asked & ~here & m.alive_in_warps()
    if missing.any():
        warp, lane = (int(n[0]) for n in np.nonzero(missing))
        block, warp = divmod(warp, m.warps)
        m.fault(block * m.threads + warp * WARP + lane, "this lane of the member mask executes something else")
    return here


def shfl(instruction: Instruction, scope: Scope) -> Step:
    """d|p, a, b, c, mask: a of lane b, b further, b before, or across b, within the segments that c makes."""
    match instruction.modifiers:
        case ["sync", ("up" | "down" | "bfly" | "idx") as mode, "b32"]:
            pass
        case _:
            raise unknown(instruction)
    expect(instruction, 5)
    line = instruction.line
    results = items(instruction.operands[0])
    write = scope.writes(results[0], "b32", line)
    found = scope.writes(results[1], "pred", line) if len(results) == 2 else None
    value, by, limits, mask = (scope.reads(each, "b32", line) for each in instruction.operands[1:])

    def step(m: Machine) -> None:
        here, lanes = members(m, mask(m)), m.lanes_now()
        a = np.broadcast_to(value(m), lanes.shape)
        lane = m.thread_of[lanes] % WARP
        b, c = (np.asarray(read(m)).astype(np.int64) for read in (by, limits))
        b, clamp, segment = b & _FIVE, c & _FIVE, c >> 8 & _FIVE
        highest = lane & segment | clamp & ~segment & _FIVE
        lowest = lane & segment
        if mode == "up":
            source = lane - b
            inside = source >= highest
        elif mode == "down":
            source = lane + b
            inside = source <= highest
        else:
            source = lane ^ b if mode == "bfly" else lowest | b & ~segment & _FIVE
            inside = source <= highest
        source = np.where(inside, source, lane)
        warps = m.warp_of[lanes]
        absent = ~here[warps, source]
        if absent.any():
            at = int(np.argmax(absent))
            m.fault(int(lanes[at]), f"takes the value of lane {int(source[at])}, which does not execute this")
        every = np.zeros((m.blocks * m.warps, WARP), np.uint32)
        every[warps, lane] = a
        write(m, every[warps, source])
        if found is not None:
            found(m, inside)

    return step


_FOLDS: dict[str, tuple[Any, str]] = {
    "add": (np.add, "us"),
    "min": (np.minimum, "us"),
    "max": (np.maximum, "us"),
    "and": (np.bitwise_and, "b"),
    "or": (np.bitwise_or, "b"),
    "xor": (np.bitwise_xor, "b"),
}


def redux(instruction: Instruction, scope: Scope) -> Step:
    """d, a, mask: all of a put together, in every lane."""
    match instruction.modifiers:
        case ["sync", name, ("u32" | "s32" | "b32") as kind] if name in _FOLDS and kind[0] in _FOLDS[name][1]:
            pass
        case _:
            raise unknown(instruction)
    expect(instruction, 3)
    to, of, mask = instruction.operands
    write, value = scope.writes(to, kind, instruction.line), scope.reads(of, kind, instruction.line)
    masks = scope.reads(mask, "b32", instruction.line)
    fold, dtype = _FOLDS[name][0], dtype_of(kind)
    neutral = {"add": 0, "or": 0, "xor": 0, "and": 0xFFFFFFFF}.get(name)
    if neutral is None:
        neutral = np.iinfo(dtype).min if name == "max" else np.iinfo(dtype).max

    def step(m: Machine) -> None:
        members(m, masks(m))
        lanes = m.lanes_now()
        every = np.full((m.blocks * m.warps, WARP), neutral, dtype)
        every[m.warp_of[lanes], m.thread_of[lanes] % WARP] = value(m)
        write(m, fold.reduce(every, axis=1, dtype=dtype)[m.warp_of[lanes]])

    return step


def vote(instruction: Instruction, scope: Scope) -> Step:
    """d, p, mask: whether p holds in all lanes, in any, in all or none (uni); ballot: in which."""
    match instruction.modifiers:
        case ["sync", ("all" | "any" | "uni") as mode, "pred"]:
            kind = "pred"
        case ["sync", "ballot" as mode, "b32"]:
            kind = "b32"
        case _:
            raise unknown(instruction)
    expect(instruction, 3)
    line = instruction.line
    write = scope.writes(instruction.operands[0], kind, line)
    value, mask = scope.reads(instruction.operands[1], "pred", line), scope.reads(instruction.operands[2], "b32", line)

    def step(m: Machine) -> None:
        here, lanes = members(m, mask(m)), m.lanes_now()
        holds = np.zeros((m.blocks * m.warps, WARP), np.bool_)
        holds[m.warp_of[lanes], m.thread_of[lanes] % WARP] = value(m)
        if mode == "ballot":
            result: Any = (holds.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(1).astype(np.uint32)
        else:
            every, some = (holds | ~here).all(1), holds.any(1)
            result = {"all": every, "any": some, "uni": every | ~some}[mode]
        write(m, result[m.warp_of[lanes]])

    return step
