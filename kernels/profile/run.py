"""Counters of a primitive's kernels, or of those that a program launches; needs no GPU.

    python -m tilegrad.kernels.profile matmul --shape 256x256x256 --dtype bfloat16 [--arch 80] [--card H200]
        [--kernels triton] [--json PATH]
    python -m tilegrad.kernels.profile my_kernel.py [flags] [-- arguments of the program]

Kernels are compiled, and their PTX is executed on the CPU with every access checked (kernels/simulate/ptx). Shown are
what they did, what they need of a card, and a bound on their time there: what no card can beat, not a time.

Exits with 2 for what cannot be run, with 1 where a kernel does what it must not.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from tilegrad import kernels
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.contract import DTYPES
from tilegrad.kernels.profile.calls import CALLS, Arrays, Shape
from tilegrad.kernels.profile.cards import CARDS
from tilegrad.kernels.simulate.program import ARCHS, ask_for, check_program, run_program
from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path

_LANGUAGES = ("triton", "numba")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tilegrad.kernels.profile", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("what", help="a primitive of kernels/contract.py, or the path of a Python program")
    parser.add_argument("--shape", help="256x256x256: sizes that the primitive is called with")
    parser.add_argument("--dtype", choices=DTYPES["triton"], help="of its arrays (default: float32)")
    parser.add_argument("--arch", type=int, default=min(ARCHS), help="compute capability, 80 for 8.0 (the default)")
    parser.add_argument("--card", choices=CARDS, default="H200", help="whose bound is given (default: H200)")
    parser.add_argument("--kernels", choices=_LANGUAGES, help="which backend's kernels (default: triton)")
    parser.add_argument("--json", type=user_path, help="also write the counters to this file")
    given = sys.argv[1:] if arguments is None else arguments
    stop = given.index("--") if "--" in given else len(given)
    own, of_program = given[:stop], given[stop + 1 :]
    flags = parser.parse_args(own)
    is_program = flags.what.endswith(".py")
    shape, dtype = (), np.dtype(np.float32)
    try:
        if is_program:
            check_program(flags.what)
            if flags.shape or flags.dtype:
                raise ValueError("--shape and --dtype are of a primitive; a program has its own")
        else:
            if of_program:
                raise ValueError(f"{flags.what} is a primitive, which takes no arguments: {' '.join(of_program)}")
            shape, dtype = _sizes(flags)
        ask_for(flags.arch, flags.kernels)
    except ValueError as error:
        parser.error(str(error))

    from tilegrad.kernels.profile.launches import profiled  # the kernel languages look at the environment once
    from tilegrad.kernels.profile.report import row, text

    if is_program:
        with profiled() as launched:
            status = run_program(flags.what, of_program)
    else:
        try:
            with profiled():  # what is launched to prepare
                act = CALLS[flags.what].of(kernels.load(flags.kernels or "triton"), Arrays(dtype), shape)
            with profiled() as launched:
                act()
        except ValueError as error:  # the primitive's own checks
            parser.error(str(error))
        status = 0
    launched = [each for each in launched if each.counters.blocks]  # not the one that a fault ended
    for each in launched:
        print(text(each, flags.card), end="\n\n")
    print(f"{sum(each.launches for each in launched)} launches of {len({each.kernel for each in launched})} kernels")
    if flags.json is not None:
        rows = [row(each, flags.card) for each in launched]
        write_whole(flags.json, json.dumps(rows, indent=1) + "\n")
    return status


def _sizes(flags: argparse.Namespace) -> tuple[Shape, np.dtype]:
    """The shape and the dtype that the primitive is called with. Raises ValueError for what does not fit."""
    if flags.what not in CALLS:
        raise ValueError(f"{flags.what} is no primitive; expected a program, or one of {', '.join(CALLS)}")
    language, dtype = flags.kernels or "triton", flags.dtype or "float32"
    if dtype not in DTYPES[language]:
        raise ValueError(f"the kernels of {language} take no {dtype}; expected {', '.join(DTYPES[language])}")
    call = CALLS[flags.what]
    try:
        shape = call.shape if flags.shape is None else tuple(map(int, flags.shape.split("x")))
    except ValueError:
        raise ValueError(f"--shape {flags.shape}: expected {call.axes}, as {'x'.join(map(str, call.shape))}") from None
    refusal = call.refusal(shape)
    if refusal:
        raise ValueError(f"--shape {refusal}")
    return shape, bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
