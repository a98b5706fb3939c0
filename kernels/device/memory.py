"""The memory of device "cuda": who holds it, and what is done when there is none left.

CuPy's pool keeps freed memory for the next array. When an allocation fails, all memory that nobody uses is given back,
and the allocation is tried once more. If that fails too, `OutOfMemoryError` says how much is used, by which arrays, and
what the limit is.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

LISTED = 8  # of the largest arrays, in an error and in a summary


class OutOfMemoryError(RuntimeError):
    """Device "cuda" has no memory left for an array."""


class Held(NamedTuple):
    """One allocation, and the largest array alive that lies in it."""

    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype


def retrying(
    allocate: Callable[[int], Any], free: Callable[[], None], failure: type[Exception], explain: Callable[[int], str]
) -> Callable[[int], Any]:
    """An allocator: `allocate`, which after a `failure` is tried again with all unused memory freed.

    If that fails too, OutOfMemoryError with the text of explain(size).
    """

    def retrying_allocate(size: int) -> Any:
        try:
            return allocate(size)
        except failure:
            pass  # outside this block the exception is gone, and so are the arrays in the frames that it held
        gc.collect()
        free()
        try:
            return allocate(size)
        except failure:
            raise OutOfMemoryError(explain(size)) from None

    return retrying_allocate


def install(cupy: ModuleType) -> None:
    """Have CuPy allocate by `retrying`, on top of the allocator that it has."""
    cupy.cuda.set_allocator(allocator(cupy, cupy.cuda.get_allocator()))


def allocator(cupy: ModuleType, allocate: Callable[[int], Any]) -> Callable[[int], Any]:
    """`allocate`, CuPy's or a private pool's, made `retrying`: what it frees are the blocks of CuPy's pool."""
    pool = cupy.get_default_memory_pool()

    def explain(size: int) -> str:
        limit = pool.get_limit() or cupy.cuda.runtime.memGetInfo()[1]
        found = f"{amount(size)} wanted, {amount(pool.used_bytes())} of {amount(limit)} used"
        return f'device "cuda": out of memory: {found}; the largest arrays alive:\n{listed(held(cupy.ndarray))}'

    failure = cupy.cuda.memory.OutOfMemoryError
    return retrying(allocate, pool.free_all_blocks, failure, explain)


def held(kind: type) -> list[Held]:
    """Every allocation that an array of this type lies in, largest first."""
    found: dict[int, Held] = {}
    for x in gc.get_objects():
        # An array that is being made, as one is when an allocation fails, has a size but no memory yet.
        if type(x) is kind and x.nbytes and x.data is not None:
            memory = x.data.mem
            known = found.get(memory.ptr)
            if known is None or x.nbytes > math.prod(known.shape) * known.dtype.itemsize:
                found[memory.ptr] = Held(memory.size, x.shape, x.dtype)
    return sorted(found.values(), key=lambda h: -h.nbytes)


def listed(blocks: list[Held]) -> str:
    """The first of them, one a line."""
    rows = [f"    {amount(h.nbytes):>10}  {h.dtype} {h.shape}" for h in blocks[:LISTED]]
    return "\n".join(rows) if rows else "    none"


def amount(nbytes: int) -> str:
    """A number of bytes as people read it: 1.50 GiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"
