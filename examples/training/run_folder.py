"""The folder of --save: which run it belongs to, its checkpoints, and at the end its model."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tilegrad as tg
from tilegrad import nn
from tilegrad.checkpoint import Checkpoint
from tilegrad.kernels.system.files import write_whole
from training.interrupt import Interrupt

# The flags of the MNIST programs that the losses depend on: a run that goes on has them as they were.
DECISIVE = tuple("dataset epochs batch_size lr weight_decay augment validation patience seed limit".split())
_NO_RUN = "not the description of a run of this program"


class RunFolder:
    """Saves a training in a folder, or goes on from there. Without a folder it does nothing.

        run.json                     the flags that decide, the net's parameters, what it learns from
        step-0000000938.safetensors  the latest checkpoints
        model.safetensors            the trained net's state dict: model.load_state_dict(tg.load(...))

    Ends the program with a clear line if the folder is another run's, or has one and --resume was not given.
    """

    def __init__(self, flags: argparse.Namespace, decisive: tuple[str, ...] = DECISIVE) -> None:
        self.path: Path | None = flags.save
        self.every: int | None = flags.checkpoint_every
        self.flags = {name: getattr(flags, name) for name in decisive}
        self.before: dict[str, Any] | None = None  # the run that the folder has
        self.saved_step: int | None = None
        self.checkpoint: Checkpoint | None = None
        if self.path is None:
            return
        file = self.path / "run.json"
        if flags.resume:
            with _clear_errors(f"--resume: {file}"):
                self.before = json.loads(file.read_text())
                _require_same_flags(self.before, self.flags)
        elif file.exists():
            raise SystemExit(f"--save: {self.path} has a run; expected --resume, to go on with it, or another folder")

    def require_same_run(self, model: nn.Module, **data: Any) -> None:
        """Compare the net too, and what there is to learn, such as images=60000; a new run is noted in the folder."""
        if self.path is None:
            return
        net = {name: list(x.shape) for name, x in model.state_dict().items()}
        run = {"flags": self.flags, "net": net, **data}
        file = self.path / "run.json"
        if self.before is None:
            with _clear_errors(f"--save: {file}"):
                self.path.mkdir(parents=True, exist_ok=True)
                write_whole(file, json.dumps(run, indent=1))
            return
        with _clear_errors(f"--resume: {file}"):
            if self.before.keys() != run.keys():
                raise ValueError(_NO_RUN)
            for name, value in data.items():
                before = self.before[name]
                if before != value and isinstance(value, int):
                    raise ValueError(f"the run is of {before} {name}; here are {value}")
                if before != value:
                    raise ValueError(f"the run has other {name}")
            if self.before["net"] != net:
                raise ValueError(f"the run's net has {_shapes(self.before['net'])}; this one has {_shapes(net)}")

    def begin(self, progress: Any, **parts: Any) -> None:
        """Go on from the last checkpoint, if there is one; be the folder's one writer from now on."""
        if self.path is None:
            return
        self.progress, self.checkpoint = progress, Checkpoint(progress=progress, **parts)
        with _clear_errors(f"--save: {self.path}"):
            if self.checkpoint.restore(self.path) is not None:
                print(f"going on after step {progress.steps}, from {self.path}", flush=True)
            self.save()

    def save(self) -> None:
        """Write a checkpoint, if there is something new."""
        if self.path and self.checkpoint and self.saved_step != self.progress.steps:
            self.checkpoint.save(self.path, self.progress.steps)
            self.saved_step = self.progress.steps

    def save_if_due(self, epoch_ended: bool) -> None:
        """Write a checkpoint every so many steps, or at the end of every epoch."""
        if self.path is not None and (self.progress.steps % self.every == 0 if self.every else epoch_ended):
            self.save()

    def look(self, interrupt: Interrupt, epoch_ended: bool) -> None:
        """After a step: write a checkpoint if it is time; after Ctrl-C write one and raise KeyboardInterrupt."""
        self.save_if_due(epoch_ended)
        if interrupt.asked:
            self.save()
            raise KeyboardInterrupt

    def finish(self, model: nn.Module) -> None:
        """Write the trained net."""
        if self.path is not None:
            tg.save(model.state_dict(), self.path / "model.safetensors")
            print(f"saved {self.path / 'model.safetensors'}")

    def close(self) -> None:
        """Let others write to the folder."""
        if self.checkpoint is not None:
            self.checkpoint.close()

    def farewell(self) -> str:
        """What to say after Ctrl-C."""
        if self.saved_step is None:
            return "interrupted: nothing was saved (--save DIR keeps what is needed to go on)"
        command = [*sys.orig_argv, *(() if "--resume" in sys.orig_argv else ("--resume",))]
        return f"interrupted: {self.path} has all up to step {self.saved_step}. To go on:\n    {shlex.join(command)}"


@contextlib.contextmanager
def _clear_errors(place: str) -> Iterator[None]:
    """What is wrong with a folder or file ends the program with one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"{place}: {error}") from None


def _require_same_flags(run: Any, flags: dict[str, Any]) -> None:
    if not isinstance(run, dict) or not {"flags", "net"} <= run.keys() or run["flags"].keys() != flags.keys():
        raise ValueError(_NO_RUN)
    for name, value in flags.items():
        if run["flags"][name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"the run has {flag} {run['flags'][name]}, here it is {value}; expected the same flags")


def _shapes(net: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in net.items())
