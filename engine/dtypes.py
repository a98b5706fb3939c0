"""Dtypes and type promotion: NumPy's dtypes, and bfloat16 from ml_dtypes, under PyTorch's rules.

Where the two libraries differ, PyTorch's rule holds: a Python number or a 0-dim tensor changes the result's dtype only
when its kind (bool < integer < float) is higher than that of every tensor with dimensions; an integer with a float
takes the float's dtype (NumPy would widen int64 + float32 to float64); float16 with bfloat16 gives float32, as neither
holds the other; true division of integers gives float32. PyTorch has no rule for uint16, uint32 and uint64: NumPy's
holds there, and uint64 with a signed integer is refused, which to NumPy is float64.
https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

bool_ = np.dtype(np.bool_)
uint8 = np.dtype(np.uint8)
uint16 = np.dtype(np.uint16)
uint32 = np.dtype(np.uint32)
uint64 = np.dtype(np.uint64)
int8 = np.dtype(np.int8)
int16 = np.dtype(np.int16)
int32 = np.dtype(np.int32)
int64 = np.dtype(np.int64)
float16 = np.dtype(np.float16)
bfloat16 = np.dtype(ml_dtypes.bfloat16)
float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)

UNSIGNED = (uint16, uint32, uint64)
DTYPES = (bool_, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64, *UNSIGNED)
FLOATS = frozenset((float16, bfloat16, float32, float64))  # those that can carry gradients
HALVES = frozenset((float16, bfloat16))
_KIND = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # V is NumPy's kind for foreign types, such as bfloat16
_PYTHON_KIND = {bool: 0, int: 1, float: 2}
_DEFAULT = (bool_, int64, float32)  # what a Python bool, int, float becomes


def as_dtype(dtype: Any) -> np.dtype:
    """A supported dtype from a NumPy dtype, a name ("float32"), or one of Python's bool, int, float.

    As in PyTorch, float means the default float32 and int means int64. Raises TypeError for any other.
    """
    if dtype is float:
        return float32
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.newbyteorder("=") not in DTYPES:
        raise TypeError(f"dtype: expected one of {', '.join(map(str, DTYPES))}; got {dtype!r}")
    return found.newbyteorder("=")


def is_float(dtype: np.dtype) -> bool:
    """Whether tensors of this dtype can carry gradients."""
    return dtype in FLOATS


def is_number(dtype: np.dtype) -> bool:
    """Whether it is a dtype of numbers or bools, also one that tensors cannot have."""
    return dtype.kind in "biuf" or dtype == bfloat16


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype that sums and products are kept in: float32 for float16 and bfloat16, otherwise the dtype itself."""
    return float32 if dtype in HALVES else dtype


def can_hold(dtype: np.dtype, other: np.dtype) -> bool:
    """Whether results of `other` may be written to a tensor of `dtype`: no floats to integers, no numbers to bools."""
    return _KIND[other.kind] <= _KIND[dtype.kind]


def absorbs(dtype: np.dtype, value: Any) -> bool:
    """Whether value is a Python number that leaves the dtype of a tensor as it is."""
    return type(value) in _PYTHON_KIND and _PYTHON_KIND[type(value)] <= _KIND[dtype.kind]


def of_scalar(value: Any) -> np.dtype:
    """The dtype that a Python number has by itself."""
    return _DEFAULT[_scalar_kind(value)]


def promote(*operands: Any) -> np.dtype:
    """The common dtype of arrays and Python numbers under PyTorch's rules (see the module)."""
    with_dims, zero_dims, numbers = [], [], []
    for x in operands:
        if isinstance(x, np.generic) or not hasattr(x, "dtype"):
            numbers.append(_DEFAULT[_scalar_kind(x)])
        elif x.ndim:
            with_dims.append(x.dtype)
        else:
            zero_dims.append(x.dtype)
    return _combine(tuple(with_dims), tuple(zero_dims), tuple(numbers))


@cache
def _combine(*tiers: tuple[np.dtype, ...]) -> np.dtype:
    """Tiers in falling priority; a later tier counts only where its kind is higher."""
    result: np.dtype | None = None
    for tier in tiers:
        for dtype in tier:
            if dtype not in DTYPES:
                raise TypeError(f"promote: expected dtypes among {', '.join(map(str, DTYPES))}; got {dtype}")
        kind = max((_KIND[d.kind] for d in tier), default=-1)
        if result is None or kind > _KIND[result.kind]:
            # Within one tier only the highest kind decides: int64 with float16 is float16.
            top = [d for d in tier if _KIND[d.kind] == kind]
            result = _widest(top) if top else result
    assert result is not None
    return result


def _widest(dtypes: list[np.dtype]) -> np.dtype:
    """The smallest dtype that holds all of these, which are of one kind. NumPy knows no float that holds bfloat16."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    found = np.result_type(*(float32 if dtype == bfloat16 else dtype for dtype in dtypes))
    if found.kind == "f" and dtypes[0].kind in "iu":
        raise TypeError(f"promote: no integer holds {' and '.join(map(str, dtypes))}; expected one of them cast first")
    return found


def _scalar_kind(value: Any) -> int:
    if isinstance(value, (np.bool_, bool)):
        return 0
    if isinstance(value, (int, np.integer)):
        return 1
    if isinstance(value, (float, np.floating, ml_dtypes.bfloat16)):
        return 2
    raise TypeError(f"expected a tensor or a Python number; got {type(value).__name__}")
