"""Optimizers, and the schedules of their learning rates."""

from tilegrad.optim import lr_scheduler
from tilegrad.optim.adam import Adam, AdamW
from tilegrad.optim.optimizer import Optimizer
from tilegrad.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
