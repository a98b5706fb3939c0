"""The methods that a type checker sees on Tensor are those that it has when the program runs, with their parameters."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from tests.types.checkers import ROOT, installed, mypy
from tilegrad import Tensor

CLASSES = {"Tensor": ROOT / "engine" / "tensor.py", "Methods": ROOT / "engine" / "methods.py"}

# What Python itself puts into classes.
OF_PYTHON = set("__module__ __doc__ __weakref__ __slots__ __annotations__".split())
OF_PYTHON |= {"__firstlineno__", "__static_attributes__"}  # from 3.13 on


def declared() -> set[str]:
    """The names in the bodies of the two classes that a checker takes together for Tensor."""
    return {
        name
        for written, path in CLASSES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == written
        for name in _names(node.body)
    }


def _names(body: list[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.If):
            found |= _names(node.body + node.orelse)
    return found - {"__slots__"}


def test_what_is_declared_is_there_and_what_is_there_is_declared():
    there = set(vars(Tensor)) - OF_PYTHON - set(Tensor.__slots__)
    assert len(there) > 200
    assert declared() == there


def test_a_method_has_the_parameters_that_are_declared(tmp_path):
    """mypy is asked for the type of each method of a tensor, and its parameters are compared with `inspect`'s."""
    methods = [name for name in sorted(declared() - {"__init__"}) if callable(getattr(Tensor, name))]
    lines = ["from tilegrad import Tensor", "x: Tensor", *(f"reveal_type(x.{name})" for name in methods)]
    program = tmp_path / "methods.py"
    program.write_text("\n".join(lines))
    found = {f.line: f.message for f in mypy([program], installed(tmp_path)) if "Revealed type" in f.message}
    wrong = {}
    for line, name in enumerate(methods, 3):
        shown, own = _shown(found[line]), _own(getattr(Tensor, name))
        if name.startswith("__"):  # mypy does not name the operand of an operator
            shown, own = {left_out for _, left_out in shown}, {left_out for _, left_out in own}
        if shown != own:
            wrong[name] = shown, own
    assert wrong == {}


def _own(method: object) -> set[tuple[str, bool]]:
    """(name, whether it may be left out) of each parameter without the first, which is the tensor."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    free = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {(p.name, p.default is not p.empty or p.kind in free) for p in parameters}


def _shown(message: str) -> set[tuple[str, bool]]:
    """The same from mypy's words, `def (dim: int, *, dtype: Any =) -> Tensor`; of overloads all together."""
    forms = [_parameters(message, at.end()) for at in re.finditer(r"(?:is \"|Overload\(|, )def \(", message)]
    assert forms, message
    names = {name for form in forms for name in form}
    return {(name, any(form.get(name, True) for form in forms)) for name in names}


def _parameters(message: str, at: int) -> dict[str, bool]:
    """The parameters in the parentheses that are open at this place: name -> whether it may be left out."""
    parts, depth = [""], 1
    while depth:
        depth += (message[at] in "([") - (message[at] in ")]")
        if depth == 1 and message[at] == ",":
            parts.append("")
        elif depth:
            parts[-1] += message[at]
        at += 1
    found = {}
    for part in parts:
        stars, name, kind = re.fullmatch(r"\s*(\**)(?:(\w+): )?(.*)", part).groups()
        if name or kind:
            found[name or ""] = bool(stars) or kind.endswith(" =")
    return found


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        ('Revealed type is "def () -> Tensor"', set()),
        ('Revealed type is "def (a: int, *, b: tuple[int, str] =, **c: Any) -> T"', {("a", False), ("b", 1), ("c", 1)}),
        ('Revealed type is "Overload(def (a: int) -> T, def (a: int, b: int) -> T)"', {("a", False), ("b", True)}),
    ],
)  # fmt: skip
def test_parameters_are_read_from_mypys_words(message, parameters):
    assert _shown(message) == parameters
