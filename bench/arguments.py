"""What the command line asks for, checked as a whole before anything is measured."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilegrad.bench import results
from tilegrad.bench.inputs import DTYPES
from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import MODES, Shape
from tilegrad.bench.programs import PROGRAMS
from tilegrad.bench.providers import DEFAULTS, PROVIDERS, Users
from tilegrad.bench.results import Results
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.paths import user_path

DEVICES = ("cpu", "cuda")
PICTURES = (".png", ".svg", ".pdf")


@dataclass
class Settings:
    """What to measure, and what becomes of it."""

    ops: list[str]
    device: str
    dtypes: list[str] | None  # None: float32, on a GPU bfloat16 too
    shapes: list[Shape] | None  # None: the op's own
    modes: list[str]
    providers: list[str]
    quick: bool
    minutes: float | None
    json: Path | None
    csv: Path | None
    plot: Path | None
    compare: Results | None
    fail_above: float | None
    given: list[str]
    list: bool = False
    readme: bool = False

    @property
    def simulated(self) -> bool:
        return self.device == "cuda" and gpu.is_simulated()


def parse(given: list[str]) -> Settings:
    """The settings. For an unknown name it exits with status 2 and a text that lists the known ones."""
    parser = _parser()
    flags = parser.parse_args(given)
    if flags.list or (flags.readme and flags.json is None):
        return Settings([], "cpu", None, None, [], [], False, None, None, None, None, None, None, given,
                        flags.list, flags.readme)  # fmt: skip

    ops = _ops(parser, flags.ops)
    device = flags.device or ("cuda" if gpu.is_available() else "cpu")
    if device == "cuda":
        try:
            gpu.xp()
        except RuntimeError as e:
            parser.error(f"--device: {e}")
    if flags.fail_above is not None and not flags.compare:
        parser.error("--fail-above: got no --compare; expected the results to compare with")
    for flag, value in (("--fail-above", flags.fail_above), ("--minutes", flags.minutes)):
        if value is not None and not value >= 0:
            parser.error(f"{flag}: got {value}; expected a number of at least 0")
    settings = Settings(
        ops=ops,
        device=device,
        dtypes=_some(parser, "--dtype", flags.dtype, DTYPES) if flags.dtype else None,
        shapes=_shapes(parser, flags.shapes, ops) if flags.shapes else None,
        modes=_some(parser, "--mode", flags.mode, MODES),
        providers=_some(parser, "--providers", flags.providers, PROVIDERS) if flags.providers else _defaults(device),
        quick=flags.quick,
        minutes=flags.minutes,
        json=flags.json,
        csv=flags.csv,
        plot=flags.plot,
        compare=_old(parser, flags.compare),
        fail_above=flags.fail_above,
        given=given,
        readme=flags.readme,
    )
    _require_dtypes(parser, settings)
    _require_outputs(parser, settings)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tilegrad.bench",
        description="Kernels, training steps and overheads beside the machine's ceilings and beside torch.",
        epilog="Exit status 0, or 1: a wrong result, a row above its ceiling, a regression beyond --fail-above; "
        "2: arguments; 130: Ctrl-C.",
    )
    add = parser.add_argument
    add("ops", nargs="*", metavar="OP", help=f"some of {', '.join(_names())}, or all (the default)")
    add("--device", choices=DEVICES, help="the default is cuda where there is a GPU, otherwise cpu")
    add("--dtype", help=f"some of {', '.join(DTYPES)}, by commas")
    add("--shapes", metavar="M,N,K;...", help="instead of an op's own; --list has each op's axes")
    add("--mode", default="forward,backward", help=f"some of {', '.join(MODES)} (one after the other, as one call)")
    add("--providers", help="by commas; --list has their names")
    add("--quick", action="store_true", help="fewer shapes, less time each")
    add("--minutes", type=float, help="start nothing after so many: every op gets an even share")
    add("--json", type=user_path, metavar="PATH", help="the results, with machine, versions and commit")
    add("--csv", type=user_path, metavar="PATH", help="the rows")
    add("--plot", type=user_path, metavar="PATH", help="a picture: roofline, and ratios to the rivals")
    add("--compare", type=user_path, metavar="OLD.json", help="print what moved since, beyond the spread of either run")
    add("--fail-above", type=float, metavar="PERCENT", help="with --compare: exit 1 for what became slower by more")
    add("--list", action="store_true", help="ops with their shapes and inputs, dtypes, providers")
    add("--readme", action="store_true", help="write the READMEs' tables anew from bench/results; with --json after it")
    return parser


def _names() -> list[str]:
    """Of all that can be measured, a user's own ops included."""
    return [*OPS, *PROGRAMS]


def _ops(parser: argparse.ArgumentParser, given: list[str]) -> list[str]:
    if not given or given == ["all"]:
        return _names()
    for name in given:
        if name not in _names():
            parser.error(f"OP: got {name!r}; expected some of {', '.join(_names())}, or all")
    return [name for name in _names() if name in given]


def _some(parser: argparse.ArgumentParser, flag: str, given: str, known: Any) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            parser.error(f"{flag}: got {name!r}; expected some of {', '.join(known)}")
    return [name for name in known if name in names]


def _defaults(device: str) -> list[str]:
    users = [name for name, p in PROVIDERS.items() if isinstance(p, Users) and p.device == device]
    return [*DEFAULTS[device], *users]


def _shapes(parser: argparse.ArgumentParser, given: str, ops: list[str]) -> list[Shape]:
    if len(ops) > 1:
        parser.error(f"--shapes: got {len(ops)} ops; expected one, as every op has axes of its own")
    op = OPS.get(ops[0]) or PROGRAMS[ops[0]]
    if not op.axes:
        parser.error(f"--shapes: {ops[0]} has no shapes")
    shapes = []
    for text in given.strip(";").split(";"):
        try:
            shape = tuple(int(number) for number in text.split(","))
        except ValueError:
            shape = ()
        # 0 is a padding, and nothing else
        least = [0 if axis == "PADDING" else 1 for axis in op.axes]
        if len(shape) != len(op.axes) or any(n < low for n, low in zip(shape, least, strict=True)):
            known = "; ".join(",".join(map(str, sizes.shape)) for sizes in op.cpu)
            parser.error(f"--shapes: got {text!r}; expected {','.join(op.axes)} of {ops[0]}, such as {known}")
        check = OPS[ops[0]].check if ops[0] in OPS else None
        if check is not None:
            try:
                check(shape)
            except ValueError as e:
                parser.error(f"--shapes: got {text!r}; {e}")
        shapes.append(shape)
    return shapes


def _old(parser: argparse.ArgumentParser, path: Path | None) -> Results | None:
    if path is None:
        return None
    try:
        return results.read(path)
    except (OSError, ValueError) as e:
        parser.error(f"--compare: {e}")


def _require_dtypes(parser: argparse.ArgumentParser, settings: Settings) -> None:
    wanted = settings.dtypes or ()
    for name in settings.ops if len(settings.ops) == 1 else ():
        known = OPS[name].dtypes if name in OPS else ("float32",)
        unknown = [dtype for dtype in wanted if dtype not in known]
        if unknown:
            parser.error(f"--dtype: {name} got {', '.join(unknown)}; expected some of {', '.join(known)}")


def _require_outputs(parser: argparse.ArgumentParser, settings: Settings) -> None:
    for flag, path in (("--json", settings.json), ("--csv", settings.csv), ("--plot", settings.plot)):
        if path is not None and (why := results.writable(path)):
            parser.error(f"{flag}: {path} cannot be written: {why}")
    if settings.plot is not None:
        if settings.plot.suffix not in PICTURES:
            parser.error(f"--plot: got {settings.plot}; expected a name that ends in {', '.join(PICTURES)}")
        if importlib.util.find_spec("matplotlib") is None:
            parser.error('--plot: matplotlib is not installed: pip install "tilegrad[plot]"')
