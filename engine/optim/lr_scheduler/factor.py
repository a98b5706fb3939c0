"""Schedules that multiply the learning rate, step by step, or (LambdaLR) the one they started from."""

from __future__ import annotations

import copy
import types
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tilegrad.optim.lr_scheduler.base import LRScheduler, one_per_group, require_optimizer
from tilegrad.optim.optimizer import Optimizer
from tilegrad.optim.options import require_int, require_number


class _FactorLR(LRScheduler):
    """lr_t = lr_{t-1} factor(t)."""

    def _factor(self, t: int) -> float:
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """The rates that the groups have, times the factor of this step."""
        factor = self._factor(self.last_epoch)
        return [lr * factor for lr in self._lrs()]


class StepLR(_FactorLR):
    """The rate times gamma at every step_size-th step: lr_t = lr_0 gamma^floor(t / step_size).

    Raises ValueError for step_size < 1 or gamma < 0, TypeError for other kinds.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        require_int("StepLR", "step_size", step_size, least=1)
        require_number("StepLR", "gamma", gamma, least=0)
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self, t: int) -> float:
        return self.gamma if t > 0 and t % self.step_size == 0 else 1.0


class MultiStepLR(_FactorLR):
    """The rate times gamma at each milestone: lr_t = lr_0 gamma^(number of milestones <= t).

    milestones  steps, in any order; one that is listed k times counts k times

    Raises ValueError for a milestone < 0 or gamma < 0, TypeError for other kinds.
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        milestones = list(milestones)
        for i, milestone in enumerate(milestones):
            require_int("MultiStepLR", f"milestones[{i}]", milestone, least=0)
        require_number("MultiStepLR", "gamma", gamma, least=0)
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self, t: int) -> float:
        return self.gamma ** self.milestones[t]


class ExponentialLR(_FactorLR):
    """The rate times gamma at every step: lr_t = lr_0 gamma^t. Raises ValueError for gamma < 0."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        require_number("ExponentialLR", "gamma", gamma, least=0)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self, t: int) -> float:
        return 1.0 if self._is_initial else self.gamma


class ConstantLR(_FactorLR):
    """The rate times factor for the first total_iters steps, then as it was.

    Raises ValueError unless 0 < factor <= 1 and total_iters >= 1.
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        _require_share("ConstantLR", "factor", factor)
        require_int("ConstantLR", "total_iters", total_iters, least=1)
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self, t: int) -> float:
        if t == 0:
            return self.factor
        return 1.0 / self.factor if t == self.total_iters else 1.0


class LinearLR(_FactorLR):
    """From start_factor to end_factor of the rate on a straight line over total_iters steps: a linear warm-up.

        lr_t = lr_0 (start_factor + (end_factor - start_factor) min(t, total_iters) / total_iters)

    Raises ValueError unless 0 < start_factor <= 1, 0 <= end_factor <= 1 and total_iters >= 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        _require_share("LinearLR", "start_factor", start_factor)
        _require_share("LinearLR", "end_factor", end_factor, zero=True)
        require_int("LinearLR", "total_iters", total_iters, least=1)
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self, t: int) -> float:
        if t == 0:
            return self.start_factor
        if self._is_initial or t > self.total_iters:
            return 1.0
        rise = self.end_factor - self.start_factor  # a line as a product: each height over the one before
        return 1.0 + rise / (self.total_iters * self.start_factor + (t - 1) * rise)


class LambdaLR(LRScheduler):
    """lr_t = lr_0 lr_lambda(t), with one function for all groups or a list with one a group.

    A state dict holds the attributes of functions that are objects, not the functions.
    Raises TypeError for what cannot be called, ValueError for a list of another length than there are groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        require_optimizer("LambdaLR", optimizer)
        self.lr_lambdas = one_per_group("LambdaLR", "lr_lambda", lr_lambda, optimizer)
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"LambdaLR: lr_lambda is a {type(function).__name__}; expected a function of the step")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates to start from, times the functions at this step."""
        return [base * function(self.last_epoch) for base, function in zip(self.base_lrs, self.lr_lambdas)]

    def state_dict(self) -> dict[str, Any]:
        """As `LRScheduler` says; "lr_lambdas" has the attributes of each function object, None for a function."""
        kept = {k: copy.deepcopy(v) for k, v in vars(self).items() if k not in ("optimizer", "lr_lambdas")}
        return {**kept, "lr_lambdas": [_attributes(function) for function in self.lr_lambdas]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `LRScheduler` says; the functions stay, those that are objects get their saved attributes."""
        functions = self.lr_lambdas
        super().load_state_dict(state_dict)
        self.lr_lambdas = functions
        for function, attributes in zip(functions, state_dict["lr_lambdas"]):
            if attributes is not None:
                vars(function).update(copy.deepcopy(attributes))

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        super()._check_state(state_dict)
        saved, expected = len(state_dict["lr_lambdas"]), len(self.lr_lambdas)
        if saved != expected:
            raise ValueError(f"LambdaLR.load_state_dict: the state has {saved} lr_lambdas; expected {expected}")


def _attributes(function: Callable[[int], float]) -> dict[str, Any] | None:
    if isinstance(function, types.FunctionType) or not hasattr(function, "__dict__"):
        return None
    return copy.deepcopy(vars(function))


def _require_share(op: str, name: str, value: float, zero: bool = False) -> None:
    """0 < value <= 1, or with zero 0 <= value <= 1."""
    require_number(op, name, value)
    if not 0 <= value <= 1 or (value == 0 and not zero):
        raise ValueError(f"{op}: {name} is {value}; expected 0 {'<=' if zero else '<'} {name} <= 1")
