"""One schedule after another, such as a warm-up and what follows it."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from tilegrad.optim.lr_scheduler.base import LRScheduler, also_when_launched, require_optimizer
from tilegrad.optim.optimizer import Optimizer
from tilegrad.optim.options import require_int


class SequentialLR(LRScheduler):
    """schedulers[0] until step milestones[0], then schedulers[1] from its own step 0 until milestones[1], and so on.

    Raises ValueError unless there is one milestone less than schedulers, all on this optimizer, and milestones rise;
    TypeError for what is no schedule. To go on with a saved one, use `load_state_dict`; last_epoch must be -1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        op = "SequentialLR"
        require_optimizer(op, optimizer)
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"{op}: schedulers[{i}] is a {type(scheduler).__name__}; expected an LRScheduler")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"{op}: schedulers[{i}] is on another optimizer; expected all on the one given")
        if not schedulers or len(milestones) != len(schedulers) - 1:
            found = f"{len(schedulers)} schedulers but {len(milestones)} milestones"
            raise ValueError(f"{op}: {found}; expected at least one scheduler, and one milestone less")
        for i, milestone in enumerate(milestones):
            require_int(op, f"milestones[{i}]", milestone, least=1)
        if any(later <= earlier for earlier, later in zip(milestones, milestones[1:])):
            raise ValueError(f"{op}: milestones are {list(milestones)}; expected each to be larger than the one before")
        if last_epoch != -1:
            raise ValueError(f"{op}: last_epoch is {last_epoch}; expected -1 (load_state_dict resumes)")
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        # Making the schedules has set the rates of each one's start; only the first starts now.
        self._set([float(group["initial_lr"]) for group in optimizer.param_groups])
        self._start()

    @also_when_launched
    def step(self) -> None:
        """Go to the next step of the schedule whose turn it is, or start it."""
        self.last_epoch += 1
        turn = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[turn]
        if turn > 0 and self._milestones[turn - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def _start(self) -> None:
        self._schedulers[0]._start()
        self._at_start()

    def _restart(self) -> None:
        self._schedulers[0]._restart()
        self._at_start()

    def _at_start(self) -> None:
        self.last_epoch = 0
        self._last_lr = self._schedulers[0].get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """As `LRScheduler` says; "_schedulers" has the state of each schedule."""
        kept = {k: copy.deepcopy(v) for k, v in vars(self).items() if k not in ("optimizer", "_schedulers")}
        return {**kept, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `LRScheduler` says, for every schedule."""
        self._check_state(state_dict)
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"]):
            scheduler.load_state_dict(state)
        self.last_epoch = state_dict["last_epoch"]
        self._milestones = list(state_dict["_milestones"])
        self._last_lr = list(state_dict["_last_lr"])

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        super()._check_state(state_dict)
        states, schedulers = state_dict["_schedulers"], self._schedulers
        if len(states) != len(schedulers):
            found = f"the state has {len(states)} schedulers"
            raise ValueError(f"SequentialLR.load_state_dict: {found}; expected {len(schedulers)}")
        for scheduler, state in zip(schedulers, states):
            scheduler._check_state(state)
