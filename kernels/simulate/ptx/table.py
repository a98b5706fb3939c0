"""Which function makes a step of an instruction, by its opcode.

PURE ones say what is computed from registers alone, STEPS ones give the step itself. Where an opcode has both integers
and floats, the type decides.
"""

from __future__ import annotations

from collections.abc import Callable

from tilegrad.kernels.simulate.ptx import (
    atomics,
    compare,
    convert,
    fences,
    floating,
    integer,
    matrices,
    shuffle,
    transfer,
    warpgroups,
)
from tilegrad.kernels.simulate.ptx.operands import Scope, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Pure, Step, step_of


def _by_type(
    whole: Callable[[Instruction], Pure], real: Callable[[Instruction], Pure]
) -> Callable[[Instruction], Pure]:
    """The one for integers or the one for floats, as the instruction's type is."""
    return lambda i: (whole if i.modifiers and i.modifiers[-1] in integer.INTEGERS else real)(i)


PURE: dict[str, Callable[[Instruction], Pure]] = {
    "add": _by_type(integer.two, floating.two),
    "sub": _by_type(integer.two, floating.two),
    "mul": _by_type(integer.mul, floating.two),
    "mad": integer.mad,
    "fma": floating.fma,
    "div": _by_type(integer.two, floating.div),
    "rem": integer.two,
    "min": _by_type(integer.two, floating.extreme),
    "max": _by_type(integer.two, floating.extreme),
    "neg": _by_type(integer.one, floating.sign),
    "abs": _by_type(integer.one, floating.sign),
    "copysign": floating.sign,
    **dict.fromkeys(("and", "or", "xor", "not"), integer.logic),
    **dict.fromkeys(("shl", "shr"), integer.shift),
    **dict.fromkeys(("bfe", "bfi", "prmt", "popc", "clz", "brev"), integer.field),
    **dict.fromkeys(("ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "sqrt", "rcp"), floating.of_one),
    "cvt": convert.cvt,
    "cvta": convert.cvta,
    "selp": compare.selp,
}
STEPS: dict[str, Callable[[Instruction, Scope], Step]] = {
    "mov": transfer.mov,
    "ld": transfer.ld,
    "st": transfer.st,
    "cp": transfer.cp,
    "mma": matrices.product,
    "ldmatrix": matrices.load,
    "stmatrix": matrices.store,
    "wgmma": warpgroups.warpgroup,
    "fence": fences.fence,
    "membar": fences.fence,
    "setp": compare.setp,
    "shfl": shuffle.shfl,
    "redux": shuffle.redux,
    "vote": shuffle.vote,
    "red": atomics.atomic,
    "atom": atomics.atomic,
}


def step(instruction: Instruction, scope: Scope) -> Step:
    """What executes the instruction. Raises PtxError for one that is not known."""
    if instruction.opcode in PURE:
        return step_of(PURE[instruction.opcode](instruction), instruction, scope)
    if instruction.opcode in STEPS:
        return STEPS[instruction.opcode](instruction, scope)
    raise unknown(instruction)
