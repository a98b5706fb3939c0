"""The command line of the MNIST programs: every flag, checked before anything is computed.

The groups that save and report, and the checks of them, are examples/finetune_encoder.py's too.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable
from typing import Any

import tilegrad as tg
from tilegrad import kernels
from tilegrad.kernels.system.paths import user_path
from training.images import DATASETS

_VALIDATION = """hold out this share of the training images, such as 0.1,
and measure on them after every epoch"""
_PATIENCE = """stop when the validation accuracy has not risen for N
epochs, and take the best epoch's weights"""
_SAVE = """keep checkpoints there, and at the end model.safetensors;
Ctrl-C saves, and says how to go on"""
_RESUME = """go on with the run in --save DIR, given the same flags:
the result is that of a run that was not interrupted"""
_REPORT = """write curves, the confusion matrix, the worst mistakes and
figures of each class there, as pictures and as JSON"""
_KERNELS = ("auto", "reference", "cpu", "triton", "numba")


def parse(description: str | None) -> argparse.Namespace:
    """The flags. What is wrong with them ends the program with one clear line."""
    parser = argparse.ArgumentParser(description=description, usage="%(prog)s [flags]", formatter_class=_Help)
    _add_flags(parser)
    flags = parser.parse_args()
    try:
        _choose_device(flags)
        _require_partners(flags)
        require_results(flags)
    except (NotImplementedError, ValueError, ImportError, OSError, RuntimeError) as error:
        parser.error(str(error))
    return flags


class _Help(argparse.RawTextHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=_positive(int), default=5, metavar="N", help="passes over the training images (5)")
    add("--batch-size", type=_positive(int), default=64, metavar="N", help="images of a step (64)")
    add("--lr", type=_positive(float), default=1e-3, metavar="X", help="peak of the one-cycle schedule (1e-3)")
    add("--weight-decay", type=_positive(float), metavar="X", help="train with AdamW and this decay, instead of Adam")
    add("--augment", action="store_true", help="turn and shift every image a little, anew whenever it is shown")
    add("--validation", type=_share, metavar="SHARE", help=_VALIDATION)
    add("--patience", type=_positive(int), metavar="N", help=_PATIENCE)
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (0)")

    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=DATASETS, default="mnist", help="digits, or Fashion-MNIST's clothes (mnist)")
    add("--data", type=user_path, metavar="DIR", help="folder with the four IDX files, instead of the user's cache")
    add("--limit", type=_positive(int), metavar="N", help="use the first N training images only")

    add_saving(parser)
    add_results(parser)

    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", metavar="NAME", help="auto (a GPU if there is one), cpu, cuda or cuda:0")
    add("--kernels", choices=_KERNELS, default="auto", metavar="NAME", help=", ".join(_KERNELS))


def add_saving(parser: argparse.ArgumentParser) -> None:
    """--save, --resume, --checkpoint-every."""
    add = parser.add_argument_group("saving").add_argument
    add("--save", type=user_path, metavar="DIR", help=_SAVE)
    add("--resume", action="store_true", help=_RESUME)
    add("--checkpoint-every", type=_positive(int), metavar="N", help="steps between checkpoints (those of an epoch)")


def add_results(parser: argparse.ArgumentParser, report: str = _REPORT) -> None:
    """--report, --json."""
    add = parser.add_argument_group("results").add_argument
    add("--report", type=user_path, metavar="DIR", help=report)
    add("--json", type=user_path, metavar="PATH", help="write times, losses and the accuracy there")


def _choose_device(flags: argparse.Namespace) -> None:
    flags.device = tg.device.as_device(flags.device)
    if flags.kernels != "auto":  # otherwise TILEGRAD_KERNELS decides
        kernels.use(flags.kernels)
    if kernels.name(flags.device) != flags.kernels != "auto":
        raise ValueError(f"--kernels: {flags.kernels} does not serve device {flags.device}")


def _require_partners(flags: argparse.Namespace) -> None:
    if flags.patience and not flags.validation:
        raise ValueError("--patience: needs --validation SHARE, images to measure on")


def require_results(flags: argparse.Namespace) -> None:
    """Raise ValueError, ImportError or OSError where what is asked for could not be saved or reported."""
    for name in ("resume", "checkpoint_every"):
        if getattr(flags, name) and not flags.save:
            raise ValueError(f"--{name.replace('_', '-')}: needs --save DIR, the folder of the run")
    if flags.json and not (flags.json.parent.is_dir() and os.access(flags.json.parent, os.W_OK)):
        raise ValueError(f"--json: cannot write to the folder {flags.json.parent}")
    if flags.report:
        flags.report.mkdir(parents=True, exist_ok=True)
        if not os.access(flags.report, os.W_OK):
            raise ValueError(f"--report: cannot write to the folder {flags.report}")
        _require_packages()


def _require_packages() -> None:
    for package in ("matplotlib", "sklearn"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f'--report: {error}; pip install ".[report]" brings what it needs') from None


def _positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a number above zero."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"expected a number above 0; got {text}")
        return value

    convert.__name__ = f"positive {kind.__name__}"
    return convert


def _share(text: str) -> float:
    """An argparse type: a number between 0 and 1, neither of them."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1; got {text}")
    return value


_share.__name__ = "share"
