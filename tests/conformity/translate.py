"""A sample's arguments as ours: tensors, dtypes, devices. What we do not take by design is told apart here."""

from __future__ import annotations

from typing import Any

import torch

import tilegrad as tg
from tests.oracle import to_array
from tilegrad import Tensor

# What design leaves out, by operator: keywords, and integers where a kernel takes floating-point arrays alone.
REFUSED_KEYWORDS = {("scatter", "reduce")}
FLOATS_ONLY = {
    f"nn.functional.{name}"
    for name in ("max_pool2d", "avg_pool2d", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
}


class NotTaken(Exception):
    """The sample has an argument that we do not take, by design."""


def ours(x: Any, leaves: list[Tensor]) -> Any:
    """x as the engine has it; tensors that require grad are added to `leaves`. Raises NotTaken."""
    if isinstance(x, torch.Tensor):
        tensor = Tensor(to_array(_plain(x).detach().clone()))
        if x.requires_grad:
            tensor.requires_grad = True
            leaves.append(tensor)
        return tensor
    if isinstance(x, torch.dtype):
        name = str(x).removeprefix("torch.")
        found = getattr(tg, name, None)
        if found is None:
            raise NotTaken(f"dtype {name}")
        return found
    if isinstance(x, torch.device):
        return x.type
    if isinstance(x, torch.Size):
        return tuple(x)
    if isinstance(x, (torch.layout, torch.memory_format, torch.Generator)):
        raise NotTaken(type(x).__name__)
    if isinstance(x, complex):
        raise NotTaken("complex")
    if isinstance(x, (tuple, list)):
        return type(x)([ours(i, leaves) for i in x])
    return x


def _plain(x: torch.Tensor) -> torch.Tensor:
    if x.is_complex():
        raise NotTaken("complex")
    if x.ndim > 64:
        raise NotTaken("more dimensions than NumPy has")
    if x.layout != torch.strided:
        raise NotTaken("sparse")
    if str(x.dtype).removeprefix("torch.") not in {d.name for d in tg.dtypes.DTYPES}:
        raise NotTaken(f"dtype {x.dtype}")
    return x


def call_arguments(name: str, args: tuple, kwargs: dict) -> tuple[tuple, dict, list[Tensor]]:
    """Arguments for ours, and the leaves among them. Raises NotTaken."""
    for keyword in kwargs:
        if (name, keyword) in REFUSED_KEYWORDS:
            raise NotTaken(f"keyword {keyword}")
    if name in FLOATS_ONLY and isinstance(args[0], torch.Tensor) and not args[0].is_floating_point():
        raise NotTaken("integers")
    kwargs = {k: v for k, v in kwargs.items() if v is not torch.preserve_format}  # it says what is done anyway
    leaves: list[Tensor] = []
    return tuple(ours(x, leaves) for x in args), {k: ours(v, leaves) for k, v in kwargs.items()}, leaves
