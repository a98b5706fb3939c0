"""Global memory that is the arrays of the launch and nothing else, and memory of blocks and threads that is watched.

An access must lie inside an array, at a multiple of its width, which is a vector's of all its elements together (PTX
ISA 6.4, and 9.7.9 at ld). Shared memory is watched by the cell: as many bytes as the narrowest access of the kernel.
Each cell has the last write and two of the last reads, with thread and time. From them it is known whether two threads
meet in a cell with no barrier between them, one of them writing: a race (PTX ISA 8, memory consistency). bar.sync
orders the threads of a block, bar.warp.sync those of a warp. Shuffles do not order memory. Lanes that store one value
in one instruction do not race: Triton's reductions do that, and whoever comes last, the value is the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.races import READ, STRONG_WRITE, WRITE, Races

if TYPE_CHECKING:
    from tilegrad.kernels.simulate.ptx.async_proxy import AsyncProxy
    from tilegrad.kernels.simulate.ptx.releases import Releases

_NEVER, _IN_FLIGHT = -1, -2  # in place of a stamp
_EPOCH, _WARP_EPOCH, _THREAD = 32, 11, (1 << 11) - 1  # a stamp: epoch of the block, epoch of the warp, thread
_WARP_EPOCHS = (1 << _EPOCH - _WARP_EPOCH) - 1
_ALIGN = 128  # bytes, of a block's shared memory
_FAR = 1 << 20  # bytes of a hole


Change = Callable[[np.ndarray], np.ndarray]  # of the words that lanes find, to those that they leave


class Array(NamedTuple):
    """Memory that a kernel may touch.

    name      for messages
    address   of its first byte
    size      bytes from there to the end of its last element
    writable  whether the kernel may write to it
    inside    which of these bytes belong to elements; None: all
    owner     what keeps the memory
    """

    name: str
    address: int
    size: int
    writable: bool = True
    inside: np.ndarray | None = None
    owner: Any = None


def array_of(name: str, host: np.ndarray, writable: bool = True) -> Array:
    """A NumPy array of any strides; the holes between its elements are no part of it."""
    low, high = np.lib.array_utils.byte_bounds(host) if host.size else (0, 0)
    inside = None
    if high - low != host.nbytes:
        start = host.__array_interface__["data"][0] - low
        inside = np.zeros(high - low, np.bool_)
        strides = (*host.strides, 1)
        np.ndarray((*host.shape, host.itemsize), np.bool_, inside, start, strides)[...] = True
        inside = None if inside.all() else inside
    return Array(name, low, high - low, writable, inside, host)


def arrays_of(name: str, host: np.ndarray, writable: bool = True) -> Iterator[Array]:
    """The same in parts, where elements lie so far apart that the holes would take more memory than they do."""
    if host.size:
        axis = max(range(host.ndim), key=lambda a: abs(host.strides[a]) * (host.shape[a] > 1), default=None)
        if axis is not None and host.shape[axis] > 1:
            parts = np.moveaxis(host, axis, 0)
            low, high = np.lib.array_utils.byte_bounds(parts[:1])
            if abs(host.strides[axis]) - (high - low) > _FAR:
                for part in range(len(parts)):
                    yield from arrays_of(name, parts[part : part + 1], writable)
                return
    yield array_of(name, host, writable)


class _Region:
    """Arrays that overlap, as one piece of memory."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.start = min(a.address for a in arrays)
        self.stop = max(a.address + a.size for a in arrays)
        size = self.stop - self.start
        self.readable = self._cover(arrays, size)
        self.writable = self._cover([a for a in arrays if a.writable], size)
        memory: Any = (ctypes.c_char * size).from_address(self.start)
        self.bytes = np.frombuffer(memory, np.uint8)
        self._views: dict[int, np.ndarray] = {}
        self.races: Races | None = None  # of what the kernel may write to

    def _cover(self, arrays: Sequence[Array], size: int) -> np.ndarray | None:
        """Which bytes are covered; None: all."""
        cover = np.zeros(size, np.bool_)
        for a in arrays:
            at = a.address - self.start
            cover[at : at + a.size] |= True if a.inside is None else a.inside
        return None if cover.all() else cover

    def view(self, width: int) -> tuple[np.ndarray, int]:
        """The memory as integers of so many bytes, and the address of the first."""
        skipped = -self.start % width
        found = self._views.get(width)
        if found is None:
            whole = max(0, self.bytes.size - skipped) // width * width
            found = self._views[width] = self.bytes[skipped : skipped + whole].view(f"u{width}")
        return found, self.start + skipped


class Global:
    """The arrays of a launch.

    releases  what orders threads beside barriers, for a kernel that has such instructions
    """

    def __init__(self, arrays: Iterable[Array], releases: Releases | None = None) -> None:
        self.releases = releases
        regions: list[list[Array]] = []
        stop = -1
        for a in sorted((a for a in arrays if a.size), key=lambda a: a.address):
            if a.address < stop:
                regions[-1].append(a)
            else:
                regions.append([a])
            stop = max(stop, a.address + a.size)
        self.regions = [_Region(each) for each in regions]
        self._starts = np.array([r.start for r in self.regions], np.uint64)
        self._stops = np.array([r.stop for r in self.regions], np.uint64)

    def watch(self, written: Iterable[int] | None) -> None:
        """The kernel writes to memory at these addresses, or None: anywhere. Where it only reads nothing can race."""
        regions = self.regions
        if written is not None:
            at = [int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1 for address in written]
            regions = [self.regions[n] for n in at if n >= 0]
        for region in regions:
            self._races(region)

    def _races(self, region: _Region) -> Races:
        if region.races is None:
            region.races = Races(region.start, region.stop, self.releases)
        return region.races

    def change(self, m: Machine, addresses: np.ndarray, width: int, is_wide: bool, change: Change) -> None:
        """Atomic operations. `is_wide` says whether their scope is more than the block."""
        for region, which in self._found(m, addresses, width, True):
            with _only(m, which):
                self._races(region).touch(m, _of(addresses, which), width, STRONG_WRITE, not is_wide)
        words = change(self.load(m, addresses, width, 1, None)[0])
        self.store(m, addresses, [words], width, None)

    def load(
        self, m: Machine, addresses: np.ndarray, width: int, count: int, kind: int | None = READ
    ) -> list[np.ndarray]:
        """`count` integers of `width` bytes from each address, one of each active lane.

        kind   READ or STRONG_READ; None: it is a part of something else
        """
        results = [np.empty(addresses.size, f"u{width}") for _ in range(count)]
        for region, which in self._found(m, addresses, width * count, False):
            view, first = region.view(width)
            places = ((addresses if which is None else addresses[which]) - np.uint64(first)) // np.uint64(width)
            places = places.astype(np.intp)
            if kind is not None and region.races is not None:
                with _only(m, which):
                    region.races.touch(m, _of(addresses, which), width * count, kind)
            for k, result in enumerate(results):
                result[slice(None) if which is None else which] = view[places + k]
        return results

    def store(
        self, m: Machine, addresses: np.ndarray, values: Sequence[np.ndarray], width: int, kind: int | None = WRITE
    ) -> None:
        """The reverse of load; of lanes with one address the last wins."""
        for region, which in self._found(m, addresses, width * len(values), True):
            mine = [value if which is None or value.ndim == 0 else value[which] for value in values]
            with _only(m, which):
                self._store(m, region, _of(addresses, which), mine, width, kind)

    def _store(
        self,
        m: Machine,
        region: _Region,
        addresses: np.ndarray,
        values: Sequence[np.ndarray],
        width: int,
        kind: int | None,
    ) -> None:
        view, first = region.view(width)
        places = ((addresses - np.uint64(first)) // np.uint64(width)).astype(np.intp)
        cells = None if kind is None else self._races(region).touch(m, addresses, width * len(values), kind)
        for k, value in enumerate(values):
            view[places + k] = value
        if cells is not None and kind == WRITE:
            self._races(region).together(m, cells, lambda: [view[places + k] == each for k, each in enumerate(values)])

    def _found(self, m: Machine, addresses: np.ndarray, size: int, writes: bool) -> Any:
        """(region, which of the addresses lie in it) of each region that is touched, all of it checked."""
        if not addresses.size:
            return
        odd = addresses % np.uint64(size) != 0
        if odd.any():
            at = int(np.flatnonzero(odd)[0])
            where = self.name(int(addresses[at]))
            m.fault(int(m.lanes_now()[at]), f"{int(addresses[at]):#x}, {where}, is no multiple of {size} bytes")
        numbers = np.searchsorted(self._starts, addresses, "right") - 1
        if self._stops.size:
            outside = (numbers < 0) | (addresses + np.uint64(size) > self._stops[numbers])
        else:
            outside = np.ones(addresses.size, np.bool_)
        if outside.any():
            self._refuse(m, addresses, size, outside, "outside of every array of the launch")
        first = int(numbers[0])
        groups = [(first, None)]
        if (numbers != first).any():
            groups = [(int(n), np.flatnonzero(numbers == n)) for n in np.unique(numbers)]
        for number, which in groups:
            region = self.regions[number]
            for cover, message in (
                (region.readable, "between the elements of an array"),
                (region.writable if writes else None, "a write to an array that may only be read"),
            ):
                if cover is not None:
                    places = ((addresses if which is None else addresses[which]) - np.uint64(region.start)).astype(
                        np.intp
                    )
                    wrong = ~cover[places[:, None] + np.arange(size)].all(1)
                    if wrong.any():
                        outside = np.zeros(addresses.size, np.bool_)
                        outside[slice(None) if which is None else which] = wrong
                        self._refuse(m, addresses, size, outside, message)
            yield region, which

    def _refuse(self, m: Machine, addresses: np.ndarray, size: int, wrong: np.ndarray, message: str) -> None:
        at = int(np.flatnonzero(wrong)[0])
        address = int(addresses[at])
        m.fault(int(m.lanes_now()[at]), f"{size} bytes at {address:#x}, {self.name(address)}: {message}")

    def name(self, address: int) -> str:
        """Where an address lies, in words."""
        arrays = [a for region in self.regions for a in region.arrays]
        if not arrays:
            return "and there is no array"

        def distance(a: Array) -> int:
            return max(a.address - address, address - (a.address + a.size - 1), 0)

        nearest = min(arrays, key=lambda a: (distance(a), not a.writable))
        offset = address - nearest.address
        if offset < 0:
            return f"{-offset} bytes before {nearest.name}"
        if offset >= nearest.size:
            return f"{offset - nearest.size} bytes behind the end of {nearest.name} ({nearest.size} bytes)"
        return f"byte {offset} of {nearest.name} ({nearest.size} bytes)"


def _of(addresses: np.ndarray, which: np.ndarray | None) -> np.ndarray:
    return addresses if which is None else addresses[which]


@contextmanager
def _only(m: Machine, which: np.ndarray | None) -> Iterator[None]:
    """Of the active lanes only these are, within the block."""
    active = m.active
    if which is not None:
        m.active = m.lanes_now()[which]
    yield
    m.active = active


class Rows:
    """Memory of which each block has a row (shared), or each thread (local).

    name  for messages
    size  bytes of a row
    cell  bytes of the narrowest access: what is watched as one
    """

    def __init__(self, m: Machine, name: str, rows: int, size: int, cell: int) -> None:
        self.name, self.size, self.cell = name, size, cell
        self.stride = -(-size // _ALIGN) * _ALIGN
        self.bytes = np.zeros(rows * self.stride, np.uint8)
        cells = rows * self.stride // cell
        self.written = np.full(cells, _NEVER, np.int64)
        self.reader = np.full(cells, _NEVER, np.int64)
        self.other = np.full(cells, _NEVER, np.int64)  # another reader than the last one
        self.changers: np.ndarray | None = None  # the last atomic operation and another, of a kernel with such
        self.epoch = np.ones(m.blocks, np.int64)
        self.warp_epoch = np.zeros(m.blocks * m.warps, np.int64)
        self.time = 1  # goes on at every barrier
        self.met = np.zeros(m.blocks, np.int64)  # when all threads of a block last met
        self.warp_met = np.zeros(m.blocks * m.warps, np.int64)
        self.proxy: AsyncProxy | None = None  # of a kernel with asynchronous products

    def barrier(self, blocks: Any) -> None:
        """All threads of these blocks have met."""
        if self.proxy is not None:
            self.proxy.barrier(blocks)
        self.epoch[blocks] += 1
        self.time += 1
        self.met[blocks] = self.time

    def warp_barrier(self, warps: Any) -> None:
        """All threads of these warps have met."""
        self.warp_epoch[warps] = self.warp_epoch[warps] + 1 & _WARP_EPOCHS
        self.time += 1
        self.warp_met[warps] = self.time

    def load(self, m: Machine, rows: np.ndarray, addresses: np.ndarray, width: int, count: int) -> list[np.ndarray]:
        """`count` integers of `width` bytes from each address, one of each active lane."""
        places = self._places(m, rows, addresses, width * count)
        self.note_read(m, places, width * count)
        view = self.bytes.view(f"u{width}")
        return [view[places // width + k] for k in range(count)]

    def store(self, m: Machine, rows: np.ndarray, addresses: np.ndarray, values: Sequence[np.ndarray]) -> None:
        """The reverse of load."""
        width = values[0].dtype.itemsize
        places = self._places(m, rows, addresses, width * len(values))
        cells, stamps = self.note_write(m, places, width * len(values))
        view = self.bytes.view(f"u{width}")
        for k, value in enumerate(values):
            view[places // width + k] = value
        self.written[cells] = stamps
        for k, value in enumerate(values):
            lost = view[places // width + k] != value  # to another lane that wrote at once
            if lost.any():
                where = (places + k * width) // self.cell
                self._race(m, where[:, None], lost[:, None], self.written[where][:, None], "wrote another value")

    # --- asynchronous copies (PTX ISA 9.7.9.25): a cell is in flight from cp.async to the wait for its group

    def depart(self, m: Machine, rows: np.ndarray, addresses: np.ndarray, size: int) -> np.ndarray:
        """Mark the cells as in flight; gives the places."""
        places = self._places(m, rows, addresses, size)
        cells, _ = self.note_write(m, places, size)
        self.written[cells] = _IN_FLIGHT
        return places

    def arrive(self, m: Machine, lanes: np.ndarray, places: np.ndarray, data: np.ndarray) -> None:
        """Rows of bytes land where they were to go; from now on it is as if their lanes had stored them."""
        size = data.shape[1]
        self.bytes[places[:, None] + np.arange(size)] = data
        cells = self._cells(places, size)
        self.written[cells] = self._stamps(m, lanes)[:, None]
        if self.proxy is not None:
            self.proxy.write(m, lanes, cells)

    # --- who met whom

    def note_read(self, m: Machine, places: np.ndarray, size: int) -> None:
        """Raise Fault if these bytes were not written, or race; note the readers."""
        lanes = m.lanes_now()
        cells = self._cells(places, size)
        stamps = np.broadcast_to(self._stamps(m, lanes)[:, None], cells.shape)
        written = self.written[cells]
        self._readable(m, lanes, cells, written)
        self._apart(m, cells, stamps, written, "wrote it")
        self._after_changes(m, cells, stamps)
        before = self.reader[cells]
        self.reader[cells] = stamps
        another = (before >> _EPOCH == stamps >> _EPOCH) & ((before ^ stamps) & _THREAD != 0)
        if another.any():
            self.other[cells[another]] = before[another]
        lost = self.reader[cells] != stamps
        if lost.any():
            self.other[cells[lost]] = stamps[lost]

    def note_write(self, m: Machine, places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Raise Fault if a write of these bytes races; gives the cells and the stamps that they shall get."""
        lanes = m.lanes_now()
        cells = self._cells(places, size)
        stamps = np.broadcast_to(self._stamps(m, lanes)[:, None], cells.shape)
        written = self.written[cells]
        flying = written == _IN_FLIGHT
        if flying.any():
            at, k = (int(n[0]) for n in np.nonzero(flying))
            m.fault(int(lanes[at]), f"{self.where(cells[at, k])}: written before cp.async.wait_group")
        for before, did in ((written, "wrote it"), (self.reader[cells], "read it"), (self.other[cells], "read it")):
            self._apart(m, cells, stamps, before, did)
        self._after_changes(m, cells, stamps)
        if self.proxy is not None:
            self.proxy.write(m, lanes, cells)
        return cells, stamps

    def change(self, m: Machine, rows: np.ndarray, addresses: np.ndarray, width: int, change: Change) -> None:
        """Atomic operations: strong ones (PTX ISA 8), which race with all but each other."""
        places = self._places(m, rows, addresses, width)
        lanes, cells = m.lanes_now(), self._cells(places, width)
        stamps = np.broadcast_to(self._stamps(m, lanes)[:, None], cells.shape)
        written = self.written[cells]
        self._readable(m, lanes, cells, written)
        for before, did in ((written, "wrote it"), (self.reader[cells], "read it"), (self.other[cells], "read it")):
            self._apart(m, cells, stamps, before, did)
        if self.changers is None:
            self.changers = np.full((2, self.written.size), _NEVER, np.int64)
        last, other = self.changers
        before = last[cells]
        last[cells] = stamps
        for which, by in ((self._conflicts(before, stamps), before), (last[cells] != stamps, stamps)):
            other[cells[which]] = by[which]
        if self.proxy is not None:
            self.proxy.write(m, lanes, cells)
        view = self.bytes.view(f"u{width}")
        view[places // width] = change(view[places // width])

    def _apart(self, m: Machine, cells: np.ndarray, stamps: np.ndarray, before: np.ndarray, did: str) -> None:
        """Raise Fault if what was done before races with what the active lanes do now."""
        conflict = self._conflicts(before, stamps)
        if conflict.any():
            self._race(m, cells, conflict, before, did)

    def _after_changes(self, m: Machine, cells: np.ndarray, stamps: np.ndarray) -> None:
        if self.changers is not None:
            for changer in self.changers:
                self._apart(m, cells, stamps, changer[cells], "changed it atomically")

    def _readable(self, m: Machine, lanes: np.ndarray, cells: np.ndarray, written: np.ndarray) -> None:
        """Raise Fault if these cells were not written."""
        if written.min(initial=0) < 0:
            at, k = (int(n[0]) for n in np.nonzero(written < 0))
            m.fault(int(lanes[at]), f"{self.where(cells[at, k])}: {self.unwritten(written[at, k])}")

    def writer(self, written: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(thread, epoch) of stamps."""
        return written & _THREAD, written >> _EPOCH

    def unwritten(self, written: int) -> str:
        """What is wrong with a read where there is no stamp; "" where there is one."""
        if written >= 0:
            return ""
        return "read before it was written" if written == _NEVER else "read before cp.async.wait_group"

    def by_block(self) -> np.ndarray:
        """(blocks, bytes): the shared memory of each block."""
        return self.bytes.reshape(-1, self.stride)[:, : self.size]

    def _conflicts(self, before: np.ndarray, stamps: np.ndarray) -> np.ndarray:
        """Where a stamp is of the same epoch, of another thread, and no barrier of the warp lies between."""
        conflict = (before >> _EPOCH == stamps >> _EPOCH) & ((before ^ stamps) & _THREAD != 0)
        if conflict.any():
            same_warp = (before & _THREAD) // 32 == (stamps & _THREAD) // 32
            met = same_warp & ((before ^ stamps) >> _WARP_EPOCH & _WARP_EPOCHS != 0)
            conflict &= ~met
        return conflict

    def _race(self, m: Machine, cells: np.ndarray, conflict: np.ndarray, before: np.ndarray, did: str) -> None:
        at, k = (int(n[0]) for n in np.nonzero(conflict))
        other = int(before[at, k]) & _THREAD
        where = self.where(cells[at, k])
        m.fault(int(m.lanes_now()[at]), f"{where}: a race with thread {other}, which {did}; no barrier between")

    def _stamps(self, m: Machine, lanes: np.ndarray) -> np.ndarray:
        epochs = self.epoch[m.block_of[lanes]] << _EPOCH
        return epochs | self.warp_epoch[m.warp_of[lanes]] << _WARP_EPOCH | m.thread_of[lanes]

    def where(self, cell: int) -> str:
        return f"byte {int(cell) * self.cell % self.stride} of {self.name} memory"

    def _cells(self, places: np.ndarray, size: int) -> np.ndarray:
        """(lanes, cells) of the bytes from each place."""
        return (places // self.cell)[:, None] + np.arange(max(1, size // self.cell))

    def _places(self, m: Machine, rows: np.ndarray, addresses: np.ndarray, size: int) -> np.ndarray:
        """Where in `bytes` each address of each row is, all of it checked."""
        addresses = addresses.astype(np.int64)
        wrong = (addresses < 0) | (addresses + size > self.size)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            message = f"{size} bytes at {int(addresses[at])}: outside of {self.name} memory ({self.size} bytes)"
            m.fault(int(m.lanes_now()[at]), message)
        odd = addresses % size != 0
        if odd.any():
            at = int(np.flatnonzero(odd)[0])
            message = f"{int(addresses[at])} in {self.name} memory is no multiple of {size} bytes"
            m.fault(int(m.lanes_now()[at]), message)
        return rows * self.stride + addresses
