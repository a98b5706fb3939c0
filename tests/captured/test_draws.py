"""Random numbers drawn in a captured step on the CPU: those of the plain call, from the same place in the stream."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import kernels
from tilegrad.nn import functional as F

generator = tg.random.Generator(5)
DRAWS = {
    "rand": lambda x: x + tg.rand(4, 3),
    "rand of float64": lambda x: x + tg.rand(4, 3, dtype=tg.float64).float(),
    "rand of bfloat16": lambda x: x + tg.rand(4, 3, dtype=tg.bfloat16).float(),
    "randn": lambda x: x * tg.randn(4, 3),
    "randn of an odd number": lambda x: x + tg.randn(3),
    "randint": lambda x: x + tg.randint(-3, 9, (3,)),
    "randperm": lambda x: x[tg.randperm(4)],
    "rand_like": lambda x: tg.rand_like(x) * x,
    "uniform_": lambda x: x * tg.empty(4, 3).uniform_(-2, 1),
    "normal_": lambda x: x + tg.empty(3, dtype=tg.float16).normal_(1, 2).float(),
    "dropout": lambda x: F.dropout(x, 0.4),
    "several": lambda x: F.dropout(x + tg.rand(3), 0.4) * tg.randn(4, 1) + tg.rand(4, 3),
    "another stream": lambda x: x + tg.rand(4, 3, generator=generator) + tg.rand(3),
}


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


def drawn(fn, is_captured, steps=1, calls=5, between=lambda i: None):
    """(results of the calls, the states of the streams behind each, the step)."""
    tg.manual_seed(3)
    generator.manual_seed(4)
    step = tg.capture(fn, warmup=1, steps=steps) if is_captured else fn
    data = np.random.default_rng(0).standard_normal((calls, steps, 4, 3)).astype(np.float32)
    results, states = [], []
    for i, batch in enumerate(map(tg.tensor, data)):
        if is_captured:
            results.append(step(batch if steps > 1 else batch[0]).numpy().reshape(steps, 4, 3))
        else:
            results.append(np.stack([fn(x).numpy() for x in batch]))
        between(i)
        states.append([tg.random.default_generator.get_state(), generator.get_state()])
    return results, states, step


def assert_as_plain(fn, **options):
    (got, states, step), (want, expected, _) = drawn(fn, True, **options), drawn(fn, False, **options)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b)
    assert states == expected
    assert len({x.tobytes() for x in got}) == len(got)
    return step


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("draw", DRAWS)
def test_draws_go_on_from_launch_to_launch(draw, steps):
    assert len(graphs(assert_as_plain(DRAWS[draw], steps=steps))) == 1


def test_the_program_draws_between_launches():
    assert len(graphs(assert_as_plain(DRAWS["several"], between=lambda i: tg.rand(i)))) == 1


def test_the_stream_is_set_back_between_launches():
    """Its place is read at each launch; of another seed the step is captured anew."""

    def between(i):
        if i == 2:
            tg.random.default_generator.set_state((3, 17))
        if i == 3:
            tg.manual_seed(8)

    assert len(graphs(assert_as_plain(DRAWS["several"], calls=8, between=between))) == 2


@pytest.mark.parametrize("is_captured", [True, False])
def test_a_launch_that_raises_has_drawn_what_came_before(is_captured):
    def fn(i):
        x = tg.rand(2, 3)
        return F.embedding(i, tg.rand(4, 3)) + x + tg.rand(3)

    tg.manual_seed(1)
    step = tg.capture(fn, warmup=1) if is_captured else fn
    for _ in range(3):
        step(tg.tensor([0, 3]))
    before = tg.random.default_generator.get_state()[1]
    with pytest.raises(IndexError):
        step(tg.tensor([0, 4]))
    assert tg.random.default_generator.get_state()[1] - before == 6 + 12


def test_a_seed_that_is_set_inside_is_refused():
    def fn(x):
        tg.manual_seed(0)
        return x + tg.rand(3)

    step = tg.capture(fn, warmup=1)
    with pytest.warns(RuntimeWarning, match="sets the random stream"):
        for _ in range(3):
            step(tg.ones(3))
    assert not graphs(step)
