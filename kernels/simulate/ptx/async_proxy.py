"""What the async proxy reads of shared memory, and when that may be written: PTX ISA 8.6 (proxies), 9.7.13 (fence).

wgmma.mma_async reads shared memory through the async proxy. Between a generic write and such a read there must be a
barrier and a fence.proxy.async, in either order: the writer's before the barrier, or the reader's behind it. Without
the fence a GPU may read what was there before, and does not tell. From the product until a wgmma.wait_group its memory
is its own, and another write needs one more barrier, because other warps may not have waited yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilegrad.kernels.simulate.ptx.machine import WARPGROUP, Machine

if TYPE_CHECKING:
    from tilegrad.kernels.simulate.ptx.memory import Rows


class AsyncProxy:
    """Of the shared memory of a chunk. Products are numbered in the order in which they begin.

    A cell is known by its last generic write (Rows.written), and by the last product of each warpgroup that reads it.
    """

    def __init__(self, m: Machine, rows: Rows) -> None:
        self.rows = rows
        self.groups = -(-m.threads // WARPGROUP)  # of a block
        self.lanes = m.threads
        self._reader = np.zeros((self.groups, rows.written.size), np.int32)  # the number of a product
        self._fences_before = np.zeros(rows.written.size, np.int32)  # of the thread that wrote, before it wrote
        self._fences = np.zeros(m.lanes, np.int32)
        self._fences_met = np.zeros(m.lanes, np.int32)  # before the last barrier
        self._fenced = np.zeros((m.blocks, self.groups), np.int64)  # epoch of each warpgroup's last fence
        self._latest = np.zeros((2, m.blocks), np.int64)  # the last epoch with any fence, and the one before it
        self._done = np.zeros((m.blocks, self.groups), np.int32)  # products up to this number were waited for
        self._done_met = np.zeros((m.blocks, self.groups), np.int32)  # before the last barrier
        self._begun = 0

    def barrier(self, blocks: np.ndarray) -> None:
        """All threads of these blocks have met."""
        self._done_met[blocks] = self._done[blocks]
        met = np.repeat(blocks, self.lanes)
        self._fences_met[met] = self._fences[met]

    def fence(self, m: Machine) -> None:
        """fence.proxy.async by the active lanes."""
        lanes = m.lanes_now()
        self._fences[lanes] += 1
        blocks = np.unique(m.block_of[lanes])
        now = self.rows.epoch[blocks]
        newer = self._latest[0, blocks] < now
        self._latest[1, blocks[newer]] = self._latest[0, blocks[newer]]
        self._latest[0, blocks] = now
        group_of = m.block_of[lanes] * self.groups + m.thread_of[lanes] // WARPGROUP
        group = np.flatnonzero(np.bincount(group_of) == WARPGROUP)
        self._fenced.reshape(-1)[group] = self.rows.epoch[group // self.groups]

    def write(self, m: Machine, lanes: np.ndarray, cells: np.ndarray) -> None:
        """Raise Fault if a product may still read these cells (lanes, n); they are written by generic stores now."""
        self._fences_before[cells] = self._fences[lanes][:, None]
        block = m.block_of[lanes][:, None]
        for group in range(self.groups):
            reader = self._reader[group][cells]
            if reader.max(initial=0) == 0:
                continue
            for limit, message in (
                (self._done, "written while a wgmma.mma_async that was not waited for reads it"),
                (self._done_met, "a race with a wgmma.mma_async, which read it; no barrier since wgmma.wait_group"),
            ):
                wrong = reader > limit[block, group]
                if wrong.any():
                    at, k = (int(n[0]) for n in np.nonzero(wrong))
                    m.fault(int(lanes[at]), f"{self.rows.where(cells[at, k])}: {message}")

    def begin(self) -> int:
        """The number of a product that begins."""
        self._begun += 1
        return self._begun

    def read(self, m: Machine, product: int, groups: np.ndarray, addresses: np.ndarray, size: int) -> None:
        """A product of these warpgroups reads `size` bytes from each address (warpgroups, n) in its block's memory.

        Raises Fault if they were not written, or without what must lie between.
        """
        rows = self.rows
        block = groups // self.groups
        first = (block[:, None] * rows.stride + addresses) // rows.cell
        cells = (first[..., None] + np.arange(max(1, size // rows.cell))).reshape(len(groups), -1)
        written, now = rows.written[cells], rows.epoch[block][:, None]
        thread, epoch = rows.writer(written)
        fenced = epoch < self._fenced[block, groups % self.groups][:, None]
        if not fenced.all():
            fenced |= epoch < np.where(self._latest[0] < rows.epoch, self._latest[0], self._latest[1])[block][:, None]
            writer = block[:, None] * self.lanes + np.where(written < 0, 0, thread)
            fenced |= self._fences_before[cells] < self._fences_met[writer]
        wrong = (written < 0) | (epoch == now) | ~fenced
        if wrong.any():
            at, k = (int(n[0]) for n in np.nonzero(wrong))
            what = rows.unwritten(written[at, k])
            if not what and epoch[at, k] == now[at, 0]:
                what = f"a race with thread {thread[at, k]}, which wrote it; no barrier between"
            what = what or f"thread {thread[at, k]} wrote it, with no fence.proxy.async between"
            lane = int(block[at]) * self.lanes + int(groups[at] % self.groups) * WARPGROUP
            m.fault(lane, f"{rows.where(cells[at, k])}: {what}")
        for group in np.unique(groups % self.groups):
            self._reader[group][cells[groups % self.groups == group]] = product

    def end(self, groups: np.ndarray, product: int) -> None:
        """These warpgroups have waited for the product, and for all before it."""
        self._done.reshape(-1)[groups] = product
