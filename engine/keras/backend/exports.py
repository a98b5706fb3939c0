"""What a module of the backend offers Keras: all that Keras calls there (surface.py).

A name is found in one of the files of the module's folder. One that is in none of them is a function that raises
NotImplementedError with its name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tilegrad.keras.backend.surface import SURFACE


def export(names: dict[str, Any], family: str, *files: ModuleType) -> None:
    """Put the functions of the family into a module's names."""
    for name in SURFACE[family].split():
        if name in names and not isinstance(names[name], ModuleType):
            continue
        own = [vars(file)[name] for file in files if _defines(file, name)]
        assert len(own) <= 1, f"{family}.{name} is in {len(own)} files; expected one"
        names[name] = own[0] if own else _raising(f"{family}.{name}")


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
