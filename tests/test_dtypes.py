"""Names of dtypes and the rules of promotion that tests/ops/test_promotion.py compares with torch op by op."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import engine
from engine import dtypes
from tests.compare import assert_same


def test_names_are_numpy_dtypes():
    for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"):
        assert getattr(engine, name) == np.dtype(name)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (float, "float32"),  # PyTorch's default, not NumPy's
        (int, "int64"),
        (bool, "bool"),
        ("float16", "float16"),
        (np.float64, "float64"),
        (np.dtype(">f4"), "float32"),
        (engine.int32, "int32"),
    ],
)
def test_as_dtype(given, want):
    assert dtypes.as_dtype(given) == np.dtype(want) and dtypes.as_dtype(given).isnative


@pytest.mark.parametrize(
    "wrong", [complex, "complex64", np.uint16, np.uint64, "float128", "U1", object, "bfloat16", 3, torch.float32]
)
def test_as_dtype_refuses(wrong):
    with pytest.raises(TypeError, match="dtype: expected one of bool, uint8"):
        dtypes.as_dtype(wrong)


def test_promotion_of_any_three_operands_is_torchs():
    """result_type of tensors with dimensions, 0-dim tensors and numbers; associative where torch is."""
    operands = [np.ones((2,), d) for d in dtypes.DTYPES] + [np.ones((), d) for d in dtypes.DTYPES] + [True, 1, 1.0]
    for a, b in itertools.combinations_with_replacement(operands, 2):
        x, y = (torch.from_numpy(t) if isinstance(t, np.ndarray) else t for t in (a, b))
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
        dtypes.promote(np.ones(2), np.ones(2, np.uint16))


def test_numpy_scalars_count_as_numbers():
    x = engine.ones(2)
    assert (x * np.float64(0.1)).dtype == (np.float64(0.1) * x).dtype == np.float32
    assert_same((engine.ones(2, dtype="int32") + np.int64(1)).numpy(), np.full(2, 2, np.int32))
