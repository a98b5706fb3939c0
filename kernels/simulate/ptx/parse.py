"""PTX text -> kernels: their parameters, registers, shared memory, labels and instructions (PTX ISA 4 and 5).

What is known of each statement is kept with its line, and with the source line that the last `.loc` named. Nothing is
skipped but debugging sections, `.file` (which names the sources) and `.pragma` (hints to ptxas).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.types import WIDTHS

SPECIAL = frozenset(
    [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"] + ["%laneid", "%warpid"]
)


class Register(NamedTuple):
    name: str


class Special(NamedTuple):
    """A register that the hardware fills: %tid.x (PTX ISA 10)."""

    name: str


class Integer(NamedTuple):
    value: int


class Float(NamedTuple):
    """0f3F800000, or 0d and 16 digits: the bits of a number."""

    bits: int
    width: int


class Symbol(NamedTuple):
    """The name of a variable, or of a label."""

    name: str


class Address(NamedTuple):
    """[base + offset]; a base of None is 0."""

    base: Register | Symbol | None
    offset: int


class Vector(NamedTuple):
    """{a, b}, or the a|b of two predicates; None stands for _."""

    items: tuple[Operand | None, ...]


Operand = Register | Special | Integer | Float | Symbol | Address | Vector


class Guard(NamedTuple):
    """@p or @!p."""

    register: str
    negated: bool


class Instruction(NamedTuple):
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Guard | None
    line: int
    source: tuple[int, int] | None  # (number of the file, line) of the .loc before

    @property
    def form(self) -> str:
        return ".".join((self.opcode, *self.modifiers))


class Parameter(NamedTuple):
    name: str
    type: str
    offset: int  # in the block of all parameters
    size: int  # bytes


class Variable(NamedTuple):
    """Memory that has a name."""

    name: str
    space: str  # shared, global, local
    align: int
    size: int | None  # bytes; None: the dynamic shared memory of the launch
    initial: bytes


class Kernel(NamedTuple):
    name: str
    parameters: tuple[Parameter, ...]
    registers: dict[str, str]  # type by name
    variables: dict[str, Variable]  # the module's and its own
    labels: dict[str, int]  # label -> number of the instruction behind it
    instructions: tuple[Instruction, ...]
    threads: tuple[int, ...] | None  # .reqntid
    files: dict[int, str]


class Module(NamedTuple):
    target: str  # sm_80
    kernels: dict[str, Kernel]


_LINE_DIRECTIVES = frozenset([".loc", ".file", ".version", ".target", ".address_size", ".reqntid"])  # end with the line
_ENTRY = re.compile(r"(?:\.visible\s+|\.weak\s+)?\.entry\s+([\w$]+)\s*(?:\((.*)\))?\s*$", re.S)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\b[\s.\w]*?\s)?([\w$]+)(?:\[(\d+)\])?$")
_VARIABLE = re.compile(
    r"(?:\.(?:extern|visible|weak|common)\s+)*\.(shared|global|local|const)\s+(?:\.align\s+(\d+)\s+)?"
    r"\.(\w+)\s+([\w$]+)\s*(\[\d*\])?\s*(?:=\s*(.*))?$",
    re.S,
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.S)
_INSTRUCTION = re.compile(r"(?:@(!?)(%?[\w$]+)\s+)?([a-z][\w]*)((?:\.[\w:]+)*)\s*(.*)$", re.S)
_LABEL = re.compile(r"([\w$]+):")
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?$")
_FLOAT = re.compile(r"0[fF]([0-9a-fA-F]{8})$|0[dD]([0-9a-fA-F]{16})$")
_NAME = re.compile(r"%?[\w$]+$")


def parse(text: str) -> Module:
    """Everything in the text. Raises PtxError naming the line of what is not understood."""
    target, variables, kernels, files = "", {}, {}, {}
    here: _Body | None = None
    for line, kind, statement in _statements(text):
        if kind == "directive":
            words = statement.split(None, 2)
            if words[0] == ".target":
                target = statement.split()[1].strip(",")
            elif words[0] == ".file":
                files[int(words[1])] = words[2].split('"')[1]
            elif words[0] == ".loc":
                if here is not None:
                    here.source = int(words[1]), int(words[2].split()[0])
            elif words[0] == ".reqntid" and here is not None:
                here.threads = tuple(int(n) for n in statement[len(".reqntid") :].split(","))
        elif kind == "entry":
            here = _Body(line, statement, dict(variables))
        elif kind == "open":
            if here is None:
                raise PtxError(line, "a block outside a kernel")
            here.depth += 1
        elif kind == "close":
            if here is None or here.depth == 0:
                raise PtxError(line, "a } without {")
            here.depth -= 1
            if here.depth == 0:
                kernels[here.name] = here.kernel(files)
                here = None
        elif kind == "label":
            if here is None or statement in here.labels:
                raise PtxError(line, f"label {statement} is outside a kernel, or there twice")
            here.labels[statement] = len(here.instructions)
        elif statement.split(None, 1)[0] == ".reg":
            if here is None:
                raise PtxError(line, "registers outside a kernel")
            here.declare(line, statement)
        elif statement.split(None, 1)[0] == ".pragma":
            pass
        elif statement.startswith("."):
            variable = _variable(line, statement)
            (variables if here is None else here.variables)[variable.name] = variable
        elif here is None:
            raise PtxError(line, f"an instruction outside a kernel: {statement}")
        else:
            here.instructions.append(_instruction(line, statement, here.source))
    if here is not None:
        raise PtxError(line, f"{here.name} does not end")
    return Module(target, kernels)


class _Body:
    """A kernel that is being read."""

    def __init__(self, line: int, head: str, variables: dict[str, Variable]) -> None:
        found = _ENTRY.match(head)
        if found is None:
            raise PtxError(line, f"not understood: {head}; expected .entry")
        self.line, self.name, self.variables = line, found[1], variables
        self.parameters = _parameters(line, found[2] or "")
        self.registers: dict[str, str] = {}
        self.labels: dict[str, int] = {}
        self.instructions: list[Instruction] = []
        self.source: tuple[int, int] | None = None
        self.threads: tuple[int, ...] | None = None
        self.depth = 0

    def declare(self, line: int, statement: str) -> None:
        found = _REGISTERS.match(statement)
        if found is None or found[1] not in WIDTHS:
            raise PtxError(line, f"not understood: {statement}; expected registers of a known type")
        for name in found[2].split(","):
            several = re.match(r"\s*([%\w$]+)<(\d+)>\s*$", name)
            names = [f"{several[1]}{i}" for i in range(int(several[2]))] if several else [name.strip()]
            for each in names:
                if self.registers.setdefault(each, found[1]) != found[1]:
                    raise PtxError(line, f"register {each} is declared twice, of different types")

    def kernel(self, files: dict[int, str]) -> Kernel:
        return Kernel(
            self.name, self.parameters, self.registers, self.variables, self.labels, tuple(self.instructions),
            self.threads, files,
        )  # fmt: skip


def _statements(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, kind, text) of each statement; kinds: directive, entry, open, close, label, statement."""
    pending, start, depth, in_section = "", 0, 0, False  # depth: of parentheses and of the braces of a vector
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("//")[0].strip()
        if not line:
            continue
        if not pending and line.split(None, 1)[0] == ".section":
            in_section = True
        if in_section:  # debugging information: data, no statement of the program
            in_section = not line.endswith("}")
            continue
        if not pending and line.split(None, 1)[0] in _LINE_DIRECTIVES:
            yield number, "directive", line.rstrip(";")
            continue
        while line:
            if not pending:
                start = number
                label = _LABEL.match(line)
                if label:
                    yield number, "label", label[1]
                    line = line[label.end() :].strip()
                    continue
                if line[0] in "{}":
                    yield number, "open" if line[0] == "{" else "close", line[0]
                    line = line[1:].strip()
                    continue
            is_entry = ".entry" in (pending or line)
            for at, character in enumerate(line):
                depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
                if not is_entry:
                    depth += {"{": 1, "}": -1}.get(character, 0)
                if character == ";" and depth == 0:
                    statement = f"{pending} {line[:at]}".strip()
                    if statement:
                        yield start, "statement", statement
                    pending, line = "", line[at + 1 :].strip()
                    break
                if is_entry and depth == 0 and (character == ")" or (character == "{" and at)):
                    yield start, "entry", f"{pending} {line[: at + (character == ')')]}".strip()
                    pending, line = "", line[at + (character == ")") :].strip()
                    break
            else:
                pending, line = f"{pending} {line}", ""
    if pending:
        raise PtxError(start, f"not ended: {pending.strip()[:80]}")


def _parameters(line: int, text: str) -> tuple[Parameter, ...]:
    """Each at the next multiple of its size, as the driver lays them out."""
    parameters, offset = [], 0
    for each in filter(None, map(str.strip, text.split(","))):
        found = _PARAMETER.match(each)
        if found is None or found[2] not in WIDTHS:
            raise PtxError(line, f"not understood: {each}; expected a parameter of a known type")
        item = WIDTHS[found[2]] // 8
        size, align = item * int(found[4] or 1), int(found[1] or item)
        offset = -(-offset // align) * align
        parameters.append(Parameter(found[3], found[2], offset, size))
        offset += size
    return tuple(parameters)


def _variable(line: int, statement: str) -> Variable:
    found = _VARIABLE.match(statement)
    if found is None or found[3] not in WIDTHS:
        raise PtxError(line, f"not understood: {statement[:100]}")
    space, align, kind, name, extent, values = found.groups()
    item = WIDTHS[kind] // 8
    size = None if extent == "[]" else item * int(extent[1:-1] if extent else 1)
    initial = b""
    if values is not None:
        numbers = [_operand(line, each.strip()) for each in values.strip().strip("{}").split(",")]
        bits = [n.value if isinstance(n, Integer) else n.bits for n in numbers if isinstance(n, (Integer, Float))]
        if len(bits) != len(numbers):
            raise PtxError(line, f"{name} begins with {values[:80]}; expected numbers")
        initial = b"".join((n & (1 << 8 * item) - 1).to_bytes(item, "little") for n in bits)
    return Variable(name, space, int(align or item), size, initial)


def _instruction(line: int, statement: str, source: tuple[int, int] | None) -> Instruction:
    found = _INSTRUCTION.match(statement)
    if found is None:
        raise PtxError(line, f"not understood: {statement[:100]}")
    negated, predicate, opcode, modifiers, rest = found.groups()
    guard = Guard(predicate, negated == "!") if predicate else None
    operands = tuple(_operand(line, each) for each in _split(rest))
    return Instruction(opcode, tuple(modifiers.split(".")[1:]), operands, guard, line, source)


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and braces."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if parts or last else []


def _operand(line: int, text: str) -> Operand:
    if text[:1] == "{" and text[-1:] == "}":
        items = (each.strip() for each in text[1:-1].split(","))
        return Vector(tuple(None if each == "_" else _operand(line, each) for each in items))
    if text[:1] == "[" and text[-1:] == "]":
        return _address(line, text[1:-1].strip())
    if "|" in text:
        items = (each.strip() for each in text.split("|"))
        return Vector(tuple(None if each == "_" else _operand(line, each) for each in items))
    if _INTEGER.match(text):
        return Integer(int(text.rstrip("U"), 0))
    found = _FLOAT.match(text)
    if found:
        return Float(int(found[1] or found[2], 16), 32 if found[1] else 64)
    if text in SPECIAL:
        return Special(text)
    if _NAME.match(text):
        return Register(text) if text[0] == "%" else Symbol(text)
    raise PtxError(line, f"an operand is {text!r}; expected a register, a number, an address or a name")


def _address(line: int, text: str) -> Address:
    base, plus, offset = text.partition("+")
    base = base.strip()
    if plus and not _INTEGER.match(offset.strip()):
        raise PtxError(line, f"an address is [{text}]; expected a number behind +")
    shift = int(offset.strip(), 0) if plus else 0
    if _INTEGER.match(base):
        return Address(None, int(base, 0) + shift)
    if not _NAME.match(base):
        raise PtxError(line, f"an address is [{text}]; expected a register or a name")
    return Address(Register(base) if base[0] == "%" else Symbol(base), shift)
