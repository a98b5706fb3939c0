"""Groups of calls as a table of text."""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.kernels.device import gpu
from tilegrad.kernels.timing import ceilings
from tilegrad.profiling.recorder import Group, Timed

_HEAD = ("op", "arrays", "dtype", "backend", "kernels", "calls", "time", "share", "GB/s", "GFLOP/s", "ceiling")
_LEFT = 5  # columns that are text
_WIDEST = 24
OTHER = "other"  # Python, views, and what NumPy or CuPy do themselves


def table(groups: Sequence[Group], seconds: float, limit: int | None = None) -> str:
    """A line a group in this order, then the rest and the sum.

    seconds  of the whole block
    limit    of the groups that are shown; the rest is one line
    """
    shown = list(groups) if limit is None else list(groups[:limit])
    lines = [_HEAD, *[_line(group, seconds) for group in shown]]
    hidden = groups[len(shown) :]
    if hidden:
        took, calls = sum(g.seconds for g in hidden), sum(g.calls for g in hidden)
        lines.append(_short(f"{len(hidden)} more", calls, took, seconds))
    inside = sum(g.seconds for g in groups)
    lines.append(_short(OTHER, None, max(0.0, seconds - inside), seconds))
    lines.append(_short("all", sum(g.calls for g in groups), seconds, seconds))
    text = _laid_out(lines)
    if any(g.device == "cuda" for g in groups) and gpu.is_simulated():
        text += "\nThe device is simulated: these are times of the simulation, not of a GPU."
    return text


def line(timed: Timed) -> str:
    """A call, or a launch of a captured step, on a line."""
    took = _time((timed.end - timed.begin) / 1e9)
    if timed.of is None:
        return f"captured step of {timed.nodes} nodes  {took}"
    group = timed.of
    kernels = " ".join(part.kernel + (f"({part.config})" if part.config else "") for part in timed.parts)
    dtype = "" if group.dtype is None else group.dtype.name
    by = f"{group.backend}{', captured' * group.captured}"
    return "  ".join(filter(None, [group.op, shapes_of(group), dtype, by, kernels, took]))


def rates(group: Group) -> tuple[float | None, float | None, float | None]:
    """GB/s, GFLOP/s, and the share of the nearer ceiling."""
    if group.work is None or not group.seconds or group.dtype is None:
        return None, None, None
    nbytes, flop = group.work
    each = group.seconds / group.calls
    least = ceilings.of_call(group.device, group.dtype, nbytes, flop)
    return nbytes / each / 1e9, flop / each / 1e9, None if least is None else least / each


def shapes_of(group: Group) -> str:
    """ "64x784 784x128 128": the shapes of its arrays."""
    found = ["x".join(map(str, shape)) or "()" for shape in group.shapes]
    return " ".join(found)


def _line(group: Group, seconds: float) -> tuple[str, ...]:
    moved, computed, share = rates(group)
    kernels = " ".join(f"{name} x{n}" if n > 1 else name for name, n in _a_call(group).items())
    return (
        group.op,
        _cut(shapes_of(group)),
        "" if group.dtype is None else group.dtype.name,
        f"{group.backend}, captured" if group.captured else group.backend,
        _cut(kernels),
        str(group.calls),
        _time(group.seconds),
        _percent(group.seconds / seconds if seconds else None),
        "" if moved is None else f"{moved:.3g}",
        "" if not computed else f"{computed:.3g}",
        _percent(share),
    )


def _a_call(group: Group) -> dict[str, int]:
    """The kernels of one call."""
    return {name: max(1, round(n / group.calls)) for name, n in group.kernels.items()}


def _short(name: str, calls: int | None, took: float, seconds: float) -> tuple[str, ...]:
    share = _percent(took / seconds if seconds else None)
    return name, "", "", "", "", "" if calls is None else str(calls), _time(took), share, "", "", ""


def _laid_out(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        cells = [c.ljust(w) if i < _LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        texts.append("  ".join(cells).rstrip())
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(texts)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3].rstrip()}..."


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{1e6 * seconds:.3g} us"
