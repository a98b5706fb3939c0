"""Sums and maxima of bags of rows, on NumPy: the specification.

All three take the bags in the same way:

    index    (M,) int32 | int64: rows of a table, 0 <= index < N
    offsets  (B,) or (B + 1,) int32 | int64, 0 <= offsets <= M, not decreasing: bag b begins at offsets[b], and ends at
             the next offset, or at M where there is none. A bag may be empty
    bags     B
    padding  a row that counts in no bag, 0 <= padding < N; or None
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, require

_MOST = 1 << 31  # rows, places and bags


@np.errstate(all="ignore")
def sum_bags(
    x: np.ndarray, index: np.ndarray, offsets: np.ndarray, bags: int, padding: int | None = None, mean: bool = False
) -> np.ndarray:
    """y[b] = the sum of x[i] over all i in bag b, in their order, or their mean; 0 for an empty bag.

    x        (N, ...) float16, bfloat16, float32 or float64, any strides
    index, offsets, bags, padding: see the module
    ->       y (B, ...), row-major, of x's dtype

    Sums and means are taken in float32 for all but float64, and rounded once. So every backend has the same bits.

    Traffic: reads the M rows and the index once, writes y once.
    Raises TypeError for dtypes, ValueError for shapes, numbers and offsets, IndexError for an index out of range. On a
    GPU the last two are raised at the next synchronisation, and such places are passed over.
    """
    dtype = check_bags("sum_bags", x, index, offsets, bags, None, padding)
    _require_values("sum_bags", index, offsets, len(x))
    y = np.zeros((bags, *x.shape[1:]), accumulator(dtype))
    places, of = _places(index, offsets, bags, padding)
    np.add.at(y, of, x[index[places]].astype(y.dtype, copy=False))
    if mean:
        counts = np.maximum(np.bincount(of, minlength=bags), 1).astype(y.dtype)
        y /= counts.reshape(bags, *[1] * (y.ndim - 1))
    return y.astype(dtype, copy=False)


@np.errstate(all="ignore")
def sum_bags_grad(
    dy: np.ndarray, index: np.ndarray, offsets: np.ndarray, rows: int, padding: int | None = None
) -> np.ndarray:
    """dx[r] = the sum of dy[b] over all places of r in bags b, in their order: the gradient of sum_bags to its table.

    dy       (B, ...) float16, bfloat16, float32 or float64, any strides
    rows     N of the table
    index, offsets, padding: see the module; of the padding the gradient is 0
    ->       dx (N, ...), row-major, of dy's dtype, summed as sum_bags sums

    Traffic: reads dy and the index once, writes dx once.
    Raises as sum_bags does.
    """
    op = "sum_bags_grad"
    dtype = check_bags(op, dy, index, offsets, None, rows, padding)
    _require_values(op, index, offsets, rows)
    dx = np.zeros((rows, *dy.shape[1:]), accumulator(dtype))
    places, of = _places(index, offsets, len(dy), padding)
    np.add.at(dx, index[places], dy[of].astype(dx.dtype, copy=False))
    return dx.astype(dtype, copy=False)


def max_bags(
    x: np.ndarray, index: np.ndarray, offsets: np.ndarray, bags: int, padding: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The largest x[i, ...] of all i in bag b, element by element, and its row: the first of equals, or the first NaN.

    x        (N, ...) float16, bfloat16, float32 or float64, any strides
    index, offsets, bags, padding: see the module
    ->       y (B, ...) of x's dtype, and rows (B, ...) int64, row-major; 0 and -1 where the bag is empty

    Traffic: reads the M rows and the index once, writes y and 8 bytes for each of its elements.
    Raises as sum_bags does.
    """
    dtype = check_bags("max_bags", x, index, offsets, bags, None, padding)
    _require_values("max_bags", index, offsets, len(x))
    y, best = np.zeros((bags, *x.shape[1:]), dtype), np.full((bags, *x.shape[1:]), -1, np.int64)
    places, of = _places(index, offsets, bags, padding)
    for b in np.unique(of):
        rows = index[places[of == b]].astype(np.int64)
        first = x[rows].astype(accumulator(dtype)).argmax(axis=0)[None]  # NumPy does not compare bfloat16's NaN
        best[b], y[b] = rows[first[0]], np.take_along_axis(x[rows], first, 0)[0]
    return y, best


def _places(index: np.ndarray, offsets: np.ndarray, bags: int, padding: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The places that count, and the bag of each."""
    ends = np.append(offsets, index.size)[: bags + 1].astype(np.int64)
    places, of = np.arange(ends[0], ends[-1]), np.repeat(np.arange(bags), np.diff(ends))
    if padding is not None:
        counts = index[places] != padding
        places, of = places[counts], of[counts]
    return places, of


def _require_values(op: str, index: np.ndarray, offsets: np.ndarray, rows: int) -> None:
    outside = np.flatnonzero((index < 0) | (index >= rows))
    if outside.size:
        raise index_error(op, rows, int(outside[0]), int(index[outside[0]]))
    wrong = wrong_offsets(offsets, index.size)
    if wrong.size:
        raise offsets_error(op, index.size, int(wrong[0]), int(offsets[wrong[0]]))


def wrong_offsets(offsets: np.ndarray, places: int) -> np.ndarray:
    """Which offsets are not 0 to the number of places, or less than the one before."""
    return np.flatnonzero((offsets < np.append(0, offsets[:-1])) | (offsets < 0) | (offsets > places))


def check_bags(op: str, x: Any, index: Any, offsets: Any, bags: Any, rows: Any, padding: Any) -> np.dtype:
    """The dtype of x, a table or a gradient. Raise as sum_bags does, but for the values of index and offsets.

    bags or rows is None where x has as many.
    """
    dtype = float_dtype(op, x=x)
    require(x.ndim > 0, op, "x has no dimensions; expected (N, ...)")
    bags, rows = (len(x) if given is None else given for given in (bags, rows))
    for name, a in (("index", index), ("offsets", offsets)):
        require(a.ndim == 1, op, f"{name} is {a.shape}; expected one dimension")
        if a.dtype != np.int64 and a.dtype != np.int32:
            raise TypeError(f"{op}: {name} is {a.dtype}; expected int32 or int64")
    if not is_int(bags) or not is_int(rows) or not (padding is None or is_int(padding)):
        raise TypeError(f"{op}: bags, rows and padding are {bags!r}, {rows!r} and {padding!r}; expected ints")
    require(bags in (offsets.size, offsets.size - 1), op, f"offsets is {offsets.shape}; expected {bags} or one more")
    require(0 < offsets.size, op, f"offsets is {offsets.shape}; expected at least one")
    most = max(rows, bags, index.size)
    require(0 <= rows and most < _MOST, op, f"rows is {rows} and index {index.shape}; expected less than 2^31")
    if padding is not None:
        require(0 <= padding < rows, op, f"padding is {padding}; expected 0 <= padding < {rows}")
    return dtype


def index_error(op: str, rows: int, place: int, found: int) -> IndexError:
    """What is wrong with an index out of range."""
    return IndexError(f"{op}: index[{place}] is {found}; expected 0 <= index < {rows}")


def offsets_error(op: str, places: int, place: int, found: int) -> ValueError:
    """What is wrong with an offset that is out of range, or less than the one before."""
    return ValueError(f"{op}: offsets[{place}] is {found}; expected 0 <= offsets <= {places}, not decreasing")
