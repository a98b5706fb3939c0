"""The CPU backend: what small nets spend their time on, compiled by Numba, from each family's cpu.py.

The reference serves what has no function there. The functions themselves serve float32 in the shapes that they are made
for and hand all else to the reference, whose checks and semantics they share.
"""

from __future__ import annotations

import typing

from tilegrad.kernels.backends import functions as _functions
from tilegrad.kernels.cpu import ufuncs as _ufuncs

_reference = _functions("reference")
_all = _functions("cpu", otherwise=_reference)
globals().update(_all)

# Primitives whose functions note their own kernels: what they do with memory goes through the doors of
# kernels/cpu/effects.py. A captured step notes each of the others, which are the reference's, as a whole.
NOTED: frozenset[str] = frozenset([name for name, function in _all.items() if function is not _reference[name]])

# NumPy's functions for large arrays. They are no primitives: the bits are NumPy's.
UFUNCS = _ufuncs

if typing.TYPE_CHECKING:

    def __getattr__(name: str) -> typing.Any: ...
