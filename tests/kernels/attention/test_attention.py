"""Attention and its gradients on every backend, against the float64 specification; the specification against torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tests.layouts import untouched
from tilegrad.kernels.backends import reference

SEED, OFFSET = 0x0123456789ABCDEF, 2**34 - 3


class Case(NamedTuple):
    """Sizes and options of a call."""

    heads: tuple[int, int, int]  # B, H, G
    lengths: tuple[int, int]  # L, S
    widths: tuple[int, int]  # E, V
    options: dict[str, Any] = {}
    mask: str = ""  # bool, added; and which axes are 1

    def draw(self, dtype: Any, seed: int = 0) -> tuple[list[np.ndarray], dict[str, Any]]:
        """[dy, q, k, v], and the keyword arguments."""
        rng = np.random.default_rng(seed)
        (b, h, g), (n, s), (e, v) = self.heads, self.lengths, self.widths
        shapes = (b, h, n, v), (b, h, n, e), (b, g, s, e), (b, g, s, v)
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        options = {"scale": 1 / max(e, 1) ** 0.5, **self.options}
        if self.mask:
            kind, ones = (self.mask.split() + [""])[:2]
            shape = tuple(1 if axis in ones else size for axis, size in zip("BHLS", (b, h, n, s)))
            options["mask"] = rng.random(shape) < 0.7 if kind == "bool" else rng.standard_normal(shape).astype(dtype)
            if kind == "inf":
                options["mask"][rng.random(shape) < 0.3] = -np.inf
        return arrays, options


DROPOUT = {"dropout": 0.3, "seed": SEED, "offset": OFFSET}
CASES = {
    "one number": Case((1, 1, 1), (1, 1), (1, 1)),
    "ragged": Case((1, 2, 2), (5, 7), (3, 6)),
    "causal": Case((2, 1, 1), (9, 9), (8, 8), {"causal": True}),
    "causal, more keys": Case((1, 1, 1), (3, 9), (4, 4), {"causal": True}),
    "causal, more queries": Case((1, 1, 1), (9, 3), (4, 4), {"causal": True}),
    "shared heads": Case((1, 4, 2), (3, 5), (4, 4), {"causal": True}),
    "mask": Case((2, 2, 1), (3, 5), (4, 4), {}, "bool"),
    "mask of keys": Case((2, 2, 2), (3, 5), (4, 4), {}, "bool HL"),
    "added": Case((1, 2, 2), (3, 5), (4, 4), {}, "added B"),
    "added, with -inf": Case((2, 2, 2), (3, 5), (4, 4), {}, "inf H"),
    "dropout": Case((1, 2, 1), (3, 5), (4, 4), DROPOUT),
    "dropout, from a Philox block's first word": Case((1, 2, 2), (3, 8), (4, 4), DROPOUT | {"offset": 8}),
    "everything": Case((2, 2, 1), (6, 5), (5, 3), DROPOUT | {"causal": True}, "bool BH"),
    "a negative scale": Case((1, 1, 1), (3, 5), (4, 4), {"scale": -0.5}),
    "no key": Case((1, 2, 1), (3, 0), (4, 4)),
    "no query": Case((1, 2, 1), (0, 3), (4, 4)),
}
WIDE = {  # what only a simulator's patience leaves out for Numba
    "one past a vector": Case((1, 1, 1), (17, 33), (17, 16)),
    "24 wide": Case((1, 1, 1), (40, 70), (24, 24)),
    "64 wide, several tiles": Case((1, 2, 1), (130, 150), (64, 64), {"causal": True}),
    "256 wide": Case((1, 1, 1), (20, 35), (256, 256)),
    "256 and 16 wide": Case((1, 1, 1), (20, 35), (256, 16), {}, "added L"),
}


def is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype != np.bool_


def specification(dtype: Any, arrays: list[np.ndarray], options: dict[str, Any]) -> list[np.ndarray]:
    """[y, lse, dq, dk, dv] of the reference, everything given to it in that dtype."""
    dy, q, k, v = (x.astype(dtype) for x in arrays)
    options = {name: x.astype(dtype) if is_float(x) else x for name, x in options.items()}
    y, lse = reference.attention(q, k, v, **options)
    return [y, lse, *reference.attention_grad(dy, q, k, v, y, lse, **options)]


def call(backend: Any, arrays: list[np.ndarray], options: dict[str, Any]) -> list[np.ndarray]:
    """The same of a backend; nothing given is written to."""
    dy, q, k, v = arrays
    with untouched(q, k, v, options.get("mask")):
        y, lse = backend.attention(q, k, v, **options)
    with untouched(dy, q, k, v, y, lse):
        return [y, lse, *backend.attention_grad(dy, q, k, v, y, lse, **options)]


def check(backend: Any, case: Case, dtype: Any, layout: Any = np.array, scale: float = 0.5) -> None:
    arrays, options = case.draw(dtype)
    arrays = list(map(layout, arrays))
    if "mask" in options:
        mask = options["mask"]
        options["mask"] = layout(mask.view(np.uint8)).view(np.bool_) if mask.dtype == np.bool_ else layout(mask)
    want, baseline = (specification(kind, arrays, options) for kind in (np.float64, dtype))
    for got, w, b in zip(call(backend, arrays, options), want, baseline, strict=True):
        assert_close(got, w, b, scale=scale)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(backend, case, dtype):
    check(backend, CASES[case], dtype)


@pytest.mark.parametrize(("case", "size"), [(name, (*case.lengths, *case.widths)) for name, case in WIDE.items()])
def test_wide_heads(backend, case, size):
    for dtype in (np.float32, np.float16):
        check(backend, WIDE[case], dtype, scale=2.0)  # up to 256 terms a score, whatever luck the baseline has


@pytest.mark.parametrize("name", ["ragged", "everything"])
def test_layouts(backend, layout, name):
    """Of every array in turn, strides that no two axes share among them."""
    check(backend, CASES[name], np.float32, layout)


def test_an_incoming_gradient_of_stride_0_and_arrays_that_are_broadcast(backend, rng):
    arrays, options = CASES["ragged"].draw(np.float32)
    dy, q, k, v = arrays
    for shape in ((1, 1, 1, 1), (1, 2, 1, 6), (1, 1, 5, 1)):
        arrays = [np.broadcast_to(rng.standard_normal(shape).astype(np.float32), dy.shape), q, k[:, :, :1], v[:, :, :1]]
        arrays[2:] = [np.broadcast_to(x, (*x.shape[:2], 7, x.shape[3])) for x in arrays[2:]]
        want, baseline = (specification(kind, arrays, options) for kind in (np.float64, np.float32))
        for got, w, b in zip(call(backend, arrays, options), want, baseline, strict=True):
            assert_close(got, w, b, scale=1.0)


def test_results_have_the_memory_order_of_what_they_stand_for(backend):
    """Heads that are views of a layer's results: what follows merges them again without a copy."""
    if backend is reference:
        return
    arrays, options = Case((2, 2, 2), (3, 5), (16, 16)).draw(np.float32)
    turned = [x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3) for x in arrays]
    y, _, *grads = call(backend, turned, options)
    for got, like in zip((y, *grads), (turned[1], *turned[1:]), strict=True):
        assert got.strides == like.strides


@pytest.mark.parametrize("kind", ["mask", "added", "causal"])
def test_a_query_without_keys_gives_0_and_no_gradient(backend, kind, rng):
    """And so do keys that no query attends to."""
    dy, q, k, v = rng.standard_normal((4, 1, 1, 6, 4)).astype(np.float32)
    seen = np.ones((1, 1, 6, 6), bool)
    seen[:, :, 2] = seen[:, :, :, 4:] = False
    options = {"mask": seen if kind == "mask" else np.where(seen, np.float32(0), np.float32(-np.inf))}
    if kind == "causal":
        dy, q = dy[:, :, :3], q[:, :, :3]
        options, seen = {"causal": True}, np.tri(3, 6, dtype=bool)[None, None]
    y, lse, dq, dk, dv = call(backend, [dy, q, k, v], options)
    empty = ~seen.any(-1)[0, 0]
    assert (y[0, 0, empty] == 0).all() and (lse[0, 0, empty] == -np.inf).all() and (dq[0, 0, empty] == 0).all()
    assert np.isfinite(lse[0, 0, ~empty]).all() and (y[0, 0, ~empty] != 0).all()
    unseen = ~seen.any(-2)[0, 0]
    assert unseen.any() and (dk[0, 0, unseen] == 0).all() and (dv[0, 0, unseen] == 0).all()
    assert (dv[0, 0, ~unseen] != 0).all()


def test_scores_that_are_left_out_are_not_there(backend, rng):
    """A NaN or an infinity in a key that a query must not see does not reach it; elsewhere it reaches the whole row."""
    dy, q, k, v = rng.standard_normal((4, 1, 1, 7, 5)).astype(np.float32)
    for bad in (np.nan, np.inf):
        spoilt = k.copy()
        spoilt[0, 0, 5, 2] = bad
        seen = np.ones((1, 1, 7, 7), bool)
        seen[..., :4, 5] = False
        added = np.where(seen, np.float32(0.5), np.float32(-np.inf))
        for options in ({"mask": seen}, {"mask": added}, {"causal": True}):
            hidden = 5 if "causal" in options else 4
            y, lse = backend.attention(q, spoilt, v, **options)
            plain, _ = backend.attention(q, k, v, **options)
            assert_same(y[:, :, :hidden], plain[:, :, :hidden])
            if np.isnan(bad):
                assert np.isnan(y[:, :, hidden:]).all() and np.isnan(lse[:, :, hidden:]).all()


def test_nan_in_a_query_stays_in_its_row(backend, rng):
    dy, q, k, v = rng.standard_normal((4, 1, 1, 7, 5)).astype(np.float32)
    q[0, 0, 3, 1] = np.nan
    y, lse, dq, dk, dv = call(backend, [dy, q, k, v], {})
    expected = np.arange(7) == 3
    assert_same(np.isnan(y[0, 0]).all(1), expected)
    assert_same(np.isnan(y[0, 0]).any(1), expected)
    assert_same(np.isnan(dq[0, 0]).any(1), expected)
    assert np.isnan(dk).all() and np.isnan(dv).all()


def test_large_scores(backend):
    """Beyond what exp takes, either way."""
    q = np.array([[40.0], [-40.0], [1000.0]], np.float32).reshape(1, 1, 3, 1)
    k = np.array([[10.0], [-10.0], [0.5], [9.0]], np.float32).reshape(1, 1, 4, 1)
    v = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    y, lse = backend.attention(q, k, v)
    assert_close(y, np.array([0, 1, 0], np.float64).reshape(y.shape), y.round())
    assert_close(lse, np.array([400, 400, 10000], np.float64).reshape(lse.shape), lse.round())


def test_dropout_of_all_and_what_dropout_keeps(backend, rng):
    """The words are those of the primitive dropout, applied to the weights."""
    (dy, q, k, v), options = CASES["dropout"].draw(np.float32)
    v = np.broadcast_to(np.eye(5, dtype=np.float32), (1, 1, 5, 5))  # then y is the weights
    y, _ = backend.attention(q, k, v, **options)
    weights, _ = backend.attention(q, k, v, scale=options["scale"])
    want = reference.dropout(weights.astype(np.float64), 0.3, SEED, OFFSET)
    assert_close(y, want, want.astype(np.float32))
    y, _, *grads = call(backend, [y, q, k, v], options | {"dropout": 1.0})
    assert all((x == 0).all() for x in (y, *grads))


def test_offset_in_device_memory(backend):
    arrays, options = CASES["dropout"].draw(np.float32)
    options["offset"] = 2**40 + 3
    placed = options | {"offset": np.array(options["offset"], np.uint64)}
    for got, want in zip(call(backend, arrays, placed), call(backend, arrays, options), strict=True):
        assert_same(got, want)


# --- errors

Q, K, V = (np.ones(shape, np.float32) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Q[0], K, V), ValueError, r"q is (4, 3, 8), k (2, 2, 5, 8), v (2, 2, 5, 6); expected (B, H, L, E), (B, G"),
        ((Q, K[:, :, 1:], V), ValueError, r"k (2, 2, 4, 8), v (2, 2, 5, 6); expected (B, H, L, E), (B, G, S, E)"),
        ((Q, K[..., 1:], V), ValueError, r"v (2, 2, 5, 6); expected k.shape[3] == 8"),
        ((Q[:, :3], K, V), ValueError, r"v (2, 2, 5, 6); expected k's heads to divide those of q"),
        (
            (Q, K, V.astype(np.float16)),
            TypeError,
            "q is float32, k is float32, v is float16; expected one dtype for all",
        ),
        ((Q, K, V, np.ones((3, 5), bool)), ValueError, "mask is (3, 5); expected (2, 4, 3, 5), or 1 in place of any"),
        ((Q, K, V, np.ones((1, 1, 3, 5))), TypeError, "v is float32, mask is float64; expected one dtype for all"),
        ((Q, K, V, None, False, "1"), TypeError, "scale is '1'; expected a real number"),
        ((Q, K, V, None, False, 1.0, 1.5), ValueError, "p is 1.5; expected 0 <= p <= 1"),
        ((Q, K, V, None, False, 1.0, 0.5, -1), ValueError, "seed is -1; expected 0 <= seed < 2^64"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_errors(backend, arguments, error, message):
    with pytest.raises(error) as found:
        backend.attention(*arguments)
    assert str(found.value).startswith("attention: ") and message in str(found.value)


def test_errors_of_the_gradient(backend):
    y, lse = reference.attention(Q, K, V)
    with pytest.raises(ValueError, match=r"^attention_grad: dy is \(2, 4, 3, 8\), y \(2, 4, 3, 6\), lse \(2, 4, 3\)"):
        backend.attention_grad(Q, Q, K, V, y, lse)
    with pytest.raises(TypeError, match="^attention_grad: lse is float64; expected float32$"):
        backend.attention_grad(y, Q, K, V, y, lse.astype(np.float64))
