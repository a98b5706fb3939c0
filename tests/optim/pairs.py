"""The same optimizer twice, ours and torch's, on the same parameters and fed the same gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import tilegrad as tg
from tilegrad import optim

SHAPES = [(5, 10), (), (33, 7), (1, 1)]  # ragged; a scalar; one past a tile; degenerate

Gradients = Sequence[Sequence[np.ndarray | None]]  # a step, a parameter


def arrays(seed: int = 0, dtype: type[np.floating] = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), np.float32).astype(dtype) for shape in SHAPES]


def gradients(steps: int, seed: int = 1, missing: Sequence[tuple[int, int]] = ()) -> Gradients:
    """Random gradients, float32; None at each (step, parameter) of `missing`."""
    rng = np.random.default_rng(seed)
    made = [[np.asarray(rng.standard_normal(shape), np.float32) for shape in SHAPES] for _ in range(steps)]
    return [[None if (s, p) in missing else g for p, g in enumerate(grads)] for s, grads in enumerate(made)]


def ours(values: Sequence[np.ndarray]) -> list[tg.Tensor]:
    return [tg.tensor(v, requires_grad=True) for v in values]


def torchs(values: Sequence[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(v)).requires_grad_() for v in values]


def assign(params: Sequence[Any], grads: Sequence[np.ndarray | None]) -> None:
    """Give the parameters, of either library, these gradients in their own dtype."""
    for param, grad in zip(params, grads, strict=True):
        if isinstance(param, torch.Tensor):
            param.grad = None if grad is None else torch.from_numpy(np.array(grad)).to(param.dtype)
        else:
            param.grad = None if grad is None else tg.tensor(grad.astype(param.dtype))


def history(optimizer: Any, params: Sequence[Any], grads: Gradients) -> np.ndarray:
    """All parameters after every step, one row a step."""
    rows = []
    for row in grads:
        assign(params, row)
        optimizer.step()
        rows.append(np.concatenate([p.detach().numpy().reshape(-1) for p in params]))
    return np.stack(rows)


def to_torch(value: Any) -> Any:
    """A state dict with our tensors as torch's."""
    if isinstance(value, tg.Tensor):
        return torch.from_numpy(value.numpy().copy())
    return _mapped(to_torch, value)


def to_numpy(value: Any) -> Any:
    """A state dict with torch's tensors as NumPy arrays."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().copy()
    return _mapped(to_numpy, value)


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: function(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(function(v) for v in value)
    return value


LIBRARIES = {"ours": (optim, ours), "torch": (torch.optim, torchs)}
