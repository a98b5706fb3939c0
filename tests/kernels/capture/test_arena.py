"""Memory planned by lifetimes: which arrays of a program share it, and which never do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad import kernels
from tilegrad.kernels.capture import program
from tilegrad.kernels.capture.arena import Life, offsets
from tilegrad.kernels.cpu import buffers

CPU = kernels.load("cpu")
N = 1 << 15  # float32 numbers of one array: 128 KiB
LINE = buffers.LINE


def most_alive(lives):
    """Bytes of the arrays that live at once, at most; each in whole cache lines."""
    calls = range(max([life.last for life in lives], default=-1) + 1)
    lines = [sum(-(-life.nbytes // LINE) for life in lives if life.first <= call <= life.last) for call in calls]
    return LINE * max(lines, default=0)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(1, 2000)).map(
            lambda x: Life(x[0], x[0] + x[1], x[2])
        ),
        max_size=25,
    )
)
def test_arrays_that_live_at_once_never_share(lives):
    places, nbytes = offsets(lives)
    assert len(places) == len(lives)
    for i, (a, at) in enumerate(zip(lives, places, strict=True)):
        assert at % LINE == 0 and 0 <= at and at + a.nbytes <= nbytes
        for b, other in zip(lives[:i], places, strict=False):
            if a.first <= b.last and b.first <= a.last:
                assert at + a.nbytes <= other or other + b.nbytes <= at
    assert most_alive(lives) <= nbytes <= sum(-(-life.nbytes // LINE) * LINE for life in lives)


def there_and_back(n):
    """A forward pass that keeps n arrays of falling size, and a backward pass that has one more at a time."""
    sizes = [(n - i) * 1000 for i in range(n)]
    kept = [Life(i, 2 * n - 1 - i, size) for i, size in enumerate(sizes)]
    return kept + [Life(2 * n - 1 - i, 2 * n - i, size) for i, size in enumerate(sizes)]


PATTERNS = {
    "none": [],
    "one after the other": [Life(i, i, 1000 + i) for i in range(50)],
    "a chain, two at a time": [Life(i, i + 1, 64) for i in range(50)],
    "there and back": there_and_back(20),
    "a large one that comes last": [Life(0, i % 2, 512) for i in range(20)] + [Life(1, 1, 5120)],
    "the largest one must lie first": [Life(4, 6, 128), Life(0, 4, 64), Life(5, 5, 384), Life(1, 4, 192)],
    "a small one beside a large one's successors": [Life(0, 9, 64), *[Life(i, i, 5000) for i in range(10)]],
}


# The seed CNN's training step at batch 512, and that of the CNN with BatchNorm at 256, in KiB.
SEED = [
    *((1, 2, 43264), (2, 35, 10816), (2, 40, 2704), (3, 4, 72), (4, 5, 15488), (5, 26, 3200), (5, 31, 800)),
    *((6, 7, 144), (7, 22, 1152), (8, 18, 1152), (9, 16, 128), (13, 16, 128), (16, 19, 128), (17, 21, 1152)),
    *((21, 22, 1152), (22, 29, 1152), (23, 24, 144), (24, 31, 3200), (31, 38, 15488), (32, 33, 72)),
    *((33, 40, 10816), (40, 45, 43264)),
]
NORMED = [
    *((0, 2, 900), (2, 54, 25088), (6, 11, 25088), (11, 43, 6272), (11, 50, 1568), (12, 15, 8192), (14, 15, 72)),
    *((15, 39, 12544), (19, 24, 12544), (24, 26, 3136), (24, 35, 784), (26, 31, 3136), (30, 34, 3136)),
    *((34, 35, 3136), (35, 39, 12544), (39, 48, 12544), (40, 42, 16384), (41, 42, 72), (42, 50, 6272)),
    *((43, 45, 8192), (50, 54, 25088), (54, 60, 25088), (55, 57, 900)),
]
PATTERNS |= {
    "seed CNN": [Life(first, last, size << 10) for first, last, size in SEED],
    "BatchNorm CNN": [Life(first, last, size << 10) for first, last, size in NORMED],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_more_than_what_is_alive(pattern):
    lives = PATTERNS[pattern]
    assert offsets(lives)[1] <= 1.02 * most_alive(lives)


def captured(function, *arrays):
    """A program of function(primitives, *inputs), which gives arrays; and NumPy's for them."""
    it = program.Program()
    with it.capturing():
        results = [it.leave(x) for x in function(it.primitives(CPU), *it.inputs(arrays))]
    assert it.take(list(arrays))
    return it, results


def numbers(seed):
    return np.random.default_rng(seed).standard_normal(N, dtype=np.float32)


def chain(k, x):
    y = x
    for _ in range(20):
        y = k.relu_grad(k.tanh(y), y)
    return [y]


def in_place(k, x):
    """A sum in memory that later calls write to, while others are made and go."""
    total = k.tanh(x)
    for _ in range(5):
        total += k.relu(k.tanh(x))
    return [k.relu(total)]


def views(k, x):
    """Of an array that nobody has any more, halves are used much later."""
    both = k.tanh(x).reshape(2, -1)
    first, second = both[0], both[1]
    del both
    y = x
    for _ in range(5):
        y = k.tanh(y)
    second[...] = y[: N // 2]
    return [k.relu_grad(first, second)]


def two_results(k, x):
    return [k.tanh(x), k.tanh(k.relu(x))]


PROGRAMS = {"chain": (chain, 3), "in place": (in_place, 3), "views": (views, 3), "two results": (two_results, 1)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_s_arrays_share_memory(name):
    """At most so many at a time that nobody has, beside the results, are what the program's memory is for."""
    function, alive = PROGRAMS[name]
    it, results = captured(function, numbers(0))
    for seed in range(3):
        x = numbers(seed)
        assert it.take([x])
        it.launch()
        for got, want in zip(results, function(CPU, x), strict=True):
            np.testing.assert_array_equal(got, want)
    assert it.nbytes <= 4 * N * (alive + len(results)) + LINE


def test_two_programs_share_nothing():
    (one, [a]), (two, [b]) = (captured(chain, numbers(0)) for _ in range(2))
    x, y = numbers(1), numbers(2)
    for _ in range(2):
        assert one.take([x]) and two.take([y])
        one.launch()
        two.launch()
        np.testing.assert_array_equal(a, chain(CPU, x)[0])
        np.testing.assert_array_equal(b, chain(CPU, y)[0])
    assert not np.may_share_memory(one._arena, two._arena)


def test_results_that_are_left_stay_when_the_program_goes():
    it, [a] = captured(chain, numbers(0))
    it.launch()
    want = a.copy()
    del it
    others = [np.full(N, 7, np.float32) for _ in range(20)]
    np.testing.assert_array_equal(a, want)
    assert len(others) == 20


def test_arrays_begin_on_a_cache_line():
    it, _ = captured(chain, numbers(0))
    begin = it._arena.ctypes.data
    words = [word for step in it._steps if isinstance(step, np.ndarray) for word in step.tolist()]
    within = [word for word in words if begin <= word < begin + it._arena.nbytes]
    assert len(within) >= 40
    assert all(word % LINE == 0 for word in within)


@pytest.mark.parametrize("first", [0.0, -0.0, 1.5])
def test_the_memory_of_a_constant_that_is_written_to_is_shared_until_then(first):
    def constants(it, x):
        primitives = it.primitives(CPU)
        y = primitives.sum(primitives.tanh(x), (0,))
        for _ in range(5):
            made = it.constant(np.full(N, first, np.float32))
            made[::2] = x[::2]
            y = y + primitives.sum(made, (0,)) + np.copysign(1, made[1])
        return y

    it, x = program.Program(), numbers(0)
    with it.capturing():
        result = it.leave(constants(it, *it.inputs([x])))
    made = np.full(N, first, np.float32)
    made[::2] = x[::2]
    want = CPU.sum(CPU.tanh(x), (0,))
    for _ in range(5):
        want = want + CPU.sum(made, (0,)) + np.copysign(1, made[1])
    for _ in range(3):
        assert it.take([x])
        it.launch()
        np.testing.assert_array_equal(result, want)
    assert it.nbytes <= 4 * N * 2 + LINE


def test_a_constant_that_was_read_before_it_is_written_to_keeps_its_memory():
    it, x = program.Program(), numbers(0)
    with it.capturing():
        (mine,) = it.inputs([x])
        primitives = it.primitives(CPU)
        made = it.constant(np.zeros(N, np.float32))
        before = it.leave(primitives.sum(made, (0,)))
        made[...] = mine
        del made
        after = it.leave(primitives.sum(primitives.tanh(primitives.relu(mine)), (0,)))
    for _ in range(3):
        assert it.take([x])
        it.launch()
        assert before == 0
        np.testing.assert_array_equal(after, CPU.sum(CPU.tanh(CPU.relu(x)), (0,)))
