"""Checks of what an optimizer or a schedule is told: kinds first, ranges second, before anything is changed."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from tilegrad.tensor import Tensor


def require_number(op: str, name: str, value: Any, least: float = -math.inf, below: float = math.inf) -> None:
    """Raise TypeError unless the value is a number, ValueError unless it is finite and least <= value < below."""
    # The plain types first: this runs for every option at every step, and asking an abstract class is slow.
    if type(value) not in (float, int) and not _is_real(value):
        raise TypeError(f"{op}: {name} is {value!r}; expected a number")
    if not (least <= value < below and math.isfinite(value)):
        raise ValueError(f"{op}: {name} is {value}; expected {least} <= {name} < {below}")


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def require_lr(op: str, lr: Any) -> None:
    """A learning rate is a number >= 0, or a tensor of no dimensions that holds one."""
    if not isinstance(lr, Tensor):
        require_number(op, "lr", lr, least=0)
        return
    if lr.ndim != 0:
        raise ValueError(f"{op}: lr is a tensor of shape {lr.shape}; expected a number or a tensor of no dimensions")
    if lr.requires_grad:
        raise ValueError(f"{op}: lr requires grad; expected a tensor that does not (a step is not differentiated)")
    if not lr.is_cuda:  # the step does not wait to see what a GPU holds
        require_number(op, "lr", lr.data.item(), least=0)


def require_flag(op: str, name: str, value: Any) -> None:
    """Raise TypeError unless the value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} is {value!r}; expected True or False")


def require_int(op: str, name: str, value: Any, least: int) -> None:
    """Raise TypeError unless the value is an integer, ValueError unless it is at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{op}: {name} is {value!r}; expected an integer")
    if value < least:
        raise ValueError(f"{op}: {name} is {value}; expected {name} >= {least}")


def refuse(op: str, options: dict[str, Any]) -> None:
    """Raise TypeError for an option of PyTorch's that is switched on, and for a name that nobody knows.

    Switched off (False or None), PyTorch's options ask for what is done anyway, so that a script may carry them.
    """
    for name, value in options.items():
        if name not in ("amsgrad", "foreach", "fused", "capturable", "differentiable"):
            raise TypeError(f"{op}: got an unexpected argument {name!r}")
        if value is not None and value is not False:
            raise TypeError(f"{op}: {name}={value!r} is not supported; expected {name} to be left out")
