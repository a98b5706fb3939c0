"""The step of Keras' optimizers: by the engine's primitives where there is one.

Adam, AdamW and SGD are served, and classes derived from them that have the same `update_step`. Others, and amsgrad, are
computed by Keras, op by op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.optimizers.base_optimizer import BaseOptimizer

from tilegrad import capture_hooks, kernels
from tilegrad.keras.backend.core.constants import on_gpu
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.core.variable import Variable
from tilegrad.tensor import Tensor


class TilegradOptimizer(BaseOptimizer):
    """Keras' optimizer with fused steps. What it remembers, and when it changes, are Keras'."""

    def _backend_update_step(
        self, grads: list[Tensor], trainable_variables: list[Variable], learning_rate: Any
    ) -> None:
        step = _fused(self)
        if step is None:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        lr = _number(convert_to_tensor(learning_rate))
        step(self, list(zip(grads, trainable_variables)), lr)

    def _apply_weight_decay(self, variables: list[Variable]) -> None:
        if _fused(self) is not _adam:  # which does it
            super()._apply_weight_decay(variables)


def _fused(optimizer: Any) -> Callable[..., None] | None:
    """The step by primitives that does what the optimizer's own does, or None."""
    if in_stateless_scope():
        return None
    family = type(optimizer).update_step.__module__.rpartition(".")[2]
    if family == "adam" and not optimizer.amsgrad:
        return _adam
    if family == "sgd":
        return _sgd
    return None


def _adam(optimizer: Any, batch: list[tuple[Tensor, Variable]], lr: Any) -> None:
    decays = [optimizer.weight_decay is not None and optimizer._use_weight_decay(v) for _, v in batch]
    for is_decayed in sorted(set(decays)):
        part = [each for each, decay in zip(batch, decays) if decay is is_decayed]
        _adam_of_decay(optimizer, part, lr, float(optimizer.weight_decay or 0.0) if is_decayed else 0.0)


def _adam_of_decay(optimizer: Any, batch: list[tuple[Tensor, Variable]], lr: Any, weight_decay: float) -> None:
    moments = [_remembered(optimizer, each, batch) for each in (optimizer._momentums, optimizer._velocities)]
    arrays = [_written(tensors) for tensors in ([v._value for _, v in batch], *moments)]
    kernels.of(*arrays[0]).adam_step(
        arrays[0],
        [_gradient(g, v) for g, v in batch],
        *arrays[1:],
        _adam_number(optimizer),
        lr,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        eps=optimizer.epsilon,
        weight_decay=weight_decay,
        decoupled=True,
        eps_hat=True,
    )


def _sgd(optimizer: Any, batch: list[tuple[Tensor, Variable]], lr: Any) -> None:
    params = _written([v._value for _, v in batch])
    gradients = [_gradient(g, v) for g, v in batch]
    momentum = optimizer.momentum
    if momentum == 0:
        kernels.of(*params).sgd_step(params, gradients, None, lr)
        return
    velocities = _written(_remembered(optimizer, optimizer.momentums, batch))
    kernels.of(*params).sgd_step(
        params, gradients, velocities, lr, momentum, nesterov=bool(optimizer.nesterov), velocity=True
    )


def _remembered(optimizer: Any, of_all: list[Variable], batch: list[tuple[Tensor, Variable]]) -> list[Tensor]:
    """What the optimizer remembers of these variables, in their order."""
    return [of_all[optimizer._get_variable_index(v)]._value for _, v in batch]


def _gradient(grad: Tensor, variable: Variable) -> Any:
    """The array of a gradient, in the variable's dtype."""
    return grad.to(variable._value.dtype).contiguous().data


def _written(tensors: list[Tensor]) -> list[Any]:
    """The arrays of these, which a primitive is about to write to; a graph that needs the old values finds out."""
    storages = [x._storage for x in tensors]

    def count() -> None:
        for storage in storages:
            storage.version += 1

    account = capture_hooks.current()
    if account is None:
        count()
    else:
        account.memory(*tensors)
        account.again(count)
    return [x.data for x in tensors]


def _number(x: Tensor, plus: float = 0) -> Any:
    """A tensor of one element as primitives take a number: at each launch of a captured step the one that it has then.

    On a GPU that is its array. On the CPU 0 stands for it before the first launch, as its memory may hold anything.
    """
    account = capture_hooks.current()
    if account is not None:
        account.reads(x)
    if x.is_cuda:
        return x.data.reshape(()) + plus if plus else x.data.reshape(())
    if account is None:
        return x.item() + plus
    graph: Any = account.graph
    array = graph.plain(x.data, "optimizer")
    return graph.number(lambda: (array.item() if graph.is_closed else 0) + plus, np.float64)


def _adam_number(optimizer: Any) -> Any:
    """The number of the step that Adam is about to make, or on a GPU what `adam_step` takes in its place."""
    iterations = convert_to_tensor(optimizer.iterations)
    number = _number(iterations, plus=1)
    if not iterations.is_cuda:
        return number
    # The primitive's own factors with eps_hat: powers in float32, 1 - beta1 beside them in float64.
    bases = np.array([np.float32(optimizer.beta_1), np.float32(optimizer.beta_2), 0.0], np.float64)
    powers = (on_gpu(bases) ** number.astype(np.float64)).astype(np.float32).astype(np.float64)
    return (1 - (powers + on_gpu(np.array([0.0, 0.0, optimizer.beta_1])))).astype(np.float32)
