"""The comparer: is an array the right answer, as far as its dtype can tell?

There is no table of tolerances. A result `got` is judged against

    want       the same maths in float64, from the same (already rounded) inputs
    baseline   the same maths by torch or NumPy in got's dtype: what a correct program may lose to rounding

and passes when its error is at most twice the baseline's plus a few units in the last place (ulp):

    || got - want ||  <=  2 || baseline - want ||  +  ULPS * eps * || want ||

in the 2-norm, which sees a small error everywhere (a scale of 1.01), and in the max-norm, which sees a large
error somewhere (one wrong element). A baseline so poor that 1.01 * want would pass with it is refused: green
always means something.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

ULPS = 4
ULPS_BFLOAT16 = 0.1  # of its 8 bits none is to spare: a single ulp may be 0.8 % of the value
ULPS_FLOAT64 = 32  # the float64 oracle rounds as much as what it judges, and no baseline tells how much
SHARPEST = 0.009  # 1.01 * want, rounded to float16, is still further than this from want


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """got and want have the same shape, dtype and values; NaN equals NaN. For results without rounding."""
    __tracebackhide__ = True
    _require_alike(got, np.shape(want), want.dtype)
    if got.dtype == ml_dtypes.bfloat16:  # whose NaN NumPy's comparison does not know
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_array_equal(got, want)


def assert_close(
    got: np.ndarray,
    want: ArrayLike,
    baseline: ArrayLike | None = None,
    *,
    scale: float = 0.0,
    elementwise: bool = False,
) -> None:
    """got is want, up to twice the baseline's rounding error and a few ulp.

    got          the array under test; its shape and dtype must be the baseline's
    want         float64, from the same inputs. NaN and infinity must be at the same places in got; a want
                 beyond the range of got's dtype counts as infinite
    baseline     the same maths in got's dtype; want.astype(dtype) is the strictest. None: got must be float64
    scale        size of the terms whose sum an element of got is, where they cancel: ulp are then taken of it
    elementwise  also judge every element by its own ulp: wrong small elements do not hide beside large ones
    """
    __tracebackhide__ = True
    want = np.asarray(want)
    if want.dtype != np.float64:
        raise TypeError(f"assert_close: want is {want.dtype}; expected the float64 result")
    baseline = want if baseline is None else np.asarray(baseline)
    _require_alike(got, want.shape, baseline.dtype)
    assert baseline.shape == want.shape, f"baseline has shape {baseline.shape}, want {want.shape}"

    with np.errstate(over="ignore", under="ignore"):
        rounded = want.astype(got.dtype)
    _require_same_places("NaN", np.isnan, got, rounded)
    _require_same_places("+inf", np.isposinf, got, rounded)
    _require_same_places("-inf", np.isneginf, got, rounded)

    finite = np.isfinite(rounded)
    assert np.isfinite(baseline[finite]).all(), "the baseline is not finite where want is: it cannot judge"
    places = np.argwhere(finite)
    want = want[finite]
    got_error = np.abs(got[finite].astype(np.float64) - want)
    baseline_error = np.abs(baseline[finite].astype(np.float64) - want)
    if want.size == 0:
        return

    kind = ml_dtypes.finfo(got.dtype)
    ulps = {"float64": ULPS_FLOAT64, "bfloat16": ULPS_BFLOAT16}.get(got.dtype.name, ULPS)
    for name, norm, floor in (
        ("2-norm", _two_norm, scale * want.size**0.5),
        ("max-norm", _max_norm, scale),
    ):
        size = max(norm(want), floor)
        budget = 2 * norm(baseline_error) + ulps * max(kind.eps * size, float(kind.smallest_subnormal))
        assert budget <= SHARPEST * size or size == 0 == norm(baseline_error), (
            f"the baseline is too far from want to judge: {name} budget {budget:.3g}, want {size:.3g}"
        )
        if not norm(got_error) <= budget:
            worst = got_error.argmax()
            raise AssertionError(
                f"{name} of the error is {norm(got_error):.3g}, budget {budget:.3g} (want {norm(want):.3g}, "
                f"baseline error {norm(baseline_error):.3g}); worst at {tuple(map(int, places[worst]))}: "
                f"got {got[finite][worst]!r}, want {want[worst]!r}"
            )
    if elementwise:
        ulp = np.spacing(np.abs(rounded[finite])).astype(np.float64)
        budget = 2 * (baseline_error / ulp).max() + ulps
        in_ulp = got_error / ulp
        worst = in_ulp.argmax()
        assert in_ulp[worst] <= budget, (
            f"element {tuple(map(int, places[worst]))} is {in_ulp[worst]:.3g} ulp off, budget {budget:.3g}: "
            f"got {got[finite][worst]!r}, want {want[worst]!r}"
        )


def _two_norm(x: np.ndarray) -> float:
    largest = _max_norm(x)  # scaled by it, no square overflows or vanishes
    return largest * float(np.linalg.norm(x / largest)) if largest > 0 else 0.0


def _max_norm(x: np.ndarray) -> float:
    return float(np.abs(x).max())


def _require_alike(got: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    __tracebackhide__ = True
    assert isinstance(got, (np.ndarray, np.generic)), f"got is {type(got).__name__}, expected an array"
    assert got.shape == shape, f"got has shape {got.shape}, want {shape}"
    assert got.dtype == dtype, f"got is {got.dtype}, expected {dtype}"


def _require_same_places(name: str, where, got: np.ndarray, want: np.ndarray) -> None:
    __tracebackhide__ = True
    wrong = np.argwhere(where(got) != where(want))
    if len(wrong):
        place = tuple(map(int, wrong[0]))
        raise AssertionError(
            f"{name} at different places, {len(wrong)} of {got.size}; first at {place}: "
            f"got {got[place]!r}, want {want[place]!r}"
        )
