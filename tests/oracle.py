"""torch as the oracle: the same function in float64 (want) and in the arrays' own dtype (baseline).

    assert_close(backend.softmax(x), *oracle.value(lambda x: torch.softmax(x, -1), x))

Floating arrays are converted, integer arrays are passed on as int64 or int32 tensors of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

torch.set_num_threads(1)  # the arrays are small: waking a second thread costs more than it does

Pair = tuple[np.ndarray, np.ndarray]  # want, baseline


def value(function: Callable[..., torch.Tensor], *arrays: np.ndarray) -> Pair:
    """function(*arrays) in float64 and in the dtype of the arrays."""
    with torch.no_grad():
        want, baseline = (function(*_tensors(arrays, wide)).numpy() for wide in (True, False))
    return want, baseline


def gradients(function: Callable[..., torch.Tensor], dy: np.ndarray, *arrays: np.ndarray) -> list[Pair]:
    """The gradient of sum(dy * function(*arrays)) by each floating array, in float64 and in their dtype."""
    results = []
    for wide in (True, False):
        (dy_tensor,) = _tensors([dy], wide)
        tensors = _tensors(arrays, wide)
        leaves = [t.requires_grad_() for t in tensors if t.is_floating_point()]
        results.append(torch.autograd.grad(function(*tensors), leaves, dy_tensor))
    return [(want.numpy(), baseline.numpy()) for want, baseline in zip(*results, strict=True)]


def _tensors(arrays, wide: bool) -> list[torch.Tensor]:
    def tensor(x):
        x = np.array(x, dtype=np.float64 if wide and x.dtype.kind == "f" else None, order="C")
        return torch.from_numpy(x)

    return [tensor(x) for x in arrays]
