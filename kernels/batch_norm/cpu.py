"""Batch and group normalisation on the CPU, compiled, for images in C order and channels last, without a copy.

x is seen as *parts*, each of one run of memory that fits the cache, and each with sums of its own for its channels:

    in C order      an image's channel, S numbers                          a part of one channel
    channels last   some pixels one after the other, of all channels       a part of C channels

Sums are joined over the parts afterwards, in their order, in float64. What the parts are depends on the shape alone,
and so do the bits. A part's moments are taken in the cache, about a mean of its own, so that memory is read once.

Channels last, a part is rows of `wide` numbers (cpu_rows.py): a few pixels, so that blocks of vectors fill them however
few the channels are; what belongs to a channel is repeated for each of these pixels. What reads memory again walks it
from the end: what was read last is still in the cache.

Served here are float32 arrays, and the 16-bit types by way of float32. All else is left to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.batch_norm import reference
from tilegrad.kernels.batch_norm.cpu_rows import BLOCK as COLUMNS
from tilegrad.kernels.batch_norm.cpu_rows import Numbers, over_rows
from tilegrad.kernels.batch_norm.reference import (
    Array,
    Channels,
    check_moments,
    check_norm,
    check_norm_grad,
    check_step,
    is_channels_last,
)
from tilegrad.kernels.cpu import buffers, long_sums, threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, whole
from tilegrad.kernels.cpu.halves import HALVES, in_float32
from tilegrad.kernels.cpu.long_sums import BLOCK, REASSOC
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.scalar_math import larger, smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.sizes import cdiv

_float32 = np.dtype(np.float32)
_PART = 1 << 14  # numbers of a part, channels last
_LEAST_PIXELS = 64  # of a part
_WIDE = 1 << 9  # numbers of a row of whole blocks, channels last, at most; otherwise half of them at least
_MASKED = 1 << 12  # numbers that are masked at once, in C order
_SAMPLES = 16  # rows of an image that its means are first estimated by
_GOLDEN = 0.6180339887498949  # its multiples lie evenly and meet no period, such as the borders of images
_ZERO = np.float32(0)
_NEVER = np.float32(np.nan)  # the least y of no relu: nothing is lower
_NOTHING = np.empty(0, _float32)


class _Parts(NamedTuple):
    """How memory is walked: (images, parts, channels, pixels of a part), the parts of an image one after the other."""

    last: bool  # channels last
    images: int  # that have moments of their own; 1 where all images share theirs
    parts: int  # of each of them
    channels: int
    groups: int  # that the channels of an image fall into
    pixels: int  # of a part; the last part of an image may have fewer
    size: int  # pixels of an image, all parts together

    @property
    def items(self) -> int:
        """What threads share: parts, channels last; otherwise channels of parts."""
        return self.images * self.parts * (1 if self.last else self.channels)

    @property
    def wide(self) -> int:
        return _wide(self.channels)

    @property
    def ints(self) -> tuple[int, ...]:
        return self.parts, self.channels, self.pixels, self.size, self.wide


def batch_moments(x: Array, groups: int | None = None) -> tuple[Array, Array]:
    """batch_norm.reference.batch_moments. Traffic: reads 4 bytes an element."""
    s = check_moments("batch_moments", x, groups)
    if not _is_served(s):
        return _otherwise(s, batch_moments, reference.batch_moments, 0, x, groups)
    p = _parts(s, is_channels_last(x))
    mean, var = np.empty(s.moments, _float32), np.empty(s.moments, _float32)
    sums = np.empty((2, p.images * p.parts * p.channels))
    threads.share(
        _moments_last if p.last else _moments_first, _most(p, x), p.items,
        _flat(p, x), sums[0], sums[1], _scratch(p), *p.ints,
    )  # fmt: skip
    threads.share(
        _join, 1, 1, sums[0], sums[1], mean.reshape(-1), var.reshape(-1), np.empty((2, p.channels)),
        p.images, p.groups, *p.ints[:-1],
    )  # fmt: skip
    return mean, var


def batch_norm(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    residual: Array | None = None,
) -> Array:
    """batch_norm.reference.batch_norm. Traffic: reads 4, writes 4 bytes an element; with a residual reads 8."""
    s = check_norm("batch_norm", x, mean, var, weight, bias, eps, groups, activation, residual=residual)
    if not _is_served(s):
        arguments = x, mean, var, weight, bias, eps, groups, activation, residual
        return _otherwise(s, batch_norm, reference.batch_norm, 1, *arguments)
    p = _parts(s, is_channels_last(x))
    y, memory = _empty(p, x.shape)
    constants, relu = _constants(mean, var, weight, bias, eps), int(activation == "relu")
    if residual is None:
        threads.share(
            _norm_last if p.last else _norm_first, _most(p, x), p.items,
            _flat(p, x), *constants, memory, _scratch(p), relu, p.groups, *p.ints,
        )  # fmt: skip
    else:
        threads.share(
            _norm_residual_last if p.last else _norm_residual_first, _most(p, x), p.items,
            _flat(p, x), _flat(p, residual), *constants, memory, _scratch(p), relu, p.groups, *p.ints,
        )  # fmt: skip
    return y


def batch_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    frozen: bool = False,
    to_weight: bool = False,
    to_bias: bool = False,
    y: Array | None = None,
) -> tuple[Array, ...]:
    """batch_norm.reference.batch_norm_grad. Traffic: reads 16, writes 4 bytes an element; with y reads 20, writes 8."""
    s = check_norm_grad("batch_norm_grad", dy, x, mean, var, weight, bias, eps, groups, activation, y)
    if not _is_served(s):
        arguments = dy, x, mean, var, weight, bias, eps, groups, activation, frozen, to_weight, to_bias, y
        return _otherwise(s, batch_norm_grad, reference.batch_norm_grad, 4, *arguments)
    p = _parts(s, is_channels_last(x))
    dx, memory = _empty(p, x.shape)
    grads, relu = np.empty((2, p.channels), _float32), int(activation == "relu")
    arrays, most, scratch = (_flat(p, dy), _flat(p, x)), _most(p, x), _scratch(p)
    constants = _constants(mean, var, weight, bias, eps)
    slopes = np.empty((p.images, 4, p.channels), _float32)
    summed = to_weight or to_bias or not frozen or y is not None
    sums, work = np.empty((2, p.images * p.parts * p.channels if summed else 0)), np.empty((2, p.channels))
    dz = []
    if y is not None:
        masked, flat = _empty(p, x.shape)
        threads.share(
            _mask_last if p.last else _mask_first, most, p.items,
            *arrays, _flat(p, y), constants[0], flat, sums[0], sums[1], scratch, p.groups, *p.ints,
        )  # fmt: skip
        dz, arrays, relu = [masked], (flat, arrays[1]), 0
    elif summed:
        threads.share(
            _sums_last if p.last else _sums_first, most, p.items,
            *arrays, *constants, relu, sums[0], sums[1], scratch, p.groups, *p.ints,
        )  # fmt: skip
    threads.share(
        _join_grad, 1, 1, sums[0], sums[1], constants[1], constants[2], constants[4], slopes, grads, work,
        p.images, p.groups, int(frozen), int(summed), *p.ints[:-1],
    )  # fmt: skip
    threads.share(
        _grad_last if p.last else _grad_first, most, p.items,
        *arrays, *constants, relu, slopes, memory, scratch, p.groups, *p.ints,
    )  # fmt: skip
    return dx, *([grads[0]] if to_weight else []), *([grads[1]] if to_bias else []), *dz


def batch_moments_step(running: list[Array], mean: Array, var: Array, count: int, momentum: float) -> None:
    """batch_norm.reference.batch_moments_step. Traffic: reads 16, writes 8 bytes a channel."""
    check_step("batch_moments_step", running, mean, var, count, momentum)
    if not all(a.dtype == _float32 and a.flags.carray for a in (*running, mean, var)):
        whole(reference.batch_moments_step, running, mean, var, count, momentum)
        return
    threads.share(_step, 1, 1, *running, mean, var, float(momentum), count / (count - 1))


def _is_served(s: Channels) -> bool:
    return s.dtype == _float32 and s.images > 0 and s.channels > 0 and s.size > 0


def _parts(s: Channels, last: bool) -> _Parts:
    images, size = s.images, s.size
    if s.groups is None:
        if size == 1:  # a matrix: its rows are pixels
            last = True
        if last:  # all pixels are one after the other
            images, size = 1, images * size
        else:
            return _Parts(False, 1, images, s.channels, s.channels, size, images * size)
    groups = s.grouped[1]
    if not last:
        return _Parts(False, images, 1, s.channels, groups, size, size)
    row = _wide(s.channels) // s.channels
    pixels = min(size, cdiv(max(_LEAST_PIXELS, _PART // s.channels), row) * row)
    return _Parts(True, images, cdiv(size, pixels), s.channels, groups, pixels, size)


def _wide(channels: int) -> int:
    """Numbers of a row, channels last: whole pixels, and whole blocks of columns where that is not too many."""
    whole = math.lcm(channels, COLUMNS)
    return whole if whole <= _WIDE else channels * cdiv(_WIDE // 2, channels)


def _most(p: _Parts, x: Array) -> int:
    """Pieces that the parts may be cut into for the threads."""
    return p.items if x.nbytes > threads.WORTH_SHARING else 1


def _flat(p: _Parts, x: Array) -> Array:
    """x in the order in which it is walked, copied if it does not lie so."""
    return contiguous(x.transpose(0, *range(2, x.ndim), 1) if p.last else x).reshape(-1)


def _empty(p: _Parts, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A result of that shape, and its memory in the order in which it is walked."""
    if not p.last:
        y = buffers.empty(shape, _float32)
        return y, y.reshape(-1)
    y = buffers.empty((shape[0], *shape[2:], shape[1]), _float32)
    return y.transpose(0, -1, *range(1, y.ndim - 1)), y.reshape(-1)


def _scratch(p: _Parts) -> Array:
    """Memory of each thread for eight constants and two sums of each of `wide` columns."""
    return buffers.empty((threads.num_threads() if p.last else 0, 10, p.wide), _float32)


def _constants(
    mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array, float]:
    return _row(mean), _row(var), _row(weight), _row(bias), float(eps)


def _row(a: Array | None) -> Array:
    return _NOTHING if a is None else contiguous(a).reshape(-1)


def _otherwise(
    s: Channels, primitive: Callable[..., Any], specification: Callable[..., Any], rounded: int, *arguments: Any
) -> Any:
    """The primitive for arrays that are not served as they are; `rounded` as in_float32 takes it."""
    if s.dtype in HALVES and s.images > 0 and s.channels > 0 and s.size > 0:
        return whole(in_float32, primitive, rounded, *arguments)
    return whole(specification, *arguments)


# --- what parts are joined to


@njit(nogil=True, cache=True, error_model="numpy")
def _join(
    means, squares, mean, var, sums, images, groups, parts, channels, pixels, size, begin, stop, part, team
):  # fmt: skip
    """mean and var (images, groups) of parts' means and sums of squares about them (images, parts, channels).

    sums: (2, channels), to work in.
    """
    if team:
        share(begin, stop, part, team)
        return
    each = channels // groups
    total, square = sums[0], sums[1]
    for i in range(images):
        for c in range(channels):
            total[c] = 0
            square[c] = 0
        for k in range(parts):
            count, at = float(smaller(pixels, size - k * pixels)), (i * parts + k) * channels
            for c in range(channels):
                total[c] += count * means[at + c]
        for g in range(groups):
            middle = 0.0
            for c in range(g * each, g * each + each):
                middle += total[c]
            middle /= each * size
            for c in range(g * each, g * each + each):
                total[c] = middle
            mean[i * groups + g] = middle
        for k in range(parts):
            count, at = float(smaller(pixels, size - k * pixels)), (i * parts + k) * channels
            for c in range(channels):
                apart = means[at + c] - total[c]
                square[c] += squares[at + c] + count * apart * apart
        for g in range(groups):
            joined = 0.0
            for c in range(g * each, g * each + each):
                joined += square[c]
            var[i * groups + g] = joined / (each * size)


@njit(nogil=True, cache=True, error_model="numpy")
def _join_grad(
    totals, products, var, weight, eps, slopes, grads, sums, images, groups, frozen, summed, parts, channels, pixels,
    size, begin, stop, part, team,
):  # fmt: skip
    """w, q, r and rstd (images, 4, channels) of dx = ((w dz - q) - (x - m) r) rstd, and grads: of weight and bias
    (2, channels). Where all dz are equal, w dz - q is 0.

    totals, products: (images, parts, channels), the sums of dz and of dz (x - mean). sums: (2, channels), to work in.
    """
    if team:
        share(begin, stop, part, team)
        return
    each = channels // groups
    total, product = sums[0], sums[1]
    for c in range(channels):
        grads[0, c] = 0
        grads[1, c] = 0
    for i in range(images):
        for c in range(channels):
            total[c] = 0
            product[c] = 0
        if summed:
            for k in range(parts):
                at = (i * parts + k) * channels
                for c in range(channels):
                    total[c] += totals[at + c]
                    product[c] += products[at + c]
        for g in range(groups):
            rstd = 1 / np.sqrt(float(var[i * groups + g]) + eps)
            c1, c2 = 0.0, 0.0
            for c in range(g * each, g * each + each):
                w = float(weight[c]) if weight.size else 1.0
                c1 += w * total[c]
                c2 += w * product[c]
                grads[0, c] += rstd * product[c]
                grads[1, c] += total[c]
            c1 /= each * size
            c2 /= each * size
            for c in range(g * each, g * each + each):
                slopes[i, 0, c] = weight[c] if weight.size else 1
                slopes[i, 1, c] = 0 if frozen else c1
                slopes[i, 2, c] = 0 if frozen else rstd * rstd * c2
                slopes[i, 3, c] = rstd


@njit(nogil=True)
def _moments_at(image, c, groups, channels):
    """Where those of an image's channel are."""
    return image * groups + c // (channels // groups)


@njit(nogil=True, error_model="numpy")
def _factors(mean, var, weight, bias, eps, at, c):
    """m, a and b of y = (x - m) a + b in channel c, whose moments are at `at`."""
    rstd = 1 / np.sqrt(float(var[at]) + eps)
    a = rstd * float(weight[c]) if weight.size else rstd
    return np.float32(mean[at]), np.float32(a), np.float32(bias[c]) if bias.size else _ZERO


@njit(nogil=True, cache=True)
def _step(running_mean, running_var, mean, var, momentum, unbiased, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    kept, taken, taken_of_var = np.float32(1 - momentum), np.float32(momentum), np.float32(momentum * unbiased)
    for c in range(mean.size):
        running_mean[c] = running_mean[c] * kept + mean[c] * taken
        running_var[c] = running_var[c] * kept + var[c] * taken_of_var


# --- in C order: a part of a channel is `pixels` numbers


@njit(nogil=True, cache=True, error_model="numpy")
def _moments_first(x, means, squares, scratch, parts, channels, pixels, size, wide, begin, stop, part, team):
    """The mean of each part of a channel, and the sum of squares about it."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        row = x[i * pixels : i * pixels + pixels]
        m = np.float32(long_sums.total(row) / pixels)
        rest, square = long_sums.moments(row, m)
        rest /= pixels
        means[i] = m + rest
        squares[i] = square - rest * rest * pixels


@njit(nogil=True, cache=True)
def _norm_first(
    x, mean, var, weight, bias, eps, y, scratch, relu, groups, parts, channels, pixels, size, wide, begin,
    stop, part, team,
):  # fmt: skip
    """y = (x - m) a + b, with relu or without."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c = i // channels // parts, i % channels
        row, out = x[i * pixels : i * pixels + pixels], y[i * pixels : i * pixels + pixels]
        m, a, b = _factors(mean, var, weight, bias, eps, _moments_at(image, c, groups, channels), c)
        if relu:
            for j in range(out.size):
                z = (row[j] - m) * a + b
                out[j] = _ZERO if z <= _ZERO else z
        else:
            for j in range(out.size):
                out[j] = (row[j] - m) * a + b


@njit(nogil=True, cache=True)
def _norm_residual_first(
    x, residual, mean, var, weight, bias, eps, y, scratch, relu, groups, parts, channels, pixels, size, wide, begin,
    stop, part, team,
):  # fmt: skip
    """y = (x - m) a + b + residual, with relu or without."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c, first, last = i // channels // parts, i % channels, i * pixels, i * pixels + pixels
        row, added, out = x[first:last], residual[first:last], y[first:last]
        m, a, b = _factors(mean, var, weight, bias, eps, _moments_at(image, c, groups, channels), c)
        if relu:
            for j in range(out.size):
                z = (row[j] - m) * a + b + added[j]
                out[j] = _ZERO if z <= _ZERO else z
        else:
            for j in range(out.size):
                out[j] = (row[j] - m) * a + b + added[j]


@njit(nogil=True, cache=True)
def _sums_first(
    dy, x, mean, var, weight, bias, eps, relu, totals, products, scratch, groups, parts, channels,
    pixels, size, wide, begin, stop, part, team,
):  # fmt: skip
    """Of each part of a channel the sums of dz and of dz (x - m)."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c, first, last = i // channels // parts, i % channels, i * pixels, i * pixels + pixels
        m, a, b = _factors(mean, var, weight, bias, eps, _moments_at(image, c, groups, channels), c)
        if relu:
            totals[i], products[i] = _masked_products(dy[first:last], x[first:last], m, a, b)
        else:
            totals[i], products[i] = _products(dy[first:last], x[first:last], m)


@njit(nogil=True, cache=True)
def _mask_first(
    dy, x, y, mean, dz, totals, products, scratch, groups, parts, channels, pixels, size, wide, begin, stop, part, team,
):  # fmt: skip
    """dz = dy where y > 0, for some rows at once, then of these the sums of _sums_first: memory is read faster by two
    loops of three and of two arrays than by one of four.
    """
    if team:
        share(begin, stop, part, team)
        return
    rows = max(1, _MASKED // pixels)
    for k in range(begin, stop, rows):
        end = min(stop, k + rows)
        first, last = k * pixels, end * pixels
        dy_rows, y_rows, dz_rows = dy[first:last], y[first:last], dz[first:last]
        for j in range(dz_rows.size):
            dz_rows[j] = _ZERO if y_rows[j] <= _ZERO else dy_rows[j]
        for i in range(k, end):
            image, c, first, last = i // channels // parts, i % channels, i * pixels, i * pixels + pixels
            m = np.float32(mean[_moments_at(image, c, groups, channels)])
            totals[i], products[i] = _products(dz[first:last], x[first:last], m)


@njit(nogil=True, cache=True)
def _grad_first(
    dy, x, mean, var, weight, bias, eps, relu, slopes, dx, scratch, groups, parts, channels, pixels,
    size, wide, begin, stop, part, team,
):  # fmt: skip
    """dx = ((w dz - q) - (x - m) r) rstd."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c, first, last = i // channels // parts, i % channels, i * pixels, i * pixels + pixels
        m, a, b = _factors(mean, var, weight, bias, eps, _moments_at(image, c, groups, channels), c)
        w, q, r, rstd = slopes[image, 0, c], slopes[image, 1, c], slopes[image, 2, c], slopes[image, 3, c]
        dy_row, x_row, dx_row = dy[first:last], x[first:last], dx[first:last]
        if relu:
            for j in range(dx_row.size):
                d = x_row[j] - m
                dz = _ZERO if d * a + b <= _ZERO else dy_row[j]
                dx_row[j] = ((w * dz - q) - d * r) * rstd
        else:
            for j in range(dx_row.size):
                dx_row[j] = ((w * dy_row[j] - q) - (x_row[j] - m) * r) * rstd


@njit(nogil=True, fastmath=REASSOC)
def _products(dy, x, m):
    """The sums of dy and of dy (x - m)."""
    total, product = 0.0, 0.0
    for first in range(0, x.size, BLOCK):
        block_dy, block_x, part, other = dy[first : first + BLOCK], x[first : first + BLOCK], _ZERO, _ZERO
        for j in range(block_x.size):
            part += block_dy[j]
            other += block_dy[j] * (block_x[j] - m)
        total += part
        product += other
    return total, product


@njit(nogil=True, fastmath=REASSOC)
def _masked_products(dy, x, m, a, b):
    """The same of dy where (x - m) a + b > 0."""
    total, product = 0.0, 0.0
    for first in range(0, x.size, BLOCK):
        block_dy, block_x, part, other = dy[first : first + BLOCK], x[first : first + BLOCK], _ZERO, _ZERO
        for j in range(block_x.size):
            d = block_x[j] - m
            dz = _ZERO if d * a + b <= _ZERO else block_dy[j]
            part += dz
            other += dz * d
        total += part
        product += other
    return total, product


# --- channels last: a part is `pixels` pixels, of the channels one after the other


def _moments_of(numbers: list[Numbers], constants: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    """The terms of the sums of x - m and of its square."""
    d = numbers[0] - constants[0]
    return [d, d.product(d)], []


def _norm_of(numbers: list[Numbers], constants: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    """y = (x - m) a + b, or 0 where that is at most `least`."""
    (x,), (m, a, b, least) = numbers, constants
    z = (x - m) * a + b
    return [], [z.unless(z, least)]


def _norm_residual_of(numbers: list[Numbers], constants: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    """The same of y = (x - m) a + b + residual."""
    (x, residual), (m, a, b, least) = numbers, constants
    z = (x - m) * a + b + residual
    return [], [z.unless(z, least)]


def _sums_of(numbers: list[Numbers], constants: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    """The terms of the sums of dz and of dz (x - m): dz is 0 where y is, which is computed as in the forward."""
    (dy, x), (m, a, b, least) = numbers, constants
    d = x - m
    dz = dy.unless(d * a + b, least)
    return [dz, dz.product(d)], []


def _mask_of(numbers: list[Numbers], constants: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    """dz = dy where y > `least`, and the terms of the same sums."""
    (dy, x, y), (m, least) = numbers, constants
    dz = dy.unless(y, least)
    return [dz, dz.product(x - m)], [dz]


def _grad_of(numbers: list[Numbers], constants: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    """dx = ((w dz - q) - (x - m) r) rstd."""
    (dy, x), (m, a, b, least, w, q, r, rstd) = numbers, constants
    d = x - m
    dz = dy.unless(d * a + b, least)
    return [], [((w * dz - q) - d * r) * rstd]


_add_moments, _write_norm = over_rows(_moments_of, 1, 2), over_rows(_norm_of, 4)
_add_sums, _write_grad = over_rows(_sums_of, 4, 2), over_rows(_grad_of, 8)
_write_norm_residual, _write_mask = over_rows(_norm_residual_of, 4), over_rows(_mask_of, 2, 2)


@njit(nogil=True)
def _repeated(row, held):
    """A channel's number for each of its columns."""
    for first in range(0, held.size, row.size):
        columns = borrowed(held, first, row.size)
        for c in range(columns.size):
            columns[c] = row[c]


@njit(nogil=True, error_model="numpy")
def _set_factors(mean, var, weight, bias, eps, relu, image, groups, channels, held):
    """held: m, a, b and `least` of each column."""
    for c in range(channels):
        at = _moments_at(image, c, groups, channels)
        held[0, c], held[1, c], held[2, c] = _factors(mean, var, weight, bias, eps, at, c)
    for k in range(3):
        _repeated(held[k, :channels], held[k, channels:])
    least = _ZERO if relu else _NEVER
    for c in range(held.shape[1]):
        held[3, c] = least


@njit(nogil=True)
def _clear(rows):
    """rows = 0: a slice takes long to compile."""
    for k in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            rows[k, c] = 0


@njit(nogil=True)
def _folded(sums, row):
    """The sums of a channel's columns."""
    for c in range(row.size):
        row[c] = 0
    for first in range(0, sums.size, row.size):
        columns = borrowed(sums, first, row.size)
        for c in range(columns.size):
            row[c] += columns[c]


@njit(nogil=True)
def _place(i, parts, channels, pixels, size):
    """Of part i: its image, its first number and how many there are."""
    image, first = i // parts, i % parts * pixels
    return image, (image * size + first) * channels, smaller(pixels, size - first) * channels


@njit(nogil=True, error_model="numpy")
def _sampled_means(x, at, n, channels, wide, held, sums):
    """held: the means of some rows of an image, whichever threads there are. If they are some deviations off, the
    variance loses no digits that count.
    """
    rows = n // wide
    taken, width = smaller(larger(rows, 1), _SAMPLES), wide if rows else n
    _clear(sums)
    _clear(held)
    for k in range(taken):
        row = np.int64(k * _GOLDEN % 1.0 * rows) if taken < rows else k
        _add_moments((x,), (), at + row * wide, width, wide, held, sums)
    _folded(sums[0, :width], held[0, :channels])
    for c in range(channels):
        held[0, c] /= np.float32(taken * width // channels)
    _repeated(held[0, :channels], held[0, channels:])


@njit(nogil=True, cache=True, error_model="numpy")
def _moments_last(x, means, squares, scratch, parts, channels, pixels, size, wide, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    held, sums, before = scratch[part, :1], scratch[part, 8:], -1
    for i in range(begin, stop):
        image, at, n = _place(i, parts, channels, pixels, size)
        if image != before:
            _sampled_means(x, image * size * channels, size * channels, channels, wide, held, sums)
            before = image
        _clear(sums)
        _add_moments((x,), (), at, n, wide, held, sums)
        mean, square = means[i * channels : (i + 1) * channels], squares[i * channels : (i + 1) * channels]
        _folded(sums[0], mean)
        _folded(sums[1], square)
        count = n // channels
        for c in range(channels):
            rest = mean[c] / count
            about = square[c] - rest * rest * count
            mean[c], square[c] = held[0, c] + rest, 0.0 if about < 0 else about  # NaN stays


@njit(nogil=True, cache=True)
def _norm_last(
    x, mean, var, weight, bias, eps, y, scratch, relu, groups, parts, channels, pixels, size, wide, begin,
    stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    held, sums, before = scratch[part], scratch[part, 8:], -1
    for i in range(stop - 1, begin - 1, -1):
        image, at, n = _place(i, parts, channels, pixels, size)
        if image != before:
            _set_factors(mean, var, weight, bias, eps, relu, image, groups, channels, held)
            before = image
        _write_norm((x,), (y,), at, n, wide, held, sums)


@njit(nogil=True, cache=True)
def _norm_residual_last(
    x, residual, mean, var, weight, bias, eps, y, scratch, relu, groups, parts, channels, pixels, size, wide, begin,
    stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    held, sums, before = scratch[part], scratch[part, 8:], -1
    for i in range(stop - 1, begin - 1, -1):
        image, at, n = _place(i, parts, channels, pixels, size)
        if image != before:
            _set_factors(mean, var, weight, bias, eps, relu, image, groups, channels, held)
            before = image
        _write_norm_residual((x, residual), (y,), at, n, wide, held, sums)


@njit(nogil=True, cache=True)
def _sums_last(
    dy, x, mean, var, weight, bias, eps, relu, totals, products, scratch, groups, parts, channels,
    pixels, size, wide, begin, stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    held, sums, before = scratch[part], scratch[part, 8:], -1
    for i in range(begin, stop):
        image, at, n = _place(i, parts, channels, pixels, size)
        if image != before:
            _set_factors(mean, var, weight, bias, eps, relu, image, groups, channels, held)
            before = image
        _clear(sums)
        _add_sums((dy, x), (), at, n, wide, held, sums)
        _folded(sums[0], totals[i * channels : (i + 1) * channels])
        _folded(sums[1], products[i * channels : (i + 1) * channels])


@njit(nogil=True, cache=True)
def _mask_last(
    dy, x, y, mean, dz, totals, products, scratch, groups, parts, channels, pixels, size, wide, begin, stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    held, sums, before = scratch[part], scratch[part, 8:], -1
    held[1] = _ZERO
    for i in range(begin, stop):
        image, at, n = _place(i, parts, channels, pixels, size)
        if image != before:
            for c in range(channels):
                held[0, c] = np.float32(mean[_moments_at(image, c, groups, channels)])
            _repeated(held[0, :channels], held[0, channels:])
            before = image
        sums[:] = 0
        _write_mask((dy, x, y), (dz,), at, n, wide, held, sums)
        _folded(sums[0], totals[i * channels : (i + 1) * channels])
        _folded(sums[1], products[i * channels : (i + 1) * channels])


@njit(nogil=True, cache=True)
def _grad_last(
    dy, x, mean, var, weight, bias, eps, relu, slopes, dx, scratch, groups, parts, channels, pixels,
    size, wide, begin, stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    held, sums, before = scratch[part], scratch[part, 8:], -1
    for i in range(stop - 1, begin - 1, -1):
        image, at, n = _place(i, parts, channels, pixels, size)
        if image != before:
            _set_factors(mean, var, weight, bias, eps, relu, image, groups, channels, held)
            for k in range(4):
                _repeated(slopes[image, k], held[4 + k])
            before = image
        _write_grad((dy, x), (dx,), at, n, wide, held, sums)
