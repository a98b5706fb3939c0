"""mov, ld, st and cp.async: PTX ISA 9.7.9 (data movement), in it 9.7.9.25 (asynchronous copies).

Cache and eviction hints change no result. What a thread stores is seen at once: one of the orders that the memory model
allows, if there is no race. cp.async reads at once; its bytes are in shared memory when their group was waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.operands import LOCAL_WINDOW, SHARED_WINDOW, Scope, expect, items, unknown
from tilegrad.kernels.simulate.ptx.parse import Address, Float, Instruction, Integer, Symbol, Vector
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.races import READ, STRONG_READ, STRONG_WRITE, WRITE
from tilegrad.kernels.simulate.ptx.types import STORED, WIDTHS, dtype_of

_SPACES = ("global", "shared", "local", "param", "const")
_HINTS = frozenset("ca cg cs lu cv wb wt nc weak volatile L1::evict_normal L1::evict_first L1::evict_last".split())
_VECTORS = {"v2": 2, "v4": 4}
_SHARED_NAMES = {"shared::cta": "shared"}


def mov(instruction: Instruction, scope: Scope) -> Step:
    """A copy; {a, b} on either side packs or unpacks, a in the lowest bits."""
    expect(instruction, 2)
    (to, of), line = instruction.operands, instruction.line
    match instruction.modifiers:
        case [kind] if kind in WIDTHS and kind not in ("b8", "u8", "s8", "f16", "bf16"):
            pass
        case _:
            raise unknown(instruction)
    if isinstance(of, Vector):
        return _pack(kind, scope, to, of, line)
    if isinstance(to, Vector):
        return _unpack(kind, scope, to, of, line)
    read, write = scope.reads(of, kind, line), scope.writes(to, kind, line)
    return lambda m: write(m, read(m))


def _pack(kind: str, scope: Scope, to: Any, of: Vector, line: int) -> Step:
    width, part = WIDTHS[kind], WIDTHS[kind] // len(of.items)
    if part not in (8, 16, 32):
        raise PtxError(line, f"{len(of.items)} items in {width} bits")
    reads = [scope.reads(each, f"b{part}", line) for each in of.items]
    stored = STORED[width]
    write = scope.writes(to, f"b{width}", line)

    def step(m: Machine) -> None:
        result = stored.type(0)
        for k, read in enumerate(reads):
            result = result | read(m).astype(stored) << stored.type(part * k)
        write(m, result)

    return step


def _unpack(kind: str, scope: Scope, to: Vector, of: Any, line: int) -> Step:
    width, part = WIDTHS[kind], WIDTHS[kind] // len(to.items)
    if part not in (8, 16, 32):
        raise PtxError(line, f"{len(to.items)} items in {width} bits")
    read = scope.reads(of, f"b{width}", line)
    writes = [(k, scope.writes(each, f"b{part}", line)) for k, each in enumerate(to.items) if each is not None]
    shift, narrow = STORED[width].type, STORED[part]

    def step(m: Machine) -> None:
        value = read(m)
        for k, write in writes:
            write(m, (value >> shift(part * k)).astype(narrow))

    return step


class _Form:
    """What the modifiers of ld and st say: space ("" is generic), elements, type."""

    def __init__(self, instruction: Instruction) -> None:
        *names, self.kind = [_SHARED_NAMES.get(name, name) for name in instruction.modifiers] or [""]
        self.space, self.count = "", 1
        for name in names:
            if name in _SPACES and not self.space:
                self.space = name
            elif name in _VECTORS and self.count == 1:
                self.count = _VECTORS[name]
            elif name not in _HINTS:
                raise unknown(instruction)
        if self.kind not in WIDTHS or self.kind in ("pred", "f16x2", "bf16x2", "tf32"):
            raise unknown(instruction)
        self.width = WIDTHS[self.kind] // 8
        self.is_strong = "volatile" in names  # PTX ISA 8: as if .relaxed, of the scope of the system


def addresses_of(operand: Any, scope: Scope, line: int, space: str) -> Callable[[Machine], np.ndarray]:
    """The addresses of the active lanes, 64 bits wide."""
    if not isinstance(operand, Address):
        raise PtxError(line, f"an operand is {operand}; expected an address")
    base, offset = operand
    if base is None or isinstance(base, Symbol):
        address = np.uint64(offset + (0 if base is None else int(scope.constant(base, "u64", line))))
        return lambda m: np.full(m.lanes if m.active is None else m.active.size, address)
    narrow = space in ("shared", "local") and scope.width(base.name, line) == 32
    read = scope.reads(base, "u32" if narrow else "u64", line)
    step = np.uint64(offset & (1 << 64) - 1)
    return lambda m: read(m).astype(np.uint64) + step


def in_space(space: str, m: Machine, addresses: np.ndarray, act: Callable[[str, np.ndarray], None]) -> None:
    """act(space, addresses in it), for generic addresses once for each space that there are addresses of."""
    if space:
        act(space, addresses)
        return
    windows = addresses >> np.uint64(56)
    kinds = np.unique(windows)
    active, lanes = m.active, m.lanes_now()
    for window in kinds:
        which = windows == window
        name, start = {1: ("shared", SHARED_WINDOW), 2: ("local", LOCAL_WINDOW)}.get(int(window), ("global", 0))
        m.active = active if kinds.size == 1 else lanes[which]
        act(name, addresses[which] - np.uint64(start))
    m.active = active


def ld(instruction: Instruction, scope: Scope) -> Step:
    form, line = _Form(instruction), instruction.line
    expect(instruction, 2)
    targets = items(instruction.operands[0])
    if len(targets) != form.count:
        raise PtxError(line, f"{instruction.form} fills {len(targets)} registers; expected {form.count}")
    writes = [scope.writes(each, form.kind, line, extends=True) for each in targets]
    dtype, width, count = dtype_of(form.kind), form.width, form.count
    kind = STRONG_READ if form.is_strong else READ
    if form.space == "param":
        return _ld_param(instruction, scope, writes, dtype, width)
    addresses = addresses_of(instruction.operands[1], scope, line, form.space)

    def act(m: Machine, space: str, places: np.ndarray) -> None:
        if space in ("global", "const"):
            values = m.memory.load(m, places, width, count, kind)
        elif space == "shared":
            values = m.shared.load(m, m.block_of[m.lanes_now()], places, width, count)
        else:
            values = m.local.load(m, m.lanes_now(), places, width, count)
        for write, value in zip(writes, values):
            write(m, value.view(dtype))

    return lambda m: in_space(form.space, m, addresses(m), lambda space, places: act(m, space, places))


def _ld_param(instruction: Instruction, scope: Scope, writes: Any, dtype: np.dtype, width: int) -> Step:
    operand, line = instruction.operands[1], instruction.line
    if not isinstance(operand, Address) or not isinstance(operand.base, Symbol):
        raise PtxError(line, f"an operand is {operand}; expected [a parameter]")
    found = [p for p in scope.kernel.parameters if p.name == operand.base.name]
    if not found:
        raise PtxError(line, f"{operand.base.name} is no parameter of {scope.kernel.name}")
    (parameter,) = found
    size = width * len(writes)
    if not 0 <= operand.offset <= parameter.size - size or operand.offset % size:
        raise PtxError(line, f"{size} bytes at {operand.offset} of {parameter.name}, which has {parameter.size}")
    start = parameter.offset + operand.offset

    def step(m: Machine) -> None:
        for k, write in enumerate(writes):
            write(m, np.frombuffer(m.parameters, dtype, 1, start + k * width)[0])

    return step


def st(instruction: Instruction, scope: Scope) -> Step:
    form, line = _Form(instruction), instruction.line
    expect(instruction, 2)
    sources = items(instruction.operands[1])
    if len(sources) != form.count or form.space in ("param", "const"):
        raise PtxError(line, f"{instruction.form} of {len(sources)} registers; expected {form.count}")
    bits = f"b{form.width * 8}"
    reads = [scope.reads(each, form.kind if isinstance(each, Float) else bits, line) for each in sources]
    addresses = addresses_of(instruction.operands[0], scope, line, form.space)
    unsigned, width = STORED[form.width * 8], form.width
    kind = STRONG_WRITE if form.is_strong else WRITE

    def step(m: Machine) -> None:
        every = [np.asarray(read(m)).view(unsigned) for read in reads]
        places = addresses(m)
        every = [np.full(places.size, each) if each.ndim == 0 else each for each in every]
        lanes = m.lanes_now()

        def act(space: str, places: np.ndarray) -> None:
            now = m.lanes_now()
            values = every if now.size == lanes.size else [each[np.isin(lanes, now)] for each in every]
            if space == "global":
                m.memory.store(m, places, values, width, kind)
            elif space == "shared":
                m.shared.store(m, m.block_of[now], places, values)
            else:
                m.local.store(m, now, places, values)

        in_space(form.space, m, places, act)

    return step


class Copies:
    """The asynchronous copies of a chunk that are on their way: (lanes, their groups, places, bytes)."""

    def __init__(self, lanes: int) -> None:
        self.groups = np.zeros(lanes, np.int64)  # that each lane has committed
        self.pending: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def wait(self, m: Machine, lanes: np.ndarray, most: int) -> None:
        """Land what these lanes began, but for their `most` latest groups."""
        waiting = np.zeros(m.lanes, np.bool_)
        waiting[lanes] = True
        kept = []
        for who, groups, places, data in self.pending:
            done = waiting[who] & (groups < self.groups[who] - most)
            if done.any():
                m.shared.arrive(m, who[done], places[done], data[done])
            if not done.all():
                kept.append((who[~done], groups[~done], places[~done], data[~done]))
        self.pending = kept


def cp(instruction: Instruction, scope: Scope) -> Step:
    line = instruction.line
    match instruction.modifiers:
        case ["async", "commit_group"]:
            expect(instruction, 0)

            def commit(m: Machine) -> None:
                m.copies.groups[m.lanes_now()] += 1

            return commit
        case ["async", "wait_group"]:
            expect(instruction, 1)
            most = instruction.operands[0]
            if not isinstance(most, Integer):
                raise PtxError(line, f"waits for {most}; expected a number of groups")
            return lambda m: m.copies.wait(m, m.lanes_now(), most.value)
        case ["async", "ca" | "cg" as cache, "shared" | "shared::cta", "global"]:
            return _copy(instruction, scope, (16,) if cache == "cg" else (4, 8, 16))
    raise unknown(instruction)


def _copy(instruction: Instruction, scope: Scope, sizes: tuple[int, ...]) -> Step:
    """[to], [from], size (, bytes that are copied: the rest is zeros)."""
    operands, line = instruction.operands, instruction.line
    if len(operands) not in (3, 4) or not isinstance(operands[2], Integer) or operands[2].value not in sizes:
        raise PtxError(line, f"{instruction.form}: expected [to], [from], one of {sizes}, bytes")
    size = operands[2].value
    to, of = (addresses_of(a, scope, line, s) for a, s in zip(operands, ("shared", "global")))
    copied = scope.reads(operands[3], "u32", line) if len(operands) == 4 else None

    def step(m: Machine) -> None:
        lanes, sources = m.lanes_now(), of(m)
        places = m.shared.depart(m, m.block_of[lanes], to(m), size)
        counts = np.broadcast_to(size if copied is None else copied(m), lanes.shape)
        if counts.max(initial=0) > size:
            m.fault(int(lanes[np.argmax(counts)]), f"copies {counts.max()} of {size} bytes")
        data = np.zeros((lanes.size, size), np.uint8)
        active = m.active
        for count in np.unique(counts):
            which = np.flatnonzero(counts == count)
            m.active = lanes[which]
            if count == size:  # one access of the whole width
                words = m.memory.load(m, sources[which], 4, size // 4)
                data[which] = np.stack(words, 1).view(np.uint8)
            elif count:
                for k in range(int(count)):
                    data[which, k] = m.memory.load(m, sources[which] + np.uint64(k), 1, 1)[0]
        m.active = active
        m.copies.pending.append((lanes, m.copies.groups[lanes], places, data))

    return step
