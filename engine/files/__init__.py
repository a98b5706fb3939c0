"""Tensors in files: `save`, and `load`, which also reads other programs' safetensors and PyTorch's .pt files."""

from __future__ import annotations

from tilegrad.files.loading import load as load
from tilegrad.files.saving import save as save
