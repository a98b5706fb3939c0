"""Factors of matrices, on the host and without gradients: what initialisers need."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.device import on_host
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def qr(x: Any, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """x = q r, q with orthonormal columns and r an upper triangle; without a gradient."""
    if mode not in ("reduced", "complete"):
        raise ValueError(
            f"`mode` argument value not supported. Expected one of {{'reduced', 'complete'}}. Received: {mode}"
        )
    x = floating(x)
    if x.requires_grad:
        raise NotImplementedError("linalg.qr: its gradient is not implemented in the tilegrad backend")
    q, r = np.linalg.qr(on_host(x.data), mode=mode)
    return tg.as_tensor(q, dtype=x.dtype, device=x.device), tg.as_tensor(r, dtype=x.dtype, device=x.device)
