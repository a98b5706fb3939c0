"""One step of training, of a test, of a prediction: what is done with a batch, captured and launched as a whole.

As with Keras' compiled backends, Python code of a model runs when its step is captured, and not again until `compile`.
A step that cannot be captured runs plainly, and a warning says so once. `run_eagerly=True` asks for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tilegrad as tg
from tilegrad.capture_hooks import CaptureError
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.core.variable import Variable
from tilegrad.keras.backend.nested import tree
from tilegrad.kernels.capture.planned import PlannedError
from tilegrad.tensor import Tensor

# Keras adds the arguments of a layer's call to the text of what it raises, unless the error says that this was done.
for _error in (CaptureError, PlannedError):
    _error._keras_call_info_injected = True  # type: ignore[attr-defined]


class Step:
    """fn(batch) of tensors, called with arrays: captured unless run_eagerly, for each list of dtypes apart."""

    def __init__(self, name: str, fn: Callable[[Any], Any], run_eagerly: bool) -> None:
        def step(batch: Any) -> Any:
            return fn(batch)

        step.__name__ = step.__qualname__ = name
        self._fn = step
        self._is_eager = run_eagerly
        self._captured: dict[tuple[Any, ...], Any] = {}
        self._last: Any = None

    def __call__(self, batch: Any) -> Any:
        dtypes: list[Any] = []

        def tensor(x: Any) -> Any:
            if x is None:
                return None
            made = convert_to_tensor(x)
            dtypes.append(made.data.dtype)
            return made

        batch = tree.map_structure(tensor, batch)
        if self._is_eager:
            return self._fn(batch)
        kinds = tuple(dtypes)
        self._last = self._captured.get(kinds)
        if self._last is None:  # Keras' variables are built: one plain call is enough
            self._last = self._captured[kinds] = tg.capture(self._fn, warmup=1)
        return self._last(batch)

    def summary(self) -> str:
        """What the step of the last call was captured as, as a text; why not, where it was not."""
        return (
            "run_eagerly=True" if self._is_eager else "not called yet" if self._last is None else self._last.summary()
        )


def gradients(loss: Tensor, variables: list[Variable]) -> list[Tensor | None]:
    """d(loss)/d(variable) for each, None where the loss does not depend on it."""
    leaves = [v._leaf for v in variables if v._leaf is not None]
    if not leaves or not loss.requires_grad:
        return [None] * len(variables)
    found = iter(tg.grad(loss, leaves, allow_unused=True))
    return [None if v._leaf is None else next(found) for v in variables]


def batch_size(x: Any) -> int:
    """How many samples there are."""
    return next(each for each in tree.flatten(x) if each is not None).shape[0]
