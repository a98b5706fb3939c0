"""Batch and group normalisation on the CPU, compiled, for images in C order and channels last, without a copy.

x is seen as *parts*, each of one run of memory that fits the cache, and each with sums of its own for its channels:

    in C order      an image's channel, S numbers                          a part of one channel
    channels last   some pixels one after the other, of all channels       a part of C channels

Sums are joined over the parts afterwards, in their order, in float64. What the parts are depends on the shape alone,
and so do the bits. A part's moments are taken in the cache, about a mean of its own, so that memory is read once.

Channels last, loops run along `wide` numbers: a few pixels, so that they are long enough for vectors however few the
channels are; what belongs to a channel is repeated for each of these pixels.

Served here are float32 arrays, and the 16-bit types by way of float32. All else is left to the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.batch_norm import reference
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
from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, whole
from tilegrad.kernels.cpu.halves import HALVES, in_float32
from tilegrad.kernels.cpu.long_sums import BLOCK, REASSOC
from tilegrad.kernels.cpu.scalar_math import CONTRACT
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.sizes import cdiv

_float32 = np.dtype(np.float32)
_PART = 1 << 14  # numbers of a part, channels last
_LEAST_PIXELS = 64  # of a part
_WIDE = 1 << 8  # numbers that a loop runs along, channels last, at least
_ZERO = np.float32(0)
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
        return self.channels * max(1, cdiv(_WIDE, self.channels))

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
) -> Array:
    """batch_norm.reference.batch_norm. Traffic: reads 4, writes 4 bytes an element."""
    s = check_norm("batch_norm", x, mean, var, weight, bias, eps, groups, activation)
    if not _is_served(s):
        arguments = x, mean, var, weight, bias, eps, groups, activation
        return _otherwise(s, batch_norm, reference.batch_norm, 1, *arguments)
    p = _parts(s, is_channels_last(x))
    y, memory = _empty(p, x.shape)
    factors = _factors(p, mean, var, weight, bias, eps)
    threads.share(
        _norm_last if p.last else _norm_first, _most(p, x), p.items,
        _flat(p, x), factors, memory, _scratch(p), int(activation == "relu"), *p.ints,
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
) -> tuple[Array, ...]:
    """batch_norm.reference.batch_norm_grad. Traffic: reads 16, writes 4 bytes an element."""
    s = check_norm_grad("batch_norm_grad", dy, x, mean, var, weight, bias, eps, groups, activation)
    if not _is_served(s):
        arguments = dy, x, mean, var, weight, bias, eps, groups, activation, frozen, to_weight, to_bias
        return _otherwise(s, batch_norm_grad, reference.batch_norm_grad, 3, *arguments)
    p = _parts(s, is_channels_last(x))
    dx, memory = _empty(p, x.shape)
    grads, relu = np.empty((2, p.channels), _float32), int(activation == "relu")
    arrays, most, scratch = (_flat(p, dy), _flat(p, x)), _most(p, x), _scratch(p)
    factors = _factors(p, mean, var, weight, bias, eps)
    slopes = np.empty((p.images, 4, p.channels), _float32)
    summed = to_weight or to_bias or not frozen
    sums, work = np.empty((2, p.images * p.parts * p.channels if summed else 0)), np.empty((2, p.channels))
    if summed:
        threads.share(
            _sums_last if p.last else _sums_first, most, p.items,
            *arrays, factors, relu, sums[0], sums[1], scratch, *p.ints,
        )  # fmt: skip
    threads.share(
        _join_grad, 1, 1, sums[0], sums[1], _row(var), _row(weight), float(eps), slopes, grads, work,
        p.images, p.groups, int(frozen), int(summed), *p.ints[:-1],
    )  # fmt: skip
    threads.share(
        _grad_last if p.last else _grad_first, most, p.items,
        *arrays, factors, relu, slopes, memory, scratch, *p.ints,
    )  # fmt: skip
    return dx, *([grads[0]] if to_weight else []), *([grads[1]] if to_bias else [])


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
    pixels = min(size, max(_LEAST_PIXELS, _PART // s.channels))
    return _Parts(True, images, cdiv(size, pixels), s.channels, groups, pixels, size)


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
    """Memory of each thread for seven arrays of `wide` numbers."""
    return buffers.empty((threads.num_threads() if p.last else 0, 7, p.wide), _float32)


def _factors(p: _Parts, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """m, a and b of each channel, (images, 3, channels): xhat weight + bias = (x - m) a + b."""
    factors = np.empty((p.images, 3, p.channels), _float32)
    moments = _row(mean), _row(var)
    threads.share(_set_factors, 1, 1, *moments, _row(weight), _row(bias), float(eps), p.groups, factors)
    return factors


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
            count, at = float(min(pixels, size - k * pixels)), (i * parts + k) * channels
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
            count, at = float(min(pixels, size - k * pixels)), (i * parts + k) * channels
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


@njit(nogil=True, cache=True, error_model="numpy")
def _set_factors(mean, var, weight, bias, eps, groups, factors, begin, stop, part, team):
    """The factors (images, 3, channels) of y = (x - m) a + b."""
    if team:
        share(begin, stop, part, team)
        return
    images, _, channels = factors.shape
    each = channels // groups
    for i in range(images):
        for c in range(channels):
            at = i * groups + c // each
            rstd = 1 / np.sqrt(float(var[at]) + eps)
            factors[i, 0, c] = mean[at]
            factors[i, 1, c] = rstd * float(weight[c]) if weight.size else rstd
            factors[i, 2, c] = bias[c] if bias.size else 0


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
    x, factors, y, scratch, relu, parts, channels, pixels, size, wide, begin, stop, part, team
):  # fmt: skip
    """y = (x - m) a + b, with relu or without."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c = i // channels // parts, i % channels
        row, out = x[i * pixels : i * pixels + pixels], y[i * pixels : i * pixels + pixels]
        m, a, b = factors[image, 0, c], factors[image, 1, c], factors[image, 2, c]
        if relu:
            for j in range(out.size):
                z = (row[j] - m) * a + b
                out[j] = _ZERO if z <= _ZERO else z
        else:
            for j in range(out.size):
                out[j] = (row[j] - m) * a + b


@njit(nogil=True, cache=True)
def _sums_first(
    dy, x, factors, relu, totals, products, scratch, parts, channels, pixels, size, wide, begin, stop, part, team
):  # fmt: skip
    """Of each part of a channel the sums of dz and of dz (x - m)."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c, first, last = i // channels // parts, i % channels, i * pixels, i * pixels + pixels
        m, a, b = factors[image, 0, c], factors[image, 1, c], factors[image, 2, c]
        if relu:
            totals[i], products[i] = _masked_products(dy[first:last], x[first:last], m, a, b)
        else:
            totals[i], products[i] = _products(dy[first:last], x[first:last], m)


@njit(nogil=True, cache=True)
def _grad_first(
    dy, x, factors, relu, slopes, dx, scratch, parts, channels, pixels, size, wide, begin, stop, part, team
):  # fmt: skip
    """dx = ((w dz - q) - (x - m) r) rstd."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        image, c, first, last = i // channels // parts, i % channels, i * pixels, i * pixels + pixels
        m, a, b = factors[image, 0, c], factors[image, 1, c], factors[image, 2, c]
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


@njit(nogil=True)
def _repeated(row, target):
    """The numbers of the channels, again and again."""
    for first in range(0, target.size, row.size):
        for c in range(row.size):
            target[first + c] = row[c]


@njit(nogil=True)
def _folded(sums, channels, i, target):
    """The sums of a part, of each channel's numbers."""
    for c in range(channels):
        target[i * channels + c] = 0
    for first in range(0, sums.size, channels):
        for c in range(channels):
            target[i * channels + c] += sums[first + c]


@njit(nogil=True, error_model="numpy")
def _first_means(block, channels, m):
    """m, repeated: the means of the first m.size numbers' channels. No variance is then much smaller than (x - m)^2."""
    count = min(m.size, block.size) // channels
    for c in range(channels):
        total = _ZERO
        for k in range(count):
            total += block[k * channels + c]
        m[c] = total / np.float32(count)
    _repeated(m[:channels], m[channels:])


@njit(nogil=True, fastmath=CONTRACT)
def _add_four(block, m, total, square):
    """To the sums of x - m and of its square, four times their length."""
    n = total.size
    for j in range(n):
        a, b = load(block, j) - m[j], load(block, n + j) - m[j]
        c, d = load(block, 2 * n + j) - m[j], load(block, 3 * n + j) - m[j]
        store(total, j, total[j] + ((a + b) + (c + d)))
        store(square, j, square[j] + ((a * a + b * b) + (c * c + d * d)))


@njit(nogil=True, fastmath=CONTRACT)
def _add_one(row, m, total, square):
    for j in range(row.size):
        d = load(row, j) - m[j]
        store(total, j, total[j] + d)
        store(square, j, square[j] + d * d)


@njit(nogil=True, cache=True, error_model="numpy")
def _moments_last(x, means, squares, scratch, parts, channels, pixels, size, wide, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    m, total, square = scratch[part, 0], scratch[part, 1], scratch[part, 2]
    for i in range(begin, stop):
        image, k = i // parts, i % parts
        count = min(pixels, size - k * pixels)
        block = x[(image * size + k * pixels) * channels : (image * size + k * pixels + count) * channels]
        _first_means(block, channels, m)
        total[:] = 0
        square[:] = 0
        first = 0
        while first + 4 * wide <= block.size:
            _add_four(block[first : first + 4 * wide], m, total, square)
            first += 4 * wide
        while first < block.size:
            _add_one(block[first : first + wide], m, total, square)
            first += wide
        _folded(total, channels, i, means)
        _folded(square, channels, i, squares)
        for c in range(channels):
            rest = means[i * channels + c] / count
            means[i * channels + c] = m[c] + rest
            squares[i * channels + c] -= rest * rest * count


@njit(nogil=True, cache=True)
def _norm_last(
    x, factors, y, scratch, relu, parts, channels, pixels, size, wide, begin, stop, part, team
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    m, a, b, before = scratch[part, 0], scratch[part, 1], scratch[part, 2], -1
    for i in range(begin, stop):
        image, k = i // parts, i % parts
        if image != before:
            _repeated(factors[image, 0], m)
            _repeated(factors[image, 1], a)
            _repeated(factors[image, 2], b)
            before = image
        start, count = (image * size + k * pixels) * channels, min(pixels, size - k * pixels) * channels
        for first in range(start, start + count, wide):
            last = min(first + wide, start + count)
            _affine(x[first:last], m, a, b, relu, y[first:last])


@njit(nogil=True)
def _affine(x, m, a, b, relu, y):
    if relu:
        for j in range(y.size):
            z = (load(x, j) - load(m, j)) * load(a, j) + load(b, j)
            store(y, j, _ZERO if z <= _ZERO else z)
    else:
        for j in range(y.size):
            store(y, j, (load(x, j) - load(m, j)) * load(a, j) + load(b, j))


@njit(nogil=True, fastmath=CONTRACT)
def _add_four_products(dy, x, m, total, product):
    """To the sums of dy and of dy (x - m), four times their length."""
    n = total.size
    for j in range(n):
        k, l, h = n + j, 2 * n + j, 3 * n + j
        a, b, c, d = load(dy, j), load(dy, k), load(dy, l), load(dy, h)
        store(total, j, total[j] + ((a + b) + (c + d)))
        one = a * (load(x, j) - m[j]) + b * (load(x, k) - m[j])
        other = c * (load(x, l) - m[j]) + d * (load(x, h) - m[j])
        store(product, j, product[j] + (one + other))


@njit(nogil=True, fastmath=CONTRACT)
def _add_products(dy, x, m, total, product):
    for j in range(x.size):
        dz = load(dy, j)
        store(total, j, total[j] + dz)
        store(product, j, product[j] + dz * (load(x, j) - m[j]))


@njit(nogil=True)
def _add_four_masked_products(dy, x, m, a, b, total, product):
    """The same of dy where (x - m) a + b > 0, rounded as in the forward."""
    n = total.size
    for j in range(n):
        k, l, h = n + j, 2 * n + j, 3 * n + j
        p, q, r, t = load(x, j) - m[j], load(x, k) - m[j], load(x, l) - m[j], load(x, h) - m[j]
        e = _ZERO if p * a[j] + b[j] <= _ZERO else load(dy, j)
        f = _ZERO if q * a[j] + b[j] <= _ZERO else load(dy, k)
        g = _ZERO if r * a[j] + b[j] <= _ZERO else load(dy, l)
        i = _ZERO if t * a[j] + b[j] <= _ZERO else load(dy, h)
        store(total, j, total[j] + ((e + f) + (g + i)))
        store(product, j, product[j] + ((e * p + f * q) + (g * r + i * t)))


@njit(nogil=True)
def _add_masked_products(dy, x, m, a, b, total, product):
    for j in range(x.size):
        d = load(x, j) - m[j]
        dz = _ZERO if d * a[j] + b[j] <= _ZERO else load(dy, j)
        store(total, j, total[j] + dz)
        store(product, j, product[j] + dz * d)


@njit(nogil=True, cache=True)
def _sums_last(
    dy, x, factors, relu, totals, products, scratch, parts, channels, pixels, size, wide, begin, stop, part, team
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    m, a, b, total, product = scratch[part, 0], scratch[part, 1], scratch[part, 2], scratch[part, 3], scratch[part, 4]
    before = -1
    for i in range(begin, stop):
        image, k = i // parts, i % parts
        if image != before:
            _repeated(factors[image, 0], m)
            _repeated(factors[image, 1], a)
            _repeated(factors[image, 2], b)
            before = image
        start, count = (image * size + k * pixels) * channels, min(pixels, size - k * pixels) * channels
        total[:] = 0
        product[:] = 0
        first, four = start, 4 * wide
        while first + four <= start + count:
            if relu:
                _add_four_masked_products(dy[first : first + four], x[first : first + four], m, a, b, total, product)
            else:
                _add_four_products(dy[first : first + four], x[first : first + four], m, total, product)
            first += four
        while first < start + count:
            last = min(first + wide, start + count)
            if relu:
                _add_masked_products(dy[first:last], x[first:last], m, a, b, total, product)
            else:
                _add_products(dy[first:last], x[first:last], m, total, product)
            first = last
        _folded(total, channels, i, totals)
        _folded(product, channels, i, products)


@njit(nogil=True, cache=True)
def _grad_last(
    dy, x, factors, relu, slopes, dx, scratch, parts, channels, pixels, size, wide, begin, stop, part, team
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    m, a, b, w = scratch[part, 0], scratch[part, 1], scratch[part, 2], scratch[part, 3]
    q, r, rstd, before = scratch[part, 4], scratch[part, 5], scratch[part, 6], -1
    for i in range(begin, stop):
        image, k = i // parts, i % parts
        if image != before:
            _repeated(factors[image, 0], m)
            _repeated(factors[image, 1], a)
            _repeated(factors[image, 2], b)
            _repeated(slopes[image, 0], w)
            _repeated(slopes[image, 1], q)
            _repeated(slopes[image, 2], r)
            _repeated(slopes[image, 3], rstd)
            before = image
        start, count = (image * size + k * pixels) * channels, min(pixels, size - k * pixels) * channels
        for first in range(start, start + count, wide):
            last = min(first + wide, start + count)
            if relu:
                _masked_slopes(dy[first:last], x[first:last], m, a, b, w, q, r, rstd, dx[first:last])
            else:
                _slopes(dy[first:last], x[first:last], m, w, q, r, rstd, dx[first:last])


@njit(nogil=True)
def _slopes(dy, x, m, w, q, r, rstd, dx):
    for j in range(dx.size):
        own = (load(w, j) * load(dy, j) - load(q, j)) - (load(x, j) - load(m, j)) * load(r, j)
        store(dx, j, own * load(rstd, j))


@njit(nogil=True)
def _masked_slopes(dy, x, m, a, b, w, q, r, rstd, dx):
    for j in range(dx.size):
        d = load(x, j) - load(m, j)
        dz = _ZERO if d * load(a, j) + load(b, j) <= _ZERO else load(dy, j)
        store(dx, j, ((load(w, j) * dz - load(q, j)) - d * load(r, j)) * load(rstd, j))
