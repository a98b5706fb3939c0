"""wgmma.mma_async, wgmma.fence, wgmma.commit_group, wgmma.wait_group: PTX ISA 9.7.15.

All threads of a warpgroup, four warps, execute them together: a warpgroup of which some lanes do not is a fault. What a
product computes is tensor_cores/'s. It is computed when it is waited for, so a register keeps its old value until then;
nobody may look at it before. async_proxy.py watches the shared memory that products read.

Other than in the manual, a mov into a product's register needs no wgmma.fence behind it. LLVM puts copies of
accumulators there, which no source can order. ptxas sees them, and adds what is missing: "warpgroup.arrive is injected"
(C7519).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.async_proxy import AsyncProxy
from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.machine import WARP, WARPGROUP, Machine
from tilegrad.kernels.simulate.ptx.operands import Scope, expect, items, registers_of, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction, Integer, Vector
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.tensor_cores import descriptors, wgmma
from tilegrad.kernels.simulate.ptx.tensor_cores.faults import ROW, SharedFault, check_rows
from tilegrad.kernels.simulate.ptx.tensor_cores.pending import Pending


class _Product(NamedTuple):
    number: int
    groups: np.ndarray  # that began it, ascending
    compute: Callable[[Machine, np.ndarray], None]  # of some of these, by their places


class _InStep:
    """Warpgroups that have done the same so far."""

    def __init__(self, groups: np.ndarray, pending: Pending) -> None:
        self.groups, self.pending = groups, pending


class Products:
    """The asynchronous products of a chunk of blocks."""

    def __init__(self, m: Machine) -> None:
        self.of_block = -(-m.threads // WARPGROUP)
        self.group_of = m.block_of * self.of_block + m.thread_of // WARPGROUP
        self.count = m.blocks * self.of_block
        self.proxy = m.shared.proxy = AsyncProxy(m, m.shared)
        self._in_step = [_InStep(np.arange(self.count), Pending())]

    def together(self, m: Machine) -> np.ndarray:
        """The warpgroups that execute this. Raise Fault if one has lanes that do not."""
        lanes = m.lanes_now()
        groups, counts = np.unique(self.group_of[lanes], return_counts=True)
        if (counts != WARPGROUP).any():
            at = int(np.argmax(counts != WARPGROUP))
            lane = int(lanes[self.group_of[lanes] == groups[at]][0])
            m.fault(lane, f"executed by {counts[at]} lanes of the warpgroup; expected all {WARPGROUP}")
        return groups

    def lanes(self, m: Machine, groups: np.ndarray) -> np.ndarray:
        """The lanes of whole warpgroups, ascending."""
        first = groups // self.of_block * m.threads + groups % self.of_block * WARPGROUP
        return (first[:, None] + np.arange(WARPGROUP)).reshape(-1)

    def do(self, m: Machine, groups: np.ndarray, act: Callable[[Pending], Any]) -> list[tuple[np.ndarray, Any]]:
        """act(pending) for these warpgroups, and what it gave, with the warpgroups that it was done for."""
        chosen = np.zeros(self.count, np.bool_)
        chosen[groups] = True
        results = []
        for each in list(self._in_step):
            inside = chosen[each.groups]
            if not inside.any():
                continue
            if not inside.all():  # from here on they go their own ways
                self._in_step.append(_InStep(each.groups[~inside], each.pending.copy()))
                each.groups = each.groups[inside]
            try:
                results.append((each.groups, act(each.pending)))
            except ValueError as error:
                m.fault(int(self.lanes(m, each.groups[:1])[0]), str(error))
        return results

    def ended(self, m: Machine) -> None:
        """Raise Fault if the active lanes, which end here, leave a product running."""
        groups = np.unique(self.group_of[m.lanes_now()])
        for some, running in self.do(m, groups, lambda pending: pending.running):
            if running:
                lane = int(self.lanes(m, some[:1])[0])
                m.fault(lane, "the thread ends while its wgmma.mma_async runs; expected a wgmma.wait_group before")

    def use(self, m: Machine, registers: frozenset[str], is_copy: bool) -> None:
        """Another instruction uses registers of products."""
        if any(each.pending.fenced for each in self._in_step):
            act = Pending.copied if is_copy else Pending.use
            self.do(m, np.unique(self.group_of[m.lanes_now()]), lambda pending: act(pending, registers))


def registers_of_products(instructions: Iterable[Instruction]) -> frozenset[str]:
    """The registers of all products of a kernel: accumulators, and A where it is in registers."""
    products = (each for each in instructions if each.opcode == "wgmma")
    vectors = (operand for each in products for operand in each.operands[:2] if isinstance(operand, Vector))
    return frozenset(name for vector in vectors for name in registers_of(vector))


def watched(step: Step | None, instruction: Instruction, registers: frozenset[str]) -> Step | None:
    """The step, where it uses one of these registers with a look at whether a product has it."""
    if step is None or instruction.opcode == "wgmma":
        return step
    used = registers & frozenset(r for each in instruction.operands for r in registers_of(each))
    if not used:
        return step

    is_copy = instruction.opcode == "mov"

    def looking(m: Machine) -> None:
        assert m.products is not None
        m.products.use(m, used, is_copy)
        step(m)

    return looking


def warpgroup(instruction: Instruction, scope: Scope) -> Step:
    match instruction.modifiers:
        case ["mma_async", *_]:
            return _product(instruction, scope)
        case ["fence", "sync", "aligned"]:
            expect(instruction, 0)
            return _each(lambda pending: pending.fence())
        case ["commit_group", "sync", "aligned"]:
            expect(instruction, 0)
            return _each(lambda pending: pending.commit())
        case ["wait_group", "sync", "aligned"]:
            expect(instruction, 1)
            (most,) = instruction.operands
            if not isinstance(most, Integer):
                raise PtxError(instruction.line, f"waits for {most}; expected a number of groups")
            return _wait(most.value)
    raise unknown(instruction)


def _each(act: Callable[[Pending], Any]) -> Step:
    def step(m: Machine) -> None:
        products = _products(m)
        products.do(m, products.together(m), act)

    return step


def _wait(most: int) -> Step:
    def step(m: Machine) -> None:
        products = _products(m)
        for groups, done in products.do(m, products.together(m), lambda pending: pending.wait(most)):
            for product in done:
                product.compute(m, np.searchsorted(product.groups, groups))
                products.proxy.end(groups, product.number)

    return step


def _product(instruction: Instruction, scope: Scope) -> Step:
    """d, a, b, scale-d, immediates: d = a b + d, or d = a b."""
    line = instruction.line
    try:
        form = wgmma.read(instruction.form)
    except ValueError:
        raise unknown(instruction) from None
    if len(instruction.operands) < 4:
        expect(instruction, 6)
    d, a, b, scale, *numbers = list(instruction.operands)
    immediates = tuple(n.value for n in numbers if isinstance(n, Integer))
    if len(immediates) != len(numbers):
        raise PtxError(line, f"{instruction.form}: expected numbers behind scale-d")
    in_registers = isinstance(a, Vector)
    try:
        options = wgmma.read_options(form, immediates, in_registers)
    except ValueError as error:
        raise PtxError(line, str(error)) from None
    counts = len(items(d)), len(items(a)) if in_registers else 1
    wanted = form.n // 2, 4 if in_registers else 1
    if counts != wanted:
        raise PtxError(line, f"{instruction.form} of {counts} registers; expected {wanted}")
    read_d = [scope.reads(each, "b32", line) for each in items(d)]
    writes = [scope.writes(each, "b32", line) for each in items(d)]
    read_a = [scope.reads(each, "b32" if in_registers else "b64", line) for each in items(a)]
    read_b, read_scale = scope.reads(b, "b64", line), scope.reads(scale, "pred", line)
    accumulators = frozenset(registers_of(d))
    inputs = frozenset(registers_of(a)) if in_registers else frozenset()
    shape = form.n, form.k
    sides = [("B", form.n, bool(options.trans_b))]
    if not in_registers:
        sides.append(("A", wgmma.ROWS, bool(options.trans_a)))

    def step(m: Machine) -> None:
        products = _products(m)
        groups = products.together(m)
        number = products.proxy.begin()
        b, scale = _by_group(m, read_b(m)), _by_group(m, read_scale(m))
        a = None if in_registers else _by_group(m, read_a[0](m))

        def compute(m: Machine, at: np.ndarray) -> None:
            active = m.active
            m.active = products.lanes(m, groups[at])
            home = np.repeat(groups[at] // products.of_block, wgmma.WARPS)
            held = [_by_warp(m, read(m)) for read in read_d]
            mine = [_by_warp(m, read(m)) for read in read_a] if a is None else a[at].reshape(-1, WARP)
            b_now, scale_now = (each[at].reshape(-1, WARP) for each in (b, scale))
            found = wgmma.wgmma(form, options, m.shared.by_block(), home, held, mine, b_now, scale_now)
            for write, values in zip(writes, found, strict=True):
                write(m, values.reshape(-1))
            m.active = active

        work = _Product(number, groups, compute)
        products.do(m, groups, lambda pending: pending.issue(shape, accumulators, inputs, work))
        try:
            wgmma.agree("scale-d", scale)
            for (name, extent, transposed), given in zip(sides, (b, a)):
                assert given is not None
                bits = wgmma.agree(name, given)
                addresses = descriptors.piece_addresses(descriptors.decode(bits), extent, form.dtype, transposed)
                addresses = addresses.reshape(len(groups), -1)
                check_rows(f"wgmma: {name}", addresses, m.shared.size, wgmma.WARPS)
                products.proxy.read(m, number, groups, addresses, ROW)
        except SharedFault as error:
            m.fault(int(products.lanes(m, groups[error.warp // wgmma.WARPS :][:1])[0]), str(error))
        except ValueError as error:
            m.fault(int(m.lanes_now()[0]), str(error))

    return step


def _products(m: Machine) -> Products:
    assert m.products is not None
    return m.products


def _by_group(m: Machine, values: Any) -> np.ndarray:
    """A register of the active lanes as (warpgroups, 128)."""
    return np.broadcast_to(np.asarray(values), m.lanes_now().shape).reshape(-1, WARPGROUP)


def _by_warp(m: Machine, values: Any) -> np.ndarray:
    """A register of the active lanes as (warps, 32)."""
    return np.broadcast_to(np.asarray(values), m.lanes_now().shape).reshape(-1, WARP)
