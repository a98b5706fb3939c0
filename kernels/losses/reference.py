"""Losses of numbers against numbers of the same shape, with their gradients: the NumPy specification.

    kind                              l(x, t),   d = x - t
    mse_loss                          d^2
    l1_loss                           |d|
    smooth_l1_loss                    d^2 / (2 beta) where |d| < beta, else |d| - beta / 2              (Girshick 2015)
    huber_loss                        d^2 / 2 where |d| <= beta, else beta (|d| - beta / 2)               (Huber 1964)
    binary_cross_entropy              -(t log x + (1 - t) log(1 - x)), 0 <= x <= 1, logarithms not below -100
    binary_cross_entropy_with_logits  p t s(-x) + (1 - t) s(x),   s(x) = max(x, 0) + log(1 + exp(-|x|))

p is pos_weight. s(x) is -log sigmoid(-x): no exponential overflows, and for 0 <= t <= 1 nothing cancels. The kinds have
the names of PyTorch's functions, and its conventions: the derivative of |d| at 0 is 0, and that of binary_cross_entropy
has max(x (1 - x), 1e-12) for a denominator.

x, t, weight and pos_weight are float16, bfloat16, float32 or float64 arrays of one dtype and one shape, with any
strides. The 16-bit types are computed in float32 and rounded once. NaN gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, one_of, require
from tilegrad.kernels.losses.probabilities import check_probabilities

KINDS = (
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
OF_DIFFERENCES = KINDS[:4]  # for which dt = -dx
REDUCTIONS = ("mean", "sum", "none")
LEAST_LOG, LEAST_DENOMINATOR = -100.0, 1e-12

_quiet = np.errstate(all="ignore")

Array = np.ndarray


@_quiet
def elementwise_loss(
    x: Array,
    t: Array,
    kind: str,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
) -> Array:
    """weight * l(x, t), or the sum or the mean of that.

    kind        one of KINDS
    weight      or None, which is 1; "mean" divides by the number of elements nevertheless
    pos_weight  p above, of binary_cross_entropy_with_logits alone; or None, which is 1
    beta        of smooth_l1_loss, >= 0 (0 is l1_loss), and of huber_loss, > 0
    reduction   "mean" (NaN over nothing), "sum" or "none"
    ->          () of x's dtype, or for "none" x's shape

    The order of a sum depends on the shape and memory order alone.
    Traffic: reads x and t once, and the weights that there are; writes x.size elements for "none".
    Raises TypeError for dtypes, ValueError for shapes, other arguments, and an x of binary_cross_entropy that is not
    within 0 and 1 (on a GPU at the next synchronisation).
    """
    dtype = check_loss("elementwise_loss", x, t, kind, weight, pos_weight, beta, reduction)
    if kind == "binary_cross_entropy":
        check_probabilities(x)
    wide = [None if a is None else a.astype(accumulator(dtype), copy=False) for a in (x, t, weight, pos_weight)]
    loss = _LOSSES[kind](wide[0], wide[1], wide[3], beta)
    if weight is not None:
        loss = loss * wide[2]
    if reduction == "none":
        return np.asarray(loss, dtype)
    total = np.sum(loss, dtype=np.float64)
    return np.asarray(total / x.size if reduction == "mean" else total, dtype)


@_quiet
def elementwise_loss_grad(
    dy: Array,
    x: Array,
    t: Array,
    kind: str,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
    to_x: bool = True,
    to_t: bool = False,
) -> tuple[Array, ...]:
    """The gradients of elementwise_loss: (dx, dt), without what was not asked for.

        dx = g l'_x,   dt = g l'_t,   g = dy weight, for "mean" over the number of elements

    dy          () of x's dtype, or for "none" x's shape
    to_x, to_t  which of the two are asked for
    ->          arrays of x's shape and memory order

    Traffic: reads x and t once, the weights that there are, and a dy of x's shape; writes what was asked for.
    """
    dtype = check_loss_grad(dy, x, t, kind, weight, pos_weight, beta, reduction)
    wide = accumulator(dtype)
    x_wide, t_wide, w, p, g = (
        None if a is None else a.astype(wide, copy=False) for a in (x, t, weight, pos_weight, dy)
    )
    if reduction == "mean":
        g = g / wide.type(x.size)
    if w is not None:
        g = g * w
    slopes = _SLOPES[kind](x_wide, t_wide, p, beta)
    return tuple([_like(x, g * slope, dtype) for slope, asked in zip(slopes, (to_x, to_t)) if asked])


# --- l and its derivatives, (by x, by t); p may be None


def _mse(x: Array, t: Array, p: Any, beta: float) -> Array:
    return (x - t) ** 2


def _mse_slopes(x: Array, t: Array, p: Any, beta: float) -> tuple[Array, Array]:
    return _opposite(2 * (x - t))


def _l1(x: Array, t: Array, p: Any, beta: float) -> Array:
    return np.abs(x - t)


def _l1_slopes(x: Array, t: Array, p: Any, beta: float) -> tuple[Array, Array]:
    return _opposite(np.sign(x - t))


def _smooth_l1(x: Array, t: Array, p: Any, beta: float) -> Array:
    size = np.abs(x - t)
    return np.where(size < beta, size * size * (0.5 / beta), size - 0.5 * beta) if beta else size


def _smooth_l1_slopes(x: Array, t: Array, p: Any, beta: float) -> tuple[Array, Array]:
    d = x - t
    return _opposite(np.where(np.abs(d) < beta, d / beta, np.sign(d)) if beta else np.sign(d))


def _huber(x: Array, t: Array, p: Any, beta: float) -> Array:
    size = np.abs(x - t)
    return np.where(size <= beta, size * size * 0.5, (size - 0.5 * beta) * beta)


def _huber_slopes(x: Array, t: Array, p: Any, beta: float) -> tuple[Array, Array]:
    d = x - t
    return _opposite(np.where(np.abs(d) <= beta, d, np.sign(d) * beta))


def _bce(x: Array, t: Array, p: Any, beta: float) -> Array:
    log, log_rest = _logarithms(x)
    return -(t * log + (1 - t) * log_rest)


def _bce_slopes(x: Array, t: Array, p: Any, beta: float) -> tuple[Array, Array]:
    log, log_rest = _logarithms(x)
    return (x - t) / np.maximum(x * (1 - x), LEAST_DENOMINATOR), log_rest - log


def _logits(x: Array, t: Array, p: Array | None, beta: float) -> Array:
    rest = np.log1p(np.exp(-np.abs(x)))
    positive = t if p is None else p * t
    return positive * (np.maximum(-x, 0) + rest) + (1 - t) * (np.maximum(x, 0) + rest)


def _logits_slopes(x: Array, t: Array, p: Array | None, beta: float) -> tuple[Array, Array]:
    """dt = p s(-x) - s(x); where p is 1, that is -x exactly."""
    e = np.exp(-np.abs(x))
    s, r = np.where(x > 0, 1, e) / (1 + e), np.where(x > 0, e, 1) / (1 + e)  # sigmoid(x) and sigmoid(-x)
    dx = (1 - t) * s - (t if p is None else p * t) * r
    return dx, -x if p is None else p * np.maximum(-x, 0) - np.maximum(x, 0) + (p - 1) * np.log1p(e)


def _opposite(slope: Array) -> tuple[Array, Array]:
    return slope, -slope


def _logarithms(x: Array) -> tuple[Array, Array]:
    return np.maximum(np.log(x), LEAST_LOG), np.maximum(np.log1p(-x), LEAST_LOG)


_LOSSES: dict[str, Callable[..., Array]] = dict(zip(KINDS, (_mse, _l1, _smooth_l1, _huber, _bce, _logits)))
_SLOPES: dict[str, Callable[..., tuple[Array, Array]]] = dict(
    zip(KINDS, (_mse_slopes, _l1_slopes, _smooth_l1_slopes, _huber_slopes, _bce_slopes, _logits_slopes))
)


def _like(x: Array, values: Array, dtype: np.dtype) -> Array:
    y = np.empty_like(x, dtype, subok=False)
    y[...] = values
    return y


# --- checks


def check_loss(
    op: str, x: Any, t: Any, kind: str, weight: Any, pos_weight: Any, beta: float, reduction: str
) -> np.dtype:  # fmt: skip
    """The dtype. Raise as elementwise_loss does, but for the values of x."""
    one_of(op, "kind", kind, KINDS)
    one_of(op, "reduction", reduction, REDUCTIONS)
    dtype = float_dtype(op, x=x, t=t, weight=weight, pos_weight=pos_weight)
    for name, a in (("t", t), ("weight", weight), ("pos_weight", pos_weight)):
        require(a is None or a.shape == x.shape, op, f"x is {x.shape} but {name} is {getattr(a, 'shape', a)}")
    logits = kind == "binary_cross_entropy_with_logits"
    require(pos_weight is None or logits, op, f"{kind} has no pos_weight; expected None")
    if not isinstance(beta, Real):
        raise TypeError(f"{op}: beta is {beta!r}; expected a real number")
    require(kind != "smooth_l1_loss" or beta >= 0, op, f"beta is {beta}; expected >= 0")
    require(kind != "huber_loss" or beta > 0, op, f"beta is {beta}; expected > 0")
    return dtype


def check_loss_grad(
    dy: Any, x: Any, t: Any, kind: str, weight: Any, pos_weight: Any, beta: float, reduction: str
) -> np.dtype:  # fmt: skip
    """The dtype. Raise as elementwise_loss_grad does."""
    op = "elementwise_loss_grad"
    dtype = check_loss(op, x, t, kind, weight, pos_weight, beta, reduction)
    float_dtype(op, dy=dy, x=x)
    shape = x.shape if reduction == "none" else ()
    require(dy.shape == shape, op, f"dy is {dy.shape}; expected {shape}")
    return dtype


def probability_error(place: int, _: int) -> ValueError:
    """What is wrong with the x at that place in memory, as a GPU tells it."""
    return ValueError(f"binary_cross_entropy: input holds no probability at {place}; expected 0 <= input <= 1")
