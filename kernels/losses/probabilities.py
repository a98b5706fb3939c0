"""Whether numbers are probabilities: a check of values; the engine makes it too, where it computes a loss op by op."""

from __future__ import annotations

import numpy as np


def check_probabilities(x: np.ndarray) -> None:
    """Raise ValueError for a number outside 0 to 1."""
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            f"binary_cross_entropy: input holds values from {x.min()} to {x.max()}; expected 0 <= input <= 1"
        )
