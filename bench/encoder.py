"""A step of fine-tuning a sentence encoder, and the memory that it takes, beside torch's, on the CPU.

    python -m tilegrad.bench.encoder [--json bench/results/encoder-NAME.json] [--readme]

MiniLM-L6's sizes, 32 texts of 32 tokens: all parameters, the last two layers, the head alone. A process for each of
these takes times, all contestants in turns; one for each contestant counts memory. torch runs as it is and, where it
has a C++ compiler, under torch.compile. It takes some five minutes. encoder_step.py says what a step is, and what is
checked before it is timed. --readme writes README.md's table from what is in bench/results, alone or with --json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilegrad.bench.bystanders import Bystanders
from tilegrad.bench.encoder_step import CASES, PROVIDERS
from tilegrad.bench.provenance import provenance
from tilegrad.bench.readme import ROOT, table_line, write_section
from tilegrad.bench.results import writable, write
from tilegrad.kernels.system.paths import user_path

MARKERS = "<!-- encoder:begin (python -m tilegrad.bench.encoder --readme) -->", "<!-- encoder:end -->"
GOALS = {"all": 0.9, "head": 2.0}  # times the speed of torch's step
BUSY = 0.05  # of the cores' time; if others took more, the run says so
WEIGHED = [name for name in PROVIDERS if name != "torch compiled"]  # its compiler takes more than the net
Found = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where a goal is missed, or torch takes less memory."""
    parser = argparse.ArgumentParser(prog="python -m tilegrad.bench.encoder", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=user_path, help="write the figures there")
    parser.add_argument("--readme", action="store_true", help="write README.md's table")
    parser.add_argument("--least", action="store_true", help="a few steps, to see whether everything runs")
    flags = parser.parse_args(arguments)
    if flags.readme and flags.json is None:
        return write_table()
    why = None if flags.json is None else writable(flags.json)
    if why is not None:
        parser.error(f"--json: {flags.json} {why}")
    if flags.least and flags.readme:
        parser.error("--least: a few steps say nothing of speed; expected no --readme")

    found = measured(list(CASES), flags.least)
    others = found["provenance"]["others"]
    if others is not None and others > BUSY:
        print(f"BUSY: other processes took {100 * others:.0f} % of the cores' time")
    print("\n".join(table(found)))
    if flags.json is not None:
        write(flags.json, json.dumps(found, indent=1) + "\n")
        print(f"written: {flags.json}")
    if flags.least:
        return 0
    missed = list(misses(found))
    print(*missed, sep="\n")
    if flags.readme:
        write_table()
    return 1 if missed else 0


def measured(cases: list[str], least: bool = False) -> Found:
    """The times and the memory of each case, and where they come from."""
    origin, bystanders = provenance(), Bystanders()
    rows = []
    for case in cases:
        row = {"case": case, **_told("time", case, least=least), "MiB": {}}
        if not CASES[case].kept:
            # After the times, for which kernels were compiled: their compiler takes more than the net.
            row["MiB"] = {name: round(_told("memory", case, name, least=least), 1) for name in WEIGHED}
        rows.append(row)
        print(f"{case}: " + ", ".join(f"{name} {ms[1]:.4g} ms" for name, ms in row["ms"].items()), flush=True)
    return {"provenance": origin | {"others": bystanders.share()}, "rows": rows}


def _told(*given: str, least: bool) -> Any:
    """The JSON in the last line that the process prints."""
    command = [sys.executable, "-m", "tilegrad.bench.encoder_step", *given, *(["--least"] if least else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def _ahead(row: dict[str, Any]) -> float:
    """The captured step's speed, in times the faster of torch's."""
    rivals = [ms[1] for name, ms in row["ms"].items() if name.startswith("torch")]
    return min(rivals) / row["ms"]["tilegrad captured"][1]


def misses(found: Found) -> Iterator[str]:
    """What is not as it should be: a step that is too slow, a case in which torch takes less memory."""
    for row in found["rows"]:
        goal = GOALS.get(row["case"])
        if goal is not None and _ahead(row) < goal:
            yield f"MISSED: {row['case']}: {_ahead(row):.2f} times torch's speed; goal {goal}"
        for name, most in row["MiB"].items():
            if most > row["MiB"]["torch"]:
                yield f"MISSED: {row['case']}: {name} takes {most:.0f} MiB, torch {row['MiB']['torch']:.0f}"


# --- the table


def write_table(root: Path = ROOT) -> int:
    """Write README.md's section anew."""
    return write_section(section, MARKERS, root)


def section(folder: Path) -> str:
    """The tables of every result in the folder."""
    parts = []
    for path in sorted(folder.glob("encoder-*.json")):
        found = json.loads(path.read_text())
        p = found["provenance"]
        versions = ", ".join(f"{name} {version}" for name, version in p["packages"].items() if name != "numba-cuda")
        threads = "1 thread" if p["threads"] == 1 else f"{p['threads']} threads"
        parts.append(f"{p['cpu']}, {p['cores']} cores, {threads}, {p['date']}, commit {p['commit']}, {versions}")
        parts.append(f"([all figures](bench/results/{path.name})).\n")
        parts.append("\n".join(table(found)))
    return "".join(f"{part}\n" for part in parts)


def table(found: Found) -> Iterator[str]:
    """A line a case: milliseconds a step of everyone, the captured step's in times the faster of torch's; MiB."""
    names = ("torch", "`torch.compile`", "tilegrad", "captured")
    yield table_line("trained, ms a step", *names, "times torch's speed", "MiB, torch", "tilegrad", "captured")
    yield table_line(*("---" for _ in range(9)))
    for row in found["rows"]:
        ms = [f"{row['ms'][name][1]:.3g}" if name in row["ms"] else "" for name in PROVIDERS]
        memory = [f"{row['MiB'][name]:.0f}" if name in row["MiB"] else "" for name in WEIGHED]
        yield table_line(row["case"], *ms, f"{_ahead(row):.2f}", *memory)


if __name__ == "__main__":
    raise SystemExit(main())
