"""What is run when there is a GPU for once: parts in order of worth, each under a time limit of its own.

    python -m tilegrad.bench.on_gpu run [--out DIR] [--only NAME,...] [--more] [--toy]
    python -m tilegrad.bench.on_gpu report DIR
    python -m tilegrad.bench.on_gpu pack CACHE

run     no part stops the next. Each writes its results and a log to DIR at once; a part that had to be stopped keeps
        its rows so far. `summary.json` says what became of each. --more: the second round, with what matters less.
        --toy: every part at sizes that the simulated device manages, which proves the command itself
pack    Triton's cache becomes the archive .carry/triton.tar.xz, which `run` unpacks to where Triton looks
report  the rows in DIR become one file in bench/results, named after the card, and README's tables are written anew

The limits of the first round sum to less than ten minutes. Nothing is installed and nothing is fetched: MNIST is read
from TILEGRAD_DATA, and Triton's cache from the archive .carry/triton.tar.xz where there is one (make gpu-cache).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tilegrad.bench import readme, results
from tilegrad.bench.results import Results, Row
from tilegrad.kernels.system.paths import user_path

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ROOT / ".carry" / "triton.tar.xz"
TRITON_CACHE = Path(
    "/tmp/tilegrad-triton"
)  # the same on every machine: only there does Triton find what was made elsewhere
CUDA_HOME = Path("/usr/local/cuda")
BAD = ("wrong", "failed")
GRACE = 10  # seconds between asking a part to stop and killing it


class Part(NamedTuple):
    """One command: `seconds` is its limit; `toy` what it is on the simulated device. OUT is its file for results."""

    name: str
    seconds: int
    command: tuple[str, ...]
    toy: tuple[str, ...]


def _tests(*which: str, processes: int = 0) -> tuple[str, ...]:
    spread = ("-n", str(processes)) if processes and importlib.util.find_spec("xdist") else ()
    return ("pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "OUT.xml", *spread, *which)


def _bench(*which: str) -> tuple[str, ...]:
    return ("tilegrad.bench", *which, "--device", "cuda", "--json", "OUT.json")


def _mnist(*which: str) -> tuple[str, ...]:
    return ("tilegrad.bench.mnist", *which, "--device", "cuda", "--json", "OUT.json")


_TOY_TEST = _tests("tests/cuda/test_creation.py", "-k", "without_a_device")
_TOY_BENCH = _bench("softmax", "--shapes", "4,8", "--mode", "forward", "--providers", "triton,reference")
_TOY_MNIST = _mnist("--net", "mlp", "--epochs", "1", "--runs", "0", "--limit", "24", "--batch-size", "8")

FIRST = (
    Part("tests-cuda", 90, _tests("-m", "gpu", "tests/cuda", processes=8), _TOY_TEST),
    Part(
        "matmul",
        90,
        _bench("matmul", "--dtype", "bfloat16", "--mode", "forward", "--providers", "triton,torch",
               "--shapes", "4096,4096,4096;8192,8192,8192"),
        _bench("matmul", "--shapes", "5,6,7", "--mode", "forward", "--providers", "triton"),
    ),
    Part(
        "mnist-cnn",
        100,
        _mnist("--net", "cnn", "--runs", "3", "--only", "captured,captured x 8,torch"),
        (*_TOY_MNIST, "--only", "captured"),
    ),
    Part(
        "memory-bound",
        90,
        _bench("softmax", "softmax_xent", "adam", "activations", "pool", "--quick", "--mode", "forward"),
        _TOY_BENCH,
    ),
    Part("overhead", 40, _bench("overhead", "--quick"), _bench("overhead", "--quick")),
    Part("tests-triton", 150, _tests("-m", "gpu", "-k", "triton", "tests/kernels", processes=12), _TOY_TEST),
)  # fmt: skip
MORE = (
    Part("tests-real-sizes", 120, _tests("-m", "gpu", "tests/gpu/test_real_sizes.py"), _TOY_TEST),
    Part("tests-numba", 150, _tests("-m", "gpu", "-k", "numba", "tests/kernels", processes=12), _TOY_TEST),
    Part("conv", 60, _bench("conv", "--quick"), _bench("conv", "--shapes", "1,1,4,2,3,0", "--providers", "triton")),
    Part("backward", 120, _bench("matmul", "attention", "softmax", "softmax_xent", "activations", "pool", "--quick",
                                 "--mode", "backward"), _TOY_BENCH),
    Part("recurrent", 60, _bench("recurrent", "--quick"),
         _bench("recurrent", "--shapes", "2,2,3", "--providers", "triton")),
    Part("mnist-mlp", 60, _mnist("--net", "mlp", "--runs", "3"), (*_TOY_MNIST, "--only", "plain")),
    Part("train", 60, _bench("train", "--quick"), _TOY_BENCH),
    Part("tests-memcheck", 300, _tests("-m", "gpu", "tests/gpu/test_memcheck.py"), _TOY_TEST),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if every part passed; what failed or had to be stopped is in the summary."""
    parser = argparse.ArgumentParser(prog="python -m tilegrad.bench.on_gpu", description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    runs = commands.add_parser("run", help="all parts, or some")
    runs.add_argument("--out", type=user_path, default=ROOT / ".gpu", help="folder for results and logs (.gpu)")
    runs.add_argument("--only", help="names of parts, by commas")
    runs.add_argument("--more", action="store_true", help="the second round")
    runs.add_argument("--toy", action="store_true", help="sizes for the simulated device")
    packs = commands.add_parser("pack", help="Triton's cache becomes an archive to carry along")
    packs.add_argument("cache", type=user_path, help="folder that TRITON_CACHE_DIR named")
    reports = commands.add_parser("report", help="what came back becomes results and tables")
    reports.add_argument("folder", type=user_path, help="what `run` wrote")
    flags = parser.parse_args(arguments)
    if flags.what == "pack":
        print(f"{CARRIED}: {pack(flags.cache, CARRIED)} files, {CARRIED.stat().st_size >> 10} KiB")
        return 0
    if flags.what == "report":
        try:
            return report(flags.folder, ROOT)
        except (OSError, ValueError) as e:
            parser.error(str(e))
    parts = MORE if flags.more else FIRST
    names = flags.only.split(",") if flags.only else [part.name for part in parts]
    unknown = [name for name in names if name not in {part.name for part in parts}]
    if unknown:
        parser.error(f"--only: got {unknown[0]}; expected some of {', '.join(part.name for part in parts)}")
    return run([part for part in parts if part.name in names], flags.out, flags.toy)


def run(parts: Sequence[Part], out: Path, toy: bool = False) -> int:
    """Every part, one after the other; 0 if all passed."""
    out.mkdir(parents=True, exist_ok=True)
    environment = _environment(toy)
    summary: dict[str, Any] = {}
    for part in parts:
        summary[part.name] = _run(part, out, environment, toy)
        results.write(out / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(f"{part.name:<18} {summary[part.name]['status']:<8} {summary[part.name]['seconds']:6.1f} s", flush=True)
    return 0 if all(found["status"] == "passed" for found in summary.values()) else 1


def _run(part: Part, out: Path, environment: dict[str, str], toy: bool) -> dict[str, Any]:
    place = str(out / part.name)
    command = [sys.executable, "-m", *(word.replace("OUT", place) for word in (part.toy if toy else part.command))]
    start = time.monotonic()
    with open(f"{place}.log", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hears_interrupts,
        )
        try:
            status = "passed" if process.wait(part.seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "stopped"
            _stop(process)
        except BaseException:
            _stop(process)
            raise
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "limit": part.seconds}


def _hears_interrupts() -> None:
    """Called in the new process: a shell starts its background jobs with Ctrl-C ignored, which would be inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop(process: subprocess.Popen) -> None:
    """Stop it as Ctrl-C does, so that it writes what it measured; then kill it with all that it started."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(toy: bool) -> dict[str, str]:
    environment = os.environ | {"TILEGRAD_AUTOTUNE": "0", "PYTHONUNBUFFERED": "1"}
    if CUDA_HOME.is_dir():  # where Numba finds NVVM if no package has it
        environment.setdefault("CUDA_HOME", str(CUDA_HOME))
    if toy:
        return environment | {"TRITON_INTERPRET": "1", "NUMBA_ENABLE_CUDASIM": "1"}
    if CARRIED.is_file():
        unpacked = unpack(CARRIED, TRITON_CACHE)
        print(f"{CARRIED.name}: {unpacked} files in {TRITON_CACHE}", flush=True)
        environment["TRITON_CACHE_DIR"] = str(TRITON_CACHE)
    return environment


def unpack(archive: Path, folder: Path) -> int:
    """Unpack an archive into that folder and nowhere else; returns the number of files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
        return sum(member.isfile() for member in packed)


def pack(cache: Path, archive: Path) -> int:
    """Pack what launches need of Triton's cache, cubins and their descriptions; returns the number of files."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = [path for path in sorted(cache.rglob("*")) if path.suffix in (".cubin", ".json")]
    partial = archive.with_name(f".{archive.name}.part")
    with tarfile.open(partial, "w:xz") as packed:
        for path in files:
            packed.add(path, path.relative_to(cache))
    os.replace(partial, archive)
    return len(files)


def report(folder: Path, root: Path) -> int:
    """Write the results to bench/results, and README's tables. Raises ValueError where nothing was measured."""
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    runs = [results.read(path) for path, content in found if "schema" in content]
    trainings = [(path, content) for path, content in found if "contestants" in content]
    simulated = [run for run in runs if run.simulated]
    if simulated or not runs:
        found = "was simulated" if simulated else "has no results"
        raise ValueError(f"report: {folder} {found}; expected what a GPU measured")
    joined = join(runs)
    card = "-".join(str(joined.provenance["card"]).lower().split())
    target = root / "bench" / "results"
    results.write(target / f"gpu-{card}.json", joined.to_json())
    for path, content in trainings:
        results.write(target / f"gpu-{card}-{path.name}", json.dumps(content, indent=1) + "\n")
    shutil.copy(folder / "summary.json", target / f"gpu-{card}-summary.json")
    return readme.main(root)


def join(runs: Sequence[Results]) -> Results:
    """Several runs on one card as one: the rows of all, each ceiling from the first run that has it.

    What was wrong or failed has no figure. It becomes a note, not a row.

    Raises ValueError for runs with different cards, commits or versions: together they are not one measurement.
    """
    first = runs[0]
    for other in runs[1:]:
        for fact in ("card", "commit", "packages", "driver"):
            if other.provenance.get(fact) != first.provenance.get(fact):
                found = f"{other.provenance.get(fact)} beside {first.provenance.get(fact)}"
                raise ValueError(f"report: {fact} is {found}; expected one measurement")
    rows, notes = ([x for run in runs for x in of(run)] for of in (lambda run: run.rows, lambda run: run.notes))
    return Results(
        first.device,
        False,
        first.provenance,
        [],
        {name: top for run in reversed(runs) for name, top in run.ceilings.items()},
        {name: why for run in reversed(runs) for name, why in run.providers.items()},
        [row for row in rows if row.status not in BAD],
        all(run.complete for run in runs),
        [*notes, *(f"{row.status}: {_told(row)}: {row.reason}" for row in rows if row.status in BAD)],
    )


def _told(row: Row) -> str:
    return f"{row.op} {row.variant} {row.mode} {' x '.join(map(str, row.shape))} {row.dtype} {row.provider}"


if __name__ == "__main__":
    sys.exit(main())
