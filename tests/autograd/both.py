"""One scenario in both libraries: what it returns must be equal, and what it raises must be refused by both.

    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        ...
        return [x.grad]

    assert_agree(scenario)

Numbers are float64 and few-digit binary fractions, so that results are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

import tilegrad as tg

ours = SimpleNamespace(
    leaf=lambda x: tg.tensor(x, dtype="float64", requires_grad=True),
    constant=lambda x: tg.tensor(x, dtype="float64"),
    zeros=lambda *shape: tg.zeros(*shape, dtype="float64"),
    grad=tg.grad,
    no_grad=tg.no_grad,
    enable_grad=tg.enable_grad,
    set_grad_enabled=tg.set_grad_enabled,
    is_grad_enabled=tg.is_grad_enabled,
    where=tg.where,
    cat=tg.cat,
)
theirs = SimpleNamespace(
    leaf=lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True),
    constant=lambda x: torch.tensor(x, dtype=torch.float64),
    zeros=lambda *shape: torch.zeros(*shape, dtype=torch.float64),
    grad=torch.autograd.grad,
    no_grad=torch.no_grad,
    enable_grad=torch.enable_grad,
    set_grad_enabled=torch.set_grad_enabled,
    is_grad_enabled=torch.is_grad_enabled,
    where=torch.where,
    cat=torch.cat,
)


def assert_agree(scenario: Callable[[Any], Any]) -> None:
    """scenario(lib) returns the same for both libraries; tensors count by value and requires_grad."""
    got, want = plain(scenario(ours)), plain(scenario(theirs))
    assert got == want


def plain(x: Any) -> Any:
    if isinstance(x, (tg.Tensor, torch.Tensor)):
        return (x.tolist(), x.requires_grad)
    if isinstance(x, (list, tuple)):
        return [plain(e) for e in x]
    return x


def refused(act: Callable[[], Any]) -> bool:
    """Whether act raises RuntimeError."""
    try:
        act()
    except RuntimeError:
        return True
    return False
