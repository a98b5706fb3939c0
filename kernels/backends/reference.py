"""The reference backend: the specification in NumPy, from each family's reference.py."""

from __future__ import annotations

import typing

from tilegrad.kernels.backends import functions as _functions

globals().update(_functions("reference"))

if typing.TYPE_CHECKING:

    def __getattr__(name: str) -> typing.Any: ...
