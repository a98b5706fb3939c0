"""Pictures of one run: how far from the ceilings every row is, and how it compares with the best rival.

Left, the roofline (Williams, Waterman & Patterson 2009): GFLOP/s over FLOP per byte, under the measured copy and
product. Right, a bar per row: how many times as fast as the best rival; beyond the line at 1 it is faster.
matplotlib is imported here and nowhere else.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tilegrad.bench import table
from tilegrad.bench.ceilings import product_name
from tilegrad.bench.results import Results, Row, known

COLOURS = {
    "triton": "#1b6ca8", "numba": "#2a9d8f", "cpu": "#1b6ca8", "reference": "#8ab6d6", "torch": "#e07b39",
    "torch-compile": "#f2b705", "cupy": "#7b5ea7", "torch channels_last": "#f2b705", "engine": "#1b6ca8",
}  # fmt: skip
OTHER = "#c2255c"  # a user's own provider
MARKERS = {
    "matmul": "s",
    "activations": "o",
    "softmax": "^",
    "softmax_xent": "v",
    "attention": "p",
    "layer_norm": "<",
    "batch_norm": ">",
    "adam": "D",
    "conv": "P",
    "pool": "X",
    "losses": "*",
    "recurrent": "H",
    "take_rows": "h",
    "bags": "H",
    "arithmetic": "d",
}
BARS = 40  # in a panel; if there are more, only those of each function's first shape are shown
PROGRAMS = ("train", "overhead")


def draw(results: Results, path: Path) -> bool:
    """Write the picture; False if there is nothing to show."""
    points = [row for row in results.rows if row.ms and row.bytes and row.flops and "copy" in results.ceilings]
    ours = [row for row in results.rows if row.ms and row.times_rival and not row.rival]
    bars = [_groups([row for row in ours if (row.op in PROGRAMS) == programs]) for programs in (False, True)]
    bars = [groups for groups in bars if groups]
    if not points and not bars:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lengths = [sum(len(rows) + 1 for _, rows in groups) for groups in bars]
    size = 7 * (bool(points) + len(bars)), max(6.0, 0.22 * max(lengths, default=0) + 1.4)
    figure, axes = plt.subplots(1, bool(points) + len(bars), figsize=size, squeeze=False, layout="constrained")
    panels = iter(axes[0])
    if points:
        _roofline(next(panels), results, points)
    for groups in bars:
        _ratios(next(panels), groups)
    figure.suptitle(_title(results), fontsize=11)
    _save(figure, path)
    return True


def draw_steps(results: Results, path: Path) -> bool:
    """Write a picture of the training steps alone: bars of times torch's speed, op by op and captured.

    False where none was measured, or matplotlib is not installed. The picture is of the commit that stands in it.
    """
    rows = [row for row in results.rows if row.op == "train" and row.mode == "step" and row.ms and not row.rival]
    if not rows or importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys((row.variant, table.shape(row.shape)) for row in rows))
    figure, axis = plt.subplots(figsize=(max(7.5, 0.95 * len(cases)), 2.6), layout="constrained")
    for captured, colour, shift in ((False, COLOURS["reference"], -0.2), (True, COLOURS["cpu"], 0.2)):
        for place, case in enumerate(cases):
            ratios = [
                row.times_rival
                for row in rows
                if (row.variant, table.shape(row.shape)) == case and row.provider.endswith(" captured") == captured
            ]
            if any(ratios):
                best = max(filter(None, ratios))
                bar = axis.bar(place + shift, best, width=0.38, color=colour)
                axis.bar_label(bar, [f"{best:.1f}"], fontsize=8, padding=1)
        axis.scatter([], [], s=40, marker="s", color=colour, label="tilegrad, captured" if captured else "tilegrad")
    axis.axhline(1, color=COLOURS["torch"], lw=1.6, label="PyTorch")
    names = [f"{net.replace(' ', chr(10))}\n{batch}" for net, batch in cases]
    axis.set_xticks(range(len(cases)), names, fontsize=8)
    axis.set_xlabel("net and batch", fontsize=8)
    axis.set_ylabel("times PyTorch's speed", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.16))
    _save(figure, path, metadata={"Title": _title(results), "Date": None})
    return True


def _save(figure: Any, path: Path, **options: Any) -> None:
    """Whole or not at all."""
    from matplotlib import pyplot as plt

    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(partial, dpi=110, **options)
        partial.replace(path)
    finally:
        plt.close(figure)
        partial.unlink(missing_ok=True)


def _title(results: Results) -> str:
    p = results.provenance
    title = f"{p.get('card') or p.get('cpu')}, {p.get('date')}, commit {p.get('commit')}"
    return title if results.complete else f"{title} (interrupted)"


def _colour(provider: str) -> str:
    return COLOURS.get(provider, OTHER)


def _intensity(row: Row) -> float:
    return known(row.flops) / known(row.bytes)


def _roofline(axis: Any, results: Results, points: list[Row]) -> None:
    copy = results.ceilings["copy"]["value"]
    intensities = [_intensity(row) for row in points]
    low, high = min(intensities) / 2, max(max(intensities) * 2, 10.0)
    products = {product_name(row.dtype, row.precision) for row in points} & results.ceilings.keys()
    for name in sorted(products):
        peak = results.ceilings[name]["value"]
        ridge = peak / copy
        corners = [low, min(max(ridge, low), high), high]
        axis.plot(corners, [min(copy * x, peak) for x in corners], color="#444444", lw=1.4, zorder=1)
        axis.annotate(
            f"{name}: {peak:,.0f} GFLOP/s",
            (high, peak),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
        )
    if not products:
        axis.plot([low, high], [copy * low, copy * high], color="#444444", lw=1.4, zorder=1)
    axis.annotate(
        f"copy: {copy:,.0f} GB/s",
        (low, copy * low),
        xytext=(6, 30),
        textcoords="offset points",
        fontsize=8,
        rotation=35,
    )
    for row in points:
        axis.scatter(
            _intensity(row), known(row.flops) / known(row.ms) / 1e6, s=34, marker=MARKERS.get(row.op, "o"),
            color=_colour(row.provider), alpha=0.75, linewidths=0, zorder=2,
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP/s")
    axis.set_title("Roofline, ceilings measured in the same process", fontsize=10)
    axis.set_box_aspect(1)
    axis.set_anchor("N")
    axis.grid(True, which="major", color="#dddddd", lw=0.6)
    for name in dict.fromkeys(row.provider for row in points):
        axis.scatter([], [], s=34, color=_colour(name), label=name)
    for op in dict.fromkeys(row.op for row in points):
        axis.scatter([], [], s=34, color="#888888", marker=MARKERS.get(op, "o"), label=op)
    axis.legend(fontsize=8, loc="lower right", ncols=2, frameon=True)


def _groups(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The fastest of our rows in each case, by op, and every row of a user's own."""
    best: dict[tuple, Row] = {}
    for row in rows:
        case = row.key if _colour(row.provider) == OTHER else row.key[:-1]
        if case not in best or known(row.ms) < known(best[case].ms):
            best[case] = row
    found = [*best.values()]
    if len(found) > BARS:
        first = {}
        for row in found:
            first.setdefault((row.variant, row.mode), row.shape)
        found = [row for row in found if row.shape == first[row.variant, row.mode]]
    groups: dict[str, list[Row]] = {}
    for row in found:
        groups.setdefault(row.op, []).append(row)
    return list(groups.items())


def _ratios(axis: Any, groups: list[tuple[str, list[Row]]]) -> None:
    place, ticks, labels = 0.0, [], []
    for _, rows in groups:
        for row in rows:
            width = known(row.times_rival)
            axis.barh(place, width - 1, left=1, height=0.78, color=_colour(row.provider), zorder=2)
            text = f"{width:.2f}"
            axis.annotate(
                text, (width, place), xytext=(3 if width >= 1 else -3, 0), textcoords="offset points", va="center",
                ha="left" if width >= 1 else "right", fontsize=7,
            )  # fmt: skip
            ticks.append(place)
            labels.append(_label(row))
            place += 1
        place += 0.6
    values = [known(row.times_rival) for _, rows in groups for row in rows]
    axis.axvline(1, color="#222222", lw=1.2, zorder=3)
    axis.set_xscale("log")
    axis.set_xlim(min(0.5, min(values) / 1.6), max(2.0, max(values) * 1.6))
    marks = [
        x
        for x in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
        if axis.get_xlim()[0] <= x <= axis.get_xlim()[1]
    ]
    axis.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axis.minorticks_off()
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.set_ylim(max(place, 10), -1)
    axis.grid(True, axis="x", color="#dddddd", lw=0.6)
    axis.set_title("Times as fast as the best rival: right of 1 is faster", fontsize=10)
    for name in dict.fromkeys(row.provider for _, rows in groups for row in rows):
        axis.scatter([], [], s=40, marker="s", color=_colour(name), label=name)
    axis.legend(fontsize=8, loc="lower right", frameon=True, title="the fastest of ours", title_fontsize=8)


def _label(row: Row) -> str:
    where = {"train": f"batch {table.shape(row.shape)}", "overhead": ""}.get(row.op, table.shape(row.shape))
    dtype = "" if table.kind(row) == "float32" else table.kind(row)
    mode = "" if row.mode in ("forward", "step") else row.mode
    return "  ".join(filter(None, (row.variant, mode, where, dtype)))
