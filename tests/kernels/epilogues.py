"""torch's form of every activation that an epilogue may apply, by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPILOGUES = {
    None: lambda y: y,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
