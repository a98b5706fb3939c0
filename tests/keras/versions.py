"""What of Keras the tests need in the newest supported release, and do without in older ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest

from tilegrad.keras import hook

IS_NEWEST = keras.__version__.startswith(f"3.{hook.BEFORE[1] - 1}.")


def op(name: str) -> Callable[..., Any]:
    """The function of `keras.ops`. The test is skipped where an older release has none of that name."""
    if not IS_NEWEST and not hasattr(keras.ops, name):
        pytest.skip(f"keras {keras.__version__} has no ops.{name}")
    return getattr(keras.ops, name)
