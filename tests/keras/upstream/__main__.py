"""Run Keras' own tests in an environment made for them, print the counts, and compare the failures with the list."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.keras.upstream import counts, expected
from tests.keras.upstream.families import ALONE, FAMILIES
from tests.keras.upstream.run import outcomes
from tilegrad.bench.keras_venv import FOLDER, KERAS, environment
from tilegrad.bench.provenance import provenance


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.keras.upstream", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--keras", default=KERAS, help="the release whose tests run (%(default)s)")
    parser.add_argument("--venv", type=Path, default=FOLDER, help="made if it is not there")
    parser.add_argument("--jobs", default=os.cpu_count(), type=int)
    parser.add_argument("--outcomes", type=Path, help="keep the outcome of every test in this folder")
    parser.add_argument("--readme", action="store_true", help="keep the counts, and write README.md's table")
    parser.add_argument("-k", default="", help="only these tests, as pytest's -k")
    args = parser.parse_args()
    unknown = [name for name in args.families if name not in FAMILIES]
    if unknown:
        parser.error(f"families are {', '.join(FAMILIES)}; got {', '.join(unknown)}")
    if args.k and args.readme:
        parser.error("-k: expected all tests of a family for --readme")

    python = environment(args.venv, args.keras)
    origin = {name: value for name, value in provenance().items() if name in ("date", "commit")}
    folder = args.outcomes or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("family      passed  failed  skipped  seconds")
    every: dict[str, str] = {}
    for family in args.families or FAMILIES:
        began = time.monotonic()
        jobs = None if family == ALONE else args.jobs
        found = outcomes(python, FAMILIES[family], jobs, args.k, folder.resolve() / f"{family}.json")
        of = counts.counted(found)
        shares = f"{of['passed']:6}  {of['failed']:6}  {of['skipped']:7}"
        print(f"{family:10}  {shares}  {time.monotonic() - began:7.0f}", flush=True)
        every |= found
        if args.readme:
            counts.keep(args.keras, {family: of | origin})
    print(f"{counts.share(counts.counted(every)):.2f} % of those that were not skipped")
    if args.readme:
        counts.write_table()
    lines = expected.differences(every, expected.read())
    print(*lines, sep="\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
