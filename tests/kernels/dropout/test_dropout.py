"""The Philox stream against published answers and the paper's recipe; dropout against the stream."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.compare import assert_close, assert_same
from tests.layouts import untouched
from tilegrad import kernels
from tilegrad.kernels.backends import reference
from tilegrad.kernels.device import gpu
from tilegrad.kernels.dropout import reference as dropout_reference
from tilegrad.kernels.dropout.reference import philox4x32

SEED = 0x0123456789ABCDEF

# counter, key and result of "philox4x32 10" in kat_vectors of Random123 1.14
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_of_the_paper(counter, key):
    """Salmon et al. 2011, section 3, on Python's integers: one block, nothing vectorised."""
    (r0, l0, r1, l1), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * r0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * r1, 2**32)
        r0, l0, r1, l1 = high1 ^ l0 ^ k0, low1, high0 ^ l1 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return r0, l0, r1, l1


def word_of_the_paper(seed, i):
    block = i // 4
    counter = (block % 2**32, block // 2**32, 0, 0)
    return philox_of_the_paper(counter, (seed % 2**32, seed // 2**32))[i % 4]


@pytest.mark.parametrize("counter, key, answer", KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    got = philox4x32(tuple(np.array([c], np.uint64) for c in counter), key)
    assert [int(word[0]) for word in got] == list(answer)
    assert philox_of_the_paper(counter, key) == answer


def test_the_stream_begins_with_the_first_known_answer(backend):
    assert_same(backend.random_bits(0, 0, 4), np.array(KNOWN_ANSWERS[0][2], np.uint32))


@pytest.mark.parametrize("seed", [0, 1, 2**32, SEED, 2**64 - 1])
@pytest.mark.parametrize("offset", [0, 1, 6, 2**34 - 3, 2**34 + 1, 2**63 + 5, 2**64 - 9])
def test_every_word_is_the_papers(backend, seed, offset):
    """Over the carry from the counter's first word to its second, up to the last offset."""
    got = backend.random_bits(seed, offset, 9)
    assert_same(got, np.array([word_of_the_paper(seed, offset + i) for i in range(9)], np.uint32))


# `backend` is the same module for every example
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**64 - 1), offset=st.integers(0, 2**64 - 1), n=st.integers(0, 30))
def test_offset_counts_words(backend, seed, offset, n):
    skip = min(offset, 11)
    longer = backend.random_bits(seed, offset - skip, n + skip)
    assert_same(backend.random_bits(seed, offset, n), longer[skip:])


def test_a_long_stream_is_the_same_stream():
    """Longer than what the reference computes at a time, and begun in the middle of a block."""
    stream = reference.random_bits(SEED, 0, 200_001)
    assert_same(reference.random_bits(SEED, 70_003, 100_000), stream[70_003:170_003])
    for i in (0, 65_535, 65_536, 131_071, 131_072, 200_000):
        assert stream[i] == word_of_the_paper(SEED, i)


@pytest.mark.parametrize("shape", [(20_001,), (401,)], ids=str)
@pytest.mark.parametrize("offset", [3, 8, 2**34 - 200])
def test_every_backend_has_the_same_stream(backend, offset, shape):
    """Beyond one program of a GPU, or block of a simulated one, from within a Philox block and from its first word."""
    (n,) = shape
    assert_same(backend.random_bits(SEED, offset, n), reference.random_bits(SEED, offset, n))


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_as_many_words_as_programs_hold(backend, offset, rng):
    """Begun within a Philox block they reach into one program more, by as many words as were passed over."""
    held = (
        64 if getattr(getattr(backend, "module", None), "__name__", "") == "tilegrad.kernels.backends.numba" else 2048
    )
    for n in (held - offset, held - 1, held, held + 1, 2 * held - offset, 2 * held):
        want = reference.random_bits(SEED, offset, n)
        assert_same(backend.random_bits(SEED, offset, n), want)
        x = rng.standard_normal(n, dtype=np.float32)
        assert_same(backend.dropout(x, 0.5, SEED, offset) != 0, want >= threshold(0.5))


def test_empty_streams(backend):
    for offset in range(5):
        assert_same(backend.random_bits(1, offset, 0), np.empty(0, np.uint32))


def within(hits, n, p):
    """Whether a count of n independent events of probability p is within 6 standard deviations: all but 2e-9."""
    return abs(hits - n * p) <= 6 * math.sqrt(n * p * (1 - p))


# The statistics are of the stream, which every backend has bit for bit: the reference's are enough.


def test_every_bit_is_set_half_of_the_time():
    n = 1 << 17
    bits = reference.random_bits(SEED, 0, n)
    for i in range(32):
        assert within(int(((bits >> np.uint32(i)) & np.uint32(1)).sum()), n, 0.5), f"bit {i}"


def test_neighbouring_words_and_seeds_are_unrelated():
    """Bits agree half of the time between a word and the next, four further, and the same of the next seed."""
    n = 1 << 16
    bits = reference.random_bits(SEED, 0, n + 4)
    for other in (bits[1 : n + 1], bits[4:], reference.random_bits(SEED + 1, 0, n)):
        differing = int(np.bitwise_count(bits[:n] ^ other).sum())
        assert within(differing, 32 * n, 0.5)


# --- dropout


def threshold(p):
    return min(round(p * 2**32), 2**32 - 1)


@pytest.mark.parametrize("shape", [(), (1, 1), (5, 10), (0, 10), (33, 257), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("p, offset", [(0.1, 8), (0.5, 7), (0.9, 2**34 + 1)])  # one begins with a block
def test_what_the_stream_keeps_is_scaled_and_the_rest_is_0(backend, shape, p, offset, dtype, rng):
    x = np.asarray(rng.standard_normal(shape)).astype(dtype)
    with untouched(x):
        y = backend.dropout(x, p, SEED, offset)
    keep = (reference.random_bits(SEED, offset, x.size) >= threshold(p)).reshape(shape)
    want = np.where(keep, x.astype(np.float64) / (1 - p), 0)
    assert_close(y, want, want.astype(dtype), elementwise=True)


def test_the_mask_follows_the_logical_index_in_every_layout(backend, layout, dtype, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(dtype)
    y = backend.dropout(layout(x), 0.5, SEED, 3)
    assert_same(y, backend.dropout(x, 0.5, SEED, 3))
    assert y.strides == np.empty_like(layout(x)).strides


@pytest.mark.parametrize(
    "shape, memory_order",
    [
        ((33, 257), (1, 0)),  # a matrix transposed, one past a tile each way
        (
            (2, 70, 7, 7),
            (0, 2, 3, 1),
        ),  # channels-last: each of a channel's 49 elements begins at another word of a block
        ((3, 4, 5, 6), (1, 2, 3, 0)),
        ((1, 3, 2, 2), (0, 2, 3, 1)),  # fewer than a tile
        ((4, 1, 5, 3), (0, 3, 1, 2)),  # an axis of length 1, which has no place in memory
        ((2, 3, 4, 5), (0, 3, 1, 2)),
        ((2, 3, 4, 5), (3, 1, 2, 0)),  # no transposition of merged axes
    ],
    ids=str,
)
@pytest.mark.parametrize("offset", [4, 5])
def test_the_mask_follows_the_logical_index_in_every_memory_order(backend, shape, memory_order, offset, dtype, rng):
    row_major = rng.standard_normal(shape).astype(dtype)
    x = np.ascontiguousarray(row_major.transpose(memory_order)).transpose(np.argsort(memory_order))
    y = backend.dropout(x, 0.3, SEED, offset)
    assert_same(y, reference.dropout(row_major, 0.3, SEED, offset))
    assert y.strides == np.empty_like(x).strides


def test_an_incoming_gradient_of_stride_0(backend, dtype):
    dy = np.broadcast_to(np.array(2, dtype), (5, 10))
    assert_same(backend.dropout(dy, 0.5, SEED, 3), backend.dropout(dy.copy(), 0.5, SEED, 3))


def test_it_is_its_own_gradient(backend, rng):
    """It is linear with a diagonal matrix: <dy, f(x)> = <f(dy), x>."""
    x, dy = rng.integers(-4, 5, (2, 50, 20)).astype(np.float32)  # every product and sum below is exact
    y, dx = backend.dropout(x, 0.5, SEED, 11), backend.dropout(dy, 0.5, SEED, 11)
    assert (dy * y).sum() == (dx * x).sum() != 0


def test_p_of_0_keeps_all_and_p_of_1_none(backend, dtype, rng):
    x = rng.standard_normal((10, 50)).astype(dtype)
    assert_same(backend.dropout(x, 0, SEED, 0), x)
    assert_same(backend.dropout(x, 0.0, SEED, 0), x)
    assert_same(backend.dropout(x, 1, SEED, 0), np.zeros_like(x))
    assert_same(backend.dropout(x, 1.0, SEED, 0), np.zeros_like(x))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.95])
def test_the_rate_is_p(p):
    n = 1 << 17
    assert within(np.count_nonzero(reference.dropout(np.ones(n, np.float32), p, SEED, 0)), n, 1 - p)


def test_the_threshold_is_exact(backend):
    """Element 5 is kept at the p whose threshold is its word, and dropped at the next."""
    word = int(backend.random_bits(SEED, 5, 1)[0])
    x = np.ones(1, np.float32)
    assert backend.dropout(x, word / 2**32, SEED, 5)[0] > 0
    assert backend.dropout(x, (word + 1) / 2**32, SEED, 5)[0] == 0


@pytest.mark.parametrize("p", [1 - 2.0**-k for k in (1, 31, 32, 33, 40, 53)] + [1.0, 0.0, 2.0**-40])
def test_the_threshold_is_a_word(p):
    """Of p just below 1 too, where p 2^32 rounds to 2^32: then the largest word alone keeps an element."""
    assert dropout_reference.threshold(p) == threshold(p) <= 0xFFFFFFFF
    assert (np.uint32(0xFFFFFFFF) >= np.array([dropout_reference.threshold(p)], np.uint32)).all()


def test_another_seed_or_offset_is_another_mask(backend):
    x = np.ones(64, np.float32)
    masks = [backend.dropout(x, 0.5, seed, offset) for seed, offset in ((0, 0), (1, 0), (2**32, 0), (0, 64))]
    assert len({mask.tobytes() for mask in masks}) == 4


def test_nan_stays_and_nothing_warns(backend, dtype):
    x = np.full(100, np.nan, dtype)
    assert_same(backend.dropout(x, 0.5, SEED, 0), x)
    assert_same(backend.dropout(x, 1.0, SEED, 0), x)
    largest = np.full(100, ml_dtypes.finfo(dtype).max, dtype)
    kept = backend.random_bits(SEED, 0, 100) >= threshold(0.5)
    assert_same(backend.dropout(largest, 0.5, SEED, 0), np.where(kept, np.inf, 0).astype(dtype))


# --- on a device

ON_DEVICE = [pytest.mark.gpu] if gpu.is_available() else []


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=ON_DEVICE) for kind in (np.int64, np.uint64)])
@pytest.mark.parametrize("offset", [8, 2**40 + 3])
def test_the_offset_may_be_in_device_memory(kind, offset):
    """So that a captured graph takes other words at every replay."""
    device, xp = kernels.load("triton"), gpu.xp()
    place = xp.full((), offset, kind)
    x = xp.ones((3, 5, 2), np.float32)
    for each in (x, x.transpose(0, 2, 1), x.transpose()):
        y = device.dropout(each, 0.5, SEED, place)
        assert_same(xp.asnumpy(y), xp.asnumpy(device.dropout(each, 0.5, SEED, offset)))
    assert_same(xp.asnumpy(device.random_bits(SEED, place, 9)), reference.random_bits(SEED, offset, 9))


@pytest.mark.parametrize("case", [pytest.param(case, marks=ON_DEVICE) for case in ("dtype", "shape")])
def test_wrong_offsets_in_device_memory(case):
    device, xp = kernels.load("triton"), gpu.xp()
    error, offset, message = {
        "dtype": (
            TypeError,
            xp.zeros((), np.int32),
            "offset is an array of int32; expected an int, or int64 or uint64",
        ),
        "shape": (ValueError, xp.zeros(1, np.int64), r"offset has shape \(1,\); expected an int or a 0-d array"),
    }[case]
    with pytest.raises(error, match=f"^dropout: {message}$"):
        device.dropout(xp.ones(3, np.float32), 0.5, SEED, offset)
    with pytest.raises(error, match=f"^random_bits: {message}$"):
        device.random_bits(SEED, offset, 3)


@pytest.mark.parametrize("p", [pytest.param(p, marks=ON_DEVICE) for p in (0.0, 2**-32, 0.1, 0.5, 1.0)])
def test_no_seed_offset_or_rate_is_compiled_for_anew(p):
    from tilegrad.kernels.launch import triton_kernel as launch

    device, x = kernels.load("triton"), gpu.xp().ones((4, 4), np.float32)
    with launch.collecting() as launches:
        device.dropout(x, 0.3, 7, 7)
        for number in (0, 1, 16, 2**31, 2**32, 2**64 - 16):
            device.dropout(x, p, number, 0)
            device.dropout(x, p, 0, number)
    assert len(set(launches)) == 1


# --- errors

ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((-1, 0, 4), ValueError, r"seed is -1; expected 0 <= seed < 2\^64"),
        ((2**64, 0, 4), ValueError, rf"seed is {2**64}; expected 0 <= seed < 2\^64"),
        ((0, -1, 4), ValueError, r"offset is -1; expected 0 <= offset < 2\^64"),
        ((0, 2**64, 4), ValueError, rf"offset is {2**64}; expected 0 <= offset < 2\^64"),
        ((0, 0, -1), ValueError, "n is -1; expected n >= 0"),
        ((0.5, 0, 4), TypeError, "seed is 0.5; expected an int"),
        ((0, True, 4), TypeError, "offset is True; expected an int"),
        ((0, 0, 4.0), TypeError, "n is 4.0; expected an int"),
    ],
)
def test_wrong_streams(backend, arguments, error, message):
    with pytest.raises(error, match=f"^random_bits: {message}$"):
        backend.random_bits(*arguments)
    if not message.startswith("n "):
        with pytest.raises(error, match=f"^dropout: {message}$"):
            backend.dropout(ONES, 0.5, *arguments[:2])


@pytest.mark.parametrize(
    "x, p, error, message",
    [
        (ONES, -0.1, ValueError, "p is -0.1; expected 0 <= p <= 1"),
        (ONES, 1.1, ValueError, "p is 1.1; expected 0 <= p <= 1"),
        (ONES, np.nan, ValueError, "p is nan; expected 0 <= p <= 1"),
        (ONES, "0.5", TypeError, "p is '0.5'; expected a real number"),
        (np.ones(3, np.int64), 0.5, TypeError, "x is int64; expected float16, bfloat16, float32 or float64"),
    ],
)
def test_wrong_arguments(backend, x, p, error, message):
    with pytest.raises(error, match=f"^dropout: {message}$"):
        backend.dropout(x, p, 0, 0)
