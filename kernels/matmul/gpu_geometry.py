"""How a batched matrix product lies in memory: its batch axes merged into as few as they can be, its rows too.

The kernel of matmul walks up to MOST_AXES batch axes, each with a stride for a and one for b, 0 where an operand is
broadcast. All strides here count elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_AXES = 2

Axis = tuple[int, int, int]  # length, stride of a, stride of b


class Geometry(NamedTuple):
    """y[i, :, :] = a[i, :, :] @ b[i, :, :] for every i of the batch axes."""

    m: int
    n: int
    k: int
    a_m: int
    a_k: int
    b_k: int
    b_n: int
    axes: tuple[Axis, ...]  # from the outermost; y is dense in this order

    @property
    def batch(self) -> int:
        """The number of products."""
        count = 1
        for length, _, _ in self.axes:
            count *= length
        return count


def geometry(
    a_shape: Sequence[int], a_strides: Sequence[int], b_shape: Sequence[int], b_strides: Sequence[int]
) -> Geometry:
    """Of a (..., M, K) and b (..., K, N), whose leading axes broadcast; no axis is empty but K.

    A batch that shares one b is rows of one product where a's strides allow it: (8, 128, K) @ (K, N) is
    (1024, K) @ (K, N), whose tiles need not end where a matrix does.
    """
    (m, k), n = a_shape[-2:], b_shape[-1]
    (a_m, a_k), (b_k, b_n) = a_strides[-2:], b_strides[-2:]
    axes = _merged(_batch_axes(a_shape, a_strides, b_shape, b_strides))
    if axes:
        length, a_step, b_step = axes[-1]
        if b_step == 0 and (m == 1 or a_step == m * a_m):
            a_m = a_step if m == 1 else a_m
            m *= length
            axes.pop()
    # The stride of a single row is never walked; 0 keeps it from spoiling the alignment that the compiler deduces.
    return Geometry(m, n, k, a_m if m > 1 else 0, a_k, b_k, b_n if n > 1 else 0, tuple(axes))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous array of that shape."""
    strides = [1]
    for length in reversed(shape[1:]):
        strides.append(strides[-1] * length)
    return tuple(reversed(strides))


def broadcast_lead(a_shape: Sequence[int], b_shape: Sequence[int]) -> tuple[int, ...]:
    """The leading axes of the product."""
    return tuple(na if nb == 1 else nb for na, nb in _lead_lengths(a_shape, b_shape))


def _batch_axes(
    a_shape: Sequence[int], a_strides: Sequence[int], b_shape: Sequence[int], b_strides: Sequence[int]
) -> list[Axis]:
    axes = []
    lengths = _lead_lengths(a_shape, b_shape)
    for i, (na, nb) in enumerate(lengths, start=-2 - len(lengths)):
        axes.append((max(na, nb), 0 if na == 1 else a_strides[i], 0 if nb == 1 else b_strides[i]))
    return axes


def _lead_lengths(a_shape: Sequence[int], b_shape: Sequence[int]) -> list[tuple[int, int]]:
    """Leading axes of both, aligned at the right: a missing one has length 1."""
    most = max(len(a_shape), len(b_shape)) - 2
    a_lead = (1,) * (most + 2 - len(a_shape)) + tuple(a_shape[:-2])
    b_lead = (1,) * (most + 2 - len(b_shape)) + tuple(b_shape[:-2])
    return list(zip(a_lead, b_lead, strict=True))


def _merged(axes: list[Axis]) -> list[Axis]:
    """The same walk in fewer axes: neighbours that both operands walk with one stride each become one axis."""
    merged: list[Axis] = []
    for length, a_step, b_step in axes:
        if length == 1:
            continue
        if merged:
            outer, a_outer, b_outer = merged[-1]
            if a_outer == length * a_step and b_outer == length * b_step:
                merged[-1] = outer * length, a_step, b_step
                continue
        merged.append((length, a_step, b_step))
    return merged
