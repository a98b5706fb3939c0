"""The schedule: which step it is at, and how the learning rates of that step reach the optimizer."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

from tilegrad import capture_hooks
from tilegrad.optim.optimizer import Optimizer
from tilegrad.optim.options import require_int
from tilegrad.tensor import Tensor


def also_when_launched(plain: Callable[..., None]) -> Callable[..., None]:
    """A schedule's `step` that a captured step (tilegrad.capture) does again, on the host, at each launch."""

    @functools.wraps(plain)
    def step(self: LRScheduler, *args: Any, **kwargs: Any) -> None:
        account = capture_hooks.current()
        if account is None:
            plain(self, *args, **kwargs)
            return
        if any(isinstance(group["lr"], Tensor) and group["lr"].is_cuda for group in self.optimizer.param_groups):
            raise capture_hooks.CaptureError("would read a learning rate that is on the GPU; expected one on the host")
        groups = self.optimizer.param_groups
        state = self.state_dict()
        options = [{k: _kept(v) for k, v in group.items() if k != "params"} for group in groups]
        rates = [(g["lr"], g["lr"].data.copy()) for g in groups if isinstance(g["lr"], Tensor)]

        def go_back() -> None:
            self.load_state_dict(state)
            for group, before in zip(groups, options):
                group.update(before)
            for lr, value in rates:  # which a schedule writes in place
                lr.data[...] = value

        account.undo(go_back)
        with capture_hooks.captured_in(None):
            plain(self, *args, **kwargs)
        account.again(functools.partial(self.step, *args, **kwargs), at_once=bool(rates))

    return step


class LRScheduler:
    """Base class of all schedules: a subclass defines `get_lr`, the learning rates of step `last_epoch`.

    Making one sets the rates of step 0; each `step` goes one further. A step is whatever the caller counts: a batch
    or an epoch. Most rules are written as in PyTorch, from the rate that the group has now to the next, so that
    several schedules on one optimizer multiply. A rate that is a tensor is written in place.

    optimizer   its groups' "lr" is what is scheduled; "initial_lr" is added to them, the rate to start from
    last_epoch  -1 to start; the last step done, to go on with groups that have "initial_lr" (`load_state_dict` is
                the surer way)

    Raises TypeError for what is no optimizer, RuntimeError for groups without "initial_lr" where last_epoch is not -1.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        op = type(self).__name__
        require_optimizer(op, optimizer)
        require_int(op, "last_epoch", last_epoch, least=-1)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                found = f'param_groups[{i}] has no "initial_lr"'
                raise RuntimeError(f"{op}: {found}; expected it where last_epoch is not -1")
        self.optimizer = optimizer
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def get_lr(self) -> list[float]:
        """The learning rate of each group at step `last_epoch`; within `step` only (see `get_last_lr`)."""
        raise NotImplementedError(f"{type(self).__name__}: get_lr is not defined; expected a subclass to define it")

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as this schedule last set it. No part of a captured step."""
        capture_hooks.refuse("reads a learning rate, which changes from step to step; expected it after the step")
        return list(self._last_lr)

    @also_when_launched
    def step(self) -> None:
        """Go to the next step and set its learning rates. Call it after the optimizer's step."""
        self._warn_of_order()
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything but the optimizer, under PyTorch's names."""
        return {name: copy.deepcopy(value) for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the schedule that gave this state was; the optimizer's own state has the rates.

        Raises ValueError for keys that are not this schedule's, before anything changes.
        """
        self._check_state(state_dict)
        vars(self).update(copy.deepcopy({k: v for k, v in state_dict.items() if k != _TORCH_ONLY}))

    # --- inside

    def _lrs(self) -> list[float]:
        """The learning rates that the groups have now."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _set(self, lrs: list[float]) -> None:
        groups = self.optimizer.param_groups
        if len(lrs) != len(groups):
            op = type(self).__name__
            raise RuntimeError(f"{op}: {len(lrs)} learning rates for {len(groups)} groups; expected one each")
        for group, lr in zip(groups, lrs):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = self._lrs()

    def _initial_step(self) -> None:
        """The step that a schedule starts with, in which no rate moves on from one before it."""
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _start(self) -> None:
        """Begin at step 0, from the rates that the groups have."""
        self.last_epoch = -1
        self._initial_step()

    def _restart(self) -> None:
        """Begin at step 0, from the rates that the schedule was made with."""
        self._set(self.base_lrs)
        self._start()

    def _warn_of_order(self) -> None:
        """Warn if the first rate is passed over because the optimizer has not stepped yet."""
        ours = type(self.optimizer).step is Optimizer.step  # a step that a user defined keeps no count
        if self._step_count == 1 and ours and not self.optimizer._stepped:
            warnings.warn(
                f"{type(self).__name__}: step() was called before optimizer.step(), so the first learning rate is "
                "never used; expected optimizer.step() first",
                UserWarning,
                stacklevel=4,
            )

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise unless a saved state has this schedule's keys."""
        op, expected = f"{type(self).__name__}.load_state_dict", set(self.state_dict())
        if not isinstance(state_dict, dict):
            raise TypeError(f"{op}: got a {type(state_dict).__name__}; expected a dict")
        missing, unknown = sorted(expected - set(state_dict)), sorted(set(state_dict) - expected - {_TORCH_ONLY})
        if missing or unknown:
            raise ValueError(f"{op}: missing keys {missing}, unknown keys {unknown}; expected {sorted(expected)}")


def _kept(option: Any) -> Any:
    return option if isinstance(option, Tensor) else copy.copy(option)


_TORCH_ONLY = "_get_lr_called_within_step"  # PyTorch's guard, saved with its schedules


def require_optimizer(op: str, optimizer: Any) -> None:
    """Raise TypeError unless it is an optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{op}: optimizer is a {type(optimizer).__name__}; expected an Optimizer")


def one_per_group(op: str, name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """The value for each group: one for all, or a list with one a group (ValueError for another length)."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{op}: {name} has {len(value)} entries; expected {groups}, one a parameter group")
    return list(value)
