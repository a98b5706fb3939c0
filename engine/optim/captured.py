"""The numbers of an optimizer that each launch of a captured step reads anew: learning rates, momenta, Adam's steps.

While no step is captured they are plain numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilegrad import capture_hooks
from tilegrad.kernels.optimizer.moving import moving, moving_adam
from tilegrad.optim.options import require_lr
from tilegrad.tensor import Tensor

if TYPE_CHECKING:
    import numpy as np


def lr_beside(op: str, group: dict[str, Any], param: Tensor) -> Any:
    """The group's learning rate as a step of this parameter takes it: a number, or a 0-d array of its device.

    Raises TypeError for one in a GPU's memory where the parameter is on the CPU.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.is_cuda:
        if not param.is_cuda:
            raise TypeError(f"{op}: lr is on cuda but a parameter on cpu; expected a number, or a tensor on cpu")
        capture_hooks.reads(lr)
        return lr.data
    account = capture_hooks.on_device(param.data)
    if account is None:
        return lr.data.item() if isinstance(lr, Tensor) else lr

    def now() -> float:
        lr = group["lr"]
        require_lr(op, lr)
        return lr.data.item() if isinstance(lr, Tensor) else float(lr)

    return moving(param.data, account.number, now)


def momentum_beside(array: Any, group: dict[str, Any]) -> Any:
    """The group's momentum for parameters on the array's device. Whether there is any is part of the kernels."""
    momentum = group["momentum"]
    account = capture_hooks.on_device(array)
    if account is None:
        return momentum
    account.holds(lambda: (group["momentum"] == 0) == (momentum == 0))
    return moving(array, account.number, lambda: group["momentum"]) if momentum != 0 else momentum


def step_and_beta1(array: Any, counts: list[np.ndarray], step: int, group: dict[str, Any]) -> tuple[Any, Any]:
    """The number of Adam's step and the group's beta1, for parameters on the array's device.

    counts   of the steps before this one, for each parameter: they go up at each launch
    """
    account = capture_hooks.on_device(array)
    if account is None:
        return step, group["betas"][0]

    def goes_on() -> None:
        step_now = counts[0].item() + 1  # of all: `holds` says so
        for count in counts:
            count.fill(step_now)

    def goes_back() -> None:
        for count in counts:
            count[()] = step - 1

    beta2 = group["betas"][1]
    views = [count.data for count in counts]  # compared in C, at every launch
    account.holds(lambda: group["betas"][1] == beta2 and views.count(views[0]) == len(views))
    account.undo(goes_back)
    found = moving_adam(array, account.number, lambda: int(counts[0].item()) + 1, lambda: group["betas"])
    account.again(goes_on)
    return found
