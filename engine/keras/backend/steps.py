"""One step of training, of a test, of a prediction: what is done with a batch, captured and launched as a whole.

As with Keras' compiled backends, Python code of a model runs when its step is captured, and not again until `compile`.
A step that cannot be captured runs plainly, and a warning says so once. `run_eagerly=True` asks for that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.capture_hooks import CaptureError
from tilegrad.keras.backend import captured  # noqa: F401 - which tells capture of Keras' objects
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.core.device import device
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
        def step(*tensors: Any, nested: Any = None) -> Any:
            return fn(tensors if nested is None else nested)

        step.__name__ = step.__qualname__ = name
        self._plain = step
        self._why_plain = "run_eagerly=True" if run_eagerly else None
        self._captured: dict[tuple[Any, ...], Any] = {}
        self._last: Any = None

    def __call__(self, batch: Any) -> Any:
        if type(batch) is tuple and all([type(x) is np.ndarray for x in batch]):  # nearly always
            convert = tg.tensor if device() == "cpu" else convert_to_tensor
            tensors, nested = [convert(x) for x in batch], {}
            kinds = tuple([x._data.dtype for x in tensors])
        else:
            batch = tree.map_structure(_as_tensor, batch)
            tensors, nested = [], {"nested": batch}
            kinds = tuple([x.data.dtype for x in tree.flatten(batch) if x is not None])
        if self._why_plain is not None:
            return self._plain(*tensors, **nested)
        self._last = self._captured.get(kinds)
        if self._last is None:  # Keras' variables are built: one plain call is enough
            self._last = self._captured[kinds] = tg.capture(self._plain, warmup=1)
        try:
            return self._last(*tensors, **nested)
        except CaptureError as error:
            if device() == "cpu":
                raise
            self._why_plain = f"{self._plain.__name__} runs plainly: {error}"
        # A GPU's step is where it was before the call. It is run op by op from now on, as one of the CPU would be.
        warnings.warn(f"{self._why_plain}; run_eagerly=True says nothing", RuntimeWarning, stacklevel=2)
        return self._plain(*tensors, **nested)

    def summary(self) -> str:
        """What the step of the last call was captured as, as a text; why not, where it was not."""
        if self._why_plain is not None:
            return self._why_plain
        return "not called yet" if self._last is None else self._last.summary()


def _as_tensor(x: Any) -> Any:
    return x if x is None else convert_to_tensor(x)


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
