"""Keras' variables: tensors of the engine that keep their memory and are written to in place."""

from __future__ import annotations

from typing import Any, cast

from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import Variable as KerasVariable

import tilegrad as tg
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.core.device import device
from tilegrad.keras.backend.core.recording import is_recording
from tilegrad.tensor import Tensor


class Variable(KerasVariable):
    """A tensor under a name. It stays on its memory, so a captured step may read and write it.

    _value  the tensor
    _leaf   for a trainable one, a tensor on the same memory that requires grad; `value` while gradients are recorded
    """

    _leaf: Tensor | None = None

    def _initialize(self, value: Tensor) -> None:
        self._value = tg.tensor(convert_to_tensor(value).detach(), device=device())
        self._make_leaf()

    def _make_leaf(self) -> None:
        is_wanted = self._trainable and self._value is not None and self._value.is_floating_point()
        self._leaf = Tensor(self._value, requires_grad=True) if is_wanted else None

    def _direct_assign(self, value: Tensor) -> None:
        with no_grad():
            self._value.copy_(value)

    def _convert_to_tensor(self, value: Any, dtype: Any = None) -> Tensor:
        return convert_to_tensor(value, dtype=dtype)

    @property
    def trainable(self) -> bool:
        """Whether the variable is trainable."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: Any) -> None:
        self._trainable = bool(value)
        if self._value is not None:
            self._make_leaf()

    @property
    def value(self) -> Tensor:
        """The tensor; cast where a layer computes in another dtype."""
        if self._leaf is None or not is_recording():
            return cast(Tensor, super().value)
        scope: Any = get_stateless_scope()
        found = None if scope is None else scope.get_current_value(self)
        return self._maybe_autocast(self._leaf if found is None else found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._value_now().cpu().__array__(dtype, copy)

    def _value_now(self) -> Tensor:
        return self.value.detach()
