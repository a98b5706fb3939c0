"""Keras programs on tilegrad's kernels.

Import this before keras, and the program runs on tilegrad:

    import tilegrad.keras
    import keras

A program that is not to be changed is run by `python -m tilegrad.keras program.py`, or with KERAS_BACKEND=tilegrad in
the environment, for which startup.py installs a line that Python runs when it starts.
Raises ImportError where Keras is absent, unsupported, or imported already with another backend.

`tilegrad.keras.GradientTape` is for training loops of a program's own.
"""

from typing import TYPE_CHECKING, Any

from tilegrad.keras.hook import install as _install

if TYPE_CHECKING:
    from tilegrad.keras.backend.tape import GradientTape

_install()


def __getattr__(name: str) -> Any:
    if name != "GradientTape":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import keras  # which imports the backend: it must come first

    from tilegrad.keras.backend.tape import GradientTape

    return GradientTape  # of the backend as it is now: Keras may be imported anew


def __dir__() -> list[str]:
    return ["GradientTape"]
