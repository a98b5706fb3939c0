"""Which class an instruction is of, and the floating-point operations that a thread does by it.

An addition or a product is one operation, a fused multiply-add two; extremes, signs and comparisons are none. mma and
wgmma multiply m x k by k x n with 2 m n k operations, which the 32 lanes of the warp, or the 128 of the four warps,
share (PTX ISA 9.7.15, "Warp-Level Matrix Instructions" and "Asynchronous Warpgroup Level Matrix Instructions").
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.parse import Instruction

_FLOATS = {"f16": ("fp16", 1), "bf16": ("fp16", 1), "f16x2": ("fp16", 2), "bf16x2": ("fp16", 2)} | {
    f"f{width}": (f"fp{width}", 1) for width in (32, 64)
}  # type -> (pipe, values)
_FLOP = {"add": 1, "sub": 1, "mul": 1, "fma": 2, "mad": 2}
_SPECIAL = frozenset(["ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "sqrt", "rcp"])
_ARITHMETIC = frozenset(["div", "rem", "min", "max", "neg", "abs", "copysign", *_FLOP])
_CLASSES = {
    **dict.fromkeys(("and", "or", "xor", "not", "shl", "shr", "bfe", "bfi", "prmt", "popc", "clz", "brev"), "integer"),
    **dict.fromkeys(("lop3", "shf", "fns", "szext", "bmsk"), "integer"),
    **dict.fromkeys(("mov", "selp", "cvta", "mapa"), "move"),
    "cvt": "conversion",
    "setp": "compare",
    **dict.fromkeys(("shfl", "vote", "redux", "activemask", "elect", "match"), "warp"),
    **dict.fromkeys(("atom", "red"), "atomic"),
    **dict.fromkeys(("bra", "brx", "ret", "exit", "trap"), "control"),
    **dict.fromkeys(("bar", "barrier", "mbarrier", "fence", "membar"), "barrier"),
    "ldmatrix": "load shared",
    "stmatrix": "store shared",
    "prefetch": "asynchronous",
}
_SPACES = ("global", "shared", "local", "param", "const")
_SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)$")


class Work(NamedTuple):
    kind: str  # class of the instruction
    pipe: str = ""  # that does the operations
    flop: int = 0  # of a thread


def work(instruction: Instruction) -> Work:
    """Raises PtxError for an instruction that has no class."""
    opcode, modifiers = instruction.opcode, instruction.modifiers
    kind = modifiers[-1] if modifiers else ""
    if opcode in ("mma", "wgmma"):
        return _product(instruction)
    if opcode in ("ld", "st"):
        names = [name.partition("::")[0] for name in modifiers]
        space = next((name for name in names if name in _SPACES), "generic")
        return Work(f"{'load' if opcode == 'ld' else 'store'} {space}")
    if opcode == "cp":
        return Work("copy" if "global" in modifiers else "asynchronous")
    if opcode in _SPECIAL or (opcode == "div" and kind in _FLOATS):
        return Work("special", "special", _FLOATS[kind][1])
    if opcode in _ARITHMETIC:
        if kind not in _FLOATS:
            return Work("integer")
        pipe, values = _FLOATS[kind]
        return Work("float", pipe, values * _FLOP[opcode]) if opcode in _FLOP else Work("float")
    if opcode not in _CLASSES:
        raise PtxError(instruction.line, f"{instruction.form}: an instruction that counters have no class for")
    return Work(_CLASSES[opcode])


def _product(instruction: Instruction) -> Work:
    """Of mma and wgmma.mma_async; the other forms of wgmma order them."""
    shapes = [found for name in instruction.modifiers if (found := _SHAPE.match(name))]
    if not shapes:
        return Work("asynchronous")
    m, n, k = map(int, shapes[0].groups())
    types = [name for name in instruction.modifiers[instruction.modifiers.index(shapes[0][0]) + 1 :]]
    types = [name for name in types if re.match(r"[befstu]+\d", name)]  # d, a, b (, c)
    lanes = 32 if instruction.opcode == "mma" else 128
    return Work("tensor core", f"tensor {types[1]}", 2 * m * n * k // lanes)
