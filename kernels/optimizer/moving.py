"""Numbers that change from step to step, as the primitives take them where a step is captured: each launch reads them.

They are arrays of the parameters' device then. The CPU computes with them as the host does, in float64. A GPU reads
what the host has computed from them, in float32: a launch has the bits of a step that is not captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.optimizer.reference import adam_factors

Number = Callable[..., Any]  # number(value, dtype, shape=()): an array that has value() at each launch


def moving(beside: Any, number: Number, value: Callable[[], float]) -> Any:
    """A learning rate or momentum for parameters on the device of the array `beside`: value() at each launch."""
    return number(value, np.float64 if isinstance(beside, np.ndarray) else np.float32)


def moving_adam(
    beside: Any, number: Number, step: Callable[[], int], betas: Callable[[], tuple[float, float]]
) -> tuple[Any, Any]:
    """(step, beta1) as `adam_step` takes them for parameters on the device of the array `beside`.

    step, betas   what the next launch is to have, called at each
    """
    if isinstance(beside, np.ndarray):
        return moving(beside, number, step), moving(beside, number, lambda: betas()[0])
    factors = number(lambda: adam_factors(step(), *betas()), np.float32, (3,))  # with beta1
    return factors, betas()[0]
