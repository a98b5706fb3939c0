"""One cycle of the learning rate, up and down again, with the momentum going the other way."""

from __future__ import annotations

import math
from typing import Any

from tilegrad.optim.lr_scheduler.base import LRScheduler, also_when_launched, one_per_group, require_optimizer
from tilegrad.optim.optimizer import Optimizer
from tilegrad.optim.options import require_flag, require_int, require_number


class OneCycleLR(LRScheduler):
    """The 1cycle policy (Smith & Topin 2019, "Super-convergence"), in the form that PyTorch gives it.

    From max_lr / div_factor up to max_lr in the first pct_start of the steps, then down to the start divided by
    final_div_factor; with three_phase first down to the start in as many steps as it took up. Each way is half a
    cosine or (anneal_strategy="linear") a line. The momentum, or Adam's beta1, goes from max_momentum down to
    base_momentum while the rate goes up, and back.

    max_lr       the peak, one for all groups or a list with one a group; likewise base_momentum and max_momentum
    total_steps  how many steps there will be; or epochs and steps_per_epoch, whose product it is

    Raises ValueError for ranges and for neither total_steps nor epochs and steps_per_epoch, TypeError for kinds;
    ValueError too for a step beyond total_steps.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 10000.0,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        op = "OneCycleLR"
        require_optimizer(op, optimizer)
        self.total_steps = _total_steps(op, total_steps, epochs, steps_per_epoch)
        require_number(op, "pct_start", pct_start)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"{op}: pct_start is {pct_start}; expected 0 <= pct_start <= 1")
        if anneal_strategy not in _ANNEAL:
            raise ValueError(f"{op}: anneal_strategy is {anneal_strategy!r}; expected 'cos' or 'linear'")
        require_flag(op, "cycle_momentum", cycle_momentum)
        require_flag(op, "three_phase", three_phase)
        for name, factor in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            require_number(op, name, factor)
            if factor <= 0:
                raise ValueError(f"{op}: {name} is {factor}; expected {name} > 0")
        peaks = one_per_group(op, "max_lr", max_lr, optimizer)
        for peak in peaks:
            require_number(op, "max_lr", peak, least=0)
        bounds = list(
            zip(
                one_per_group(op, "base_momentum", base_momentum, optimizer),
                one_per_group(op, "max_momentum", max_momentum, optimizer),
            )
        )
        for base, top in bounds if cycle_momentum else ():
            require_number(op, "base_momentum", base, least=0, below=1)
            require_number(op, "max_momentum", top, least=0, below=1)
        if cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
            found = type(optimizer).__name__
            raise ValueError(f"{op}: {found} has no momentum and no betas; expected one, or cycle_momentum=False")

        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = "betas" in optimizer.defaults
        if last_epoch == -1:
            for group, peak, (base, top) in zip(optimizer.param_groups, peaks, bounds):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor
                if cycle_momentum:
                    group["max_momentum"] = top
                    group["base_momentum"] = base
        super().__init__(optimizer, last_epoch)

    @also_when_launched
    def step(self) -> None:
        """Go to the next step and set its learning rates, and momenta where they are cycled."""
        if self.last_epoch >= self.total_steps:
            raise ValueError(f"OneCycleLR: step {self.last_epoch + 1}; expected at most total_steps={self.total_steps}")
        super().step()
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            momentum = self._at(group, "momentum")
            if self.use_beta1:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum

    def get_lr(self) -> list[float]:
        """The rates of this step, from those that the groups keep for the phases."""
        return [self._at(group, "lr") for group in self.optimizer.param_groups]

    def _at(self, group: dict[str, Any], what: str) -> float:
        """The group's lr or momentum at this step."""
        start_step, t = 0.0, self.last_epoch
        for phase in self._schedule_phases[:-1]:
            if t <= phase["end_step"]:
                break
            start_step = phase["end_step"]
        else:
            phase = self._schedule_phases[-1]
        length = phase["end_step"] - start_step
        done = (t - start_step) / length if length else 1.0  # a phase without length is over at once
        return _ANNEAL[self._anneal_func_type](group[phase[f"start_{what}"]], group[phase[f"end_{what}"]], done)


def _cos(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (1 + math.cos(math.pi * done))


def _linear(start: float, end: float, done: float) -> float:
    return start + (end - start) * min(done, 1.0)  # a loop asks once past the end, where the line is below 0


_ANNEAL = {"cos": _cos, "linear": _linear}


def _total_steps(op: str, total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        require_int(op, "total_steps", total_steps, least=1)
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError(f"{op}: total_steps is None; expected it, or both epochs and steps_per_epoch")
    require_int(op, "epochs", epochs, least=1)
    require_int(op, "steps_per_epoch", steps_per_epoch, least=1)
    return epochs * steps_per_epoch


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Each phase: its last step, and under which keys of a group it finds where it leads from and to."""

    def phase(end_step: float, lrs: tuple[str, str], momenta: tuple[str, str]) -> dict[str, Any]:
        return {
            "end_step": end_step,
            "start_lr": lrs[0],
            "end_lr": lrs[1],
            "start_momentum": momenta[0],
            "end_momentum": momenta[1],
        }

    rise = float(pct_start * total_steps)
    up = phase(rise - 1, ("initial_lr", "max_lr"), ("max_momentum", "base_momentum"))
    if not three_phase:
        return [up, phase(total_steps - 1, ("max_lr", "min_lr"), ("base_momentum", "max_momentum"))]
    return [
        up,
        phase(2 * rise - 2, ("max_lr", "initial_lr"), ("base_momentum", "max_momentum")),
        phase(total_steps - 1, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
    ]
