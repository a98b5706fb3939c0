"""The ceiling of a row that memory bounds: loops that move what they say, counted by STREAM's rules."""

from __future__ import annotations

import itertools
import platform

import numpy as np
import pytest

from tilegrad.bench import bandwidth, peak
from tilegrad.bench.inputs import Traffic
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.vectors import vector_unit

SUM, TRIAD, COPY, FILL = bandwidth.PATTERNS
STORES = [(p, streaming) for p in bandwidth.PATTERNS for streaming in (False, True) if p.writes or not streaming]


@pytest.mark.parametrize(("pattern", "streaming"), STORES)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_loop_moves_the_last_copys_lines(pattern, streaming, pieces, monkeypatch):
    """Three copies in two rounds and a bit: the fourth turn takes the first copy again, the fifth the second."""
    monkeypatch.setattr(threads, "num_threads", lambda: 2)
    lines, copies = 9, 3
    held = lines * pattern.sources
    x, y = bandwidth._aligned(copies * held), bandwidth._aligned(lines)
    assert all(a.ctypes.data % bandwidth.LINE == 0 for a in (x, y) if a.size)
    x[:] = np.arange(x.size) % 97
    y[:] = -1
    stride, apart = (1, lines) if pattern.writes else (pattern.sources, 1)
    kernel = bandwidth._kernel(pattern.sources, streaming)
    threads.share(kernel, pieces, lines, y, 0, pattern.writes, x, held, stride, apart, copies, 5)
    copy, written = x.reshape(copies, held, 16)[1], y.reshape(lines, 16)
    if not pattern.sources:
        assert (written == 3).all()
    elif pattern.writes:
        sources = copy.reshape(pattern.sources, lines, 16)
        assert np.array_equal(written, sources[0] + 3 * sources[1:].sum(0))
    else:  # each thread adds eight lines at a time, and keeps the last of its sums
        sums = copy.reshape(lines, 8, 16)
        sums = sums[:, 0] + 3 * sums[:, 1:].sum(1)
        firsts = [lines * i // pieces for i in range(pieces + 1)]
        for begin, stop in itertools.pairwise(firsts):
            assert np.array_equal(written[begin], sums[stop - 1])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86's instructions")
@pytest.mark.parametrize("pattern", [COPY, TRIAD, FILL])
def test_streaming_stores_are_streaming_stores(pattern):
    x, y = bandwidth._aligned(2), bandwidth._aligned(1)
    for streaming in (False, True):
        kernel = bandwidth._kernel(pattern.sources, streaming)
        kernel(y, 0, 1, x, 2, 1, 1, 1, 1, 0, 1, 0, 0)
        (code,) = kernel.inspect_asm().values()
        assert ("movntps" in code) == streaming


@pytest.fixture
def moved(monkeypatch):
    """What the timed calls move: (bytes read and written, bytes of x, bytes of y), where each takes a second."""
    calls = []

    def share(kernel, most, items, y, y_next, y_step, x, x_next, x_step, apart, copies, turns):
        sources = {bandwidth._kernel(p.sources, s): p.sources for p, s in STORES}[kernel]
        assert x.size == copies * x_next * 16, "the copies fill the memory"
        assert turns % copies == 0, "each copy as often as the others"
        calls.append((turns * items * 64 * (sources + (1 if y_step else 0)), x.nbytes, y.nbytes, y is x, most))

    monkeypatch.setattr(threads, "share", share)
    monkeypatch.setattr(threads, "num_threads", lambda: 5)
    monkeypatch.setattr(bandwidth, "_least", lambda call: call() or 1.0)
    return calls


@pytest.mark.parametrize(
    ("traffic", "name", "x_bytes", "y_bytes"),
    [
        (Traffic(6400, 6400, 3), "copy", 3 * 6400, 6400),
        (Traffic(6400, 6400, 3, in_place=True), "copy, in place", 3 * 6400, 3 * 6400),
        (Traffic(12800, 6400, 2), "triad", 2 * 12800, 6400),
        (Traffic(25600, 0, 2), "sum", 2 * 25600, 3200),  # of y a line a thread is written
        (Traffic(25600, 64, 2), "sum", 2 * 25600, 3200),
        (Traffic(0, 6400, 7), "fill", 0, 6400),
        (Traffic(0, 0, 64), "sum", 64 * 512, 64),
    ],
)
def test_a_row_is_compared_with_the_loop_that_moves_as_much_and_lies_as_it_does(moved, traffic, name, x_bytes, y_bytes):
    found = bandwidth.best(traffic)
    assert found.how.startswith(name)
    assert {(x, y) for _, x, y, _, _ in moved} == {(x_bytes, y_bytes)}
    assert {same for *_, same, _ in moved} == {traffic.in_place}
    assert found.value == max(nbytes for nbytes, *_ in moved) >= bandwidth._LEAST
    assert [most for *_, most in moved][::2] == [1, 2, 4, 5] * (1 if name == "sum" else 2)


@pytest.mark.parametrize(
    ("read", "written", "loops"),
    [
        (1000, 19, [SUM]), (900, 100, [SUM, TRIAD]), (680, 320, [TRIAD]), (4000, 3000, [TRIAD, COPY]),
        (510, 490, [COPY]), (200, 800, [COPY, FILL]), (1, 999, [FILL]), (0, 0, [SUM]),
    ],
)  # fmt: skip
def test_between_two_loops_the_better_one_counts(monkeypatch, read, written, loops):
    asked = []

    def by(pattern, traffic):
        asked.append(pattern)
        yield bandwidth.Bandwidth(float(len(asked)), pattern.name)

    monkeypatch.setattr(bandwidth, "_by", by)
    assert bandwidth.best(Traffic(read, written)).how == loops[-1].name and asked == loops


def test_the_fastest_loop_counts(monkeypatch):
    took = iter([4.0, 2.0, 1.0, 3.0])
    monkeypatch.setattr(threads, "num_threads", lambda: 2)
    monkeypatch.setattr(bandwidth, "_least", lambda call: next(took))
    found = bandwidth.best(Traffic(3200, 3200))
    assert found.how == "copy, streaming stores, threads: 1"
    assert found.value == pytest.approx(-(-bandwidth._LEAST // 6400) * 6400)


def test_what_a_cache_holds_is_faster_than_what_it_does_not():
    small, large = (bandwidth.best(Traffic(n, n)).value for n in (1 << 13, 1 << 27))
    assert small > 1.5 * large


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multiply_adds_are_counted_as_they_are_done(dtype, monkeypatch):
    """y -> y / 2 + 1, as often as is said: 2 - 2^-steps from 1; two FLOP for each number and step."""
    seen = []

    def share(kernel, most, items, y, steps):
        kernel(y, 10, 0, items, 0, 0)
        assert np.array_equal(y, np.full_like(y, 2 - 2.0**-10))
        y.fill(1)
        seen.append((y.size, steps))

    monkeypatch.setattr(threads, "num_threads", lambda: 3)
    monkeypatch.setattr(threads, "share", share)
    monkeypatch.setattr(peak, "wall", lambda call: call() or 500.0)
    monkeypatch.setattr(peak, "_SECONDS", 0)
    value, how = peak.best(dtype)
    ((size, steps),) = set(seen)
    assert size == 3 * peak.SUMS * vector_unit().nbytes // np.dtype(dtype).itemsize
    assert value == pytest.approx(2 * size * steps / 0.5) and how == "multiply-adds in registers, threads: 3"
