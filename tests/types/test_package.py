"""The package passes pyright's basic mode, as an installation has it."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from tests.types.checkers import installed, pyright

# Files with functions that Numba or Triton compile: these are in languages of their own, beside their launchers. Each
# entry must still be needed, so that this list can only shrink.
LEFT_OUT = [
    "kernels/*/cpu*.py",
    "kernels/*/gpu_*.py",
    "kernels/capture/calls.py",
    "kernels/cpu/scalar_math.py",
    "kernels/cpu/team.py",
    "kernels/cpu/tile.py",
]


def test_the_package_passes_apart_from_what_is_left_out(tmp_path):
    folder = installed(tmp_path)
    found = {(str(Path(f.file).relative_to(folder / "tilegrad")), f.line, f.message) for f in pyright([folder], folder)}
    assert sorted(f for f in found if not any(fnmatch(f[0], pattern) for pattern in LEFT_OUT)) == []
    passing = [pattern for pattern in LEFT_OUT if not any(fnmatch(file, pattern) for file, _, _ in found)]
    assert passing == [], "these pass now; take them out of LEFT_OUT"
