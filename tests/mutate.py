"""Do the tests notice? python -m tests.mutate [--only TEXT] [--seconds 300]

tests/mutants.toml lists changes of one line that make the program wrong. Each is made in a copy of the tree, never in
the tree itself, and the tests that should notice are run there until the first failure:

    killed    a test failed, or did not end within the time limit
    survived  all passed: a hole in the tests
    broken    pytest could not run them

The exit status is 0 if all were killed. Before, the same tests must pass on the tree as it is: their failures would
mean nothing otherwise. It takes half an hour for all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_name("mutants.toml")
SECONDS = 300.0  # for what pytest is told at a time
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".links", "*.egg-info", ".hypothesis")


class Mutant(NamedTuple):
    """A change of one file.

    file, old, new  `old` stands in the file once
    tests           what should notice: a test file or folder each, with further arguments of pytest if need be
    at_first        what the tests of the day made of it: "killed" or "survived"
    by              the test that kills it now
    """

    file: str
    old: str
    new: str
    tests: list[str]
    at_first: str
    by: str

    @property
    def name(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"

    def made_in(self, tree: Path) -> None:
        """Change the file in that tree. Raises ValueError unless `old` stands there once."""
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text stands there {text.count(self.old)} times; expected once")
        path.write_text(text.replace(self.old, self.new))


def mutants(path: Path = LIST) -> list[Mutant]:
    """Those of a list."""
    return [Mutant(**each) for each in tomllib.loads(path.read_text())["mutant"]]


def outcome(tests: Sequence[str], mutant: Mutant | None = None, seconds: float = SECONDS, root: Path = ROOT) -> str:
    """What the tests say in a copy of the tree: "survived", "killed by ...", "broken: ..."."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(shutil.copytree(root, Path(folder, "tree"), ignore=LEFT_OUT))
        links = tree / ".links" / "tilegrad"
        links.mkdir(parents=True)
        for path in (*tree.glob("engine/*"), tree / "kernels", tree / "bench"):
            (links / path.name).symlink_to(path)
        if mutant:
            mutant.made_in(tree)
        told = (_run(each, tree, seconds) for each in tests)
        return next((each for each in told if each != "survived"), "survived")


def _run(test: str, tree: Path, seconds: float) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(test)]
    environment = os.environ | {"PYTHONPATH": str(tree / ".links")}
    with tempfile.TemporaryFile("w+") as told:
        output = {"stdout": told, "stderr": told}
        pytest = subprocess.Popen(command, cwd=tree, env=environment, start_new_session=True, **output)
        try:
            status = pytest.wait(seconds)
        except subprocess.TimeoutExpired:
            return "killed by the time limit"
        finally:  # also what the tests have started; a group whose processes are all gone is none
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pytest.pid, signal.SIGKILL)
            pytest.wait()
        told.seek(0)
        text = told.read()
    if status == 0:
        return "survived"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    return f"killed by {failed[1]}" if failed else f"broken: {text.strip()[-300:]}"


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.mutate", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="mutants whose file or texts contain this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for what pytest is told at a time")
    arguments = parser.parse_args(given)
    chosen = [mutant for mutant in mutants() if arguments.only in f"{mutant.name} {mutant.old} {mutant.new}"]
    if not chosen:
        print(f"no mutant contains {arguments.only!r}")
        return 2
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    if (unchanged := outcome(tests, seconds=arguments.seconds)) != "survived":
        print(f"the tests do not pass on the tree as it is: {unchanged}")
        return 2
    found: Counter[str] = Counter()
    for mutant in chosen:
        told = outcome(mutant.tests, mutant, arguments.seconds)
        found[told.split()[0].strip(":")] += 1
        print(f"{told:60} {mutant.name}", flush=True)
    print(f"{len(chosen)} mutants: {found['killed']} killed, {found['survived']} survived, {found['broken']} broken")
    return 0 if found["killed"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
