"""The launches of a user's own file: those that its function `launches` makes, as those of kernels/compile/launches_*.

def launches(empty):
    rms_norm(empty(4096, 1024), empty(1024))
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tilegrad import kernels
from tilegrad.kernels.compile.launches import Empty
from tilegrad.kernels.device import gpu

PACKAGES = {"triton": "triton", "numba": "numba_cuda"}  # that a language needs


class NoLaunchesError(ValueError):
    """A file does not say what is launched."""


def installed() -> list[str]:
    """The languages that can be compiled here."""
    return [language for language, package in PACKAGES.items() if find_spec(package) is not None]


def launches_of(path: str, language: str) -> Callable[[Empty], None]:
    """What makes the file's launches, while `kernels.name("cuda")` is that language's backend.

    The file is imported, once, and not run. Raises NoLaunchesError unless it has a function `launches`.
    """
    function = _names_of(path).get("launches")
    if not callable(function):
        raise NoLaunchesError(f"{path} has no function launches(empty); expected one that calls its launchers")

    def launch(empty: Empty) -> None:
        with ExitStack() as stack:
            stack.enter_context(kernels.use(language))
            for other in PACKAGES:  # a kernel of the other language is not run either
                module = sys.modules.get(f"tilegrad.kernels.launch.{other}_kernel")
                if other != language and module is not None:
                    stack.enter_context(module.collecting())
            function(empty)

    return launch


@cache
def _names_of(path: str) -> dict[str, Any]:
    """All names of the file."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    with gpu.simulate():
        return runpy.run_path(path, run_name=Path(path).stem)
