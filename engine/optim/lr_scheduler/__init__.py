"""Schedules of the learning rate: attached to an optimizer, stepped after it.

scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=len(loader) * epochs)
for x, y in loader:
    ...
    optimizer.step()
    scheduler.step()
"""

from tilegrad.optim.lr_scheduler.base import LRScheduler
from tilegrad.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from tilegrad.optim.lr_scheduler.factor import ConstantLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, StepLR
from tilegrad.optim.lr_scheduler.one_cycle import OneCycleLR
from tilegrad.optim.lr_scheduler.sequential import SequentialLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "SequentialLR",
    "StepLR",
]
