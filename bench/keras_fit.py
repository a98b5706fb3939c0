"""The time of Keras' `fit` on tilegrad beside TensorFlow, JAX and torch, on the CPU.

    python -m tilegrad.bench.keras_fit [--venv DIR] [--json bench/results/keras-fit-NAME.json] [--readme]

A process for each backend, one after the other: Adam, cross-entropy and accuracy on random images, milliseconds a step,
the median of three epochs after one that compiles. Then a step of Keras' beside the engine's own captured one. It takes
some three minutes, and where no environment is given, the minutes that installing one takes. Each backend has as many
threads as it takes for itself. --readme writes README.md's table from what is in bench/results, alone or with --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilegrad.bench.bystanders import Bystanders
from tilegrad.bench.keras_venv import FOLDER, ROOT, environment, variables
from tilegrad.bench.provenance import provenance
from tilegrad.bench.readme import table_line, write_section
from tilegrad.bench.results import writable, write
from tilegrad.kernels.system.paths import user_path

BACKENDS = {"tilegrad": "tilegrad", "tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
GOAL = 1.2  # times the engine's own step, of a step of Keras'
MARKERS = "<!-- keras:begin (python -m tilegrad.bench.keras_fit --readme) -->", "<!-- keras:end -->"
BUSY = 0.05  # of the cores' time; if others took more, the run says so
Found = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where a rival is faster, or a step above its goal."""
    parser = argparse.ArgumentParser(
        prog="python -m tilegrad.bench.keras_fit", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--venv", type=user_path, default=FOLDER, help="an environment with Keras and the rivals")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="which of them (default: all)")
    parser.add_argument("--json", type=user_path, help="write the figures there")
    parser.add_argument("--readme", action="store_true", help="write README.md's table")
    parser.add_argument("--least", action="store_true", help="a few steps, to see whether everything runs")
    flags = parser.parse_args(arguments)
    if flags.readme and flags.json is None:
        return write_table()
    backends = flags.backends.split(",")
    unknown = [name for name in backends if name not in BACKENDS]
    if unknown:
        parser.error(f"--backends: got {unknown[0]}; expected some of {', '.join(BACKENDS)}")
    why = None if flags.json is None else writable(flags.json)
    if why is not None:
        parser.error(f"--json: {flags.json} {why}")
    if flags.least and flags.readme:
        parser.error("--least: a few steps say nothing of speed; expected no --readme")

    given = flags.venv / "bin" / "python"
    found = measured(given if given.exists() else environment(flags.venv), backends, flags.least)
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


def measured(python: Path, backends: list[str], least: bool = False) -> Found:
    """The times of each backend in turn, of a step beside the engine's, and where they come from."""
    origin, bystanders = provenance(), Bystanders()
    times: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}
    for backend in backends:
        # -P: no file of this folder is taken for a package of that name
        told = _told([python, "-P", Path(__file__).with_name("keras_epochs.py")], least, KERAS_BACKEND=backend)
        versions |= told["versions"]
        for row in told["rows"]:
            case = times.setdefault(f"{row['net']} {row['batch']}", {"net": row["net"], "batch": row["batch"]})
            case[backend] = [float(f"{ms:.4g}") for ms in row["epochs"]]
        print(f"{backend}: " + ", ".join(f"{case} {_ms(of, backend):.3g} ms" for case, of in times.items()), flush=True)
    steps = []
    if "tilegrad" in backends:
        steps = _told([python, "-m", "tilegrad.bench.keras_step"], least, KERAS_BACKEND="tilegrad")["rows"]
    origin |= {"packages": versions, "others": bystanders.share()}
    return {"provenance": origin, "epochs": list(times.values()), "steps": steps}


def _told(command: list[Any], least: bool, **more: str) -> Found:
    """The JSON in the last line that the program prints."""
    done = subprocess.run(
        [*command, *(["--least"] if least else [])],
        env=variables(**more),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _ms(case: dict[str, Any], backend: str) -> float:
    return statistics.median(case[backend])


def misses(found: Found) -> Iterator[str]:
    """What is not as it should be: a rival that is faster, a step of Keras' that takes too long."""
    for case in found["epochs"]:
        for backend in case.keys() & BACKENDS.keys() - {"tilegrad"}:
            if "tilegrad" in case and _ms(case, backend) <= _ms(case, "tilegrad"):
                yield f"MISSED: {BACKENDS[backend]} is faster: {case['net']}, batch {case['batch']}"
    for step in found["steps"]:
        if step["keras"] > GOAL * step["engine"]:
            times = step["keras"] / step["engine"]
            yield f"MISSED: {step['net']}, batch {step['batch']}: {times:.2f} times the engine's own step; goal {GOAL}"


# --- the table


def write_table(root: Path = ROOT) -> int:
    """Write README.md's section anew."""
    return write_section(section, MARKERS, root)


def section(folder: Path) -> str:
    """The tables of every result in the folder."""
    parts = []
    for path in sorted(folder.glob("keras-fit-*.json")):
        found = json.loads(path.read_text())
        p = found["provenance"]
        versions = ", ".join(f"{name} {version}" for name, version in p["packages"].items() if name != "numba")
        parts.append("`fit` with Adam, cross-entropy and accuracy on random images, the median of three epochs:")
        parts.append(f"{p['cpu']}, {p['cores']} cores, {p['date']}, commit {p['commit']}, {versions}")
        parts.append(f"([all epochs](bench/results/{path.name})).\n")
        parts.append("\n".join(table(found)))
    return "".join(f"{part}\n" for part in parts)


def table(found: Found) -> Iterator[str]:
    """A line for each net and batch: milliseconds a step of every backend; how far the fastest rival is behind; a step
    of Keras' in times the engine's own."""
    backends = [name for name in BACKENDS if all(name in case for case in found["epochs"])]
    names = [BACKENDS[name] for name in backends]
    yield table_line(
        "`fit`, ms a step", "batch", *names, "times the fastest rival's speed", "times the engine's own step"
    )
    yield table_line(*("---" for _ in range(len(names) + 4)))
    steps = {(step["net"], step["batch"]): step["keras"] / step["engine"] for step in found["steps"]}
    for case in found["epochs"]:
        ms = [_ms(case, backend) for backend in backends]
        rivals = [_ms(case, backend) for backend in backends if backend != "tilegrad"]
        ahead = f"{min(rivals) / _ms(case, 'tilegrad'):.2f}" if rivals and "tilegrad" in backends else ""
        step = steps.get((case["net"], case["batch"]))
        of_step = "" if step is None else f"{step:.2f}"
        yield table_line(case["net"], str(case["batch"]), *(f"{each:.3g}" for each in ms), ahead, of_step)


if __name__ == "__main__":
    raise SystemExit(main())
