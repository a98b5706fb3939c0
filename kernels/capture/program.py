"""A captured step on the CPU: calls of kernels in order, made again as a whole.

While a program is recorded, no kernel runs. `kernels.of` gives `Program.primitives` then, whose results are arrays
without values (kernels/capture/planned.py); what primitives do with memory comes here by one of three doors,

    threads.share(kernel, most, items, *arguments)   a compiled kernel: its call is noted as it lies in registers
    do(function, *arguments)                         any other function that writes to arrays among its arguments
    whole(primitive, *arguments)                     a primitive as one such function, which writes what it returned

and elsewhere `do` and `whole` just call. NumPy's own functions come by `numpy`, from arrays without values that they
were called with. A launch plays the notes, as many in a row as there are without a function of Python between, in one
call of compiled code.

Large arrays come from a pool of the program's own: what dies while it is recorded serves again within it, as it would
without a program, and never without. Steps know such memory without keeping it from that. A program reads memory that
there was before, or that it writes itself: anything else would have been computed beside it. So whoever records it says
what there was (`know`), and `settle` refuses the rest.

A program owns what it needs, and what it owns knows the program weakly at most: the collector of cycles does not see
through arrays.
"""

from __future__ import annotations

import bisect
import ctypes
import operator
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.capture.planned import Planned, PlannedError
from tilegrad.kernels.cpu import buffers
from tilegrad.kernels.system.modes import Block

Range = tuple[int, int]  # of addresses, the second of them the first that is beyond


class _Input:
    """Memory that stands for an argument while a program is recorded, laid out as that is.

    own    an array on it, which can be written to; None once it is not needed
    low    where the first byte lies, counted from the first element
    size   bytes from the first to the last
    fixed  whether somebody else keeps it: then the argument is copied there
    """

    def __init__(self, argument: np.ndarray) -> None:
        self.low, self.size = _extent(argument)
        self.memory = np.empty(self.size + 2 * buffers.LINE, np.uint8)
        start = -self.memory.ctypes.data % buffers.LINE + (not argument.flags.aligned)
        self.own: np.ndarray | None = np.ndarray(
            argument.shape, argument.dtype, self.memory, start - self.low, argument.strides
        )
        np.copyto(self.own, argument)
        self.fixed = False
        self.written = False
        self.moves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # in calls: places, and offsets to put there

    def free(self) -> None:
        """The program is recorded."""
        if not self.fixed:
            self.own = self.memory = None


class _OfInput(NamedTuple):
    """An array on an input's memory, wherever that is at a launch."""

    number: int
    low: int  # where its first byte lies, counted from the input's first element
    memory: Any  # the type of so many bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    strides: tuple[int, ...]
    writeable: bool

    def at(self, address: int) -> np.ndarray:
        memory = self.memory.from_address(address + self.low)
        array = np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)
        if not self.writeable:
            array.flags.writeable = False
        return array


class Program:
    """What `recorded` recorded."""

    def __init__(self) -> None:
        from tilegrad.kernels.cpu import threads
        from tilegrad.kernels.cpu.team import Recorder

        self._play = threads.play
        self._recorder = Recorder()
        self._pool = _Pool(kept=float("inf"))
        self._steps: list[Any] = []  # calls of kernels, or (function, arguments); then also what places inputs in those
        self._first: list[Any] = []  # before them: constants that the program writes to are as they were
        self._guards: dict[Any, Any] = {}  # (told, arguments) by the step, while recorded; by where its call lies, then
        self._inputs: list[_Input] = []
        self._addresses: list[int] = []  # of the inputs at the next launch
        self._copies: list[np.ndarray] = []  # of arguments, for it
        self.written_inputs: list[int] = []  # the numbers of those that a launch writes to
        self._names: list[str] = []
        self._kept: list[Any] = []
        self._known: dict[int, np.ndarray] = {}  # by id, the arrays whose memory may be used
        self._made: set[int] = set()  # those of them that the function made itself: constants
        self._constants: dict[int, np.ndarray] = {}  # which have their values, for the program does not write to them
        self._written: dict[int, np.ndarray] = {}  # and those that are written to
        self._left: list[Range] = []  # memory of the program's that others may see
        self._foreign: list[tuple[np.ndarray, str, str]] = []  # arrays that were used, by what op in what line
        self._turn: list[Callable[[], None]] = []  # what the host does next
        self._turn_is_due = False
        self.is_closed = False

    # --- what is recorded

    def kernel(self, kernel: Callable[..., None], pieces: int, items: int, arguments: tuple[Any, ...]) -> None:
        """A call of a compiled kernel, in that many pieces."""
        if self._turn_is_due:
            self._host_has_its_turn()
        kernel(*arguments, 0, items, pieces, self._recorder.address)
        self._steps.append(self._recorder.take())
        self._names.append(kernel.__name__.strip("_") + "_kernel")
        for array in arguments:
            if isinstance(array, np.ndarray) and not self._is_lent(array) and self._input_of(array) is None:
                self._kept.append(array)  # the note has its address only

    def guard(self, word: np.ndarray, told: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Where the last call of a kernel leaves the word at 0 or above, call told(*arguments)."""
        from tilegrad.kernels.cpu.team import guard

        guard(self._steps[-1], word)
        self._kept.append(word)
        self._guards[len(self._steps) - 1] = _after(self._turn, told), self._without_owners(arguments)

    def function(self, name: str, function: Callable[..., Any], arguments: Any) -> None:
        """function(*arguments): all memory that it uses is that of arrays among them."""
        self._host_has_its_turn()
        self._steps.append((function, self._without_owners(arguments)))
        self._names.append(name)

    def numpy(self, name: str, function: Callable[..., Any], *arguments: Any, out: Any = None, like: Any = None) -> Any:
        """function(*arguments), which computes one array; into `out` if that is given and function is a ufunc.

        like  a new array, laid out as the result; None: function is called for it, on memory without values
        """
        arguments = self.plain(arguments, name)
        if out is not None:
            self.written(out)
            self.function(name, _into, (function, arguments, self.plain(out, name)))
            return out
        result = function(*arguments) if like is None else like
        if not isinstance(result, (np.ndarray, np.generic)):
            raise PlannedError(f"computes numpy.{name}")
        result = np.asarray(result)
        if any(np.may_share_memory(result, array) for array in _all_arrays(arguments)):
            return self.adopt(result)  # a view
        target = _pooled(result)
        if isinstance(function, np.ufunc):
            self.function(name, _into, (function, arguments, target))
        else:
            self.function(name, _write_results, ((target,), function, arguments, {}))
        return self.adopt(target)

    def add_at(self, target: np.ndarray, index: Any, values: Any) -> None:
        """target[index] += values, where an index that is there twice counts twice."""
        self.written(target)
        self.function("add_at", np.add.at, self.plain((target, index, values), "add"))

    def assign(self, target: np.ndarray, index: Any, value: Any) -> None:
        """target[index] = value."""
        self.written(target)
        self.function("setitem", operator.setitem, self.plain((target, index, value), "setitem"))

    def host(self, action: Callable[[], None], at_once: bool = False) -> None:
        """Something the host does at this place, after what it was told before: at_once if a kernel depends on it.

        Otherwise it may be late, so that fewer calls of kernels are parted, but not later than what may raise.
        """
        self._turn.append(action)
        self._turn_is_due |= at_once

    def _host_has_its_turn(self) -> None:
        if self._turn:
            self._steps.append((_do_all, (self._turn,)))
        self._turn, self._turn_is_due = [], False

    def inputs(self, arrays: list[np.ndarray]) -> list[Planned]:
        """Arrays laid out as these, with their values now, for which `take` puts others: what the program reads."""
        self._inputs = list(map(_Input, arrays))
        views = [each.own.view() for each in self._inputs]
        for mine, array in zip(views, arrays, strict=True):
            mine.flags.writeable = array.flags.writeable
        return list(map(self.adopt, views))

    def primitives(self, backend: ModuleType) -> _Primitives:
        """The primitives of a backend, recorded."""
        return _Primitives(self, backend)

    def constant(self, array: np.ndarray) -> Planned:
        """A new array with values, which it has at the beginning of every launch."""
        owner = _owner(array)
        self._constants[id(owner)] = owner
        return self.blank(array)

    def blank(self, array: np.ndarray) -> Planned:
        """A new array without values."""
        self.know(array)
        self._made.add(id(_owner(array)))
        return self.adopt(array)

    def number(self, array: np.ndarray) -> Planned:
        """An array that the host writes to before a launch."""
        self.know(array)
        self._kept.append(array)
        return self.adopt(array)

    def values(self, array: np.ndarray) -> np.ndarray | None:
        """The array, if it is a constant's and has its values."""
        return self.plain(array, "it") if id(_owner(array)) in self._constants else None

    def written(self, array: np.ndarray) -> None:
        """The program writes to the array."""
        owner = _owner(array)
        constant = self._constants.pop(id(owner), None)
        number = self._input_of(array)
        if constant is not None:
            self._first.append((np.copyto, (owner, owner.copy("K"))))
        elif number is not None:
            self._inputs[number].written = True
        elif not self._is_lent(array):
            self._written[id(owner)] = owner

    def copied(self, source: np.ndarray, copy: Callable[[np.ndarray], np.ndarray]) -> Planned:
        """The result of copy(source)."""
        target = _pooled(copy(source))
        self.function("copy", _write_results, ((target,), copy, (source,), {}))
        return self.adopt(target)

    def apart(self, array: np.ndarray) -> Planned:
        """A copy in memory that serves no other array of the program."""
        source = self.plain(array, "it")
        target = np.empty_like(source)
        self.function("copy", np.copyto, (target, source))
        return self.adopt(target)

    def adopt(self, array: np.ndarray) -> Planned:
        """An array that the program writes, or a view of one."""
        planned = array.view(Planned)
        planned.reference = weakref.ref(self)
        return planned

    def is_own(self, array: np.ndarray) -> bool:
        """Whether a launch writes the array, or takes it for an input."""
        return isinstance(array, Planned)

    def is_lent_again(self, array: np.ndarray) -> bool:
        """Whether the memory of one that the program makes served another array of it before."""
        return buffers.pool_of(array) is self._pool and _owner(array).base.block.address in self._pool.again

    def plain(self, x: Any, op: str) -> Any:
        """NumPy's arrays for those in x, which an op uses."""
        if isinstance(x, Planned):
            if x.reference() is not self:
                raise PlannedError("uses an array of a step that was captured before", op, _line())
            return x.view(np.ndarray)
        if isinstance(x, np.ndarray):
            self._foreign.append((x, op, _line()))
        elif type(x) in (list, tuple):
            return type(x)([self.plain(item, op) for item in x])
        elif type(x) is dict:
            return {key: self.plain(item, op) for key, item in x.items()}
        return x

    def is_planned(self, array: np.ndarray) -> bool:
        """Whether the array is one of this program's."""
        return isinstance(array, Planned) and array.reference() is self

    def know(self, array: np.ndarray) -> None:
        """The array was there before, or belongs to whoever records: the program may read and write it."""
        owner = _owner(array)
        self._known[id(owner)] = owner

    def settle(self) -> None:
        """Raise PlannedError if an array was used that is neither the program's nor was there before."""
        for array, op, place in self._foreign:
            if id(_owner(array)) not in self._known:
                raise PlannedError("uses an array that was made beside it, with NumPy", op, place)

    def leave(self, array: np.ndarray) -> None:
        """Somebody keeps the array beyond the recording. An input's memory must then be where it is.

        Raises PlannedError for an input that the program writes to: the memory to write to is the argument's.
        """
        number = self._input_of(array)
        if number is not None:
            self._inputs[number].fixed = True
            if self._inputs[number].written:
                raise PlannedError("writes to an argument, and keeps it or returns it")
        elif not self.is_outside(array):
            low, size = _extent(array)
            self._left.append((_address(array) + low, _address(array) + low + size))

    def is_outside(self, array: np.ndarray) -> bool:
        """Whether the array's memory was there before: an argument's, or of what the function read."""
        owner = id(_owner(array))
        return self._input_of(array) is not None or owner in self._known and owner not in self._made

    def _is_lent(self, array: np.ndarray) -> bool:
        return buffers.pool_of(array) is self._pool

    def _input_of(self, array: np.ndarray) -> int | None:
        """The number of the input on whose memory the array is."""
        if self._inputs:
            owner = _owner(array)
            for number, each in enumerate(self._inputs):
                if each.memory is owner:
                    return number
        return None

    def _without_owners(self, x: Any) -> Any:
        """x with arrays that do not keep the pool's memory from being lent again, and _OfInput for those on inputs."""

        def without(array: np.ndarray) -> Any:
            number = self._input_of(array)
            if number is None and not self._is_lent(array):
                return array
            low, size = _extent(array)
            layout = ctypes.c_char * size, array.shape, array.dtype, -low, array.strides, array.flags.writeable
            if number is None:
                return _OfInput(-1, low, *layout).at(_address(array))
            behind = _address(array) - _address(self._inputs[number].own)
            return _OfInput(number, behind + low, *layout)

        return _mapped(x, np.ndarray, without)

    # --- afterwards

    def close(self) -> None:
        """Nothing more is recorded: join what can be played in one go."""
        self._host_has_its_turn()
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
        self._steps = [
            np.concatenate(step) if isinstance(step, list) else (*step, _placing(step[1])) for step in joined
        ]
        self._guards = {place: (*guard, _placing(guard[1])) for place, guard in guards.items()}
        for each in self._inputs:
            each.moves = self._places(each)
        for each in self._inputs:
            each.free()
        self.written_inputs = [number for number, each in enumerate(self._inputs) if each.written]
        self._left = _merged(self._left)
        self._known.clear()
        self._made.clear()
        self._constants.clear()
        self._foreign.clear()
        self.is_closed = True

    def take(self, arrays: list[np.ndarray]) -> bool:
        """Have the next launch read these for the inputs, which they are laid out as; they must live until then.

        They are read, and written to, where they lie. One on memory that the program leaves to others is copied: there
        it would change under the reader. Returns False where a copy would not do, for it would miss what is written.
        """
        self._addresses, self._copies, copied = [], [], []
        for array, each in zip(arrays, self._inputs, strict=True):
            address = array.__array_interface__["data"][0]
            first = address + each.low
            if each.fixed or self._left and _overlap(self._left, first, first + each.size):
                own = each.own if each.fixed else _Input(array).own
                np.copyto(own, array)
                copied.append((array, each.written))
                self._copies.append(own)
                address = _address(own)
            self._addresses.append(address)
            for calls, places, offsets in each.moves:
                calls[places] = offsets + address
        if not copied:
            return True
        written = [*self._written.values(), *[a for a, each in zip(arrays, self._inputs) if each.written]]
        return not any(is_written or any(np.may_share_memory(a, b) for b in written) for a, is_written in copied)

    def launch(self) -> None:
        """Do it all."""
        with np.errstate(all="ignore"):  # infinity and NaN are results like any other
            for function, arguments in self._first:
                function(*arguments)
            for i, step in enumerate(self._steps):
                if isinstance(step, np.ndarray):
                    stopped = self._play(step)
                    if stopped >= 0:
                        step = self._guards[i, stopped]
                if not isinstance(step, np.ndarray):
                    function, arguments, placed = step
                    function(*(arguments if placed is None else placed(self._addresses)))

    def _places(self, each: _Input) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Where calls have addresses in an input's memory, and how far behind its first element."""
        from tilegrad.kernels.cpu.team import words_between

        address = _address(each.own)
        first = address + each.low
        found = [(s, words_between(s, first, first + each.size)) for s in self._steps if isinstance(s, np.ndarray)]
        return [(calls, places, calls[places] - address) for calls, places in found if len(places)]

    def nodes(self) -> Counter[str]:
        """How many calls there are of each name."""
        return Counter(self._names)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the program's large arrays share, and of arguments that are copied."""
        return self._pool.nbytes + sum([each.own.nbytes for each in self._inputs if each.fixed])


class _Pool(buffers.Pool):
    """Of one program. again: the addresses of blocks that came back, and may have been lent again."""

    def __init__(self, kept: float) -> None:
        super().__init__(kept)
        self.again: set[int] = set()

    def give_back(self, block: Any) -> None:
        self.again.add(block.address)
        super().give_back(block)


def _after(actions: list[Callable[[], None]], told: Callable[..., None]) -> Callable[..., None]:
    """told, once all that the host does before it is done."""
    actions = list(actions)

    def stop(*arguments: Any) -> None:
        _do_all(actions)  # they will be due later only
        told(*arguments)

    return stop


def _do_all(actions: list[Callable[[], None]]) -> None:
    for action in actions:
        action()


class _Primitives:
    """A backend's primitives, on arrays without values."""

    def __init__(self, program: Program, backend: ModuleType) -> None:
        self._program, self._backend = program, backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        program, function = self._program, getattr(self._backend, name)
        is_in_parts = function.__module__.endswith(".cpu")  # kernels/backends/cpu.py says so

        def primitive(*args: Any, **kwargs: Any) -> Any:
            args = program.plain(args, name)
            kwargs = program.plain(kwargs, name)
            if name.endswith("_step"):
                for array in _all_arrays([x for x in args if type(x) in (list, tuple)]):
                    program.written(array)
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
    targets = tuple([_pooled(result) for result in _arrays(results)])
    program.function(name.strip("_"), _write_results, (targets, primitive, args, kwargs))
    return results if results is None else targets if isinstance(results, tuple) else targets[0]


def _into(ufunc: np.ufunc, arguments: Any, target: np.ndarray) -> None:
    ufunc(*arguments, out=target)


def _write_results(targets: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    for target, result in zip(targets, _arrays(function(*args, **kwargs)), strict=True):
        np.copyto(target, result)


def _pooled(array: np.ndarray) -> np.ndarray:
    """Memory of this thread's pool, laid out as a large new array without holes is; otherwise the array itself."""
    if array.nbytes < buffers.SMALLEST or buffers.pool_of(array) is not None:
        return array
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    memory = buffers.empty(tuple([array.shape[axis] for axis in order]), array.dtype).transpose(np.argsort(order))
    return memory if memory.strides == array.strides else array


def _arrays(results: Any) -> tuple[np.ndarray, ...]:
    return () if results is None else results if isinstance(results, tuple) else (results,)


def _placing(x: Any) -> Callable[[list[int]], Any] | None:
    """What gives x, with arrays where the inputs are, from the inputs' addresses; None if x is on none of them."""
    if isinstance(x, _OfInput):
        return lambda addresses: x.at(addresses[x.number])
    kind = type(x)
    if kind not in (list, tuple, dict):
        return None
    parts = [(key, _placing(x[key])) for key in (x if kind is dict else range(len(x)))]
    parts = [(key, placing) for key, placing in parts if placing is not None]

    def placed(addresses: list[int]) -> Any:
        items = dict(x) if kind is dict else list(x)
        for key, placing in parts:
            items[key] = placing(addresses)
        return tuple(items) if kind is tuple else items

    return placed if parts else None


def _all_arrays(x: Any) -> Iterator[np.ndarray]:
    """The arrays in nested lists, tuples and dicts."""
    if isinstance(x, np.ndarray):
        yield x
    elif type(x) in (list, tuple, dict):
        for item in x.values() if type(x) is dict else x:
            yield from _all_arrays(item)


def _mapped(x: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Nested lists, tuples and dicts with function(item) for the items of a kind."""
    if isinstance(x, kind):
        return function(x)
    if type(x) in (list, tuple):
        return type(x)([_mapped(item, kind, function) for item in x])
    if type(x) is dict:
        return {key: _mapped(item, kind, function) for key, item in x.items()}
    return x


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


def is_view(array: np.ndarray) -> bool:
    """Whether the array shares memory with another one; not: whether that memory was lent to it."""
    base = array.base.base if isinstance(array, Planned) else array.base  # of these every one is itself a view
    return isinstance(base, np.ndarray)


def _line() -> str:
    """The line of the program that led here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "tilegrad":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this is a view of, in the end."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _address(array: np.ndarray) -> int:
    """Of the first element."""
    return array.__array_interface__["data"][0]


def _extent(array: np.ndarray) -> tuple[int, int]:
    """(where the first byte lies, counted from the first element; bytes from the first to the last)."""
    if not array.size:
        return 0, 0
    ends = [step * (n - 1) for step, n in zip(array.strides, array.shape)]
    low = sum([end for end in ends if end < 0])
    return low, sum([end for end in ends if end > 0]) - low + array.itemsize


def _merged(ranges: list[Range]) -> list[Range]:
    """In order, and without overlaps."""
    merged: list[Range] = []
    for first, stop in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        elif first < stop:
            merged.append((first, stop))
    return merged


def _overlap(ranges: list[Range], first: int, stop: int) -> bool:
    """Whether one of the ranges, which `_merged` gave, has an address from first to stop."""
    i = bisect.bisect_left(ranges, (stop,)) - 1
    return i >= 0 and ranges[i][1] > first
