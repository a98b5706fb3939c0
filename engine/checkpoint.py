"""Checkpoints: all that a training needs to go on, in files that are whole or not there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tilegrad import random
from tilegrad.files import load, save
from tilegrad.files.atomic import sweep
from tilegrad.files.loading import outline

_NAME = re.compile(r"step-(\d{10,})\.safetensors")


class Checkpoint:
    """What a training needs to go on: Checkpoint(model=model, optimizer=optimizer, schedule=schedule, loader=loader).

    Each part has `state_dict` and `load_state_dict`, or is a dict of numbers, strings and tensors, for progress of
    one's own. The place in the random stream (tilegrad.random) is part of it without being named. A training that is
    restored goes on as if it had not stopped: with the same losses, bit for bit, captured or not.

        checkpoint = Checkpoint(model=model, optimizer=optimizer, loader=loader, keep=3, best="accuracy")
        step = checkpoint.restore("runs/a") or 0
        ...
        checkpoint.save("runs/a", step, accuracy=0.99)

    keep   how many of the last ones stay in the folder
    best   the name of a metric: the one with its largest value stays too ("-loss": with the smallest)

    Raises TypeError for a part that cannot be saved, ValueError for keep below 1.
    """

    def __init__(self, *, keep: int = 3, best: str | None = None, **parts: Any) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoint: keep is {keep}; expected at least 1")
        for name, part in parts.items():
            if not isinstance(part, dict) and not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise TypeError(
                    f"Checkpoint: {name} is {type(part).__name__}; "
                    "expected what has state_dict and load_state_dict, or a dict"
                )
        self.parts, self.keep = parts, keep
        self._metric, self._sign = (best or "").removeprefix("-"), -1 if (best or "").startswith("-") else 1
        self._locks: dict[Path, Any] = {}

    def save(self, folder: str | os.PathLike[str], step: int, **metrics: float) -> Path:
        """Write a checkpoint, and remove those that need not stay; returns its path.

        The folder is made if it is not there. This object is its one writer from now on, until `close`.

        Raises ValueError without the metric that `best` names, and where the folder has a later step; RuntimeError
        where another one writes to the folder; OSError where it cannot be written. Whatever fails, the checkpoints
        before are as they were.
        """
        if self._metric and self._metric not in metrics:
            raise ValueError(f"Checkpoint.save: got metrics {sorted(metrics)}; expected {self._metric} among them")
        folder = Path(folder)
        self._be_its_writer(folder)
        later = [other for other in _files(folder) if other > step]
        if later:
            raise ValueError(
                f"Checkpoint.save: got step {step}, and {folder} has step {later[-1]}; "
                "expected a later step, after restore(), or another folder"
            )
        state = {name: part if isinstance(part, dict) else part.state_dict() for name, part in self.parts.items()}
        metrics = {name: float(value) for name, value in metrics.items()}
        path = folder / f"step-{step:010d}.safetensors"
        save({"step": step, "metrics": metrics, "random": random.default_generator.get_state(), "parts": state}, path)
        self._remove_from(folder)
        return path

    def restore(self, folder: str | os.PathLike[str], best: bool = False) -> int | None:
        """Load the last checkpoint of a folder, or the best; returns its step, or None where there is none.

        Raises ValueError for a file that is damaged or has other parts, and what load_state_dict of the parts raises.
        """
        files = _files(Path(folder))
        if not files:
            return None
        path = files[self._best(files) if best else max(files)]
        saved = load(path)
        found = sorted(saved["parts"])
        if found != sorted(self.parts):
            raise ValueError(f"Checkpoint.restore: {path} has {found}; expected {sorted(self.parts)}")
        for name, part in self.parts.items():
            state = saved["parts"][name]
            if isinstance(part, dict):
                part.clear()
                part.update(state)
            else:
                part.load_state_dict(state)
        random.default_generator.set_state(saved["random"])
        return saved["step"]

    def close(self) -> None:
        """Let others write to the folders."""
        while self._locks:
            self._locks.popitem()[1].release()

    def _be_its_writer(self, folder: Path) -> None:
        """Hold the folder's lock, which the system lets go of when the process ends, however it ends."""
        folder = folder.absolute()
        if folder in self._locks:
            return
        from filelock import FileLock, Timeout  # 40 ms, which programs that save no checkpoint do not pay

        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"Checkpoint.save: another training writes to {folder}; expected a folder for each"
            ) from None
        self._locks[folder] = lock
        sweep(folder)

    def _remove_from(self, folder: Path) -> None:
        files = _files(folder)
        staying = set(sorted(files)[-self.keep :])
        if self._metric:
            staying.add(self._best(files))
        for step in files.keys() - staying:
            files[step].unlink()

    def _best(self, files: dict[int, Path]) -> int:
        """The step of the checkpoint with the best metric: the first of equals."""
        if not self._metric:
            raise ValueError('Checkpoint: the best of which metric? Expected best="accuracy", say, when it is made')
        worst = -float("inf")

        def value(step: int) -> float:
            found = self._sign * outline(files[step])["metrics"].get(self._metric, float("nan"))
            return worst if found != found else found  # NaN is never the best

        return max(sorted(files), key=value)


def _files(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by their steps, in order."""
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))
