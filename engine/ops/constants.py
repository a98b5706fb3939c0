"""Arrays that shapes and other numbers of the host decide, made once and kept on the device that uses them.

A captured step on a GPU cannot copy from the host. It finds these where its plain calls have left them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.device import module_of
from tilegrad.tensor import Tensor, wrap


def constant(like: Tensor, make: Callable[..., np.ndarray], *arguments: Any) -> Tensor:
    """A tensor of make(*arguments), an array of NumPy's, on like's device.

    The arguments are hashable, and decide the array. Its memory is that of later calls: nobody may write to it.
    """
    made = wrap(_made(module_of(like.device), make, arguments))
    return capture_hooks.constant(made) if capture_hooks.capturing else made


@lru_cache(maxsize=64)
def _made(xp: Any, make: Callable[..., np.ndarray], arguments: tuple[Any, ...]) -> Any:
    return xp.asarray(make(*arguments))
