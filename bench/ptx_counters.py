"""The counters of every shipped default, for bench/results and the table of bench/README.md. Needs no GPU.

    python -m tilegrad.bench.ptx_counters [--kernels triton,numba] [--family pool,sum] [--arch 90]

The launches are those of `python -m tilegrad.kernels.compile --defaults`, compiled for sm_80. sm_90 is worth counting
where its code is of another kind, which is so of Triton's matmul and conv2d alone. Which part of each launch is run
is said in kernels/profile/defaults.py. float32 and, of Triton, bfloat16: accesses of float16 are bfloat16's. What is
named is counted anew and replaces its rows; the others stay as they are. All of it takes some minutes of one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tilegrad.bench.provenance import provenance
from tilegrad.bench.results import write
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.contract import FAMILIES
from tilegrad.kernels.simulate.program import ARCHS, ask_for

CARD = "H200"
DTYPES = {"triton": (np.dtype(np.float32), bfloat16), "numba": (np.dtype(np.float32),)}
_ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


def name(arch: int) -> str:
    """The file of the counters for that architecture."""
    return f"ptx-counters-sm{arch}.json"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tilegrad.bench.ptx_counters", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--kernels", default="triton,numba", help="whose kernels, of triton and numba (default: both)")
    parser.add_argument("--family", default=",".join(FAMILIES), help="which families (default: all)")
    parser.add_argument("--arch", type=int, default=80, help="for which compute capability (default: 80)")
    flags = parser.parse_args(arguments)
    languages, families = flags.kernels.split(","), flags.family.split(",")
    unknown = [name for name in languages if name not in DTYPES] + [name for name in families if name not in FAMILIES]
    if unknown:
        parser.error(f"{unknown[0]}: expected of {', '.join(DTYPES)} and of {', '.join(FAMILIES)}")
    try:
        ask_for(flags.arch)
    except ValueError as error:
        parser.error(str(error))
    path, come_from = _ROOT / "bench" / "results" / name(flags.arch), provenance()
    for language in languages:
        for dtype in DTYPES[language]:
            for family in families:
                rows = [row | {"commit": come_from["commit"]} for row in _rows(language, dtype, family)]
                kept = json.loads(path.read_text())["rows"] if path.exists() else []
                replaced = language, str(dtype), family
                kept = [row for row in kept if (row["language"], row["dtype"], row["family"]) != replaced]
                write(path, _text(come_from, sorted([*kept, *rows], key=_order)))
                print(f"{language} {dtype} {family}: {len(rows)} compilations", flush=True)
    return 0


def _rows(language: str, dtype: np.dtype, family: str) -> Iterator[Row]:
    from tilegrad.kernels.profile.defaults import defaults  # the kernel languages look at the environment once
    from tilegrad.kernels.profile.report import row

    head = {"language": language, "dtype": str(dtype), "family": family}
    for launched in defaults(language, dtype, family):
        yield head | row(launched, CARD)


def _order(row: Row) -> tuple[int, int, int]:
    """Sorted is stable: rows of one family stay in the order of their launches."""
    language, dtypes = list(DTYPES).index(row["language"]), [str(d) for d in DTYPES[row["language"]]]
    return language, list(FAMILIES).index(row["family"]), dtypes.index(row["dtype"])


def _text(come_from: dict[str, Any], rows: list[Row]) -> str:
    """A row a line; where the last of them come from, and of each the commit."""
    lines = ",\n".join(map(json.dumps, rows))
    return f'{{"provenance": {json.dumps(come_from)},\n"rows": [\n{lines}\n]}}\n'


# --- the table


def table(folder: Path) -> Iterator[str]:
    """Of the counters in that folder: for each architecture a line for each kernel, language and dtype, which is the
    worst of its compilations."""
    for arch in ARCHS:
        if (folder / name(arch)).exists():
            yield from _table(arch, folder / name(arch))


def _table(arch: int, path: Path) -> Iterator[str]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in json.loads(path.read_text())["rows"]:
        found.setdefault((row["language"], row["kernel"], row["dtype"]), []).append(row)
    commits = sorted({row["commit"] for rows in found.values() for row in rows})
    count = sum(map(len, found.values()))
    yield f"What {count} shipped defaults do on sm_{arch}, counted while their PTX is executed"
    yield f"([all rows](results/{path.name}), commit {', '.join(commits)}); no GPU has run them."
    yield "Of several compilations of a kernel the worst is shown."
    if arch >= 90:
        yield "What wgmma itself reads of shared memory is not counted: in which transactions is not documented."
    yield ""
    columns = ("kernel", "by", "dtype", "compiled", "loads", "stores", "conflicts", "divergent", "lanes", "registers")
    yield _line(*columns, f"occupancy, {CARD}", "bound by")
    yield _line(*("---" for _ in range(len(columns) + 2)))
    for (language, kernel, dtype), rows in found.items():
        short = kernel.strip("_").removesuffix("_kernel")
        coalescing = (_least(row["coalescing"][what] for row in rows) for what in ("loads", "stores"))
        registers, fit = max(row["registers"] for row in rows), min(row["occupancy"] for row in rows)
        bounds = dict.fromkeys(next(iter(row["bound_seconds"])) for row in rows)
        yield _line(
            short, language, dtype, str(len(rows)), *coalescing, _conflicts(rows), _most(map(_divergent, rows)),
            _least(row["lanes_at_work"] for row in rows), str(registers), f"{100 * fit:.0f} %", ", ".join(bounds),
        )  # fmt: skip
    yield ""


def _conflicts(rows: list[Row]) -> str:
    """The most transactions, in times the least that they could be."""
    parts = [row["counters"][name] for row in rows for name in ("shared_loads", "shared_stores")]
    times = [part["transactions"] / part["least"] for part in parts if part["least"]]
    return f"{max(times):.2f}" if times else ""


def _divergent(row: Row) -> float:
    """Of the conditional branches of warps those at which lanes part."""
    return row["counters"]["divergent"] / (row["counters"]["branches"] or 1)


def _least(shares: Iterator[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{100 * min(known):.0f} %" if known else ""


def _most(shares: Iterator[float]) -> str:
    return f"{100 * max(shares):.0f} %"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
