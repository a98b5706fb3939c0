"""--plot: a picture that shows every measured row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.bench.conftest import CEILINGS, SOFTMAX
from tilegrad.bench import plot
from tilegrad.bench.results import Results, Row


def row(provider, ms, rival=False, variant="softmax", **more):
    times = 2.0 / ms
    return Row("softmax", variant, "forward", [64, 128], "float32", "ieee", provider, rival, ms=ms, p20=ms, p80=ms,
               bytes=65536, flops=40960, times_rival=times, best_rival="torch", **more)  # fmt: skip


def found(*rows):
    return Results("cpu", False, {"cpu": "a CPU", "date": "today", "commit": "abc"}, [], dict(CEILINGS), {}, [*rows])


def ink(path):
    """The colours in a picture, and how many of its pixels are not background."""
    from matplotlib import image

    pixels = (image.imread(path)[..., :3] * 255).round().astype(int)
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    return {tuple(map(int, c)) for c in colours}, float((pixels != 255).any(-1).mean())


def rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def test_the_picture_has_the_roof_the_points_and_the_bars(tmp_path):
    path = tmp_path / "a.png"
    assert plot.draw(found(row("torch", 2.0, rival=True), row("cpu", 1.0), row("mine", 4.0)), path)
    colours, share = ink(path)
    assert share > 0.02
    assert rgb("#444444") in colours, "the roof"
    assert {rgb(plot.COLOURS["cpu"]), rgb(plot.OTHER)} <= colours, "the bars of ours and of the user's"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_picture_that_is_interrupted_leaves_the_old_one(tmp_path, monkeypatch, error):
    from matplotlib.figure import Figure

    def half(self, partial, **_):
        partial.write_bytes(b"half")
        raise error

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(error):
        plot.draw(found(row("cpu", 1.0)), path)
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_bars_are_the_fastest_of_ours_and_every_users():
    rows = [row("cpu", 1.0), row("reference", 3.0), row("mine", 4.0), row("cpu", 1.0, variant="log_softmax")]
    ((op, bars),) = plot._groups(rows)
    assert op == "softmax"
    assert [(bar.variant, bar.provider) for bar in bars] == [
        ("softmax", "cpu"), ("softmax", "mine"), ("log_softmax", "cpu")
    ]  # fmt: skip


def test_points_lie_under_the_roof_where_rate_and_intensity_say():
    """A row of 65536 bytes and 40960 FLOP in 1 ms lies at 0.625 FLOP a byte and 0.041 GFLOP/s."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots()
    plot._roofline(axis, found(), [row("cpu", 1.0)])
    point = axis.collections[0].get_offsets()[0]
    assert tuple(point) == pytest.approx((0.625, 40960 / 1e6))
    roof = axis.lines[0].get_xydata()
    assert tuple(roof[1]) == pytest.approx((10, 100)), "the ridge: 100 GFLOP/s over 10 GB/s"
    plt.close(figure)


def test_the_command_draws(command, tmp_path):
    path = tmp_path / "a.svg"
    status, _, told = command(*SOFTMAX, "reference,torch", "--plot", str(path))
    assert status == 0 and f"written: {path}" in told
    assert path.stat().st_size > 5000


def test_where_there_are_too_many_bars_each_function_has_those_of_its_first_shape():
    rows = [row("cpu", 1.0, variant=f"v{i}") for i in range(plot.BARS)]
    rows += [replace(each, shape=[1, 1]) for each in rows]
    ((_, bars),) = plot._groups(rows)
    assert [bar.variant for bar in bars] == [f"v{i}" for i in range(plot.BARS)]
    assert all(bar.shape == [64, 128] for bar in bars)
    ((_, bars),) = plot._groups(rows[: plot.BARS])
    assert len(bars) == plot.BARS
