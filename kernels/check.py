"""A program's kernels, executed with every check on; needs no GPU.

    python -m tilegrad.kernels.check my_kernel.py [arguments of the program]

The program runs as ever, but device "cuda" compiles the kernels and executes their PTX on the CPU
(kernels/simulate/ptx). A kernel may not leave its arrays, write to one that may only be read, read shared memory that
was not written, race there, access memory at an odd address, or miss a barrier. The first that does ends the program.
Its fault is printed, and the exit status is 1. Otherwise the launches are counted. A program that launched no kernel
was not checked: 1 too. 2 is for a path that is no program.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tilegrad.kernels.simulate.program import ARCHS, ask_for, check_program, run_program


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tilegrad.kernels.check", description=str(__doc__).splitlines()[0])
    parser.add_argument("program", help="the path of a Python program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the program")
    parser.add_argument("--arch", type=int, default=min(ARCHS), help="compute capability that kernels are compiled for")
    flags = parser.parse_args(arguments)
    try:
        check_program(flags.program)
        ask_for(flags.arch)
    except ValueError as error:
        parser.error(str(error))

    from tilegrad.kernels.simulate.ptx import driver  # the kernel languages look at the environment once

    launches: Counter[str] = Counter()

    def observe(launch: driver.Launch) -> None:
        launches[driver.plain(launch.program.kernel.name)] += 1

    with driver.observed_by(observe):
        status = run_program(flags.program, flags.arguments)
    if status == 0 and not launches:
        print(f"{flags.program}: launched no kernel on device cuda, so nothing was checked", file=sys.stderr)
        return 1
    listed = ", ".join(f"{name} {times}" for name, times in launches.items())
    if status == 0:
        print(f"{launches.total()} launches of {len(launches)} kernels checked, no fault: {listed}")
    return status


if __name__ == "__main__":
    sys.exit(main())
