"""Which sources the CPU's kernels of this process are made of.

Machine code of the CPU's kernels is kept on disk (kernels/cpu/code.py) under the stamp of all of their sources, for a
kernel has the code of others in it: the tile of a product, or how calls are shared out. A process knows what it has
loaded as long as no source has changed since the backend was loaded.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parents[1]
_SOURCES = (
    "cpu/*.py",
    "sizes.py",
    "*/cpu*.py",
    "capture/calls.py",
)  # with what plays their calls


def _facts() -> dict[str, tuple[int, ...]] | None:
    """What tells that a source is another one, without reading it; None where there are no sources to be seen."""
    facts = {}
    try:
        for path in sorted(path for pattern in _SOURCES for path in _FOLDER.glob(pattern)):
            found = path.stat()
            facts[path.relative_to(_FOLDER).as_posix()] = (
                found.st_mtime_ns,
                found.st_ctime_ns,
                found.st_size,
                found.st_ino,
            )
    except OSError:
        return None
    return facts or None


_at_first = _facts()  # before any kernel is loaded: they import kernels/cpu/code.py first, and that this module


def stamp() -> str | None:
    """Of what all the sources say; None if they are not, or may not be, those that this process has loaded."""
    if _at_first is None:
        return None
    found = _hash()
    return found if _facts() == _at_first else None  # a time of change never comes back, so one look is enough


@cache
def _hash() -> str | None:
    text = hashlib.sha256()
    try:
        for name in _at_first or ():
            content = (_FOLDER / name).read_bytes()
            text.update(f"{name} {len(content)}\n".encode() + content)
    except OSError:
        return None
    return text.hexdigest()[:16]
