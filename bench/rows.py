"""From a case to its rows: draw the inputs, check every provider, time those that are right."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from tilegrad.bench.ceilings import product_name
from tilegrad.bench.check import Expected, expected, wrong
from tilegrad.bench.inputs import Traffic, copies, drawn
from tilegrad.bench.ops.op import MODES, Case, Op, Shape
from tilegrad.bench.providers import SAME_AS_REFERENCE, Call, Provider, as_tuple
from tilegrad.bench.results import Row, known
from tilegrad.bench.session import Session, compared, filled

ABOVE = 1.05  # of its ceiling, from which on a row is wrong: a ceiling is measured too
AGAIN = 3  # times that the ceiling of such a row is measured anew, for something else may have slowed it down


def cases(op: Op, shapes: list[Shape], dtypes: list[str], modes: list[str], device: str) -> Iterator[Case]:
    """Every case of an op."""
    for shape in shapes:
        for variant in op.variants:
            for dtype in dtypes:
                precisions = op.precisions if (device, dtype) == ("cuda", "float32") else ("ieee",)
                for mode in (mode for mode in MODES if mode in modes and mode in variant.modes):
                    for precision in precisions:
                        yield Case(op, variant, mode, shape, dtype, precision)


def measured(case: Case, session: Session) -> list[Row]:
    """The case's rows, one per provider."""
    inputs = drawn(case.variant, case.shape, case.dtype)
    by = None
    rows: list[Row] = []
    ready: dict[str, list[Call]] = {}
    traffic = None
    for provider in session.providers.values():
        row = Row(
            case.op.name, case.variant.name, case.mode, [*case.shape], case.dtype, case.precision, provider.name,
            provider.rival, bytes=case.bytes(), flops=case.flops(),
        )  # fmt: skip
        rows.append(row)
        row.reason = _reason(case, provider, session)
        if row.reason:
            row.status = "skipped"
            continue
        try:
            by = by or expected(case, inputs)
            ready[provider.name], found = _checked_calls(case, provider, session, inputs, by, row)
            traffic = traffic or found
        except Exception as e:  # a provider's failure ends its row, not the run
            row.status, row.reason = "failed", _told(e)
        if row.status != "ok":
            ready.pop(provider.name, None)
    try:
        times = session.kernels_of(ready) if ready else {}
    except Exception as e:  # such as too little memory: the rows so far are kept
        times = {}
        for row in rows:
            if row.provider in ready:
                row.status, row.reason = "failed", _told(e)
    for name, found in times.items():
        row = next(row for row in rows if row.provider == name)
        _rated(filled(row, found), session, traffic)
        if session.events is None:
            _require_possible(row, session, traffic)
    return compared(rows)


def _told(error: Exception) -> str:
    """Type and first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _reason(case: Case, provider: Provider, session: Session) -> str | None:
    reason = provider.cannot(case, session.device)
    if reason == SAME_AS_REFERENCE and "reference" not in session.providers:
        return None
    return reason


def _checked_calls(
    case: Case, provider: Provider, session: Session, inputs: dict[str, np.ndarray], by: Expected, row: Row
) -> tuple[list[Call], Traffic | None]:
    """The calls to be timed, each on its own copy of the inputs; if the output is wrong, the row says what.

    And what such a call does with the CPU's memory, by the outputs of the first.
    """
    nbytes = sum(x.nbytes for x in inputs.values())
    calls, traffic = [], None
    many = copies(nbytes, session.cold_bytes)
    for i in range(many):
        own = {name: provider.own(x, session.device) for name, x in inputs.items()}
        space = SimpleNamespace(**own, precision=case.precision, device=session.device)
        calls.append(provider.call(case, space))
        if i == 0:
            outputs = as_tuple(calls[0]())
            session.synchronize()
            outputs = tuple(map(provider.host, outputs))
            complaint = wrong(outputs, by)
            if complaint:
                row.status, row.reason = "wrong", complaint
                return [], None
            if session.device == "cpu":
                there = sum(y.nbytes for y in outputs)
                written = min(case.bytes(), there)
                read = min(case.bytes() - written, nbytes + there)  # of arrays that there are, however it counts
                in_place = any(np.may_share_memory(y, provider.host(x)) for y in outputs for x in own.values())
                traffic = Traffic(read, written, many, in_place)
    return calls, traffic


def _require_possible(row: Row, session: Session, traffic: Traffic | None) -> None:
    """Say that the row is wrong if it is above its ceiling, also after that was measured again."""
    for _ in range(AGAIN):
        if (row.of_ceiling or 0) <= ABOVE:
            return
        _rated(row, session, traffic, again=True)
    if (row.of_ceiling or 0) > ABOVE:
        kind = "bytes" if row.unit == "GB/s" else "FLOP"
        row.status = "wrong"
        row.reason = f"{100 * known(row.of_ceiling):.0f} % of its ceiling: its {kind} are miscounted, or that is none"


def _rated(row: Row, session: Session, traffic: Traffic | None = None, again: bool = False) -> None:
    """Fill in the rate, in the unit of what bounds the row: the ceiling that allows the longer time."""
    if not row.ms:
        return
    copy = session.of_memory(traffic, again)
    product = session.of_arithmetic(product_name(row.dtype, row.precision), again)
    by_memory = known(row.bytes) / copy if copy else 0
    by_arithmetic = known(row.flops) / product if product else 0
    seconds = row.ms / 1e3
    if by_memory >= by_arithmetic:
        row.rate, row.unit, row.ceiling = known(row.bytes) / seconds / 1e9, "GB/s", copy
    else:
        row.rate, row.unit, row.ceiling = known(row.flops) / seconds / 1e9, "GFLOP/s", product
    row.of_ceiling = row.rate / row.ceiling if row.ceiling else None
