"""Scaled dot-product attention and its gradients: the NumPy specification, with the matrix of scores in full.

    s = q k^T * scale + mask,   y = dropout(softmax(s)) v

Vaswani et al. 2017, "Attention is all you need", equation 1. The kernels of the other backends go over s in blocks and
keep a running maximum and sum for each row (Milakov & Gimelshein 2018; Dao et al. 2022, "FlashAttention", algorithm 1),
and the gradient computes s again (Dao 2023, "FlashAttention-2", algorithm 2).
"""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, remembered, require
from tilegrad.kernels.dropout.reference import check_rate, check_stream, random_bits, threshold

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")  # log 0: nothing to attend to


class Sizes(NamedTuple):
    """What the shapes of one call say."""

    batch: int
    heads: int  # of q
    shared: int  # heads of q that share a head of k and v
    queries: int
    keys: int
    width: int  # of q and k
    out: int  # of v and y

    @property
    def words(self) -> int:
        """Of the random stream, that dropout takes: one a score."""
        return self.batch * self.heads * self.queries * self.keys


@_quiet
def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    causal: bool = False,
    scale: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """y = dropout(softmax(q k^T * scale + mask)) v, and the logarithm of each row's sum of exponentials.

    q        (B, H, L, E) float16 | bfloat16 | float32 | float64, any strides
    k, v     (B, G, S, E) and (B, G, S, V) of q's dtype, any strides; G divides H: heads h of q with h // (H / G) = g
             attend to head g (Ainslie et al. 2023, "GQA")
    mask     bool, True where to attend, or of q's dtype, added to the scores; (B, H, L, S), each axis possibly 1
    causal   query i attends to keys 0 .. i only
    dropout  0 <= p <= 1, the probability of a weight to be dropped; weight (b, h, i, j) takes the word
             ((b H + h) L + i) S + j of the stream (seed, offset), as in the primitive dropout of a (B, H, L, S) array
    ->       y (B, H, L, V) of q's dtype, and lse (B, H, L) float32, or float64 for float64

    A key that the mask or causality leaves out, or where an added mask is -inf, is not there, whatever its score is. A
    query without keys gives y = 0 and lse = -inf, as torch 2.13's scaled_dot_product_attention does. Where a value that
    is left out is not finite, y may be NaN (0 times it) or not. 16-bit types are computed in float32 and rounded once.

    Traffic: reads q, and k and v at least once, writes y and 4 B H L bytes; not the B H L S scores.
    Raises ValueError for shapes and ranges, TypeError for dtypes.
    """
    dtype, sizes = check_attention("attention", q, k, v, mask, scale, dropout, seed, offset)
    s = _scores(q, k, mask, causal, scale, sizes)
    m = s.max(-1, keepdims=True, initial=-np.inf)
    p = np.exp(s - _shift(m))
    total = p.sum(-1, keepdims=True)
    y = np.matmul(_dropped(p, dropout, seed, offset), _wide_heads(v, sizes))
    y /= np.where(total == 0, 1, total)
    return y.astype(dtype, copy=False), (m + np.log(total))[..., 0]


@_quiet
def attention_grad(
    dy: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    y: np.ndarray,
    lse: np.ndarray,
    mask: np.ndarray | None = None,
    causal: bool = False,
    scale: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of attention with respect to q, k and v, from its results y and lse.

        p = softmax(s),   dp = dropout(dy v^T),   ds = p (dp - sum_j dp_j p_j) * scale
        dq = ds k,   dk = ds^T q,   dv = dropout(p)^T dy

    dy    (B, H, L, V) of q's dtype, any strides; the others as attention takes and gives them. p is exp(s - lse), and
          the sum over j is dy y, so that kernels may take them from there; here they are those of s itself
    ->    dq (B, H, L, E), dk (B, G, S, E), dv (B, G, S, V) of q's dtype; 16-bit types are computed in float32

    Traffic: reads dy, q, k, v, y at least once, writes dq, dk and dv; not the B H L S scores. Deterministic.
    Raises what attention raises, and ValueError where dy, y or lse have other shapes.
    """
    dtype, sizes = check_attention_grad(dy, q, k, v, y, lse, mask, scale, dropout, seed, offset)
    s = _scores(q, k, mask, causal, scale, sizes)
    p = np.exp(s - _shift(s.max(-1, keepdims=True, initial=-np.inf)))
    total = p.sum(-1, keepdims=True)
    p /= np.where(total == 0, 1, total)
    wide, keys = dy.astype(p.dtype, copy=False), _wide_heads(k, sizes)
    dp = _dropped(np.matmul(wide, _wide_heads(v, sizes).swapaxes(-1, -2)), dropout, seed, offset)
    dv = np.matmul(_dropped(p, dropout, seed, offset).swapaxes(-1, -2), wide)
    dp -= (dp * p).sum(-1, keepdims=True)
    ds = dp
    ds *= p
    ds *= p.dtype.type(scale)
    dq = np.matmul(ds, keys)
    dk = np.matmul(ds.swapaxes(-1, -2), q.astype(p.dtype, copy=False))
    dk, dv = (_summed_heads(each, sizes) for each in (dk, dv))
    return dq.astype(dtype, copy=False), dk.astype(dtype, copy=False), dv.astype(dtype, copy=False)


def check_attention(
    op: str, q: Any, k: Any, v: Any, mask: Any, scale: float, dropout: float, seed: int, offset: Any
) -> tuple[np.dtype, Sizes]:
    """Raise as attention does; (the dtype, the sizes). For arrays of any library; offset may be in device memory."""
    added = mask if mask is not None and getattr(mask, "dtype", None) != np.bool_ else None
    dtype = float_dtype(op, q=q, k=k, v=v, mask=added)
    if not isinstance(scale, Real):
        raise TypeError(f"{op}: scale is {scale!r}; expected a real number")
    check_rate(op, dropout)
    if dropout:
        check_stream(op, seed, 0 if hasattr(offset, "shape") else offset)
    return dtype, _sizes(op, q.shape, k.shape, v.shape, None if mask is None else mask.shape)


def check_attention_grad(
    dy: Any, q: Any, k: Any, v: Any, y: Any, lse: Any, mask: Any, scale: float, dropout: float, seed: int, offset: Any
) -> tuple[np.dtype, Sizes]:
    """Raise as attention_grad does; (the dtype, the sizes)."""
    op = "attention_grad"
    dtype, sizes = check_attention(op, q, k, v, mask, scale, dropout, seed, offset)
    float_dtype(op, q=q, dy=dy, y=y)
    shape = (*q.shape[:3], v.shape[3])
    if dy.shape != shape or y.shape != shape or lse.shape != q.shape[:3]:
        found = f"dy is {dy.shape}, y {y.shape}, lse {lse.shape}"
        raise ValueError(f"{op}: {found}; expected {shape}, {shape} and {q.shape[:3]}")
    if lse.dtype != accumulator(dtype):
        raise TypeError(f"{op}: lse is {lse.dtype}; expected {accumulator(dtype)}")
    return dtype, sizes


@remembered
def _sizes(op: str, q: tuple, k: tuple, v: tuple, mask: tuple | None) -> Sizes:
    found = f"q is {q}, k {k}, v {v}"
    require(len(q) == len(k) == len(v) == 4, op, f"{found}; expected (B, H, L, E), (B, G, S, E), (B, G, S, V)")
    require(q[0] == k[0] and k[:3] == v[:3], op, f"{found}; expected (B, H, L, E), (B, G, S, E), (B, G, S, V)")
    require(q[3] == k[3], op, f"{found}; expected k.shape[3] == {q[3]}")
    require(k[1] > 0 and q[1] % k[1] == 0 or k[1] == q[1], op, f"{found}; expected k's heads to divide those of q")
    scores = q[0], q[1], q[2], k[2]
    if mask is not None:
        fits = len(mask) == 4 and all(n in (1, full) for n, full in zip(mask, scores, strict=True))
        require(fits, op, f"mask is {mask}; expected {scores}, or 1 in place of any")
    return Sizes(q[0], q[1], q[1] // k[1] if k[1] else 1, q[2], k[2], q[3], v[3])


def _scores(q: np.ndarray, k: np.ndarray, mask: Any, causal: bool, scale: float, sizes: Sizes) -> np.ndarray:
    """(B, H, L, S) in the accumulator's dtype, -inf for keys that are left out."""
    kind = accumulator(q.dtype)
    s = np.matmul(q.astype(kind, copy=False), _wide_heads(k, sizes).swapaxes(-1, -2))
    s *= kind.type(scale)
    if mask is not None:
        if mask.dtype == np.bool_:
            s = np.where(mask, s, kind.type(-np.inf))
        else:
            mask = mask.astype(kind, copy=False)
            s = np.where(mask == -np.inf, mask, s + mask)
    if causal:
        s = np.where(np.tri(sizes.queries, sizes.keys, dtype=np.bool_), s, kind.type(-np.inf))
    return s


def _shift(m: np.ndarray) -> np.ndarray:
    """What is subtracted from scores whose maximum or lse is m: 0 where there is no key, so that none becomes NaN."""
    return np.where(m == -np.inf, m.dtype.type(0), m)


def _wide_heads(x: np.ndarray, sizes: Sizes) -> np.ndarray:
    """x in the accumulator's dtype, each of its heads repeated for those of q that share it."""
    return np.repeat(x.astype(accumulator(x.dtype), copy=False), sizes.shared, 1) if x.shape[1] else x


def _summed_heads(x: np.ndarray, sizes: Sizes) -> np.ndarray:
    batch, _, *rest = x.shape
    return x.reshape(batch, sizes.heads // sizes.shared, sizes.shared, *rest).sum(2) if sizes.shared > 1 else x


def _dropped(p: np.ndarray, rate: float, seed: int, offset: Any) -> np.ndarray:
    """The primitive dropout's, of weights in the accumulator's dtype."""
    if not rate:
        return p
    if rate == 1:
        return p * p.dtype.type(0)
    if isinstance(offset, np.ndarray):  # of a program, which reads it at each launch
        offset = offset.item()
    kept = (random_bits(seed, offset, p.size) >= threshold(rate)).reshape(p.shape)
    return p * (kept * p.dtype.type(1 / (1 - float(rate))))
