"""Half a cosine from the learning rate down to a floor: once, or with restarts.

Source of both: Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5.
"""

from __future__ import annotations

import math

from tilegrad.optim.lr_scheduler.base import LRScheduler, also_when_launched
from tilegrad.optim.optimizer import Optimizer
from tilegrad.optim.options import require_int, require_number


class CosineAnnealingLR(LRScheduler):
    """lr_t = eta_min + (lr_0 - eta_min) (1 + cos(pi t / T_max)) / 2: down in T_max steps, then up again.

    Raises ValueError for T_max < 1 or eta_min < 0, TypeError for other kinds.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        require_int("CosineAnnealingLR", "T_max", T_max, least=1)
        require_number("CosineAnnealingLR", "eta_min", eta_min, least=0)
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates of this step, from those that the groups have."""
        lrs, t = self._lrs(), self.last_epoch
        if self._is_initial:
            return lrs
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:
            # The step before was at the floor, where no quotient tells the way up.
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * rise for lr, base in zip(lrs, self.base_lrs)]
        quotient = (1 + math.cos(math.pi * t / self.T_max)) / (1 + math.cos(math.pi * (t - 1) / self.T_max))
        return [self.eta_min + (lr - self.eta_min) * quotient for lr in lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """lr = eta_min + (lr_0 - eta_min) (1 + cos(pi T_cur / T_i)) / 2, T_cur steps after the last of the restarts.

    The first restart comes after T_0 steps, each further one after T_mult times as many as the one before.
    Raises ValueError for T_0 < 1, T_mult < 1 or eta_min < 0, TypeError for other kinds.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        op = "CosineAnnealingWarmRestarts"
        require_int(op, "T_0", T_0, least=1)
        require_int(op, "T_mult", T_mult, least=1)
        require_number(op, "eta_min", eta_min, least=0)
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_i = T_0
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates of this step, from those to start with."""
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    @also_when_launched
    def step(self, epoch: float | None = None) -> None:
        """Go to the next step, or to `epoch`, which may be a fraction: epoch + batch / batches after each batch.

        Raises ValueError for an epoch < 0.
        """
        if epoch is not None:
            require_number("CosineAnnealingWarmRestarts", "epoch", epoch, least=0)
        self._warn_of_order()
        self._step_count += 1
        if epoch is None and not self._is_initial:
            self.last_epoch += 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        else:
            epoch = self.last_epoch + 1 if epoch is None else epoch
            self.last_epoch = math.floor(epoch)
            self.T_cur, self.T_i = self._place(epoch)
        self._set(self.get_lr())

    def _place(self, epoch: float) -> tuple[float, int]:
        """(steps since the last restart, steps from it to the next) at an epoch."""
        if self.T_mult == 1:
            return epoch % self.T_0, self.T_0
        since, length = epoch, self.T_0
        while since >= length:
            since -= length
            length *= self.T_mult
        return since, length
