"""What a user's type checker says of tilegrad: nothing where the program is right, something where it is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.types.checkers import ROOT, installed, mypy, pyright

PROGRAMS = Path(__file__).parent / "programs"
RIGHT = [PROGRAMS / "mnist.py", PROGRAMS / "tensors.py", PROGRAMS / "sequences.py"]
WRONG = PROGRAMS / "wrong.py"

# What stands before a program of README that goes on from another one.
BEFORE = """
import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.nn import functional as F

images, labels = tg.zeros(60000, 2), tg.zeros(60000, dtype=tg.int64)
model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = optim.Adam(model.parameters(), lr=0.01)
schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=1000)
index = tg.arange(64)
step = tg.capture(lambda index: F.cross_entropy(model(images[index]), labels[index]))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("packages"))


def mistakes() -> set[int]:
    """The lines of wrong.py that say a mistake."""
    lines = WRONG.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if re.search(r"\S  # ", line)}


def test_mypy_strict(packages):
    found = mypy([*RIGHT, WRONG], packages)
    assert [f for f in found if f.file != WRONG.name] == []
    assert {f.line for f in found} == mistakes()


def of_readme(folder: Path) -> list[Path]:
    """README's programs, each in a file."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    files = [folder / f"readme_{i}.py" for i, _ in enumerate(programs)]
    for file, program in zip(files, programs):
        file.write_text(program if "import tilegrad" in program else BEFORE + program)
    return files


def test_pyright_basic(packages):
    readme = of_readme(packages)
    assert len(readme) >= 2
    examples = [path for path in (ROOT / "examples").glob("*.py") if not path.name.startswith("keras_")]
    found = pyright([*RIGHT, WRONG, *readme, *examples], packages)
    assert [f for f in found if Path(f.file).name != WRONG.name] == []
    assert {f.line for f in found} == mistakes()


@pytest.mark.parametrize(
    "command", ["mypy --cache-dir=/dev/null --config-file pyproject.toml examples/bench_my_kernel.py",
                f"basedpyright --project pyproject.toml --pythonpath {sys.executable}"],
)  # fmt: skip
def test_in_a_checkout_the_sources_are_found(command):
    """By the settings in pyproject.toml, which an editor reads too, whatever is installed."""
    if not (ROOT / ".links" / "tilegrad").is_dir():
        pytest.skip("`make links` has not been run")
    checker, *arguments = command.split()
    pytest.importorskip(checker)
    without = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", checker, *arguments], cwd=ROOT, env=without, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
