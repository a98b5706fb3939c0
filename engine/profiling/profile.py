"""The block that is profiled."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.clock import now
from tilegrad.kernels.timing import clocks
from tilegrad.kernels.timing.watch import Launch, Listening, Told
from tilegrad.profiling import chrome
from tilegrad.profiling.recorder import Group, Recorder, Timed
from tilegrad.profiling.table import table


class profile(Listening):  # named as PyTorch's
    """Times each call of a primitive that this thread makes within the block.

        with tg.profile() as p:
            step(x, t)
        print(p)                            # op, arrays, dtype, backend, kernels, calls, time, GB/s, GFLOP/s, ceiling
        p.export_chrome_trace("step.json")  # for ui.perfetto.dev

    Eager calls and the nodes of captured steps are timed: on the CPU by the clock, on a GPU by CUDA events. A CUDA
    graph is timed as a whole, for the driver does not tell when each node ran; on the simulated device each node is.
    "other" is the rest of the block: Python, views, and what NumPy or CuPy compute themselves. What profiling itself
    does between calls is in no figure, apart from a microsecond or two for each eager call.

    GB/s and GFLOP/s are those of the least that a call must move and compute (kernels/timing/work.py). "ceiling" is
    the share that a call reaches of what the machine gives to a copy of as many bytes or to a matrix product, whichever
    takes longer; they are measured when a table is first asked for.

    A kernel's configuration (pieces shared by threads; grid, tile sizes, warps) is in `groups` and in the trace.

    Entered again it begins anew. Raises RuntimeError while another thread is profiled.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recorder = Recorder(kept=True)
        self._began = 0
        self._until: int | None = None

    if TYPE_CHECKING:

        def __enter__(self) -> profile: ...

    def begun(self) -> None:
        self._recorder, self._until, self.spent = Recorder(kept=True), None, 0
        if gpu.is_available():
            clocks.of("cuda").settle()
        self._began = now()

    def told(self, what: Told | Launch) -> None:
        self._recorder.add(what)

    def ended(self) -> None:
        self._settle()
        self._until = now()

    def _settle(self) -> None:
        for clock in self._recorder.clocks():
            clock.settle()
        self._recorder.settle()

    @property
    def groups(self) -> list[Group]:
        """Calls by op, shapes and dtypes, those that took longest first."""
        self._settle()
        return self._recorder.by_time()

    @property
    def calls(self) -> list[Timed]:
        """Each call in order, and each launch of a captured step behind its calls."""
        self._settle()
        return self._recorder.timed

    @property
    def seconds(self) -> float:
        """Of the block, without what profiling took between calls. While it lasts up to now; of one that an exception
        ended up to the last call.
        """
        end = self._until
        if end is None:
            end = now() if self.is_entered else max([each.end for each in self.calls], default=self._began)
        return (end - self._began - self.spent) / 1e9

    @property
    def other(self) -> float:
        """Seconds of the block that no call took."""
        return max(0.0, self.seconds - sum(group.seconds for group in self.groups))

    def table(self, limit: int | None = None) -> str:
        """The groups as text, the slowest first, with "other" and the sum; at most `limit` of them."""
        return table(self.groups, self.seconds, limit)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<profile of {1e3 * self.seconds:.3g} ms: {sum(g.calls for g in self.groups)} calls>"

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the calls to a file in the Trace Event Format. A file of that name is replaced as a whole."""
        chrome.export(path, self.calls, self._began)
