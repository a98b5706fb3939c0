"""Layer and RMS normalisation over the last axes, with their gradients: the NumPy specification.

    layer_norm   y = xhat weight + bias,   xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps)
                 of a row's mean and biased variance                            (Ba, Kiros & Hinton 2016)
    rms_norm     y = xhat weight,          xhat = x rstd,            rstd = 1 / sqrt(mean(x^2) + eps)
                                                                                (Zhang & Sennrich 2019)

A *row* is what lies along the last `ndim` axes; there are n elements in it. The variance is taken of x minus a mean
that may be rounded, and corrected by what that leaves (Chan, Golub & LeVeque 1983):

    d = x - m,   mean = m + mean(d),   var = mean(d^2) - mean(d)^2,   xhat = (d - mean(d)) rstd

so that a mean much larger than the deviation costs no digits beyond those of x.

With a residual the rows of s = x + residual are normalised, and s is a result too: a transformer adds to it what its
next layer makes of y (Vaswani et al. 2017; Xiong et al. 2020). s is rounded to x's dtype first, so that y is that of
the sum made apart. The gradient takes ds beside dy. It adds ds to dx, which is then the gradient of x and of the
residual alike. In float32, bytes an element that go through memory:

    |          | sum and norm apart                  | in one                                |
    | forward  | 12 + 8                              | 16: reads x, residual; writes s, y    |
    | gradient | 12 + 12                             | 16: reads dy, s, ds; writes dx        |

For all of them: x, residual, dy and ds are float16, bfloat16, float32 or float64 arrays of one shape, with any strides;
weight and bias have the shape of x's last `ndim` axes. All are of one dtype. The 16-bit types are computed in float32,
and mean and rstd are then float32. y, s and dx have x's dtype, in C order. NaN or infinity makes its row NaN; a row
without elements has NaN for mean and rstd.

Each raises TypeError for dtypes, ValueError for shapes, ndim and eps.
"""

from __future__ import annotations

import math
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")

Array = np.ndarray


@_quiet
def layer_norm(
    x: Array,
    ndim: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    residual: Array | None = None,
) -> tuple[Array, ...]:
    """(x - mean) rstd weight + bias over the last `ndim` axes, and what the gradient needs.

    ndim      1 <= ndim <= x.ndim
    weight    (*x.shape[-ndim:],) or None, which is 1; bias, or None, which is 0
    eps       any number; a row with var + eps < 0 is NaN, as in PyTorch
    residual  of x's shape, or None: what is normalised is x + residual
    ->        y of x's shape; mean and rstd (*x.shape[:-ndim],), float32, or float64 for float64 x; with a residual
              also x + residual

    Traffic: reads x (and residual) once where a row fits in cache, writes y (and the sum); weight and bias stay in the
    cache.
    """
    s = check_norm("layer_norm", x, ndim, weight, bias, eps, residual)
    x, joined = _joined(x, residual)
    d, rough = _wide(x), 0
    if s.n:
        rough = d.mean(s.axes, keepdims=True)
        d = d - rough
    rest = d.sum(s.axes, keepdims=True) / s.n
    d = d - rest
    rstd = 1 / np.sqrt((d * d).sum(s.axes, keepdims=True) / s.n + eps)
    d *= rstd
    mean = rough + rest
    y = _affine(d, weight, bias).astype(x.dtype, copy=False)
    return y, mean.reshape(s.lead), rstd.reshape(s.lead), *joined


@_quiet
def layer_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None = None,
    to_weight: bool = False,
    to_bias: bool = False,
    ds: Array | None = None,
) -> tuple[Array, ...]:
    """The gradients of layer_norm, together.

        dx = rstd (g - mean(g) - xhat mean(g xhat)) + ds,   g = dy weight
        dweight = sum dy xhat,   dbias = sum dy,   over all rows

    x                   what was normalised: with a residual, the sum
    mean, rstd          as layer_norm gave them: their shape says how many axes a row has
    weight              as layer_norm took it
    to_weight, to_bias  which of the two are asked for
    ds                  of x's shape: the gradient that comes to x by another way; None is 0
    ->                  (dx, dweight, dbias), without what was not asked for

    The sums over rows are taken in an order that depends on the shape alone.
    Traffic: reads dy, x (and ds) once where a row fits in cache, writes dx; dweight and dbias are small.
    """
    s = check_norm_grad("layer_norm_grad", dy, x, mean, rstd, weight, ds)
    rstd = rstd.reshape(s.kept)
    xhat = (_wide(x) - mean.reshape(s.kept)) * rstd
    return _gradients(s, _wide(dy), xhat, rstd, weight, True, to_weight, to_bias, ds)


@_quiet
def rms_norm(
    x: Array, ndim: int, weight: Array | None = None, eps: float = 1e-5, residual: Array | None = None
) -> tuple[Array, ...]:
    """x rstd weight over the last `ndim` axes, and rstd: as layer_norm, without mean and bias.

    Traffic: reads x (and residual) once where a row fits in cache, writes y (and the sum).
    """
    s = check_norm("rms_norm", x, ndim, weight, None, eps, residual)
    x, joined = _joined(x, residual)
    wide = _wide(x)
    rstd = 1 / np.sqrt((wide * wide).sum(s.axes, keepdims=True) / s.n + eps)
    return _affine(wide * rstd, weight, None).astype(x.dtype, copy=False), rstd.reshape(s.lead), *joined


@_quiet
def rms_norm_grad(
    dy: Array,
    x: Array,
    rstd: Array,
    weight: Array | None = None,
    to_weight: bool = False,
    ds: Array | None = None,
) -> tuple[Array, ...]:
    """The gradients of rms_norm, together: (dx,) or (dx, dweight).

        dx = rstd (g - xhat mean(g xhat)) + ds,   g = dy weight;   dweight = sum dy xhat over all rows

    x and ds are as layer_norm_grad's. Traffic: reads dy, x (and ds) once where a row fits in cache, writes dx.
    """
    s = check_norm_grad("rms_norm_grad", dy, x, None, rstd, weight, ds)
    rstd = rstd.reshape(s.kept)
    return _gradients(s, _wide(dy), _wide(x) * rstd, rstd, weight, False, to_weight, False, ds)


def _joined(x: Array, residual: Array | None) -> tuple[Array, tuple[Array, ...]]:
    """(what is normalised, the results that this is one of)."""
    if residual is None:
        return x, ()
    total = np.asarray(_wide(x) + _wide(residual), x.dtype)
    return total, (total,)


def _gradients(
    s: Rows,
    dy: Array,
    xhat: Array,
    rstd: Array,
    weight: Array | None,
    centred: bool,
    to_weight: bool,
    to_bias: bool,
    ds: Array | None,
) -> tuple[Array, ...]:
    g = dy if weight is None else dy * weight
    dx = g - xhat * ((g * xhat).sum(s.axes, keepdims=True) / s.n)
    if centred:
        dx -= g.sum(s.axes, keepdims=True) / s.n
    dx *= rstd
    if ds is not None:
        dx += _wide(ds)
    rows = tuple(range(len(s.lead)))
    found = [dx]
    found += [(dy * xhat).sum(rows, np.float64)] if to_weight else []
    found += [dy.sum(rows, np.float64)] if to_bias else []
    return tuple([np.asarray(each, s.dtype) for each in found])


def _affine(xhat: Array, weight: Array | None, bias: Array | None) -> Array:
    y = xhat if weight is None else xhat * weight
    return y if bias is None else y + bias


def _wide(x: Array) -> Array:
    return np.ascontiguousarray(x, accumulator(x.dtype)).reshape(x.shape)


class Rows(NamedTuple):
    """x as rows."""

    dtype: np.dtype
    lead: tuple[int, ...]  # the shape of mean and rstd
    shape: tuple[int, ...]  # of a row, of weight and of bias
    count: int
    n: int  # elements of one

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(range(len(self.lead), len(self.lead) + len(self.shape)))

    @property
    def kept(self) -> tuple[int, ...]:
        return self.lead + (1,) * len(self.shape)


def check_norm(
    op: str, x: Any, ndim: Any, weight: Any | None, bias: Any | None, eps: float, residual: Any | None
) -> Rows:
    """Raise as layer_norm and rms_norm do."""
    dtype = float_dtype(op, x=x, residual=residual, weight=weight, bias=bias)
    if not is_int(ndim):
        raise TypeError(f"{op}: ndim is {ndim!r}; expected an int")
    if not isinstance(eps, Real):
        raise TypeError(f"{op}: eps is {eps!r}; expected a real number")
    if not 1 <= ndim <= x.ndim:
        raise ValueError(f"{op}: ndim is {ndim} but x is {x.shape}; expected 1 <= ndim <= x.ndim")
    rows = _rows(dtype, x.shape, x.ndim - ndim)
    _require_shapes(op, x, rows.shape, weight=weight, bias=bias)
    _require_shapes(op, x, x.shape, residual=residual)
    return rows


def check_norm_grad(op: str, dy: Any, x: Any, mean: Any | None, rstd: Any, weight: Any | None, ds: Any | None) -> Rows:
    """Raise as the gradients do; mean is None for rms_norm's."""
    dtype = float_dtype(op, dy=dy, x=x, ds=ds, weight=weight)
    saved = float_dtype(op, mean=mean, rstd=rstd)
    if saved != accumulator(dtype):
        raise TypeError(f"{op}: rstd is {saved} but x is {dtype}; expected {accumulator(dtype)}")
    lead = rstd.shape
    if len(lead) >= x.ndim or lead != x.shape[: len(lead)]:
        raise ValueError(f"{op}: rstd is {lead} but x is {x.shape}; expected the shape of x without its last axes")
    _require_shapes(op, x, lead, mean=mean)
    _require_shapes(op, x, x.shape, dy=dy, ds=ds)
    rows = _rows(dtype, x.shape, len(lead))
    _require_shapes(op, x, rows.shape, weight=weight)
    return rows


@lru_cache(maxsize=256)
def _rows(dtype: np.dtype, shape: tuple[int, ...], lead: int) -> Rows:
    return Rows(dtype, shape[:lead], shape[lead:], math.prod(shape[:lead]), math.prod(shape[lead:]))


def _require_shapes(op: str, x: Any, shape: tuple[int, ...], **arrays: Any) -> None:
    for name, a in arrays.items():
        if a is not None and a.shape != shape:
            raise ValueError(f"{op}: x is {x.shape} but {name} is {a.shape}; expected {shape}")
