"""The run itself: ceilings first, then op by op, each row printed as it comes; files at the end, also after Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

from tilegrad.bench import arguments, ceilings, compare, listing, readme, results, table
from tilegrad.bench.arguments import Settings
from tilegrad.bench.bystanders import Bystanders
from tilegrad.bench.clock import Events
from tilegrad.bench.measure import FULL, QUICK
from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import Op, Shape
from tilegrad.bench.programs import PROGRAMS, Program
from tilegrad.bench.provenance import provenance
from tilegrad.bench.providers import PROVIDERS
from tilegrad.bench.results import Results, Row
from tilegrad.bench.rows import cases, measured
from tilegrad.bench.session import Deadline, Session
from tilegrad.kernels.device import gpu

MakeRows = Callable[[], list[Row]]
INTERRUPTED = 130
BUSY = 0.05  # of the cores' time; if others took more, the run says so
SIMULATED = "SIMULATED DEVICE: every kernel runs once and is checked; nothing is measured, and no figure is a GPU's."


def main(given: list[str] | None = None) -> int:
    """The exit status: 0; 1 for a wrong or failed row, one above its ceiling, or a regression; 2 for arguments; 130 for
    Ctrl-C.
    """
    settings = arguments.parse(sys.argv[1:] if given is None else given)
    if settings.list:
        print(listing.text())
        return 0
    if settings.readme and settings.json is None:
        return readme.main()
    found = Results(settings.device, settings.simulated, provenance(settings.device), _without_paths(settings.given))
    status = 0
    bystanders = Bystanders()
    try:
        _measure(settings, found)
    except KeyboardInterrupt:
        found.complete, status = False, INTERRUPTED
        print(f"\ninterrupted: {len(found.rows)} rows were measured and are kept")
    share = found.provenance["others"] = bystanders.share()
    if share is not None and share > BUSY and not settings.simulated:
        print(f"BUSY: other processes took {100 * share:.0f} % of the cores' time; what waits by spinning suffers most")
    _write(settings, found)
    if status:
        return status
    bad = [row for row in found.rows if row.status in ("wrong", "failed")]
    for row in bad:
        print(f"{row.status.upper()}: {table.heading(row)}  {row.provider}: {row.reason}")
    moved = _compared(settings, found)
    if bad or moved:
        return 1
    return readme.main() if settings.readme else 0


def _without_paths(given: list[str]) -> list[str]:
    """The arguments without the paths of files, which say nothing about what was measured."""
    kept = []
    words = iter(given)
    for word in words:
        if word == "--readme":
            continue
        if word.partition("=")[0] not in ("--json", "--csv", "--plot", "--compare"):
            kept.append(word)
        elif "=" not in word:
            next(words, None)
    return kept


def _measure(settings: Settings, found: Results) -> None:
    session = _session(settings, found)
    deadline = Deadline(settings.minutes)
    for i, name in enumerate(settings.ops):
        deadline.start(len(settings.ops) - i)
        op = OPS.get(name) or PROGRAMS[name]
        shapes = _shapes(op, settings)
        waiting = list(_cases(op, shapes, settings, session))
        print(
            f"\n{name}" + "".join(f"\n  {table.shape([*s.shape])}: {s.reason}" for s in _reasons(op, shapes, settings))
        )
        for text in _not_there(op, settings):
            found.notes.append(f"{name}: {text}")
            print(f"  {text}")
        while waiting and not deadline.passed():
            case = waiting.pop(0)()
            found.rows += case
            _show(case)
        if waiting:
            found.notes.append(f"{name}: {len(waiting)} cases left out: the share of --minutes was over")
            print(f"  {found.notes[-1]}")


def _not_there(op: Op | Program, settings: Settings) -> Iterator[str]:
    """What was asked for but this op does not have."""
    if isinstance(op, Op):
        for dtype in _dtypes(settings):
            if dtype not in op.dtypes:
                yield f"no {dtype}; there is {', '.join(op.dtypes)}"
        if not any(mode in v.modes for v in op.variants for mode in settings.modes):
            yield f"no {', '.join(settings.modes)}; there is {', '.join(op.variants[0].modes)}"
    elif settings.dtypes and settings.dtypes != ["float32"]:
        yield "float32 only"


def _cases(op: Op | Program, shapes: list[Shape], settings: Settings, session: Session) -> Iterator[MakeRows]:
    """Functions, each of which measures one case."""
    if isinstance(op, Program):
        yield from op.rows(session, shapes, settings.shapes is not None)
        return
    dtypes = [dtype for dtype in _dtypes(settings) if dtype in op.dtypes]
    for case in cases(op, shapes, dtypes, settings.modes, settings.device):
        yield partial(measured, case, session)


def _session(settings: Settings, found: Results) -> Session:
    print("  ".join(_machine(found)))
    if settings.simulated:
        print(SIMULATED)
    session = Session(settings.device, settings.simulated, QUICK if settings.quick else FULL, {})
    for name in PROVIDERS:
        if name not in settings.providers:
            continue
        why = PROVIDERS[name].missing(settings.device)
        found.providers[name] = why
        if why:
            print(f"skipped: {name}: {why}")
        else:
            session.providers[name] = PROVIDERS[name]
    others = [p for name, p in PROVIDERS.items() if name not in settings.providers]
    if left_out := [p.name for p in others if not p.missing(settings.device)]:
        print(f"not asked for: {', '.join(left_out)} (--providers)")
    if settings.device == "cuda" and not settings.simulated:
        session.events = Events(gpu.xp())
    if not settings.simulated and any(name in OPS for name in settings.ops):
        session.ceilings = found.ceilings = _ceilings(settings, session)
        for name, ceiling in found.ceilings.items():
            print(f"ceiling, {name}: {ceiling['value']:,.0f} {ceiling['unit']} ({ceiling['how']})")
    return session


def _ceilings(settings: Settings, session: Session) -> dict:
    dtypes = _dtypes(settings)
    if session.events is None:
        return ceilings.of_cpu(dtypes, settings.quick)
    precisions = sorted({p for name in settings.ops if name in OPS for p in OPS[name].precisions})
    pairs = [(dtype, p) for dtype in dtypes for p in (precisions if dtype == "float32" else ["ieee"])]
    return ceilings.of_gpu(session.events, pairs)


def _dtypes(settings: Settings) -> list[str]:
    return settings.dtypes or (["float32"] if settings.device == "cpu" else ["float32", "bfloat16"])


def _shapes(op: Op | Program, settings: Settings) -> list[Shape]:
    if settings.shapes:
        return settings.shapes
    if settings.simulated:
        return [op.toy]
    sizes = op.cpu if settings.device == "cpu" else op.cuda
    return [s.shape for s in sizes if s.quick or not settings.quick]


def _reasons(op: Op | Program, shapes: list[Shape], settings: Settings) -> list:
    sizes = op.cpu if settings.device == "cpu" else op.cuda
    return [s for s in sizes if s.shape in shapes and s.reason]


def _machine(found: Results) -> list[str]:
    p = found.provenance
    return [p.get("card") or p["cpu"], f"{p['cores']} cores", p["date"], f"commit {p['commit']}"]


def _show(rows: list[Row]) -> None:
    heading = None
    for row in rows:
        if table.heading(row) != heading:
            heading = table.heading(row)
            print(heading)
        print(table.line(row), flush=True)


def _write(settings: Settings, found: Results) -> None:
    written = []
    if settings.json is not None:
        results.write(settings.json, found.to_json())
        written.append(settings.json)
    if settings.csv is not None:
        results.write(settings.csv, found.to_csv())
        written.append(settings.csv)
    if settings.plot is not None:
        from tilegrad.bench import plot

        if plot.draw(found, settings.plot):
            written.append(settings.plot)
        else:
            print(f"{settings.plot}: nothing was measured that a picture could show")
    for path in written:
        print(f"written: {path}")


def _compared(settings: Settings, found: Results) -> bool:
    """Print what moved since the older results; whether something became slower by more than --fail-above."""
    if settings.compare is None:
        return False
    report = compare.against(settings.compare, found)
    print(report.text())
    if settings.fail_above is None:
        return False
    worse = report.slower_than(settings.fail_above)
    for move in worse:
        print(f"REGRESSION: {move.name}: {move.percent:+.1f} %, allowed {settings.fail_above:g} %")
    return bool(worse)
