"""torch as the oracle: the same function in float64 (want) and in the arrays' own dtype (baseline).

The baseline of bfloat16 is float32 rounded once, as the contract has it: torch's own bfloat16 rounds on the way too.

    assert_close(backend.softmax(x), *oracle.value(lambda x: torch.softmax(x, -1), x))

Floating arrays are converted, integer arrays are passed on as int64 or int32 tensors of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ml_dtypes import bfloat16

torch.set_num_threads(1)  # the arrays are small: waking a second thread costs more than it does

Pair = tuple[np.ndarray, np.ndarray]  # want, baseline


def value(function: Callable[..., torch.Tensor], *arrays: np.ndarray) -> Pair:
    """function(*arrays) in float64 and in the dtype of the arrays."""
    with torch.no_grad():
        want, baseline = (function(*_tensors(arrays, wide)) for wide in (True, False))
    return want.numpy(), _rounded(baseline, arrays)


def gradients(function: Callable[..., torch.Tensor], dy: np.ndarray, *arrays: np.ndarray) -> list[Pair]:
    """The gradient of sum(dy * function(*arrays)) by each floating array, in float64 and in their dtype."""
    results = []
    for wide in (True, False):
        (dy_tensor,) = _tensors([dy], wide)
        tensors = _tensors(arrays, wide)
        leaves = [t.requires_grad_() for t in tensors if t.is_floating_point()]
        results.append(torch.autograd.grad(function(*tensors), leaves, dy_tensor))
    return [(want.numpy(), _rounded(baseline, arrays)) for want, baseline in zip(*results, strict=True)]


def to_tensor(x: np.ndarray) -> torch.Tensor:
    """A copy as torch has it; bfloat16 is handed over as bits, which is how NumPy knows it."""
    x = np.array(x, order="C")
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == bfloat16 else torch.from_numpy(x)


def to_array(x: torch.Tensor) -> np.ndarray:
    """A torch tensor as NumPy has it, bfloat16 too."""
    return x.view(torch.int16).numpy().view(bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" or x.dtype == bfloat16


def _tensors(arrays, wide: bool) -> list[torch.Tensor]:
    def tensor(x):
        if wide and _is_float(x):
            return to_tensor(x.astype(np.float64))
        return to_tensor(x.astype(np.float32) if x.dtype == bfloat16 else x)

    return [tensor(x) for x in arrays]


def _rounded(x: torch.Tensor, arrays) -> np.ndarray:
    halves = [a for a in arrays if a.dtype == bfloat16]
    return x.numpy().astype(bfloat16) if halves and x.dtype == torch.float32 else x.numpy()
