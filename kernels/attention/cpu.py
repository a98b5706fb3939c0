"""Attention on the CPU, compiled: see cpu_blocks.py.

Served here is float32, and the 16-bit types by way of float32; float64 is left to the reference. Heads that are no
whole number of vectors wide are filled up with zeros first. Views are read where they lie, such as q, k and v in the
memory of one layer's output, unless their last axis has gaps or an axis goes backward: such are copied.

One core with AVX-512, shared with other programs; times the speed of torch's scaled_dot_product_attention on one
thread, medians of calls in turns:

    | B x H, T, E           | forward | backward |
    | 16 x 4, 64, 32        |  1.04   |   1.24   |
    | 8 x 4, 128, 32        |  1.28   |   1.14   |
    | 1 x 4, 512, 64        |  1.44   |   1.43   |
    | 1 x 4, 512, 64 causal |  2.20   |   2.16   |
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.attention import reference
from tilegrad.kernels.attention.cpu_blocks import (
    CALL,
    KEYS,
    MOST_ROWS,
    QUERIES,
    WALKS,
    Call,
    backward,
    floats,
    floats_grad,
    forward,
)
from tilegrad.kernels.attention.reference import Sizes
from tilegrad.kernels.capture.extents import address, owner
from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.effects import contiguous, dense, do, whole
from tilegrad.kernels.cpu.tile import LANES, ONE_RUN, Walk, tiles_address, walk_array
from tilegrad.kernels.dropout.reference import threshold
from tilegrad.kernels.sizes import cdiv

_float32 = np.dtype(np.float32)
_NO_MASK = np.zeros(1, np.float32)
_LEAST_ITEMS = 16  # of the backward: with fewer heads the queries are parted, and dk and dv added up
_ROWS = max(QUERIES, KEYS)
_WALKS = walk_array(*[Walk(vectors=1, panels=0, rows=0, run=0, w_step=0)] * WALKS)
_SHARED_FROM = 1 << 19  # multiply-adds: some 10 microseconds of one core


class _Memory(NamedTuple):
    """An array (B, H, L, E) as the kernels take it: rows of whole vectors, apart by steps that may leave gaps."""

    flat: np.ndarray  # memory as one dimension, from the array's first element on
    shape: tuple[int, ...]  # of the first three axes in memory, and the width
    order: tuple[int, int, int]  # of the first three axes there
    steps: tuple[int, int, int]  # from batch to batch, head to head and row to row, in elements

    @property
    def width(self) -> int:
        return self.shape[3]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def like(self, width: int, parts: int = 1) -> np.ndarray:
        """Memory without gaps for as many such arrays of that width."""
        return buffers.empty((parts, *self.shape[:3], width), _float32)

    def result(self, array: np.ndarray, width: int) -> np.ndarray:
        """What is in memory of this order, as (B, H, L, width)."""
        places = [self.order.index(axis) for axis in range(3)]
        return array.transpose(*places, 3)[..., :width]


def _in_order(array: np.ndarray, order: tuple[int, int, int]) -> _Memory:
    """An array in C order, whose axes are those of (B, H, L) in that order, and the last."""
    steps = [0, 0, 0]
    for axis, stride in zip(order, array.strides, strict=False):
        steps[axis] = stride // array.itemsize
    return _Memory(array.reshape(-1), array.shape, order, (steps[0], steps[1], steps[2]))


def _memory(x: np.ndarray) -> _Memory:
    first, second, third = sorted(range(3), key=lambda axis: -abs(x.strides[axis]))
    order = first, second, third
    turned = x.transpose(*order, 3)
    more = -x.shape[3] % LANES
    if more:
        filled = buffers.empty((*turned.shape[:3], x.shape[3] + more), _float32)
        do(_fill, filled, turned)
        return _in_order(filled, order)
    if turned.flags.c_contiguous and turned.flags.behaved:  # others are another type to Numba
        return _in_order(turned, order)
    flat = _from_first_on(x)
    if flat is None:
        return _in_order(dense(turned), order)
    return _Memory(flat, turned.shape, order, (x.strides[0] // 4, x.strides[1] // 4, x.strides[2] // 4))


def _from_first_on(x: np.ndarray) -> np.ndarray | None:
    """The memory that x is a view of, from its first element on, if x lies there by rows and goes forward only.

    So q, k and v can be read where one layer wrote them.
    """
    whole = owner(x)
    if type(whole) is not np.ndarray or whole.dtype != _float32 or not (whole.flags.c_contiguous and x.flags.behaved):
        return None
    if x.strides[3] != 4 or min(x.strides) <= 0 or not whole.flags.behaved:
        return None
    return whole.reshape(-1)[(address(x) - address(whole)) // 4 :]


def _fill(filled: np.ndarray, x: np.ndarray) -> None:
    width = x.shape[3]
    filled[..., :width] = x
    filled[..., width:] = 0


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
    """attention.reference.attention.

    Traffic: reads q and writes y once, k and v once for each block of queries, mostly from the cache; scratch memory of
    a few blocks for each thread.
    """
    options = causal, scale, dropout, seed, offset
    dtype, sizes = reference.check_attention("attention", q, k, v, mask, scale, dropout, seed, offset)
    if not _is_served(dtype, sizes):
        return whole(reference.attention, q, k, v, mask, *options)
    if dtype != _float32:
        return whole(_rounded_once, q, k, v, mask, *options)
    return _attention(sizes, q, k, v, mask, *options)


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
    """attention.reference.attention_grad.

    Traffic: reads dy, q and y once for each block of keys, k and v once, writes dq once for each block of keys, dk and
    dv once for each block of queries, mostly in the cache; scratch memory of a few blocks for each thread.
    """
    options = causal, scale, dropout, seed, offset
    dtype, sizes = reference.check_attention_grad(dy, q, k, v, y, lse, mask, scale, dropout, seed, offset)
    if not _is_served(dtype, sizes):
        return whole(reference.attention_grad, dy, q, k, v, y, lse, mask, *options)
    if dtype != _float32:
        return whole(_rounded_once_grad, dy, q, k, v, mask, *options)
    return _attention_grad(sizes, dy, q, k, v, y, lse, mask, *options)


def _is_served(dtype: np.dtype, sizes: Sizes) -> bool:
    return dtype != np.float64 and 0 not in sizes


@np.errstate(all="ignore")
def _rounded_once(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, *options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """attention of 16-bit arrays: computed in float32, y rounded once."""
    y, lse = attention(*map(_widened, (q, k, v, mask)), *options)
    return y.astype(q.dtype), lse


@np.errstate(all="ignore")
def _rounded_once_grad(
    dy: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, *options: Any
) -> tuple[np.ndarray, ...]:
    """attention_grad of 16-bit arrays, from y as it was before it was rounded."""
    halves = q.dtype
    dy, q, k, v, mask = (_widened(x) for x in (dy, q, k, v, mask))
    kept = attention(q, k, v, mask, *options)
    return tuple([x.astype(halves) for x in attention_grad(dy, q, k, v, *kept, mask, *options)])


def _widened(x: Any) -> Any:
    return x if x is None or x.dtype == np.bool_ else x.astype(_float32)


def _attention(
    sizes: Sizes,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None,
    causal: bool,
    scale: float,
    dropout: float,
    seed: int,
    offset: Any,
) -> tuple[np.ndarray, np.ndarray]:
    of_q, of_k, of_v = map(_memory, (q, k, v))
    width, out = of_k.width, of_v.width
    y = of_q.like(out)[0]
    lse = np.empty(q.shape[:3], np.float32)
    added, mask_steps = _added(mask)
    of_y = _in_order(y, of_q.order)
    call = _call(sizes, of_q, of_k, of_v, of_y, mask_steps, causal, dropout, seed)
    items = sizes.batch * sizes.heads * cdiv(sizes.queries, QUERIES)
    most = items if sizes.words * (width + out) >= _SHARED_FROM else 1
    threads.share(
        forward, most, items,
        of_q.flat, of_k.flat, of_v.flat, added, of_y.flat, lse.reshape(-1),
        _array(call), *_numbers(scale, dropout, offset),
        *_scratch(min(most, items), floats(width, out)), tiles_address(), ONE_RUN,
    )  # fmt: skip
    return of_y.result(y, sizes.out), lse


def _attention_grad(
    sizes: Sizes,
    dy: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    y: np.ndarray,
    lse: np.ndarray,
    mask: np.ndarray | None,
    causal: bool,
    scale: float,
    dropout: float,
    seed: int,
    offset: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    of_dy, of_q, of_k, of_v, of_y = map(_memory, (dy, q, k, v, y))
    width, out = of_k.width, of_v.width
    owners = sizes.batch * k.shape[1]
    parts = min(cdiv(_LEAST_ITEMS, owners), cdiv(sizes.queries, QUERIES))
    dq, dk, dv = of_q.like(width)[0], of_k.like(width, parts), of_v.like(out, parts)
    inner = np.empty(lse.size, np.float32)
    added, mask_steps = _added(mask)
    call = _call(sizes, of_q, of_k, of_v, of_y, mask_steps, causal, dropout, seed)
    made = [_in_order(each, memory.order).steps for each, memory in ((dq, of_q), (dk[0], of_k), (dv[0], of_v))]
    call = call._replace(parts=parts, **_named("dy", of_dy.steps), **_named("dq", made[0]))
    call = call._replace(**_named("dk", made[1]), **_named("dv", made[2]))
    items = owners * parts
    most = items if sizes.words * (width + out) >= _SHARED_FROM else 1
    threads.share(
        backward, most, items,
        of_dy.flat, of_q.flat, of_k.flat, of_v.flat, of_y.flat, contiguous(lse).reshape(-1), added,
        dq.reshape(-1), dk.reshape(-1), dv.reshape(-1), inner, _array(call), *_numbers(scale, dropout, offset),
        *_scratch(min(most, items), floats_grad(width, out)), tiles_address(), ONE_RUN,
    )  # fmt: skip
    return (
        of_q.result(dq, sizes.width),
        of_k.result(_summed(dk), sizes.width),
        of_v.result(_summed(dv), sizes.out),
    )


def _call(
    sizes: Sizes,
    q: _Memory,
    k: _Memory,
    v: _Memory,
    y: _Memory,
    mask_steps: tuple[int, int, int, int] | None,
    causal: bool,
    dropout: float,
    seed: int,
) -> Call:
    return Call(
        sizes.heads,
        sizes.shared,
        sizes.queries,
        sizes.keys,
        k.width,
        v.width,
        1,
        k.size,
        v.size,
        mask_steps is not None,
        bool(causal),
        dropout != 0,
        int(seed) & 0xFFFFFFFF,
        int(seed) >> 32,
        threshold(dropout),
        *q.steps,
        *k.steps,
        *v.steps,
        *y.steps,
        *(mask_steps or (0, 0, 0, 0)),
    )


def _named(of: str, steps: tuple[int, int, int]) -> dict[str, int]:
    """The steps as fields of Call."""
    return {f"{of}_{axis}": step for axis, step in zip("bhl", steps, strict=True)}


def _array(call: Call) -> np.ndarray:
    return np.array([call], CALL)


def _numbers(scale: float, dropout: float, offset: Any) -> tuple[np.ndarray, np.float32, np.float32]:
    """The random stream's offset in memory, the scale, and what weights are multiplied with that dropout keeps."""
    where = offset.reshape(1).view(np.uint64) if isinstance(offset, np.ndarray) else np.array([offset], np.uint64)
    kept_scale = 0.0 if dropout == 1 else 1 / (1 - float(dropout))
    return where, np.float32(scale), np.float32(kept_scale)


def _scratch(most: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory for each piece of a call: floats, walks of products, and tables of rows."""
    pieces = min(threads.num_threads(), most)
    rows = cdiv(count, LANES) * LANES
    walks = np.tile(_WALKS, (pieces, 1))
    return buffers.empty((pieces, rows), _float32), walks, np.empty((pieces, 2 * (_ROWS + MOST_ROWS)), np.intp)


def _added(mask: np.ndarray | None) -> tuple[np.ndarray, tuple[int, int, int, int] | None]:
    """The memory of a mask that is added to scores, 0 or -inf for a bool, and its steps, 0 where it is broadcast."""
    if mask is None:
        return _NO_MASK, None
    if mask.dtype == np.bool_:
        added = buffers.empty(mask.shape, _float32)
        do(_write_added, added, mask)
    else:
        added = mask if mask.flags.c_contiguous and mask.flags.behaved else dense(mask)
    steps = [0 if n == 1 else stride // 4 for n, stride in zip(added.shape, added.strides, strict=True)]
    return added.reshape(-1), (steps[0], steps[1], steps[2], steps[3])


def _write_added(added: np.ndarray, mask: np.ndarray) -> None:
    added.fill(-np.inf)
    np.copyto(added, 0, where=mask)


def _summed(parts: np.ndarray) -> np.ndarray:
    """The sum of the parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    total = buffers.empty(parts.shape[1:], _float32)
    do(np.add.reduce, parts, 0, None, total)
    return total
