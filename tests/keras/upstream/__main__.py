"""Run Keras' own tests in an environment made for them, print the counts, and compare the failures with the list."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path

from tests.keras.upstream import expected
from tests.keras.upstream.families import ALONE, FAMILIES

ROOT = Path(__file__).parents[3]
NEEDED = (
    *("tensorflow-cpu", "jax", "pytest>=8", "pytest-xdist>=3.5"),  # JAX is the tests' oracle for dtypes
    *("grain", "orbax-checkpoint", "pandas", "pillow", "scikit-learn", "tensorboard"),
)
NOT_COUNTED = "skipped", "xfailed"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.keras.upstream", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--keras", default="3.15.1", help="the release whose tests run (%(default)s)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".cache" / "keras-tests", help="made if it is not there")
    parser.add_argument("--jobs", default=os.cpu_count(), type=int)
    parser.add_argument("--outcomes", type=Path, help="keep the outcome of every test in this folder")
    parser.add_argument("-k", default="", help="only these tests, as pytest's -k")
    args = parser.parse_args()
    unknown = [name for name in args.families if name not in FAMILIES]
    if unknown:
        parser.error(f"families are {', '.join(FAMILIES)}; got {', '.join(unknown)}")

    python = environment(args.venv, args.keras)
    folder = args.outcomes or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("family      passed  failed  skipped  seconds")
    every: dict[str, str] = {}
    for family in args.families or FAMILIES:
        began = time.monotonic()
        outcomes = run(python, family, args.jobs, args.k, folder / f"{family}.json")
        counts = Counter("skipped" if outcome in NOT_COUNTED else outcome for outcome in outcomes.values())
        shares = f"{counts['passed']:6}  {counts['failed']:6}  {counts['skipped']:7}"
        print(f"{family:10}  {shares}  {time.monotonic() - began:7.0f}", flush=True)
        every |= outcomes
    counts = Counter(every.values())
    print(
        f"{100 * counts['passed'] / max(1, counts['passed'] + counts['failed']):.2f} % of those that were not skipped"
    )
    entries = expected.read()
    lines = expected.differences(every, entries)
    print(*lines, sep="\n")
    return bool(lines)


def environment(folder: Path, keras: str) -> Path:
    """The Python of an environment with Keras, what its tests need, and the packages that this checkout needs."""
    python = folder / "bin" / "python"
    ready = folder / f"keras-{keras}-ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", f"keras=={keras}", *NEEDED, f"{ROOT}[cpu]"]
        subprocess.run(install, check=True)
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "tilegrad"], check=True)  # .links has it
        ready.touch()
    return python


def run(python: Path, family: str, jobs: int, only: str, outcomes: Path) -> dict[str, str]:
    """The outcome of every test of a family, by name."""
    source = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('keras').submodule_search_locations[0])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    paths = [str(Path(source, "src", part)) for part in FAMILIES[family]]
    path = os.pathsep.join([str(ROOT / ".links"), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    env["PYTHONHASHSEED"] = "0"  # sets of dtypes make names of tests, which all workers need in one order
    workers = [] if family == ALONE else ["-n", str(jobs), "--dist", "worksteal"]
    plugins = ["-p", "tests.keras.upstream.plugin", "-p", "no:cacheprovider"]
    options = ["-q", *workers, "--rootdir", str(Path(source).parent), "-c", os.devnull]
    warnings = ["-W", "ignore"]  # Keras' tests are not held to have none
    done = subprocess.run(
        [python, "-m", "pytest", *plugins, *options, *warnings, "-k", only, f"--outcomes={outcomes}", *paths],
        cwd=outcomes.parent, env=env, capture_output=True, text=True,
    )  # fmt: skip
    outcomes.with_suffix(".log").write_text(done.stdout + done.stderr)
    if not outcomes.exists():
        sys.exit(f"{family}: pytest could not run\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return json.loads(outcomes.read_text())


if __name__ == "__main__":
    sys.exit(main())
