"""What a module of the backend offers Keras: all that Keras calls there (surface.py).

A name is found in one of the files of the module's folder. One that is in none of them is a function that raises
NotImplementedError with its name.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from tilegrad.keras.backend.surface import SURFACE


def export(names: dict[str, Any], family: str, *files: ModuleType) -> None:
    """Put the functions of the family into a module's names."""
    for name in SURFACE[family].split():
        if name in names and not isinstance(names[name], ModuleType):
            _with_keras_signature(names[name])
            continue
        own = [vars(file)[name] for file in files if _defines(file, name)]
        assert len(own) <= 1, f"{family}.{name} is in {len(own)} files; expected one"
        names[name] = _with_keras_signature(own[0]) if own else _raising(f"{family}.{name}")


def _with_keras_signature(function: Any) -> Any:
    """The function, which shows the signature that Keras has for it: without types."""
    signature = inspect.signature(function)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    function.__signature__ = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    return function


def missing(family: Any) -> list[str]:
    """The names of functions of a module that only raise."""
    return [name for name, x in sorted(vars(family).items()) if getattr(x, "is_missing", False)]


def _defines(file: ModuleType, name: str) -> bool:
    return getattr(vars(file).get(name), "__module__", None) == file.__name__


def _raising(told: str) -> Any:
    def missing(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{told} is not implemented in the tilegrad backend")

    missing.__name__ = missing.__qualname__ = told.rpartition(".")[2]
    missing.is_missing = True  # type: ignore[attr-defined]
    return missing
