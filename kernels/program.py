"""A captured step on the CPU: calls of kernels in order, made again as a whole.

While a program is recorded, no kernel runs. `kernels.of` gives `Program.primitives` then, whose results are arrays
without values (kernels/planned.py); what primitives do with memory comes here by one of three doors,

    threads.share(kernel, most, items, *arguments)   a compiled kernel: its call is noted as it lies in registers
    do(function, *arguments)                         any other function that writes to arrays among its arguments
    whole(primitive, *arguments)                     a primitive as one such function, which writes what it returned

and elsewhere `do` and `whole` just call. A launch plays the notes, as many in a row as there are without a function of
Python between, in one call of compiled code.

Large arrays come from a pool of the program's own: what dies while it is recorded serves again within it, as it would
without a program, and never without. A program reads memory that there was before, or that it writes itself: anything
else would have been computed beside it. So whoever records it says what there was (`know`), and `settle` refuses the
rest.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from kernels import buffers
from kernels.modes import Block
from kernels.planned import Planned, PlannedError


class Program:
    """What `recorded` recorded."""

    def __init__(self) -> None:
        from kernels import threads
        from kernels.share_cpu import Recorder

        self._play = threads.play
        self._recorder = Recorder()
        self._pool = buffers.Pool(kept=float("inf"))
        self._steps: list[Any] = []  # calls of kernels, or (function, arguments)
        self._guards: dict[int, Callable[[], None]] = {}  # by the step, while recorded; by where its call lies, then
        self._inputs: list[np.ndarray] = []
        self._fixed: set[int] = set()  # ids of inputs that a function of Python reads
        self._moves: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None] = []
        self._names: list[str] = []
        self._kept: list[Any] = []
        self._known: dict[int, np.ndarray] = {}  # by id, the arrays whose memory may be used
        self._foreign: list[tuple[np.ndarray, str, str]] = []  # and those that were, by what op in what line

    # --- what is recorded

    def kernel(self, kernel: Callable[..., None], pieces: int, items: int, arguments: tuple[Any, ...]) -> None:
        """A call of a compiled kernel, in that many pieces."""
        kernel(*arguments, 0, items, pieces, self._recorder.address)
        self._steps.append(self._recorder.take())
        self._names.append(kernel.__name__.strip("_") + "_kernel")
        for array in arguments:
            if isinstance(array, np.ndarray) and buffers.pool_of(array) is not self._pool:
                self._kept.append(array)  # the note has its address only

    def guard(self, word: np.ndarray, told: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Where the last call of a kernel leaves the word at 0 or above, call told(*arguments)."""
        from kernels.share_cpu import guard

        guard(self._steps[-1], word)
        self._kept.append(word)
        self._guards[len(self._steps) - 1] = lambda: told(*arguments)
        self.fix(arguments)

    def function(self, name: str, function: Callable[..., Any], arguments: Any, used: Any = ()) -> None:
        """function(*arguments), which uses memory of theirs and of arrays in `used`."""
        self._steps.append((function, arguments))
        self._names.append(name)
        self.fix((arguments, used))

    def inputs(self, arrays: list[np.ndarray]) -> list[Planned]:
        """Arrays that `launch` takes others for: what the program is to read."""
        self._inputs = arrays
        return list(map(self.adopt, arrays))

    def primitives(self, backend: ModuleType) -> _Primitives:
        """The primitives of a backend, recorded."""
        return _Primitives(self, backend)

    def constant(self, array: np.ndarray) -> Planned:
        """An array with values, which nobody writes to."""
        self._kept.append(array)
        return self.adopt(array)

    def copied(self, source: np.ndarray, copy: Callable[[np.ndarray], np.ndarray]) -> Planned:
        """The result of copy(source)."""
        target = copy(source)
        self.function("copy", lambda: np.copyto(target, copy(source)), (), source)
        return self.adopt(target)

    def adopt(self, array: np.ndarray) -> Planned:
        """An array that the program writes, or a view of one."""
        planned = array.view(Planned)
        planned.program = self
        return planned

    def plain(self, x: Any, op: str) -> Any:
        """NumPy's arrays for those in x, which an op uses."""
        if isinstance(x, Planned):
            return x.view(np.ndarray)
        if isinstance(x, np.ndarray):
            self._foreign.append((x, op, _line()))
        elif type(x) in (list, tuple):
            return type(x)([self.plain(item, op) for item in x])
        return x

    def know(self, array: np.ndarray) -> None:
        """The array was there before, or belongs to whoever records: the program may read and write it."""
        owner = _owner(array)
        self._known[id(owner)] = owner

    def settle(self) -> None:
        """Raise PlannedError if an array was used that is neither the program's nor was there before."""
        for array, op, place in self._foreign:
            if id(_owner(array)) not in self._known:
                raise PlannedError("uses an array that was made beside it, with NumPy", op, place)

    def fix(self, used: Any) -> None:
        """Arrays that somebody uses who is no call of a kernel: inputs among them must be where they are."""
        owners = {id(_owner(array)) for array in _all_arrays(used)}
        self._fixed |= owners & {id(array) for array in self._inputs}

    # --- afterwards

    def close(self) -> None:
        """Nothing more is recorded: join what can be played in one go."""
        joined: list[Any] = []
        guards = {}
        for i, step in enumerate(self._steps):
            if not isinstance(step, np.ndarray):
                joined.append(step)
                continue
            if not joined or not isinstance(joined[-1], list):
                joined.append([])
            if i in self._guards:
                guards[len(joined) - 1, sum(map(len, joined[-1]))] = self._guards[i]
            joined[-1].append(step)
        self._steps = [np.concatenate(step) if isinstance(step, list) else step for step in joined]
        self._guards = guards
        self._moves = list(map(self._places, self._inputs))
        self._known.clear()
        self._foreign.clear()

    def take(self, arrays: list[np.ndarray]) -> None:
        """Have the next launch read these for the inputs; they must live until then.

        An array in C order is read where it lies, unless a function of Python has the input's own memory. Others are
        copied there.
        """
        for array, own, moves in zip(arrays, self._inputs, self._moves, strict=True):
            if moves is None or not (array.flags.carray and array.size):
                np.copyto(own, array)
                address = own.ctypes.data
            else:
                address = array.__array_interface__["data"][0]
            for calls, places, offsets in moves or ():
                calls[places] = offsets + address

    def launch(self) -> None:
        """Do it all."""
        with np.errstate(all="ignore"):  # infinity and NaN are results like any other
            for i, step in enumerate(self._steps):
                if isinstance(step, np.ndarray):
                    stopped = self._play(step)
                    if stopped >= 0:
                        self._guards[i, stopped]()
                else:
                    function, arguments = step
                    function(*arguments)

    def _places(self, own: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
        """Where calls have addresses in an input's memory, and how far behind its beginning; None if it must stay."""
        from kernels.share_cpu import words_between

        if id(own) in self._fixed:
            return None
        first = own.ctypes.data
        found = [(s, words_between(s, first, first + own.nbytes)) for s in self._steps if isinstance(s, np.ndarray)]
        return [(calls, places, calls[places] - first) for calls, places in found if len(places)]

    def nodes(self) -> Counter[str]:
        """How many calls there are of each name."""
        return Counter(self._names)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the program's large arrays share."""
        return self._pool.nbytes


class _Primitives:
    """A backend's primitives, on arrays without values."""

    def __init__(self, program: Program, backend: ModuleType) -> None:
        self._program, self._backend = program, backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        program, function = self._program, getattr(self._backend, name)
        is_in_parts = function.__module__.endswith("_cpu")  # kernels/cpu.py says so

        def primitive(*args: Any, **kwargs: Any) -> Any:
            args = program.plain(args, name)
            kwargs = {key: program.plain(value, name) for key, value in kwargs.items()}
            results = function(*args, **kwargs) if is_in_parts else whole(function, *args, **kwargs)
            if isinstance(results, tuple):
                return tuple([program.adopt(result) for result in results])
            return results if results is None else program.adopt(results)

        setattr(self, name, primitive)
        return primitive


class _Local(threading.local):
    program: Program | None = None


_local = _Local()


def recording() -> Program | None:
    """The program that this thread records."""
    return _local.program


def do(function: Callable[..., Any], *arguments: Any) -> None:
    """function(*arguments), which writes to arrays among its arguments; recorded, if a program is."""
    if _local.program is None:
        function(*arguments)
    else:
        _local.program.function(function.__name__.strip("_"), function, arguments)


def guard(word: np.ndarray, told: Callable[..., None], *arguments: Any) -> None:
    """Call told(*arguments), which raises, if the kernel that was shared last has left the word, int64 (1,), >= 0."""
    if _local.program is not None:
        _local.program.guard(word, told, arguments)
    elif word[0] >= 0:
        told(*arguments)


def whole(primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """primitive(*args, **kwargs): an array, a tuple of arrays, or None.

    Recorded, what it returns is made now, from memory without values, and written at each launch.
    """
    program = _local.program
    if program is None:
        return primitive(*args, **kwargs)
    name = primitive.__name__
    with paused():
        results = primitive(*_copies(args), **kwargs) if name.endswith("_step") else primitive(*args, **kwargs)
    targets = _arrays(results)

    def write() -> None:
        for target, result in zip(targets, _arrays(primitive(*args, **kwargs)), strict=True):
            np.copyto(target, result)

    program.function(name.strip("_"), write, (), (args, tuple(kwargs.values())))
    return results


def _arrays(results: Any) -> tuple[np.ndarray, ...]:
    return () if results is None else results if isinstance(results, tuple) else (results,)


def _all_arrays(x: Any) -> Iterator[np.ndarray]:
    """The arrays in nested lists and tuples."""
    if isinstance(x, np.ndarray):
        yield x
    elif type(x) in (list, tuple):
        for item in x:
            yield from _all_arrays(item)


def _copies(x: Any) -> Any:
    """x with copies of its arrays: a step writes to its arguments, and it is not time yet."""
    if isinstance(x, np.ndarray):
        return x.copy()
    return type(x)(map(_copies, x)) if type(x) in (list, tuple) else x


def dense(array: np.ndarray) -> np.ndarray:
    """A copy in C order."""
    target = buffers.empty(array.shape, array.dtype)
    do(np.copyto, target, array)
    return target


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array where it is in C order, otherwise a copy that is."""
    return array if array.flags.c_contiguous else dense(array)


def paused() -> Block:
    """Within the block this thread does what it is told at once."""
    return Block((_local, "program", None))


def recorded(program: Program, gives: Any = None) -> Block:
    """Within the block this thread records the program."""
    pool = buffers.taking_from(program._pool)
    return Block(pool, (_local, "program", program), gives=gives, quiet=True, then=program.close)


def _line() -> str:
    """The line of the program that led here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] in ("engine", "kernels"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this is a view of, in the end."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
