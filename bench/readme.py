"""What the READMEs say of speed, from the results in bench/results: python -m tilegrad.bench --readme

README.md has the training steps, with a picture of them; bench/README.md has every table. What stands between the two
markers is made of the JSON files alone, so that a test can tell when it is stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tilegrad.bench import plot, ptx_counters, results, table
from tilegrad.bench.ops import OPS
from tilegrad.bench.results import Results, Row, known

ROOT = Path(__file__).resolve().parents[1]  # of the checkout
BEGIN = "<!-- bench:begin (python -m tilegrad.bench --readme) -->"
END = "<!-- bench:end -->"


def main(root: Path = ROOT) -> int:
    """Write the sections anew, and draw the picture; 0 whether anything changed or not."""
    folder = root / "bench" / "results"
    texts = {root / "README.md": steps(folder), root / "bench" / "README.md": section(folder)}
    texts = {path: rewritten(path.read_text(), text) for path, text in texts.items()}  # all of them, or none
    for path, after in texts.items():
        changed = after != path.read_text()
        if changed:
            results.write(path, after)
        print(f"{path.relative_to(root)}: {'written anew' if changed else 'up to date'}")
    for found, path in _machines(folder):
        if plot.draw_steps(found, path.with_suffix(".svg")):
            print(f"{path.with_suffix('.svg').relative_to(root)}: drawn")
    return 0


def rewritten(readme: str, text: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """The README with the text between its markers. Raises ValueError unless it has both markers once."""
    for marker in markers:
        if readme.count(marker) != 1:
            raise ValueError(f"README: {marker!r} stands there {readme.count(marker)} times; expected once")
    begin, end = markers
    head, _, rest = readme.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{text}{end}{tail}"


def write_section(section: Callable[[Path], str], markers: tuple[str, str], root: Path = ROOT) -> int:
    """Write README.md's section anew, of the results in bench/results; 0, the command's exit status."""
    path = root / "README.md"
    results.write(path, rewritten(path.read_text(), section(root / "bench" / "results"), markers))
    print(f"{path.name}: written anew")
    return 0


def steps(folder: Path) -> str:
    """The training steps of every result in the folder, machine by machine."""
    parts = []
    for found, path in _machines(folder):
        rows = [row for row in found.rows if row.op == "train" and row.mode == "step"]
        if any(row.ms for row in rows):
            head = _provenance(found, path.relative_to(folder.parents[1]).as_posix())
            parts.append("\n".join([*head, "", *_steps(rows)]))
    return "\n".join(parts)


def section(folder: Path) -> str:
    """The tables of every result in the folder, machine by machine."""
    machines = _machines(folder)
    parts = [_machine(found, path.relative_to(folder.parent).as_posix()) for found, path in machines]
    return "\n".join("\n".join(part) for part in (*parts, ptx_counters.table(folder)))


def _machines(folder: Path) -> Iterator[tuple[Results, Path]]:
    """What was measured, and where it is kept."""
    for path in kept(folder):
        found = results.read(path)
        if not found.simulated and any(row.ms for row in found.rows):
            yield found, path


def kept(folder: Path) -> list[Path]:
    """The files in the folder that `python -m tilegrad.bench --json` wrote. Other files there have no schema."""
    return [path for path in sorted(folder.glob("*.json")) if "schema" in json.loads(path.read_text())]


def _provenance(found: Results, link: str) -> Iterator[str]:
    p = found.provenance
    versions = ", ".join(f"{name} {v}" for name, v in p["packages"].items() if name in ("torch", "triton", "numpy"))
    yield f"{p.get('card') or p['cpu']}, {p['cores']} cores, {p['date']}, commit {p['commit']}, {versions}"
    yield f"([all rows]({link}))."


def _machine(found: Results, link: str) -> Iterator[str]:
    yield from _provenance(found, link)
    if found.ceilings:
        tops = (f"{name} {c['value']:,.0f} {c['unit']} ({c['how']})" for name, c in found.ceilings.items())
        yield f"Ceilings in the same process: {'; '.join(tops)}."
    yield ""
    yield from _steps([row for row in found.rows if row.op == "train" and row.mode == "step"])
    yield from _layers([row for row in found.rows if row.op == "train" and row.mode != "step"])
    yield from _kernels([row for row in found.rows if _is_quick(row, found.device)])
    yield from _memory([row for row in found.rows if row.op == "memory" and row.rate])
    yield from _overhead([row for row in found.rows if row.op == "overhead"])


def _is_quick(row: Row, device: str) -> bool:
    """Whether --quick measures it too: the shapes that tell the most."""
    if row.op not in OPS:
        return False
    sizes = OPS[row.op].cpu if device == "cpu" else OPS[row.op].cuda
    return any(s.quick and [*s.shape] == row.shape for s in sizes)


def _steps(rows: list[Row]) -> Iterator[str]:
    """A row for each net and batch size; the captured step has a column if there are any.

    A step that capture refused and that ran plainly says so.
    """
    if not any(row.ms for row in rows):
        return
    captured = any(row.provider.endswith(" captured") for row in rows)
    times = "times torch's speed"
    yield from _head("training step", "batch", "torch", "tilegrad", times, *(["captured", times] if captured else []))
    for rows_of_case in _by_case(rows):
        own = _fastest(row for row in rows_of_case if not row.rival and not row.provider.endswith(" captured"))
        graph = _fastest(row for row in rows_of_case if row.provider.endswith(" captured"))
        rival = _fastest(row for row in rows_of_case if row.rival)
        cells = [rows_of_case[0].variant, table.shape(rows_of_case[0].shape), _ms(rival), _ms(own), _ratio(own)]
        plainly = ", plainly" if graph and (graph.reason or "").startswith("runs plainly") else ""
        yield table_line(*cells, *([_ms(graph) + plainly, _ratio(graph)] if captured else []))
    yield ""


def _layers(rows: list[Row]) -> Iterator[str]:
    if not any(row.ms for row in rows):
        return
    batch = rows[0].shape[0]
    yield from _head(f"layer of the CNN, batch {batch}", "mode", "tilegrad", "torch", "times torch's speed")
    for case in _by_case(rows):
        own, rival = (_fastest(row for row in case if row.rival == is_rival) for is_rival in (False, True))
        mode = "forward" if case[0].mode == "forward" else "and backward"
        yield table_line(case[0].variant.removeprefix("CNN's "), mode, _ms(own), _ms(rival), _ratio(own))
    yield ""


def _kernels(rows: list[Row]) -> Iterator[str]:
    """A row for each case: the fastest of ours, its rate, and the fastest rival."""
    if not any(row.ms for row in rows):
        return
    yield from _head("kernel", "shape", "dtype", "by", "time", "rate", "of ceiling", "best rival", "times its speed")
    for case in _by_case(rows):
        own = _fastest(row for row in case if not row.rival)
        if own is None:
            continue
        name = own.variant if own.mode == "forward" else f"{own.variant}, {own.mode}"
        of = f"{100 * own.of_ceiling:.0f} %" if own.of_ceiling is not None else ""
        where = table.shape(own.shape)
        yield table_line(
            name, where, table.kind(own), own.provider, _ms(own), table.rate(own), of, own.best_rival or "", _ratio(own)
        )
    yield ""


def _memory(rows: list[Row]) -> Iterator[str]:
    """A row for each net: the process's peak, and what the batch adds to batch 1."""
    if not rows:
        return
    yield from _head("peak memory of training", "batch", "of", "torch", "tilegrad", "captured")
    cases: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(row.key[:-1], {})[row.provider] = row
    for case in cases.values():
        first = next(iter(case.values()))
        inside = [case.get(provider) for provider in ("torch", "cpu", "cpu captured")]
        cells = (f"{known(row.rate):.0f} MiB" if row else "" for row in inside)
        yield table_line(first.variant, table.shape(first.shape), first.mode, *cells)
    yield ""


def _overhead(rows: list[Row]) -> Iterator[str]:
    if not any(row.ms for row in rows):
        return
    yield from _head("overhead", "tilegrad", "torch")
    for case in _by_case(rows):
        own, rival = (_fastest(row for row in case if row.rival == is_rival) for is_rival in (False, True))
        yield table_line(
            f"{case[0].variant}, {case[0].mode}", *(table.rate(row) if row else "" for row in (own, rival))
        )
    yield ""


def _by_case(rows: list[Row]) -> list[list[Row]]:
    """The measured rows of each case, in their order."""
    cases: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.ms:
            cases.setdefault(row.key[:-1], []).append(row)
    return list(cases.values())


def _fastest(rows: Iterator[Row]) -> Row | None:
    return min(rows, key=lambda row: known(row.ms), default=None)


def _head(*names: str) -> list[str]:
    return [table_line(*names), table_line(*("---" for _ in names))]


def table_line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ms(row: Row | None) -> str:
    if row is None:
        return ""
    ms = known(row.ms)
    return f"{ms:.3g} ms" if ms >= 1 else f"{1000 * ms:.3g} us"


def _ratio(row: Row | None) -> str:
    return f"{row.times_rival:.2f}" if row and row.times_rival else ""
