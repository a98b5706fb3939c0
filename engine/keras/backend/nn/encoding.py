"""Classes as vectors."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype
from tilegrad.ops.operands import normalize_axis
from tilegrad.tensor import Tensor


def one_hot(x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False) -> Tensor:
    """1 at the class, 0 elsewhere, along a new axis; only zeros for what is no class."""
    if sparse:
        raise ValueError("Unsupported value `sparse=True` with the tilegrad backend")
    x = convert_to_tensor(x, dtype="int64")
    hit = x.unsqueeze(-1) == tg.arange(num_classes, device=x.device)
    return hit.movedim(-1, normalize_axis("one_hot", axis, hit.ndim)).to(np_dtype(dtype))


def multi_hot(x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False) -> Tensor:
    """1 at each class that occurs along the last axis but the first, 0 elsewhere."""
    x = convert_to_tensor(x)
    over = 1 if x.ndim > 1 else 0
    return tg.amax(one_hot(x, num_classes, axis, dtype, sparse), over)
