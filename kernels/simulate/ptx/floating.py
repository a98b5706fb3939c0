"""Floating-point arithmetic: PTX ISA 9.7.3 (float32, float64), 9.7.4 (float16, bfloat16 and pairs of them).

Each operation is IEEE 754's, subnormal numbers included unless .ftz says otherwise. Sums and products of float16 and
bfloat16 are computed in float32 and rounded again, which is right because float32 has more than twice their digits and
two. Their fma goes through a number that is rounded to odd. `.approx` and `div.full` give the exact value, rounded. It
lies within the manual's bounds (2^-22 relative for ex2, 1 to 2 ulp for most). A GPU's may be another number in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx import rounding
from tilegrad.kernels.simulate.ptx.operands import unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Pure
from tilegrad.kernels.simulate.ptx.types import dtype_of

Function = Callable[..., Any]

MODES = frozenset(["rn", "rz", "rm", "rp"])
HALVES = frozenset(["f16", "bf16"])
PAIRS = {"f16x2": "f16", "bf16x2": "bf16"}
_NAN = {"f32": 0x7FFFFFFF, "f64": 0x7FFFFFFFFFFFFFFF, "f16": 0x7FFF, "bf16": 0x7FFF}  # the canonical ones


def widened(kind: str) -> Function:
    """float32 of a float16 or bfloat16, as it lies in a register."""
    return rounding.from_bfloat16 if kind == "bf16" else lambda x: x.astype(np.float32)


def rounded(kind: str) -> Function:
    """A float16 or bfloat16 of float32, as it lies in a register."""
    return rounding.to_bfloat16 if kind == "bf16" else rounding.to_float16


def in_pairs(function: Function, kind: str) -> Function:
    """A function of halves on 32 bits with two of them."""
    dtype = dtype_of(kind)

    def on_pairs(*pairs: Any) -> Any:
        low, high = halves_of(pairs, dtype, 0), halves_of(pairs, dtype, 16)
        return function(*low).view(np.uint16).astype(np.uint32) | (
            function(*high).view(np.uint16).astype(np.uint32) << np.uint32(16)
        )

    return on_pairs


def halves_of(pairs: Any, dtype: np.dtype, shift: int) -> list[Any]:
    """The lower halves (shift 0) or the upper ones (16) of registers."""
    return [(pair >> np.uint32(shift)).astype(np.uint16).view(dtype) for pair in pairs]


def _for_kind(kind: str, function: Function, sources: int) -> Pure:
    """A function of the kind, or of the halves of a pair of that kind."""
    return Pure(kind, (kind,) * sources, in_pairs(function, PAIRS[kind]) if kind in PAIRS else function)


class _Options:
    """The modifiers of an instruction, each taken once."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction, self.left = instruction, list(instruction.modifiers)
        if not self.left:
            raise unknown(instruction)
        self.kind = self.left.pop()

    def take(self, *names: str) -> str | None:
        """The first modifier that is left, if it is one of these."""
        return self.left.pop(0) if self.left and self.left[0] in names else None

    def end(self, *kinds: str) -> None:
        """Raise PtxError if a modifier was not taken, or the type is another."""
        if self.left or self.kind not in kinds:
            raise unknown(self.instruction)


def _finished(function: Function, ftz: bool, sat: bool) -> Function:
    """With .ftz on sources and result, and .sat on the result: within [0, 1], NaN is 0."""
    if not ftz and not sat:
        return function

    def finished(*sources: Any) -> Any:
        result = function(*map(rounding.flushed, sources)) if ftz else function(*sources)
        if ftz:
            result = rounding.flushed(result)
        return saturated(result) if sat else result

    return finished


def saturated(x: Any) -> Any:
    """Within [0, 1]; NaN is +0."""
    dtype = x.dtype.type
    return np.where(x > 0, np.minimum(x, dtype(1)), dtype(0))


_TWO: dict[str, Function] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}


def _directed(opcode: str, mode: str) -> Function:
    """add, sub or mul of float32 in a rounding mode other than rn."""

    def function(a: Any, b: Any) -> Any:
        x, y = a.astype(np.float64), b.astype(np.float64)
        exact = x * y if opcode == "mul" else rounding.odd_sum(x, y if opcode == "add" else -y)
        return rounding.narrowed(np.asarray(exact), mode)

    return function


def two(instruction: Instruction) -> Pure:
    """add, sub, mul."""
    options, opcode = _Options(instruction), instruction.opcode
    mode, ftz, sat = options.take(*MODES) or "rn", options.take("ftz"), options.take("sat")
    options.end("f32", "f64", *HALVES, *PAIRS)
    function = _TWO[opcode]
    if options.kind == "f32":
        if mode != "rn":
            function = _directed(opcode, mode)
        return Pure("f32", ("f32", "f32"), _finished(function, bool(ftz), bool(sat)))
    if mode != "rn" or ftz or sat:
        raise unknown(instruction)
    if options.kind == "f64":
        return Pure("f64", ("f64", "f64"), function)
    half = PAIRS.get(options.kind, options.kind)
    wide, narrow = widened(half), rounded(half)
    return _for_kind(options.kind, lambda a, b: narrow(function(wide(a), wide(b))), 2)


def fma(instruction: Instruction) -> Pure:
    """a * b + c, rounded once."""
    options = _Options(instruction)
    mode, ftz, sat = options.take(*MODES), options.take("ftz"), options.take("sat")
    options.end("f32", *HALVES, *PAIRS)
    if mode is None:
        raise unknown(instruction)
    if options.kind == "f32":
        function = rounding.fma32
        if mode != "rn":

            def function(a: Any, b: Any, c: Any) -> Any:
                return rounding.narrowed(rounding.exact_fma(a, b, c), mode)

        return Pure("f32", ("f32",) * 3, _finished(function, bool(ftz), bool(sat)))
    if mode != "rn" or ftz or sat:
        raise unknown(instruction)
    half = PAIRS.get(options.kind, options.kind)
    wide, narrow = widened(half), rounded(half)

    def fused(a: Any, b: Any, c: Any) -> Any:
        return narrow(rounding.odd_float32(rounding.exact_fma(wide(a), wide(b), wide(c))))

    return _for_kind(options.kind, fused, 3)


def div(instruction: Instruction) -> Pure:
    """.full and .approx have 2 ulp; .approx of a divisor beyond 2^126 is 0, or NaN for infinity by it."""
    match instruction.modifiers:
        case ["rn", "f32" | "f64" as kind]:
            return Pure(kind, (kind, kind), np.divide)
        case ["rn", "ftz", "f32"] | ["full", "ftz", "f32"]:
            return Pure("f32", ("f32", "f32"), _finished(np.divide, True, False))
        case ["full", "f32"]:
            return Pure("f32", ("f32", "f32"), np.divide)
        case ["approx", "f32"] | ["approx", "ftz", "f32"]:
            return Pure("f32", ("f32", "f32"), _finished(_div_approx, "ftz" in instruction.modifiers, False))
    raise unknown(instruction)


def _div_approx(a: Any, b: Any) -> Any:
    large = (np.abs(b) > 2.0**126) & np.isfinite(b)
    return np.where(large, a * np.float32(0), a / b)


def _by_float64(function: Function) -> Function:
    """Of float32: computed in float64, rounded."""
    return lambda x: np.asarray(function(x.astype(np.float64))).astype(np.float32)


_OF_ONE: dict[str, Function] = {
    "ex2": _by_float64(np.exp2),
    "lg2": _by_float64(np.log2),
    "sin": _by_float64(np.sin),
    "cos": _by_float64(np.cos),
    "tanh": _by_float64(np.tanh),
    "rsqrt": _by_float64(lambda x: 1 / np.sqrt(x)),
    "sqrt": np.sqrt,
    "rcp": lambda x: np.float32(1) / x,
}


def of_one(instruction: Instruction) -> Pure:
    """ex2, lg2, sin, cos, tanh, rsqrt, sqrt, rcp of float32: the last two exactly rounded with .rn."""
    options, opcode = _Options(instruction), instruction.opcode
    mode, ftz = options.take("approx", "rn"), options.take("ftz")
    options.end("f32")
    if mode is None or (mode == "rn" and opcode not in ("sqrt", "rcp")):
        raise unknown(instruction)
    return Pure("f32", ("f32",), _finished(_OF_ONE[opcode], bool(ftz), False))


def _sign_bit(kind: str) -> int:
    return {"f32": 1 << 31, "f64": 1 << 63, "f16x2": 0x80008000, "bf16x2": 0x80008000}.get(kind, 1 << 15)


def sign(instruction: Instruction) -> Pure:
    """neg, abs, copysign: the sign bit alone, of NaN too; copysign d, a, b: b with a's sign."""
    options, opcode = _Options(instruction), instruction.opcode
    ftz = options.take("ftz")
    options.end(*(["f32", "f64"] if opcode == "copysign" else ["f32", "f64", *HALVES, *PAIRS]))
    kind = options.kind
    if ftz and (kind != "f32" or opcode == "copysign"):
        raise unknown(instruction)
    bits = dtype_of(kind).str.replace("f", "u")
    mask = np.dtype(bits).type(_sign_bit(kind))
    functions: dict[str, Function] = {
        "neg": lambda a: (a.view(bits) ^ mask).view(a.dtype),
        "abs": lambda a: (a.view(bits) & ~mask).view(a.dtype),
        "copysign": lambda a, b: (a.view(bits) & mask | b.view(bits) & ~mask).view(a.dtype),
    }
    return Pure(kind, (kind,) * (2 if opcode == "copysign" else 1), _finished(functions[opcode], bool(ftz), False))


def extreme(instruction: Instruction) -> Pure:
    """min and max: of one NaN and a number the number, with .NaN NaN; -0 < +0; where NaN comes out it is canonical."""
    options, is_max = _Options(instruction), instruction.opcode == "max"
    ftz, nan = options.take("ftz"), options.take("NaN")
    options.end("f32", *([] if nan else ["f64"]), *HALVES, *PAIRS)
    if ftz and options.kind != "f32":
        raise unknown(instruction)
    kind = PAIRS.get(options.kind, options.kind)
    dtype = dtype_of(kind)
    bits = np.dtype(f"u{dtype.itemsize}")
    canonical = bits.type(_NAN[kind])
    wide = widened(kind) if kind in HALVES else (lambda x: x)

    def function(a: Any, b: Any) -> Any:
        x, y, a, b = wide(a), wide(b), a.view(bits), b.view(bits)
        first = np.where(x > y if is_max else x < y, a, b)
        same = x == y  # and so are the bits, but of zeros
        result = np.where(same, a & b if is_max else a | b, first)
        no_x, no_y = np.isnan(x), np.isnan(y)
        if nan:
            result = np.where(no_x | no_y, canonical, result)
        elif no_x.any() or no_y.any():
            result = np.where(no_x, b, np.where(no_y, a, result))
            result = np.where(no_x & no_y, canonical, result)
        return result.view(dtype)

    return _for_kind(options.kind, _finished(function, bool(ftz), False), 2)
