"""Whether a provider's output is right, asked before anything is timed.

    || got - want ||  <=  2 || baseline - want ||  +  (ULPS eps + sqrt(K) eps32 / 2) || want ||

in the 2-norm and in the max-norm, with


    want      the reference in float64, from the same (rounded) inputs
    baseline  the reference in the row's dtype, for tf32 from inputs rounded to it, as the provider's dtype holds it
    K         terms of the longest sum, if any: added one by one in float32, K numbers of random sign lose on average
              sqrt(K / 6) eps32 / 2 of their sum; the reference adds in another order and may lose less

A large result is checked on evenly spaced rows, its first and last among them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tilegrad import kernels
from tilegrad.bench.inputs import cast, to_tf32
from tilegrad.bench.ops.op import Case
from tilegrad.bench.providers import as_tuple, in_mode

ULPS = 4
ULPS_BFLOAT16 = 0.1  # it has only 8 bits
ULPS_FLOAT64 = 32  # want is rounded as much as the output
MOST = 0.009  # of the 2-norm: for any dtype, an output that is 1 % off everywhere is wrong
PART = 1 << 22  # elements; of larger inputs only some rows are checked


class Expected(NamedTuple):
    """What a case's outputs are compared with; of large outputs some rows.

    rows    which; all: slice(None)
    length  of the leading axis that they are rows of
    """

    want: tuple[np.ndarray, ...]
    baseline: tuple[np.ndarray, ...]
    rows: Any
    length: int
    terms: int


def expected(case: Case, inputs: dict[str, np.ndarray]) -> Expected:
    """By the reference, from the inputs on the host."""
    rowwise = case.variant.rowwise.get(case.mode, ())
    largest = max((inputs[name] for name in rowwise), key=lambda x: x.size, default=np.empty(0))
    rows = _rows(largest)
    part = {name: x[rows] if name in rowwise else x for name, x in inputs.items()}
    coarse = {name: to_tf32(x) for name, x in part.items()} if case.precision == "tf32" else part
    want = _reference(case, {name: cast(x, "float64") for name, x in part.items()})
    return Expected(want, _reference(case, coarse), rows, len(largest), case.terms())


def wrong(got: tuple[np.ndarray, ...], by: Expected) -> str | None:
    """What is wrong with these outputs; None if nothing is. A provider may return fewer, as torch keeps no (m, s)."""
    for i, (output, want, baseline) in enumerate(zip(got, by.want, by.baseline, strict=False)):
        if want.dtype.kind != "f":
            continue  # the taps of max_pool2d: each library has its own kind
        picked = not isinstance(by.rows, slice)
        shape = (by.length, *want.shape[1:]) if picked else want.shape
        if output.shape != shape:
            return f"output {i} is {output.shape}; expected {shape}"
        found = complaint(output[by.rows] if picked else output, want, baseline, by.terms)
        if found:
            return f"output {i}: {found}"
    return None


def _rows(x: np.ndarray) -> Any:
    """All rows, or evenly spaced ones of an array that is too large to check as a whole."""
    if x.size <= PART:
        return slice(None)
    many = max(2, PART // (x.size // len(x)))
    return np.linspace(0, len(x) - 1, many).astype(np.int64) if many < len(x) else slice(None)


def _reference(case: Case, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    k, v = kernels.load("reference"), case.variant
    # copies, as an op may write in place
    inputs = SimpleNamespace(**{name: x.copy(order="K") for name, x in arrays.items()}, precision="ieee")
    outputs = in_mode(case.mode, lambda: v.forward(k, inputs), lambda saved: v.gradients(k, inputs, saved))()
    return tuple(map(np.asarray, as_tuple(outputs)))


def complaint(got: np.ndarray, want: np.ndarray, baseline: np.ndarray, terms: int = 1) -> str | None:
    """What is wrong with one array; None if nothing is. want is float64; baseline is rounded to got's dtype."""
    if want.size == 0:
        return None
    wide = got.astype(np.float64)
    if not np.isfinite(wide).all():
        return f"{np.count_nonzero(~np.isfinite(wide))} of {got.size} elements are not finite"
    kind = ml_dtypes.finfo(got.dtype)
    ulps = {"float64": ULPS_FLOAT64, "bfloat16": ULPS_BFLOAT16}.get(got.dtype.name, ULPS)
    accumulator = np.finfo(np.float64 if got.dtype == np.float64 else np.float32)
    sums = terms**0.5 * float(accumulator.eps) / 2 if terms > 1 else 0.0
    off = np.abs(wide - want)
    allowed = np.abs(baseline.astype(got.dtype).astype(np.float64) - want)
    for name, norm in (("2-norm", _two_norm), ("max-norm", _max_norm)):
        size = norm(want)
        budget = 2 * norm(allowed) + (ulps * float(kind.eps) + sums) * size
        if name == "2-norm":
            budget = min(budget, MOST * size)
        if not norm(off) <= budget:
            place = np.unravel_index(off.argmax(), off.shape)
            found = f"worst {got[place]!s} for {want[place]:.6g}"
            return f"{name} of the error {norm(off):.2g}, allowed {budget:.2g}; {found}"
    return None


def _two_norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.reshape(-1)))


def _max_norm(x: np.ndarray) -> float:
    return float(np.abs(x).max())
