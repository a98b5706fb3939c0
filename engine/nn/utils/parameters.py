"""What training loops do to all parameters at once: clip gradients, turn parameters into a vector and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tilegrad import capture_hooks, kernels, ops
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.device import array_module
from tilegrad.dtypes import accumulator
from tilegrad.ops.operands import quiet, require_one_device, wide
from tilegrad.tensor import Tensor, wrap


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients, in place, by min(1, max_norm / (norm + 1e-6)); returns the norm (0-dim).

    The norm is that of all gradients as one vector: (sum |g|^p)^(1/p), p = norm_type, which may be inf (Pascanu,
    Mikolov & Bengio 2013). It is computed in float32 at least. With error_if_nonfinite, an infinite norm or nan raises
    RuntimeError before anything is scaled.
    """
    op = "clip_grad_norm_"
    p = float(norm_type)
    if math.isnan(p) or p <= 0:
        raise ValueError(f"{op}: norm_type is {norm_type}; expected > 0")
    if not max_norm >= 0:
        raise ValueError(f"{op}: max_norm is {max_norm}; expected >= 0")
    grads = _gradients(op, parameters)
    if not grads:
        return wrap(np.zeros((), np.float32))
    require_one_device(op, *grads)
    if p == 2.0 and not error_if_nonfinite:
        arrays = [g.data for g in grads]
        capture_hooks.reads(*grads)
        total = kernels.of(*arrays).clip_norm_step(arrays, float(max_norm))
        for g in grads:
            g._storage.version += 1
        return wrap(total)
    xp = array_module(grads[0].data)
    with quiet():  # an infinite norm is a valid result
        norms = xp.stack([_norm(xp, _flat(g.data), p) for g in grads])
        total = _norm(xp, norms, p)
    if error_if_nonfinite and not xp.isfinite(total):
        raise RuntimeError(f"{op}: the norm of the gradients is {total}; expected it to be finite")
    with quiet():
        scale = xp.minimum(max_norm / (total + 1e-6), 1.0)
        for g in grads:
            g.data *= scale.astype(accumulator(g.dtype))
            g._storage.version += 1
    return wrap(total)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Cut every element of every gradient to [-clip_value, clip_value], in place."""
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value is {clip_value}; expected >= 0")
    with no_grad():
        for g in _gradients("clip_grad_value_", parameters):
            g.clamp_(-clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened, one after the other; gradients flow back to them."""
    return ops.cat([ops.reshape(p, -1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy a vector that parameters_to_vector could have made into the parameters, in place.

    Raises TypeError for what is no tensor, ValueError unless both have the same number of elements.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"vector_to_parameters: vec is {type(vec).__name__}; expected a tensor")
    parameters = list(parameters)
    sizes = [p.numel() for p in parameters]
    if vec.shape != (sum(sizes),):
        raise ValueError(f"vector_to_parameters: vec is {vec.shape}; expected ({sum(sizes)},)")
    with no_grad():
        for p, part in zip(parameters, ops.split(vec, sizes)):
            p.copy_(ops.reshape(part, p.shape))


def _gradients(op: str, parameters: Any) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    parameters = list(given)
    for p in parameters:
        if not isinstance(p, Tensor):
            raise TypeError(f"{op}: expected tensors; got {type(p).__name__}")
    account = capture_hooks.current()
    if account is not None and iter(given) is not given:  # a list may have others by the next launch
        account.same(given, lambda: list(given))
    return [p.grad for p in parameters if p.grad is not None]


def _flat(array: Any) -> Any:
    """The elements as a vector of float32 at least, in memory order: a view where possible."""
    # ravel(order="K"), which CuPy lacks
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return wide(array.transpose(order).reshape(-1))


def _norm(xp: Any, vector: Any, p: float) -> Any:
    return xp.linalg.norm(vector, p) if vector.size else vector.sum()
