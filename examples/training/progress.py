"""How far a training has come, and what it has seen on the way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

import tilegrad as tg
from tilegrad import Tensor
from tilegrad.random import default_generator

T = TypeVar("T")


class Progress:
    """A training's place: whole epochs, steps of the next one, and the figures of all steps and epochs so far.

    losses              of every step
    right               images of every step that the net had right when it was trained on them; empty if not counted
    epochs              a dict of figures for each epoch that has ended
    first_step_seconds  from the program's begin to the end of its first step
    """

    def __init__(self, begin: float) -> None:
        self._begin = begin  # of the program
        self.first_step_seconds = 0.0
        self.losses: list[float] = []
        self.right: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self._steps_before = 0  # of the epochs that have ended
        self._drawn_from: tuple[int, int] | None = None  # the random stream where the epoch began
        self._pending: list[tuple[Tensor, ...]] = []  # not their numbers: a GPU would have to be waited for
        self._seconds, self._start = 0.0, time.perf_counter()

    @property
    def steps(self) -> int:
        """Steps done, in all epochs."""
        return len(self.losses) + len(self._pending)

    def drawn(self, draw: Callable[[], T]) -> T:
        """What draw() draws for an epoch that begins now, or drew when the epoch that was broken off began."""
        self._start = time.perf_counter()
        now = default_generator.get_state()
        if self._drawn_from is None:
            self._drawn_from = now
            return draw()
        default_generator.set_state(self._drawn_from)
        again = draw()
        default_generator.set_state(now)
        return again

    @property
    def steps_of_epoch(self) -> int:
        """Steps done of the epoch that has begun."""
        return self.steps - self._steps_before

    def add(self, *figures: Tensor) -> None:
        """A step has been started; its figures, the loss first, will be read when they are needed."""
        self._pending.append(figures)
        if not self.first_step_seconds:
            self.latest_loss()
            self.first_step_seconds = time.perf_counter() - self._begin
            print(f"first step done {self.first_step_seconds:.1f} s after the start", flush=True)

    def latest_loss(self) -> float:
        """The loss of the last step; waits for a GPU."""
        return self._pending[-1][0].item()

    def end_epoch(self, images: int) -> dict[str, float]:
        """The epoch's figures, to which more may be added."""
        self._read()
        begin, self._steps_before, self._drawn_from = self._steps_before, len(self.losses), None
        figures = {"loss": statistics.fmean(self.losses[begin:]), "seconds": self._elapsed()}
        if self.right:
            figures["accuracy"] = sum(self.right[begin:]) / images
        self.epochs.append(figures)
        self._seconds = 0.0
        return figures

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._start

    def _read(self) -> None:
        for into, figures in zip((self.losses, self.right), zip(*self._pending)):
            into += tg.stack(list(figures)).tolist()
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        self._read()
        return {
            "losses": np.array(self.losses, np.float32),
            "right": np.array(self.right, np.int64),
            "epochs": self.epochs,
            "steps_before": self._steps_before,
            "drawn_from": self._drawn_from,
            "seconds": self._elapsed() if self._drawn_from else 0.0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.losses, self.right, self.epochs = state["losses"].tolist(), state["right"].tolist(), state["epochs"]
        self._steps_before, self._drawn_from = state["steps_before"], state["drawn_from"]
        self._seconds, self._pending = state["seconds"], []
