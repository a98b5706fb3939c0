"""The random stream: reproducible, addressed by (seed, offset), and distributed as it says.

Statistical bounds are quantiles: with Z standard deviations, or chi-square's quantile of the same probability, a right
generator fails once in 10^9 seeds; the seeds are fixed, so that a test that passes once passes always.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from statistics import NormalDist

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import Generator
from tilegrad.kernels.backends import reference

Z = NormalDist().inv_cdf(1 - 0.5e-9)
N = 200_000
FLOATS = ["float16", "float32", "float64"]


def chi_square_quantile(freedom: int) -> float:
    """Wilson & Hilferty 1931."""
    return freedom * (1 - 2 / (9 * freedom) + Z * math.sqrt(2 / (9 * freedom))) ** 3


def assert_uniform(counts: np.ndarray) -> None:
    expected = counts.sum() / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_quantile(len(counts) - 1)


def assert_mean(x: np.ndarray, mean: float, variance: float) -> None:
    """The mean of independent numbers of that mean and variance."""
    assert abs(x.mean(dtype=np.float64) - mean) < Z * math.sqrt(variance / x.size)


# --- the stream ------------------------------------------------------------------------------------------------------

DRAWS = {
    # what is drawn, and the words that it takes
    "rand": (lambda g: tg.rand(5, 3, generator=g), 15),
    "rand float64": (lambda g: tg.rand(5, 3, generator=g, dtype="float64"), 30),
    "rand float16": (lambda g: tg.rand(5, 3, generator=g, dtype="float16"), 15),
    "randn": (lambda g: tg.randn(5, 3, generator=g), 32),
    "randn float64": (lambda g: tg.randn(4, generator=g, dtype="float64"), 8),
    "randint": (lambda g: tg.randint(3, 9, (7,), generator=g), 14),
    "randperm": (lambda g: tg.randperm(7, generator=g), 14),
    "dropout": (lambda g: tg.dropout(tg.ones(7), 0.5, generator=g), 7),
    "uniform_": (lambda g: tg.empty(7).uniform_(generator=g), 7),
    "normal_": (lambda g: tg.empty(7).normal_(generator=g), 16),
    "nothing": (lambda g: tg.rand(0, 3, generator=g), 0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_fixes_what_is_drawn_and_how_far_the_stream_moves(name):
    draw, words = DRAWS[name]
    a, b, c = draw(Generator(1)), draw(Generator(1)), draw(Generator(2))
    assert_same(a.numpy(), b.numpy())
    assert name == "nothing" or a.tolist() != c.tolist()
    g = Generator(1)
    first, second = draw(g), draw(g)
    assert g.get_state() == (1, 2 * words)
    assert name == "nothing" or first.tolist() != second.tolist()
    g.set_state((1, words))
    assert_same(draw(g).numpy(), second.numpy())
    g.manual_seed(1)
    assert_same(draw(g).numpy(), first.numpy())


def test_manual_seed_fixes_the_default_generator():
    def draw():
        return [tg.rand(3).tolist(), tg.randn(3).tolist(), tg.randint(9, (3,)).tolist()]

    assert tg.manual_seed(5) is tg.random.default_generator
    first = draw()
    tg.manual_seed(5)
    assert draw() == first
    tg.manual_seed(6)
    assert draw() != first
    assert_same(tg.rand_like(tg.ones(3, dtype="float64")).numpy(), again(6).rand(3, dtype="float64").numpy())
    assert_same(tg.randn_like(tg.ones(3)).numpy(), again(6, 6).randn(3).numpy())


def again(seed, skipped=0):
    """The engine with its default generator where the draws of the test above have left it."""
    tg.manual_seed(seed)
    tg.random.default_generator.take(3 + 8 + 6 + skipped)
    return tg


def test_draws_are_addressed_by_offset_alone():
    """Five and then seven are twelve; what another draw took in between only moves the offset."""
    g, h = Generator(3), Generator(3)
    parts = np.concatenate([tg.rand(5, generator=g).numpy(), tg.rand(7, generator=g).numpy()])
    assert_same(tg.rand(12, generator=h).numpy(), parts)
    g.set_state((3, 5))
    assert_same(tg.rand(7, generator=g).numpy(), parts[5:])
    g.set_state((3, 0))
    tg.rand(5, dtype="float16", generator=g)  # as many words
    assert_same(tg.rand(7, generator=g).numpy(), parts[5:])


def test_uniform_numbers_are_the_high_bits_of_the_words():
    words = reference.random_bits(7, 4, 6)
    g = Generator(7)
    g.set_state((7, 4))
    assert_same(tg.rand(6, generator=g).numpy(), (words >> 8).astype(np.float32) / np.float32(2**24))
    g.set_state((7, 4))
    pairs = words[0::2].astype(np.uint64) << np.uint64(32) | words[1::2]
    assert_same(tg.rand(3, generator=g, dtype="float64").numpy(), (pairs >> np.uint64(11)) / 2.0**53)


@pytest.mark.parametrize("seed", [0, -1, 2**64, 2**64 + 5, np.int64(7), 2**200 + 1])
def test_seeds_are_taken_modulo_two_to_the_64(seed):
    assert_same(Generator(seed).bits(4), reference.random_bits(int(seed) % 2**64, 0, 4))


@pytest.mark.parametrize("seed", [1.0, "1", None])
def test_seeds_are_integers(seed):
    with pytest.raises(TypeError, match="manual_seed: expected an int; got"):
        Generator(seed)


def test_threads_never_draw_the_same_words():
    g, taken = Generator(0), []

    def draw():
        taken.extend(g.take(3)[1] for _ in range(500))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(0, 6000, 3)) and g.offset == 6000


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform(dtype):
    x = tg.rand(N, generator=Generator(11), dtype=dtype).numpy().astype(np.float64)
    assert x.min() >= 0.0 and x.max() < 1.0
    # The numbers are k / 2^bits: their mean is half a step below 1/2.
    step = 2.0 ** -{"float16": 11, "float32": 24, "float64": 53}[dtype]
    assert_mean(x, (1 - step) / 2, 1 / 12)
    assert_mean(x**2, 1 / 3 - step / 2, 4 / 45)
    assert_uniform(np.bincount((x * 64).astype(int), minlength=64))
    assert_mean((x[1:] - x[1:].mean()) * (x[:-1] - x[:-1].mean()), 0.0, 1 / 144)  # neighbours are independent


def test_no_uniform_number_rounds_up_to_1():
    """The largest word there is."""
    words = np.full(4, 2**32 - 1, np.uint32)
    for dtype in FLOATS:
        g = Generator(0)
        g.bits = lambda n: words[:n]
        x = g.uniform((2,), np.dtype(dtype))
        assert x.dtype == dtype and (x < 1).all() and (x > 0.999).all()
        assert np.isfinite(g.normal((2,), np.dtype(dtype))).all()


@pytest.mark.parametrize("dtype", [*FLOATS, "bfloat16"])
@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 2), (-1, 1), (-5, -1), (0, 0.1), (1000, 1001), (0, 3e-5), (2, 2)])
def test_a_uniform_number_stays_below_its_upper_bound(a, b, dtype):
    """Scaled and shifted, the largest below 1 rounds up to it; and the least is the lower bound."""
    for word, least in ((2**32 - 1, False), (0, True)):
        g = Generator(0)
        g.bits = lambda n, word=word: np.full(n, word, np.uint32)
        x = tg.zeros(3, dtype=dtype).uniform_(a, b, generator=g).numpy().astype(np.float64)
        low, high = (float(np.asarray(bound, tg.zeros((), dtype=dtype).dtype)) for bound in (a, b))
        assert (x == low).all() if least or low == high else ((low <= x) & (x < b)).all(), x


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_numbers_are_finite_also_where_the_uniform_one_is_0(dtype):
    g = Generator(11)
    g.bits = lambda n: np.zeros(n, np.uint32)
    assert not g.uniform((3,), np.dtype(dtype)).any()
    assert np.isfinite(g.normal((3,), np.dtype(dtype))).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal(dtype):
    x = tg.randn(N + 1, generator=Generator(12), dtype=dtype).numpy().astype(np.float64)
    assert_mean(x, 0.0, 1.0)
    assert_mean(x**2, 1.0, 2.0)
    assert_mean(x**3, 0.0, 15.0)
    assert_mean(x**4, 3.0, 96.0)
    edges = [NormalDist().inv_cdf(k / 64) for k in range(1, 64)]
    if dtype != "float16":  # whose steps are as wide as a bin's error
        assert_uniform(np.bincount(np.searchsorted(edges, x), minlength=64))
    pairs = (N + 2) // 2
    assert_mean(x[: N + 1 - pairs] * x[pairs:], 0.0, 1.0)  # the two of a pair


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-3, 4), (10, 11), (0, 1000)])
def test_integers(low, high):
    x = tg.randint(low, high, (N,), generator=Generator(13)).numpy()
    assert x.dtype == np.int64 and x.min() == low and x.max() == high - 1
    if high - low > 1:
        assert_uniform(np.bincount(x - low, minlength=high - low))


def test_integers_over_the_whole_range():
    x = tg.randint(-(2**63), 2**63, (N,), generator=Generator(14)).numpy()
    assert_uniform(np.bincount((x >> 58) + 32, minlength=64))
    assert tg.randint(2**63 - 1, 2**63, (2,)).tolist() == [2**63 - 1] * 2
    assert tg.randint(5, (2, 3)).shape == (2, 3) and tg.randint(0, 5, (2,), dtype="float32").dtype == np.float32
    for low, high in ((3, 3), (4, 3), (0, 2**64), (-(2**64), 0)):
        with pytest.raises(ValueError, match=f"randint: expected low < high within int64; got low={low}, high={high}"):
            tg.randint(low, high, (2,))


def test_permutations():
    x = tg.randperm(1000, generator=Generator(15)).numpy()
    assert sorted(x.tolist()) == list(range(1000)) and x.dtype == np.int64
    assert tg.randperm(0).tolist() == [] and tg.randperm(1).tolist() == [0]
    # Each of the 24 orders of 4 comes equally often.
    g, orders = Generator(16), {}
    for _ in range(24 * 200):
        order = tuple(tg.randperm(4, generator=g).tolist())
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 24
    assert_uniform(np.array(list(orders.values())))


def test_uniform_and_normal_in_place():
    x = tg.empty(N, dtype="float64").uniform_(-2, 3, generator=Generator(17)).numpy()
    assert x.min() >= -2 and x.max() < 3
    assert_mean(x, 0.5, 25 / 12)
    y = tg.empty(N, dtype="float64").normal_(5, 0.5, generator=Generator(18)).numpy()
    assert_mean(y, 5.0, 0.25)
    assert_mean((y - 5.0) ** 2, 0.25, 2 * 0.25**2)


def test_two_unseeded_processes_differ():
    """The default generator's first seed is the operating system's."""
    command = [sys.executable, "-c", "import tilegrad; print(tilegrad.random.default_generator.seed)"]
    seeds = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(seeds) == 2
