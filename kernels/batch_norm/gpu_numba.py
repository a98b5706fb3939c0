"""Batch and group normalisation on a GPU, in Numba-CUDA (batch_norm/reference.py).

x is seen as (N, C, S), and a matrix as (1, C, N). A row is a channel of an image: the lanes of a row stride over its
pixels, and a tree in shared memory joins what they have summed, as in softmax/gpu_numba.py. Where channels are last,
rows lie side by side in memory, and a warp reads one line.

    moments    a row's mean m, then the sums of x - m and of its square. A second launch joins rows: a thread for each
               channel, or for each group, takes them one after the other
    result     every element by itself, with its row's factors
    gradient   a row's sums of dz and of dz xhat, a launch that joins them, and dx

The sums are joined in order: no atomics, the same bits in every run. float16 and float32, computed in float32.

Traffic: moments read x twice, the second time from a cache where the rows of all running blocks fit; the result reads
x (and a residual) and writes y; the gradient reads dy and x twice and writes dx. With y it reads dy, y and x, writes
dz, reads dz and x, and writes dx. batch_norm/gpu_triton.py reads x once, and cuts long rows.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32

from tilegrad.kernels.batch_norm.gpu_views import empty_like, seen, together
from tilegrad.kernels.batch_norm.reference import (
    Channels,
    check_moments,
    check_norm,
    check_norm_grad,
    check_step,
    is_channels_last,
)
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_dtypes import float_dtype, only_served
from tilegrad.kernels.launch.numba_kernel import Axes, Kernel, kernel
from tilegrad.kernels.launch.numba_target import cuda, device
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_numba import (
    EACH,
    THREADS,
    across,
    along,
    block_of,
    load,
    store,
    tile,
    tree_sum,
)
from tilegrad.kernels.sum.gpu_numba import sum as sum_over

_ZERO, _ONE = float32(0), float32(1)


@functools.cache
def _batch_moments_kernel(place: Any) -> Kernel:
    @kernel
    def _batch_moments_kernel(x, shift, total, square):
        """x: (N, C, S). shift, total, square: (N, C), of a row m, the sum of x - m and the sum of its square."""
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = place()
        n, c = row // x.shape[1], row % x.shape[1]
        end = x.shape[2] if n < x.shape[0] else 0  # a row that does not exist still has to meet the barriers
        s = _ZERO
        for j in range(lane, end, EACH * lanes):
            p, q, r, t = load(x, n, c, j, lanes, end, _ZERO)
            s += (p + q) + (r + t)
        m = tree_sum(s, shared, lane, lanes, step) / float32(x.shape[2])
        s, s2 = _ZERO, _ZERO
        for j in range(lane, end, EACH * lanes):
            p, q, r, t = load(x, n, c, j, lanes, end, m)
            p, q, r, t = p - m, q - m, r - m, t - m
            s += (p + q) + (r + t)
            s2 += (p * p + q * q) + (r * r + t * t)
        s = tree_sum(s, shared, lane, lanes, step)
        s2 = tree_sum(s2, shared, lane, lanes, step)
        if lane == 0 and n < x.shape[0]:
            shift[n, c] = m
            total[n, c] = s
            square[n, c] = s2

    return _batch_moments_kernel


@kernel
def _batch_join_kernel(shift, total, square, mean, var, size):
    """shift, total, square: (items, entries), rows of `size` pixels, as _batch_moments_kernel. mean, var: (items,)."""
    i = cuda.grid(1)
    if i >= mean.size:
        return
    entries, n = shift.shape[1], float32(size)
    count = float32(entries * size)
    m, t = shift[i, 0], _ZERO
    for e in range(entries):
        t += total[i, e] + n * (shift[i, e] - m)
    m += t / count
    t, s = _ZERO, _ZERO
    for e in range(entries):
        apart, part = shift[i, e] - m, total[i, e]
        t += part + n * apart
        s += square[i, e] + apart * (float32(2) * part + n * apart)
    rest = t / count
    v = s / count - rest * rest
    mean[i] = m + rest
    var[i] = _ZERO if v < _ZERO else v


@device
def _factors(mean, var, weight, bias, n, c, eps):
    """(m, rstd, weight, bias) of a row."""
    each = weight.size // mean.shape[1]
    at = n if n < mean.shape[0] else 0
    m, v = float32(mean[at, c // each]), float32(var[at, c // each])
    return m, _ONE / math.sqrt(v + eps), float32(weight[c]), float32(bias[c])


@device
def _identity(z):
    return z


@device
def _relu(z):
    return _ZERO if z <= _ZERO else z


@functools.cache
def _batch_norm_kernel(place: Any, activation: Any) -> Kernel:
    @kernel
    def _batch_norm_kernel(x, mean, var, weight, bias, y, eps):
        """x, y: (N, C, S). mean, var: (N or 1, G). weight, bias: (C,)."""
        lane, lanes, step, row = place()
        n, c = row // x.shape[1], row % x.shape[1]
        if n >= x.shape[0]:
            return
        m, rstd, w, b = _factors(mean, var, weight, bias, n, c, eps)
        a = rstd * w
        for j in range(lane, x.shape[2], EACH * lanes):
            p, q, r, t = load(x, n, c, j, lanes, x.shape[2], m)
            p, q = activation((p - m) * a + b), activation((q - m) * a + b)
            r, t = activation((r - m) * a + b), activation((t - m) * a + b)
            store(y, n, c, j, lanes, x.shape[2], p, q, r, t)

    return _batch_norm_kernel


@functools.cache
def _batch_norm_residual_kernel(place: Any, activation: Any) -> Kernel:
    @kernel
    def _batch_norm_residual_kernel(x, residual, mean, var, weight, bias, y, eps):
        """residual: (N, C, S). Else as _batch_norm_kernel."""
        lane, lanes, step, row = place()
        n, c = row // x.shape[1], row % x.shape[1]
        if n >= x.shape[0]:
            return
        m, rstd, w, b = _factors(mean, var, weight, bias, n, c, eps)
        a = rstd * w
        for j in range(lane, x.shape[2], EACH * lanes):
            p, q, r, t = load(x, n, c, j, lanes, x.shape[2], m)
            e, f, g, h = load(residual, n, c, j, lanes, x.shape[2], _ZERO)
            p, q = activation(((p - m) * a + b) + e), activation(((q - m) * a + b) + f)
            r, t = activation(((r - m) * a + b) + g), activation(((t - m) * a + b) + h)
            store(y, n, c, j, lanes, x.shape[2], p, q, r, t)

    return _batch_norm_residual_kernel


@device
def _unmasked(dy, d, a, b):
    return dy


@device
def _masked(dy, d, a, b):
    """dy where the forward's result was above 0."""
    return _ZERO if d * a + b <= _ZERO else dy


@functools.cache
def _batch_sums_kernel(place: Any, mask: Any) -> Kernel:
    @kernel
    def _batch_sums_kernel(dy, x, mean, var, weight, bias, total, product, eps):
        """total, product: (N, C), a row's sums of dz and of dz xhat. Else as _batch_norm_kernel."""
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = place()
        n, c = row // x.shape[1], row % x.shape[1]
        end = x.shape[2] if n < x.shape[0] else 0
        m, rstd, w, b = _factors(mean, var, weight, bias, n, c, eps)
        a = rstd * w
        s, s2 = _ZERO, _ZERO
        for j in range(lane, end, EACH * lanes):
            p, q, r, t = load(x, n, c, j, lanes, end, m)
            e, f, g, h = load(dy, n, c, j, lanes, end, _ZERO)
            p, q, r, t = p - m, q - m, r - m, t - m
            e, f, g, h = mask(e, p, a, b), mask(f, q, a, b), mask(g, r, a, b), mask(h, t, a, b)
            s += (e + f) + (g + h)
            s2 += (e * (p * rstd) + f * (q * rstd)) + (g * (r * rstd) + h * (t * rstd))
        s = tree_sum(s, shared, lane, lanes, step)
        s2 = tree_sum(s2, shared, lane, lanes, step)
        if lane == 0 and n < x.shape[0]:
            total[n, c] = s
            product[n, c] = s2

    return _batch_sums_kernel


@device
def _kept(dy, y):
    """dy where y is above 0."""
    return _ZERO if y <= _ZERO else dy


@functools.cache
def _batch_mask_kernel(place: Any) -> Kernel:
    @kernel
    def _batch_mask_kernel(dy, x, y, mean, var, dz, total, product, eps):
        """y, dz: (N, C, S). dz = dy where y > 0, and total and product are of that. Else as _batch_sums_kernel."""
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = place()
        n, c = row // x.shape[1], row % x.shape[1]
        end = x.shape[2] if n < x.shape[0] else 0
        at, group = n if n < mean.shape[0] else 0, c // (x.shape[1] // mean.shape[1])
        m, rstd = float32(mean[at, group]), _ONE / math.sqrt(float32(var[at, group]) + eps)
        s, s2 = _ZERO, _ZERO
        for j in range(lane, end, EACH * lanes):
            p, q, r, t = load(y, n, c, j, lanes, end, _ZERO)
            e, f, g, h = load(dy, n, c, j, lanes, end, _ZERO)
            e, f, g, h = _kept(e, p), _kept(f, q), _kept(g, r), _kept(h, t)
            store(dz, n, c, j, lanes, end, e, f, g, h)
            p, q, r, t = load(x, n, c, j, lanes, end, m)
            p, q, r, t = p - m, q - m, r - m, t - m
            s += (e + f) + (g + h)
            s2 += (e * (p * rstd) + f * (q * rstd)) + (g * (r * rstd) + h * (t * rstd))
        s = tree_sum(s, shared, lane, lanes, step)
        s2 = tree_sum(s2, shared, lane, lanes, step)
        if lane == 0 and n < x.shape[0]:
            total[n, c] = s
            product[n, c] = s2

    return _batch_mask_kernel


@kernel
def _batch_join_grad_kernel(total, product, weight, c1, c2, size):
    """c1, c2: (items,), the means of g and of g xhat over rows (items, entries); weight: (items or 1, entries or 1)."""
    i = cuda.grid(1)
    if i >= c1.size:
        return
    entries = total.shape[1]
    s, s2 = _ZERO, _ZERO
    for e in range(entries):
        w = float32(weight[i % weight.shape[0], e % weight.shape[1]])
        s += w * total[i, e]
        s2 += w * product[i, e]
    count = float32(entries * size)
    c1[i] = s / count
    c2[i] = s2 / count


@functools.cache
def _batch_norm_grad_kernel(place: Any, mask: Any, frozen: bool) -> Kernel:
    @kernel
    def _batch_norm_grad_kernel(dy, x, mean, var, weight, bias, c1, c2, dx, eps):
        """dy, x, dx: (N, C, S). c1, c2: as mean and var; not read where these are frozen."""
        lane, lanes, step, row = place()
        n, c = row // x.shape[1], row % x.shape[1]
        if n >= x.shape[0]:
            return
        m, rstd, w, b = _factors(mean, var, weight, bias, n, c, eps)
        a = rstd * w
        k1, k2 = _ZERO, _ZERO
        if not frozen:
            at, group = n if n < c1.shape[0] else 0, c // (weight.size // c1.shape[1])
            k1, k2 = c1[at, group], c2[at, group]
        for j in range(lane, x.shape[2], EACH * lanes):
            p, q, r, t = load(x, n, c, j, lanes, x.shape[2], m)
            e, f, g, h = load(dy, n, c, j, lanes, x.shape[2], _ZERO)
            p, q, r, t = p - m, q - m, r - m, t - m
            e, f, g, h = mask(e, p, a, b), mask(f, q, a, b), mask(g, r, a, b), mask(h, t, a, b)
            if frozen:
                e, f, g, h = e * w, f * w, g * w, h * w
            else:
                e, f = e * w - k1 - p * rstd * k2, f * w - k1 - q * rstd * k2
                g, h = g * w - k1 - r * rstd * k2, h * w - k1 - t * rstd * k2
            store(dx, n, c, j, lanes, x.shape[2], e * rstd, f * rstd, g * rstd, h * rstd)

    return _batch_norm_grad_kernel


@kernel
def _batch_step_kernel(running_mean, running_var, mean, var, kept, taken, taken_of_var):
    """All (C,)."""
    c = cuda.grid(1)
    if c < mean.size:
        running_mean[c] = float32(running_mean[c]) * kept + float32(mean[c]) * taken
        running_var[c] = float32(running_var[c]) * kept + float32(var[c]) * taken_of_var


def batch_moments(x: Any, groups: int | None = None) -> tuple[Any, Any]:
    """batch_norm.reference.batch_moments."""
    s = check_moments("batch_moments", x, groups)
    only_served("batch_moments", s.dtype)
    xp = gpu.xp()
    if not s.count:
        return xp.full(s.moments, np.nan, np.float32), xp.full(s.moments, np.nan, np.float32)
    (x,) = _views(s, x)
    place, grid, block = _plan(x)
    parts = [xp.empty(x.shape[:2], np.float32) for _ in range(3)]
    _batch_moments_kernel(place)(grid, block, x, *parts)
    mean, var = xp.empty(s.moments, np.float32), xp.empty(s.moments, np.float32)
    items = [_items(s, part) for part in parts]
    _batch_join_kernel(*_threads(mean.size), *items, mean.reshape(-1), var.reshape(-1), x.shape[2])
    return mean, var


def batch_norm(
    x: Any,
    mean: Any,
    var: Any,
    weight: Any | None = None,
    bias: Any | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    residual: Any | None = None,
) -> Any:
    """batch_norm.reference.batch_norm."""
    s = check_norm("batch_norm", x, mean, var, weight, bias, eps, groups, activation, residual=residual)
    only_served("batch_norm", s.dtype)
    y, y_view = empty_like(s, x)
    x, y_view, *added = _views(s, x, y_view, *([] if residual is None else [residual]))
    place, grid, block = _plan(x)
    kernel_of = _batch_norm_residual_kernel if added else _batch_norm_kernel
    launched = kernel_of(place, _relu if activation == "relu" else _identity)
    launched(grid, block, x, *added, *_given(s, mean, var, weight, bias), y_view, float(eps))
    return y


def batch_norm_grad(
    dy: Any,
    x: Any,
    mean: Any,
    var: Any,
    weight: Any | None = None,
    bias: Any | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    frozen: bool = False,
    to_weight: bool = False,
    to_bias: bool = False,
    y: Any | None = None,
) -> tuple[Any, ...]:
    """batch_norm.reference.batch_norm_grad."""
    s = check_norm_grad("batch_norm_grad", dy, x, mean, var, weight, bias, eps, groups, activation, y)
    only_served("batch_norm_grad", s.dtype)
    xp = gpu.xp()
    (dx, dx_view), (dz, *dz_view) = empty_like(s, x), (None,) if y is None else empty_like(s, x)
    dy, x, dx_view, *masking = _views(s, dy, x, dx_view, *([] if y is None else [y]), *dz_view)
    place, grid, block = _plan(x)
    given, mask = _given(s, mean, var, weight, bias), _masked if activation == "relu" else _unmasked
    means, grads = given[:2], [xp.zeros(s.channels, s.dtype) for wanted in (to_weight, to_bias) if wanted]
    if s.count and (to_weight or to_bias or not frozen or masking):
        total, product = (xp.empty(x.shape[:2], np.float32) for _ in range(2))
        if masking:
            y_view, dz_view = masking
            _batch_mask_kernel(place)(grid, block, dy, x, y_view, *given[:2], dz_view, total, product, float(eps))
            dy, mask = dz_view, _unmasked
        else:
            _batch_sums_kernel(place, mask)(grid, block, dy, x, *given, total, product, float(eps))
        if not frozen:
            means = [xp.empty(given[0].shape, np.float32) for _ in range(2)]
            weights = given[2].reshape((s.channels, 1) if s.groups is None else (s.groups, s.channels // s.groups))
            items = _items(s, total), _items(s, product)
            flat = [a.reshape(-1) for a in means]
            _batch_join_grad_kernel(*_threads(flat[0].size), *items, weights, *flat, x.shape[2])
        asked = [part for part, wanted in ((product, to_weight), (total, to_bias)) if wanted]
        grads = [sum_over(part, (0,)).astype(s.dtype, copy=False) for part in asked]
    _batch_norm_grad_kernel(place, mask, frozen)(grid, block, dy, x, *given, *means, dx_view, float(eps))
    return dx, *grads, *([] if dz is None else [dz])


def batch_moments_step(running: list[Any], mean: Any, var: Any, count: int, momentum: float) -> None:
    """batch_norm.reference.batch_moments_step."""
    check_step("batch_moments_step", running, mean, var, count, momentum)
    float_dtype("batch_moments_step", running_mean=running[0], running_var=running[1])
    factors = 1.0 - momentum, float(momentum), momentum * count / (count - 1)
    _batch_step_kernel(*_threads(mean.size), *running, mean, var, *factors)


def _views(s: Channels, *arrays: Any) -> tuple[Any, ...]:
    """Each as (N, C, S), which a view is already; matrices as (1, C, N)."""
    views = [a if a.ndim == 3 and a.shape[2] == s.size else seen(s, a, is_channels_last(a)) for a in arrays]
    return together(s, *views) if s.size == 1 else tuple(views)


def _given(s: Channels, mean: Any, var: Any, weight: Any | None, bias: Any | None) -> tuple[Any, ...]:
    """mean and var as (N or 1, G), weight and bias with ones and zeros where there is none."""
    groups = s.channels if s.groups is None else s.groups
    mean, var = (a.reshape(-1, groups) if a.size else a.reshape(0, groups) for a in (mean, var))
    weight = gpu.xp().ones(s.channels, s.dtype) if weight is None else weight
    return mean, var, weight, gpu.xp().zeros(s.channels, s.dtype) if bias is None else bias


def _items(s: Channels, part: Any) -> Any:
    """What rows (N, C) are joined to, and the rows of each."""
    return part.transpose() if s.groups is None else part.reshape(s.images * s.groups, s.channels // s.groups)


def _threads(n: int) -> tuple[Axes, Axes]:
    """(grid, block) of n threads."""
    return (cdiv(n, THREADS),), (THREADS,)


def _plan(x: Any) -> tuple[Any, Axes, Axes]:
    """(place, grid, block) for the rows of x (N, C, S)."""
    rows = x.shape[0] * x.shape[1]
    is_across = abs(x.strides[1]) < abs(x.strides[2])
    lanes, height = tile(x.shape[1] if is_across else rows, x.shape[2], is_across)
    return (
        across if is_across else along,
        (cdiv(rows, height) if x.shape[2] else 0,),
        block_of(lanes, height, is_across),
    )
