"""Names of dtypes and the rules of promotion that tests/ops/test_promotion.py compares with torch op by op."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tests.oracle import to_tensor
from tilegrad import dtypes


def test_names_are_numpy_dtypes():
    for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool"):
        assert getattr(tg, name) == np.dtype(name)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (float, "float32"),  # PyTorch's default, not NumPy's
        (int, "int64"),
        (bool, "bool"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.float64, "float64"),
        (np.dtype(">f4"), "float32"),
        (tg.int32, "int32"),
    ],
)
def test_as_dtype(given, want):
    assert dtypes.as_dtype(given) == np.dtype(want) and dtypes.as_dtype(given).isnative


@pytest.mark.parametrize(
    "wrong",
    [
        complex,
        "complex64",
        np.longdouble,
        "float128",
        "U1",
        object,
        "V2",
        ml_dtypes.float8_e5m2,
        3,
        torch.float32,
    ],
)
def test_as_dtype_refuses(wrong):
    with pytest.raises(TypeError, match="dtype: expected one of bool, uint8"):
        dtypes.as_dtype(wrong)


def test_promotion_of_any_three_operands_is_torchs():
    """result_type of tensors with dimensions, 0-dim tensors and numbers; associative where torch is."""
    ruled = [dtype for dtype in dtypes.DTYPES if dtype not in dtypes.UNSIGNED]  # that torch has rules for
    operands = [np.ones((2,), d) for d in ruled] + [np.ones((), d) for d in ruled] + [True, 1, 1.0]
    for a, b in itertools.combinations_with_replacement(operands, 2):
        x, y = (to_tensor(t) if isinstance(t, np.ndarray) else t for t in (a, b))
        assert dtypes.promote(a, b).name == str(torch.result_type(x, y)).removeprefix("torch."), (a, b)
    rng = np.random.default_rng(0)
    for picks in rng.integers(0, len(operands), (300, 3)):
        a, b, c = (operands[i] for i in picks)
        together = dtypes.promote(a, b, c)
        for first, second, third in itertools.permutations((a, b, c)):
            assert dtypes.promote(first, second, third) == together


@pytest.mark.parametrize("wrong", ["1", None, [1.0], 1j])
def test_promote_refuses(wrong):
    with pytest.raises(TypeError, match="expected a tensor or a Python number"):
        dtypes.promote(np.ones(2), wrong)


def test_promote_refuses_foreign_dtypes():
    with pytest.raises(TypeError, match="promote: expected dtypes among"):
        dtypes.promote(np.ones(2), np.ones(2, np.complex64))


def test_numpy_scalars_count_as_numbers():
    x = tg.ones(2)
    assert (x * np.float64(0.1)).dtype == (np.float64(0.1) * x).dtype == np.float32
    assert (x * ml_dtypes.bfloat16(0.5)).dtype == (ml_dtypes.bfloat16(0.5) * x).dtype == np.float32
    assert (tg.arange(2) * ml_dtypes.bfloat16(0.5)).dtype == np.float32
    assert_same((tg.ones(2, dtype="int32") + np.int64(1)).numpy(), np.full(2, 2, np.int32))


def test_what_a_dtype_is():
    for dtype in dtypes.DTYPES:
        assert dtypes.is_float(dtype) == getattr(torch, dtype.name).is_floating_point == (dtype in dtypes.FLOATS)
        assert dtypes.is_number(dtype)
        assert dtypes.accumulator(dtype) == (np.float32 if dtype in ("float16", "bfloat16") else dtype)
    for foreign in ("V2", "U1", "O", "M8[s]", "f4,f4"):
        assert not dtypes.is_number(np.dtype(foreign)) and not dtypes.is_float(np.dtype(foreign))


def test_what_can_be_written_into_what():
    for target, source in itertools.product(dtypes.DTYPES, repeat=2):
        want = torch.can_cast(getattr(torch, source.name), getattr(torch, target.name))
        assert dtypes.can_hold(target, source) == want, (target, source)


@pytest.mark.parametrize("flags", [(True,), (False, True), (True, True), (False, False)], ids=str)
def test_to_takes_non_blocking_and_copy_in_their_place(flags):
    x, y = tg.ones(3), torch.ones(3)
    for ours, theirs in (
        ((tg.float32,), (torch.float32,)),
        (("cpu", tg.float32), ("cpu", torch.float32)),
        ((x,), (y,)),
    ):
        got, want = x.to(*ours, *flags), y.to(*theirs, *flags)
        assert (got is x) == (want is y) and (got.data is x.data) == (want is y)
    for wrong in ((True, "float32"), ("cpu", True, False, True)):
        with pytest.raises(TypeError, match="expected a dtype or device first, then non_blocking and copy"):
            x.to(*wrong)
