"""Lists of arrays as a kernel for all of them walks memory: dense, and in one order for arrays that belong together.

The launchers of both kernel languages share this. Arrays that do not walk memory as their parameter does are copied,
and copied back if they are updated. Tables of addresses are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import dense, dense_as
from tilegrad.kernels.sizes import cdiv

Arrays = Sequence[Any]
Rows = tuple[tuple[int, ...], ...]  # for each tensor its number of elements, at least 1, and its arrays' addresses

_REMEMBERED = 64  # tables
_GRADIENT = 1  # the place of the gradients, which are never written


def in_one_order(lists: Sequence[Arrays]) -> tuple[list[Arrays], list[tuple[Any, Any]]]:
    """(for each parameter that is not empty its arrays in one memory order, pairs for `write_back`).

    lists   the parameters, the gradients, then what is remembered
    """
    tensors: list[Arrays] = []
    copies: list[tuple[Any, Any]] = []
    for arrays in zip(*lists, strict=True):
        if arrays[0].size == 0:
            continue
        if not all([a.flags.c_contiguous for a in arrays]):
            given, first = arrays, dense(arrays[0])
            arrays = (first, *(dense_as(a, first) for a in given[1:]))
            updated = [i for i, a in enumerate(given) if arrays[i] is not a and i != _GRADIENT]
            copies += [(given[i], arrays[i]) for i in updated]
        tensors.append(arrays)
    captured = cuda_graph.capturing()
    if captured is not None:
        captured.keep(tensors)  # its launches have their addresses alone
    return tensors, copies


def write_back(copies: list[tuple[Any, Any]]) -> None:
    """Copy to each array the result of the copy that a kernel has updated instead of it."""
    for given, copy in copies:
        given[...] = copy


class Tables:
    """Tables of addresses in device memory. The latest are remembered by their content: a steady step fills none.

    A captured graph has tables of its own, whose addresses are those of every launch. They are filled once, outside the
    graph.

    fill        (rows, elements of a program) -> the table, filled by launches alone
    collecting  whether launches are collected, not run
    """

    def __init__(self, fill: Callable[[Rows, int], Any], collecting: Callable[[], bool]) -> None:
        self.fill = fill
        self.collecting = collecting
        self.remembered: dict[Any, Any] = {}

    def of(self, rows: Rows, size: int) -> Any:
        """The table of these rows for programs of `size` elements."""
        captured = cuda_graph.capturing()
        if captured is not None:
            with cuda_graph.aside():
                table = self.fill(rows, size)
            captured.keep(table)
            return table
        stream = self._stream()
        if stream is None:
            return self.fill(rows, size)
        key = stream, size, rows
        table = self.remembered.get(key)
        if table is None:
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.pop(next(iter(self.remembered)), None)  # the oldest
            table = self.remembered[key] = self.fill(rows, size)
        return table

    def _stream(self) -> int | None:
        """The current stream; None where no table may be remembered: it is captured, or launches are collected."""
        if self.collecting():
            return None
        cuda = getattr(gpu.xp(), "cuda", None)
        if cuda is None:
            return 0  # the simulated device has one
        stream = cuda.get_current_stream()
        return None if stream.is_capturing() else stream.ptr


def columns(rows: Rows, size: int) -> tuple[list[int], int]:
    """(the numbers of a table, programs): the first program of each tensor, then a row for each entry of `rows`."""
    firsts, programs = [], 0
    for elements, *_ in rows:
        firsts.append(programs)
        programs += cdiv(elements, size)
    return [*firsts, *(number for column in zip(*rows, strict=True) for number in column)], programs
