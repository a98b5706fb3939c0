"""Compiled code on disk that is older than what it was made of.

Numba keeps a kernel's machine code beside the file it stands in and compiles it again when that file changes, but not
when another one does whose code was made part of it: the tile of a product, or how calls are shared out. An old kernel
beside new sources gives wrong numbers, or hangs. So all of it goes when any source of the CPU's kernels has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from kernels.files import write_whole


def forget_stale(folder: str) -> None:
    """Remove the CPU kernels' code from Numba's folder, unless it was made of these very sources."""
    sources = sorted(Path(__file__).parent.glob("*_cpu.py"))
    facts = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sources]
    stamp = hashlib.sha256(repr(facts).encode()).hexdigest()
    mark = Path(folder, "cpu_sources.stamp")
    with contextlib.suppress(OSError):  # a folder that cannot be written to holds no code of ours
        if mark.is_file() and mark.read_text() == stamp:
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        for path in mark.parent.glob("*_cpu.*.nb[ic]"):
            path.unlink(missing_ok=True)
        write_whole(mark, stamp)
