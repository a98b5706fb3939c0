"""How Keras, which knows its backends by name, comes to know this one.

Released versions of Keras have no interface for backends from outside: six of its modules choose by comparing a name,
and raise for one that they do not know. So a finder (PEP 302) stands before Python's own. It serves the module
`keras.src.backend.tilegrad`, and loads those six with one more case each. Where one of them is not as expected,
ImportError names it and the version of Keras.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "tilegrad"
OLDEST, BEFORE = (3, 13), (3, 16)  # supported versions of Keras
SERVED = f"keras.src.backend.{NAME}"
OURS = "tilegrad.keras.backend"

# Modules that choose a backend in a chain of `if backend() == ...`, and what the case for this one does. What it
# imports last gets the name that Keras' own cases give theirs: versions do not agree on it.
CASES = {
    "keras.src.backend": f"from {SERVED} import *\ndistribution_lib = None\nfrom {SERVED}.core import Variable",
    "keras.src.layers.layer": f"from {SERVED}.layer import TilegradLayer",
    "keras.src.models.model": f"from {SERVED}.trainer import TilegradTrainer",
    "keras.src.export.saved_model": f"from {SERVED}.export import TilegradExportArchive",
    "keras.src.optimizers.optimizer": f"from {SERVED}.optimizer import TilegradOptimizer",
}
DYNAMIC = "keras.src.utils.backend_utils"  # its class DynamicBackend chooses at each look-up


def install() -> None:
    """Have Keras run on tilegrad from now on. Raises ImportError where it cannot."""
    require_supported()
    chosen = os.environ.get("KERAS_BACKEND") or NAME
    if chosen != NAME:
        raise ImportError(f'tilegrad.keras: KERAS_BACKEND is "{chosen}"; expected "{NAME}", or none')
    os.environ["KERAS_BACKEND"] = NAME
    if "keras.src.backend" in sys.modules and sys.modules["keras.src.backend"].backend() != NAME:
        used = sys.modules["keras.src.backend"].backend()
        raise ImportError(
            f"tilegrad.keras: keras is imported already, with the backend {used}; expected this import before it"
        )
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def require_supported() -> str:
    """The version of Keras. Raises ImportError where there is none, or an unsupported one."""
    expected = f"expected {_text(OLDEST)} <= version < {_text(BEFORE)}"
    try:
        version = importlib.metadata.version("keras")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f'tilegrad.keras: keras is not installed; {expected} (pip install "tilegrad[keras]")'
        ) from None
    parts = version.split(".")
    if not parts[0].isdecimal() or not OLDEST <= (int(parts[0]), int(parts[1])) < BEFORE:
        raise ImportError(f"tilegrad.keras: keras is {version}; {expected}")
    return version


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


class Finder(importlib.abc.MetaPathFinder):
    """Finds this backend's modules under Keras' names, and the modules of Keras that choose a backend."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == SERVED or name.startswith(f"{SERVED}."):
            is_package = name == SERVED
            return importlib.machinery.ModuleSpec(name, _Alias(), is_package=is_package)
        if name not in CASES and name != DYNAMIC:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            raise _unlike(name, "has no source file")
        spec.loader = _Extended(name, spec.loader.path)
        return spec


class _Alias(importlib.abc.Loader):
    """Gives a module of tilegrad.keras.backend under Keras' name for it: one module with two names.

    A Keras that is imported anew, as `keras.config.set_backend` does, gets a backend that is imported anew.
    """

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if spec.name == SERVED:
            for name in [name for name in sys.modules if name == OURS or name.startswith(f"{OURS}.")]:
                del sys.modules[name]
        module = importlib.import_module(OURS + spec.name.removeprefix(SERVED))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has put the one of the other name there


class _Extended(importlib.machinery.SourceFileLoader):
    """Loads a module of Keras with a case for this backend."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        extend(fullname, tree)
        return compile(tree, path, "exec", dont_inherit=True)


def extend(name: str, tree: ast.Module) -> None:
    """Add this backend's case to the module of that name. Raises ImportError where that is not as expected."""
    if name == DYNAMIC:
        _extend_dynamic(tree)
    else:
        _add_case(name, tree.body, CASES[name])
    ast.fix_missing_locations(tree)


def _add_case(name: str, body: list[ast.stmt], case: str) -> None:
    """Put `if backend() == "tilegrad": case` before the one chain of such cases."""
    chains = [i for i, node in enumerate(body) if "tensorflow" in _compared(node)]
    if len(chains) != 1:
        raise _unlike(name, f"chooses its backend in {len(chains)} places, not in one")
    chain: Any = body[chains[0]]
    imports = [alias for node in chain.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    given = [alias.asname for alias in imports if alias.asname]
    if len(given) != 1:
        raise _unlike(name, f"imports {len(given)} names of its backend, not one")
    case = textwrap.indent(f"{case} as {given[0]}", "    ")
    first = _placed(f"if {ast.unparse(chain.test.left)} == {NAME!r}:\n{case}", chain)
    first.orelse = [chain]
    body[chains[0]] = first


def _compared(node: Any) -> list[Any]:
    """The names in `if backend() == name: ... elif backend() == name: ...`, also with `backend.backend()`."""
    names = []
    while isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and len(node.test.ops) == 1:
        test: Any = node.test
        if isinstance(test.ops[0], ast.Eq) and ast.unparse(test.left) in ("backend()", "backend.backend()"):
            names.append(getattr(test.comparators[0], "value", None))
        node = node.orelse[0] if len(node.orelse) == 1 else None
    return names


def _extend_dynamic(tree: ast.Module) -> None:
    """Have DynamicBackend accept the name and look names up here."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "DynamicBackend"]
    methods = {node.name: node for cls in classes for node in cls.body if isinstance(node, ast.FunctionDef)}
    accepting = [
        node
        for node in ast.walk(methods.get("set_backend", ast.Module([], [])))
        if isinstance(node, ast.Tuple) and any(isinstance(x, ast.Constant) and x.value == "torch" for x in node.elts)
    ]
    if len(classes) != 1 or len(accepting) != 1 or "__getattr__" not in methods:
        raise _unlike(DYNAMIC, "has another class DynamicBackend")
    accepting[0].elts.append(ast.Constant(NAME))
    lookup = methods["__getattr__"]
    found = f"getattr(importlib.import_module({SERVED!r}), {lookup.args.args[1].arg})"
    lookup.body.insert(0, _placed(f"if self._backend == {NAME!r}:\n    return {found}", lookup.body[0]))


def _placed(code: str, like: ast.stmt) -> Any:
    """The statement, which tracebacks place where that one is."""
    statement = ast.parse(code).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, like)
    return statement


def _unlike(name: str, what: str) -> ImportError:
    version = importlib.metadata.version("keras")
    return ImportError(f"tilegrad.keras: {name} of keras {version} {what}; this version cannot be extended")
