"""The command `tilegrad`, also python -m tilegrad.

    tilegrad bench ...      kernels and training steps beside the machine's ceilings and beside torch
    tilegrad compile ...    every kernel, or a file's, compiled ahead of time: registers, spills
    tilegrad profile ...    what a primitive's or a program's kernels do on a GPU, and a bound; needs no GPU
    tilegrad check ...      a program's kernels, their PTX executed with every check on; needs no GPU
    tilegrad info [--json]  versions, devices, backends, caches: what a bug report needs

Each of them but the last is python -m tilegrad.bench and the like; `--help` behind it says more.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

MODULES = {
    "bench": "tilegrad.bench",
    "compile": "tilegrad.kernels.compile",
    "profile": "tilegrad.kernels.profile",
    "check": "tilegrad.kernels.check",
}


def main(given: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: the command line's); its exit status, 2 for a command that is not."""
    arguments = list(sys.argv[1:] if given is None else given)
    command = arguments.pop(0) if arguments else "--help"
    if command in ("-h", "--help"):
        print(str(__doc__).strip())
        return 0
    if command in ("info", "--version"):
        from tilegrad import info

        return info.main(arguments if command == "info" else ["--version"])
    if command not in MODULES:
        print(f"tilegrad: got {command!r}; expected one of {', '.join(MODULES)}, info", file=sys.stderr)
        return 2
    sys.argv[:] = [f"tilegrad {command}", *arguments]
    try:
        runpy.run_module(MODULES[command], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
