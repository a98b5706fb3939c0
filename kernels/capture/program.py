"""A captured step on the CPU: calls of kernels, and of NumPy's functions, in order, made again as a whole.

While a program is captured nothing runs. The primitives (`Program.primitives`) get and return arrays without values
(kernels/capture/planned.py), and what they do with memory is noted here (kernels/cpu/effects.py has the doors).
Functions of NumPy's that are called with such arrays come by `numpy`, what looks at values and may raise by `check`. A
launch makes all the calls. Those of compiled kernels that follow each other are one call of compiled code
(kernels/capture/calls.py); what the host does in between has its turn where it had it in the function.

While a program is captured large arrays come from a pool of its own. Then those that nobody has any more are moved to
memory that is planned for all of them (kernels/capture/arena.py). So that this can be, the calls know such memory by
its address alone. What somebody still has, such as a result or a gradient, stays where it is and shares memory with no
other array.

A program reads and writes only memory that it makes itself or that it was told of (`know`): an array that was computed
beside it would have the values of the capture in every launch. `settle` refuses such arrays.

What a program keeps alive knows the program weakly at most, because Python's collector of cycles does not see what an
array is a view of.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.capture.arena import OnPiece, Piece, is_used, piece_of, planned
from tilegrad.kernels.capture.extents import Range, address, merged, overlap, owner, span
from tilegrad.kernels.capture.inputs import Input, OnInput, placing
from tilegrad.kernels.capture.nested import arrays_in, mapped
from tilegrad.kernels.capture.planned import Planned, PlannedError, line
from tilegrad.kernels.capture.relative import relative
from tilegrad.kernels.cpu import buffers
from tilegrad.kernels.cpu.effects import captured_by, pooled, whole, write_results
from tilegrad.kernels.described import Call
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.clock import now
from tilegrad.kernels.system.modes import Block


class Timed(NamedTuple):
    """A node of a launch: what it is part of, its name, and when it began and ended, in nanoseconds."""

    op: Call
    node: str
    begin: int
    end: int


_ELSEWHERE = "works on a GPU, in a function whose arguments are on the CPU"


class Program:
    """A graph of the CPU: kernels/capture/graph.py says what a graph is."""

    device = "cpu"
    xp = np

    def __init__(self) -> None:
        from tilegrad.kernels.capture import calls
        from tilegrad.kernels.cpu import ufuncs

        self._calls = calls
        self._ufuncs = ufuncs
        self._notepad = calls.Notepad()
        self._pool = buffers.Pool(kept=float("inf"))  # of the capture
        self._pieces: dict[Piece, None] = {}  # its arrays that calls use, in order
        self._moves: list[tuple[int, int, Piece, int]] = []  # addresses in calls: (step, word, piece, offset in that)
        self._arena: np.ndarray | None = None  # the memory of those that nobody else has
        self._steps: list[Any] = []  # calls of kernels, or (function, arguments); then also what places inputs in those
        self._first: list[Any] = []  # before them: constants that the program writes to are as they were
        self._guards: dict[Any, Any] = {}  # (told, arguments) by the step; once captured, by where its call lies
        self._inputs: list[Input] = []
        self._addresses: list[int] = []  # of the inputs at the next launch
        self._copies: list[np.ndarray] = []  # of arguments, for the next launch
        self.written_inputs: list[int] = []  # the numbers of those that a launch writes to
        self._names: list[str] = []
        self._ops: list[Call] = []  # of each node the op that it is part of: several nodes may have one
        self._kept: list[Any] = []
        self._known: dict[int, np.ndarray] = {}  # by id, the owners of memory that may be used
        self._made: set[int] = set()  # ids of those that the function made itself: constants
        self._constants: dict[int, np.ndarray] = {}  # owners that have their values: the program does not write to them
        self._written: dict[int, np.ndarray] = {}  # owners of memory from outside that the program writes to
        self._watched: list[tuple[np.ndarray, np.ndarray]] = []  # arrays that only the program may write to, and copies
        self._left: list[Range] = []  # memory of the program's that others may see
        self._foreign: list[tuple[np.ndarray, str, str]] = []  # arrays that were used, by which op in which line
        self._turn: list[Callable[[], None]] = []  # what the host does next
        self._turn_last: dict[Any, Callable[[], None]] = {}  # of it, by key
        self._turn_is_due = False
        self._is_compiled = False  # all of it, but for what the host does in between
        self._held_nbytes = 0  # of the capture's pool that others have
        self.is_closed = False
        self._was_launched = False

    def capturing(self) -> Block:
        """The block within which this thread captures the program; after an exception there is none.

        Memory that plain calls have left idle goes to the system: they are over, and the program has its own.
        """
        buffers.free()
        pool = buffers.taking_from(self._pool)
        return Block(pool, captured_by(self), gives=self, quiet=True, then=self.close)

    # --- calls

    def kernel(self, kernel: Callable[..., None], pieces: int, items: int, arguments: tuple[Any, ...]) -> None:
        """A call of a compiled kernel, in that many pieces."""
        if self._turn_is_due:
            self._host_has_its_turn()
        kernel(*arguments, 0, items, pieces, self._notepad.address)
        self._steps.append(self._notepad.take())
        self._add_node(kernel.__name__.strip("_") + "_kernel", arguments)
        self.holds(*[array for array in arguments if isinstance(array, np.ndarray)])

    def holds(self, *arrays: np.ndarray) -> None:
        """The last call has the addresses of these arrays: it says where when their memory has its place."""
        step = len(self._steps) - 1
        for array in arrays:
            if self._is_lent(array):
                piece, start = self._used(array, step), address(array)
                words = self._calls.words_of(self._steps[step], start)
                self._moves += [(step, word, piece, start - piece.at) for word in words]
            elif self._input_of(array) is None:
                self._kept.append(array)  # the note has its address only

    def guard(self, word: np.ndarray, told: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Where the last call of a kernel leaves the word at 0 or above, call told(*arguments)."""
        self._calls.guard(self._steps[-1], word)
        self._kept.append(word)
        step = len(self._steps) - 1
        self._guards[step] = _after(self._turn, told), self._without_owners(arguments, step)

    def function(self, name: str, function: Callable[..., Any], arguments: Any) -> None:
        """function(*arguments): all memory that it uses is that of arrays among them."""
        if function is np.copyto and len(arguments) == 2 and self._is_copied(name, *arguments):
            return
        self._host_has_its_turn()
        self._steps.append((function, self._without_owners(arguments, len(self._steps))))
        self._add_node(name, arguments)

    def _add_node(self, name: str, arguments: Any) -> None:
        self._names.append(name)
        self._ops.append(Call.of(name, tuple(arrays_in(arguments)), {}, None))

    def _rename_node(self, name: str, arguments: Any, result: np.ndarray) -> None:
        """The last node is NumPy's function of that name."""
        self._names[-1] = f"{name}_kernel"
        self._ops[-1] = Call.of(name, tuple(arrays_in(arguments)), {}, result)

    def _are_part_of(self, first: int, op: Call) -> None:
        """The nodes from number `first` on are."""
        self._ops[first:] = [op] * (len(self._ops) - first)

    def numpy(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        out: Any = None,
        like: Any = None,
        into: Callable[..., None] | None = None,
    ) -> Any:
        """function(*arguments), which computes one array, or a tuple; into `out` if that is given, for a ufunc.

        like  a new array, laid out as the result; None: function is called for it, on memory without values or zeros
        into  into(target, *arguments) writes what function gives; None: that is copied to the target
        """
        arguments = self.plain(arguments, name)
        if out is not None:
            self._is_written(out)
            if self._compiled(name, function, arguments, self.plain(out, name)) is None:
                self.function(name, _into, (self.plain(out, name), function, *arguments))
            return out
        folded = self._folded(function, arguments)
        if folded is not None:
            return folded
        result = self._compiled(name, function, arguments)
        if result is not None:
            return self.adopt(result)
        with np.errstate(all="ignore"):  # there may be anything in memory
            if like is not None:
                result = like
            elif isinstance(function, np.ufunc) or into is not None:
                result = function(*arguments)
            else:  # which may raise for what there is
                result = function(*mapped(arguments, np.ndarray, _zeros))
        if isinstance(result, tuple):
            targets = tuple(map(pooled, result))
            self.function(name, write_results, (targets, function, arguments, {}))
            return tuple(map(self.adopt, targets))
        if not isinstance(result, (np.ndarray, np.generic)):
            raise PlannedError(f"computes numpy.{name}")
        result = np.asarray(result)
        if any(np.may_share_memory(result, array) for array in arrays_in(arguments)):
            return self.adopt(result)  # a view
        target = pooled(result)
        if isinstance(function, np.ufunc):
            self.function(name, _into, (target, function, *arguments))
        elif into is not None:
            self.function(name, into, (target, *arguments))
        else:
            self.function(name, write_results, ((target,), function, arguments, {}))
        return self.adopt(target)

    def _compiled(self, name: str, function: Any, arguments: Any, out: np.ndarray | None = None) -> np.ndarray | None:
        """What function(*arguments) computes, by NumPy's loop without Python; None where it is not served so."""
        result = self._ufuncs.call(function, *arguments, out=out)
        if result is not None:
            self._rename_node(name, arguments, result)
        return result

    def _is_copied(self, name: str, target: np.ndarray, source: Any) -> bool:
        """Whether target[...] = source is a call of a compiled kernel now."""
        if type(source) is not np.ndarray or not self._ufuncs.copy(target, source):
            return False
        self._rename_node(name, (source,), target)
        return True

    def _folded(self, function: Callable[..., Any], arguments: Any) -> Planned | None:
        """What function(*arguments) computes of constants alone: another one. None where it may be anything else."""
        arrays = list(arrays_in(arguments))
        if not arrays or not all([id(owner(array)) in self._constants for array in arrays]):
            return None
        with np.errstate(all="ignore"):
            result = function(*arguments)
        if not isinstance(result, (np.ndarray, np.generic)):
            return None
        result = np.asarray(result)
        is_view = any([np.may_share_memory(result, array) for array in arrays])
        return None if is_view else self.constant(result)

    def cast(self, source: np.ndarray, dtype: Any) -> Planned:
        """source.astype(dtype)."""
        folded = self._folded(partial(np.ndarray.astype, dtype=dtype), (source,))
        if folded is not None:
            return folded
        result = self._ufuncs.cast(source, dtype)
        if result is None:
            return self.copied(source, lambda x: x.astype(dtype))
        self._rename_node("cast", (source,), result)
        return self.adopt(result)

    def reduced(self, ufunc: np.ufunc, array: np.ndarray, axis: Any, keepdims: bool) -> Planned | None:
        """ufunc.reduce of the array by a compiled kernel; None where there is none for it."""
        axes = axis if type(axis) is tuple else range(array.ndim) if axis is None else (axis,)
        first = len(self._ops)
        result = self._ufuncs.reduce(ufunc, self.plain(array, ufunc.__name__), tuple(axes), keepdims)
        if result is None:
            return None
        self._are_part_of(first, Call.of(ufunc.__name__, (array,), {}, result))
        return self.adopt(result)

    def check(self, test: Callable[..., None], *arguments: Any) -> None:
        """test(*arguments), which raises or not, at each launch; now, if that has the values that there are now."""
        arrays = list(arrays_in(arguments))
        arguments = self.plain(arguments, test.__name__.strip("_"))
        if all(id(owner(array)) in self._constants for array in arrays):
            test(*arguments)
        else:
            self.function(test.__name__.strip("_"), test, arguments)

    def add_at(self, target: np.ndarray, index: Any, values: Any) -> None:
        """target[index] += values, where an index that is there twice counts twice."""
        self._is_written(target)
        self.function("add_at", np.add.at, self.plain((target, index, values), "add"))

    def assign(self, target: np.ndarray, index: Any, value: Any) -> bool:
        """target[index] = value. Returns whether the memory was there before."""
        self._is_written(target)
        where, index, value = self.plain((target, index, value), "setitem")
        if index is not Ellipsis or not self._is_copied("setitem", where, value):
            self.function("setitem", operator.setitem, (where, index, value))
        return self.is_outside(target)

    def copied(self, source: np.ndarray, copy: Callable[[np.ndarray], np.ndarray]) -> Planned:
        """The result of copy(source), whose elements have the order of the source's."""
        target = pooled(copy(source))
        place = target if target.shape == source.shape else target.reshape(source.shape)
        if np.may_share_memory(place, target):
            self.function("copy", _copy, (place, source))
        else:
            self.function("copy", write_results, ((target,), copy, (source,), {}))
        return self.adopt(target)

    def whole(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """function(*args, **kwargs), a function of the user's: new arrays or None, one or a tuple of them."""
        name = getattr(function, "__name__", type(function).__name__)
        if any([gpu.is_array(x) for x in (*args, *kwargs.values())]):
            raise PlannedError(_ELSEWHERE)
        given = self.plain((args, kwargs), name)
        blank = mapped(given, np.ndarray, _blank)
        before = [array.tobytes() for array in arrays_in(blank)]
        results = function(*blank[0], **blank[1])
        if any([array.tobytes() != was for array, was in zip(arrays_in(blank), before)]):
            raise PlannedError("writes to an argument; expected results of its own", name, line())
        several = results if isinstance(results, tuple) else (results,)
        for result in several:
            if not (result is None or isinstance(result, np.ndarray)):
                what = f"gives a {type(result).__name__}; expected an array, or a tuple of arrays"
                raise PlannedError(what, name, line())
        targets = tuple([None if result is None else pooled(result) for result in several])
        self.function(name.strip("_"), _write_own, (targets, function, *given))
        adopted = tuple([None if target is None else self.adopt(target) for target in targets])
        return adopted if isinstance(results, tuple) else adopted[0]

    def primitives(self, backend: ModuleType) -> Any:
        """The primitives of a backend, captured: an object that serves in place of the module."""
        return _Primitives(self, backend)

    # --- the host's part

    def host(self, action: Callable[[], None], at_once: bool = False) -> None:
        """Something that the host does at this place, after what it was told before: at_once if a kernel depends on it.

        Otherwise it may be late, so that fewer calls of kernels are parted, but not later than what may raise.
        """
        self._turn.append(action)
        self._turn_is_due |= at_once

    def host_last(self, key: Any, action: Callable[[], None]) -> None:
        """As `host`. Of the actions of a key that are still to be done the last one counts."""
        before = self._turn_last.get(key)
        if before is not None:
            self._turn.remove(before)  # what may raise in between has it all the same (`_after`)
        self._turn_last[key] = action
        self.host(action)

    def number(self, value: Callable[[], Any], dtype: Any, shape: tuple[int, ...] = ()) -> Planned:
        """An array of at most 16 bytes that has value() at this place of each launch."""
        array = np.zeros(shape, dtype)

        def read() -> None:
            array[...] = value()

        read()
        self.host(read, at_once=True)
        self.know(array)
        self._kept.append(array)
        return self.adopt(array)

    def _host_has_its_turn(self) -> None:
        if self._turn:
            self._steps.append((_do_all, (self._turn,)))
        self._turn, self._turn_last, self._turn_is_due = [], {}, False

    # --- arrays

    def inputs(self, arrays: list[np.ndarray]) -> list[Any]:
        """Arrays laid out as these, with their values now, for which `take` puts others: what the program reads."""
        self._inputs = list(map(Input, arrays))
        views = [each.own.view() for each in self._inputs]
        for mine, array in zip(views, arrays, strict=True):
            mine.flags.writeable = array.flags.writeable
        return list(map(self.adopt, views))

    def constant(self, array: np.ndarray, has_values: bool = True) -> Planned:
        """A new array, with the values that it has now at the beginning of every launch, or without values."""
        lent = pooled(array)
        if lent is not array:  # so that its memory is planned, if it is gone when the capture ends
            np.copyto(lent, array)
            array = lent
        first = owner(array)
        if has_values:
            self._constants[id(first)] = first
        self.know(array)
        self._made.add(id(first))
        return self.adopt(array)

    def values(self, array: np.ndarray) -> np.ndarray | None:
        """The array, if it is a constant's and has its values."""
        return self.plain(array, "it") if id(owner(array)) in self._constants else None

    def made(self, array: np.ndarray, op: str, is_view: bool) -> np.ndarray:
        """The result of an op, which may be a view of memory that there was before."""
        if not isinstance(array, np.ndarray):
            raise PlannedError(_ELSEWHERE)
        if is_view:
            return self.planned(array)
        self.plain(array, op)  # checked when the function has returned
        return array

    def planned(self, array: np.ndarray) -> np.ndarray:
        """The array as one of the program's, which it must be for its memory."""
        return array if self.is_planned(array) else self.adopt(self.plain(array, "it"))

    def is_planned(self, array: np.ndarray) -> bool:
        """Whether the array is one of this program's."""
        return isinstance(array, Planned) and array.reference() is self

    def plain(self, x: Any, op: str) -> Any:
        """NumPy's arrays for the program's in x, which an op uses."""
        if isinstance(x, Planned):
            if x.reference() is not self:
                raise PlannedError("uses an array of a step that was captured before", op, line())
            return x.view(np.ndarray)
        if isinstance(x, np.ndarray):
            self._foreign.append((x, op, line()))
        elif type(x) in (list, tuple):
            return type(x)([self.plain(item, op) for item in x])
        elif type(x) is dict:
            return {key: self.plain(item, op) for key, item in x.items()}
        return x

    def makes(self, array: np.ndarray) -> bool:
        """Whether a launch writes the array, or takes it for an input."""
        return isinstance(array, Planned)

    def own(self, array: np.ndarray) -> Planned:
        """An array of whoever captures, which launches read and write."""
        return self.adopt(array)

    def adopt(self, array: np.ndarray) -> Planned:
        """An array that the program writes, or a view of one."""
        planned = array.view(Planned)
        planned.reference = weakref.ref(self)
        return planned

    def _is_written(self, array: np.ndarray) -> None:
        """The program writes to the array."""
        first = owner(array)
        constant = self._constants.pop(id(first), None)
        number = self._input_of(array)
        if constant is not None:
            self._restart(constant)
        elif number is not None:
            self._inputs[number].written = True
        elif not self._is_lent(array):
            self._written[id(first)] = first

    def _restart(self, constant: np.ndarray) -> None:
        """The constant is about to be written: each launch finds the values that it has now.

        From here on, if no step has used it yet: until then its memory may serve other arrays.
        """
        has_values = constant.ravel("K").view(np.uint8).any()
        restart = (np.copyto, (constant, constant.copy("K"))) if has_values else (np.ndarray.fill, (constant, 0))
        if self._is_lent(constant) and not is_used(constant):
            self.function(restart[0].__name__, *restart)
        else:
            self._first.append(restart)

    # --- memory from outside

    def keep(self, *things: Any) -> None:
        """Let these live as long as the program does."""
        self._kept += things

    def reads(self, array: Any, is_parameter: bool) -> None:
        """The function reads an array that there was before. To a parameter nobody but the program may write."""
        self._kept.append(array)
        if isinstance(array, np.ndarray):
            self.know(array)
            if is_parameter and not any(array is known for known, _ in self._watched):
                self._watched.append((array, array.copy("K")))

    def know(self, array: np.ndarray) -> None:
        """The array was there before, or belongs to whoever captures: the program may read and write it."""
        first = owner(array)
        self._known[id(first)] = first

    def require_here(self, array: Any, tracking: bool) -> None:
        """Raise PlannedError for a write that cannot be part of the program."""
        if not isinstance(array, np.ndarray):
            raise PlannedError(_ELSEWHERE)
        if tracking and self.is_outside(array):
            raise PlannedError("writes, with a gradient, to a tensor from outside of the step")

    def is_outside(self, array: np.ndarray) -> bool:
        """Whether the array's memory was there before: an argument's, or of what the function read."""
        first = id(owner(array))
        return self._input_of(array) is not None or first in self._known and first not in self._made

    def leave(self, array: np.ndarray) -> np.ndarray:
        """The array as NumPy's: somebody keeps it beyond the capture. An input's memory must then be where it is.

        Raises PlannedError for an input that the program writes to: the memory to write to is the argument's.
        """
        array = self.plain(array, "it")
        number = self._input_of(array)
        if number is not None:
            self._inputs[number].fixed = True
            if self._inputs[number].written:
                raise PlannedError("writes to an argument, and keeps it or returns it")
        elif not self.is_outside(array):
            self._left.append(span(array))
        return array

    def settle(self) -> None:
        """Raise PlannedError if an array was used that is neither the program's nor was there before."""
        for array, op, place in self._foreign:
            if id(owner(array)) not in self._known:
                raise PlannedError("uses an array that was made beside it, with NumPy", op, place)
        if any(array.tobytes() != copy.tobytes() for array, copy in self._watched):
            raise PlannedError("writes to a parameter with NumPy")

    def restore(self) -> None:
        """Parameters are as they were when the program read them first."""
        for array, copy in self._watched:
            array[...] = copy
        self._watched.clear()

    def _is_lent(self, array: np.ndarray) -> bool:
        return buffers.pool_of(array) is self._pool

    def _input_of(self, array: np.ndarray) -> int | None:
        """The number of the input on whose memory the array is."""
        if self._inputs:
            first = owner(array)
            for number, each in enumerate(self._inputs):
                if each.memory is first:
                    return number
        return None

    def _used(self, array: np.ndarray, step: int) -> Piece:
        """The piece of the pool's memory on which the array lies, which that step uses."""
        piece = piece_of(array, step)
        self._pieces[piece] = None
        return piece

    def _without_owners(self, x: Any, step: int) -> Any:
        """x, which that step uses, with `OnInput` for arrays on inputs and `OnPiece` for those on the pool's memory,
        which do not keep it from being lent again.
        """

        def without(array: np.ndarray) -> Any:
            number = self._input_of(array)
            if number is not None:
                return OnInput(number, relative(array, address(self._inputs[number].own)))
            if not self._is_lent(array):
                return array
            piece = self._used(array, step)
            return OnPiece(piece, relative(array, piece.at))

        return mapped(x, np.ndarray, without)

    # --- afterwards

    def close(self) -> None:
        """Nothing more is captured: plan the memory, and join the calls of kernels that follow each other."""
        self._host_has_its_turn()
        self._known.clear()
        self._foreign.clear()
        self._plan_memory()
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
        self._steps = [np.concatenate(step) if isinstance(step, list) else (*step, placing(step[1])) for step in joined]
        self._guards = {place: (*guard, placing(guard[1])) for place, guard in guards.items()}
        self._is_compiled = all(isinstance(step, np.ndarray) or step[0] is _do_all for step in self._steps)
        for each in self._inputs:
            each.moves = self._places(each)
        for each in self._inputs:
            each.free()
        self.written_inputs = [number for number, each in enumerate(self._inputs) if each.written]
        self._left = merged(self._left)
        self._made.clear()
        self._constants.clear()
        self._watched.clear()
        self.is_closed = True

    def _plan_memory(self) -> None:
        """Move the arrays that nobody has any more to memory that is planned for them."""
        pieces = [piece for piece in self._pieces if not piece.is_held]
        self._held_nbytes = self._pool.nbytes - self._pool.idle_bytes
        self._pool.free()
        buffers.trim()
        if pieces:
            self._arena = planned(pieces)
        for step, word, piece, offset in self._moves:
            self._steps[step][word] = piece.start + offset
        for step, call in enumerate(self._steps):
            if not isinstance(call, np.ndarray):
                function, arguments = call
                self._steps[step] = function, mapped(arguments, OnPiece, OnPiece.placed)
        for step, (told, arguments) in self._guards.items():
            self._guards[step] = told, mapped(arguments, OnPiece, OnPiece.placed)
        self._pieces.clear()
        self._moves.clear()

    def take(self, arrays: list[np.ndarray]) -> bool:
        """Have the next launch read these for the inputs, which they are laid out as; they must live until then.

        They are read, and written to, where they lie. One on memory that the program leaves to others is copied: there
        it would change under the reader. Returns False where a copy would not do, for it would miss what is written.
        """
        self._addresses, self._copies, copied, left = [], [], [], self._left
        for array, each in zip(arrays, self._inputs, strict=True):
            start = address(array)
            first = start + each.low
            if each.fixed or left and overlap(left, first, first + each.size):
                own = each.own if each.fixed else Input(array).own
                np.copyto(own, array)
                copied.append((array, each.written))
                self._copies.append(own)
                start = address(own)
            self._addresses.append(start)
            if start != each.start:
                each.start = start
                for calls, place, offset in each.moves:
                    calls[place] = offset + start
        if not copied:
            return True
        written = [*self._written.values(), *[a for a, each in zip(arrays, self._inputs) if each.written]]
        return not any(is_written or any(np.may_share_memory(a, b) for b in written) for a, is_written in copied)

    def launch(self) -> None:
        """Do it all. What the first launch replaces of plain calls, such as gradients, goes to the system."""
        if self._is_compiled:
            self._launch()
        else:
            with np.errstate(all="ignore"):  # infinity and NaN are results like any other
                self._launch()
        self._was_launched = True

    def _launch(self) -> None:
        for function, arguments in self._first:
            function(*arguments)
        for i, step in enumerate(self._steps):
            if isinstance(step, np.ndarray):
                stopped = self._calls.play(step)
                if stopped >= 0:
                    step = self._guards[i, stopped]
            if not isinstance(step, np.ndarray):
                function, arguments, placed = step
                function(*(arguments if placed is None else placed(self._addresses)))
                if not self._was_launched:
                    buffers.free()

    def launch_timed(self) -> tuple[int, list[Timed], int]:
        """As `launch`. Returns when it began, in nanoseconds, its nodes in order, and when it ended."""
        begin, times = now(), list[list[int]]()  # around nodes that follow each other
        with np.errstate(all="ignore"):
            for function, arguments in self._first:
                function(*arguments)
            for i, step in enumerate(self._steps):
                if isinstance(step, np.ndarray):
                    stopped, stamps = self._calls.play_timed(step)
                    times.append(stamps)
                    if stopped < 0:
                        continue
                    step = self._guards[i, stopped]
                function, arguments, placed = step
                before = now()
                function(*(arguments if placed is None else placed(self._addresses)))
                if function is not _do_all:
                    times.append([before, now()])
        end = now()
        when = itertools.chain.from_iterable(map(itertools.pairwise, times))
        return begin, [Timed(*node, *each) for node, each in zip(zip(self._ops, self._names), when, strict=True)], end

    def _places(self, each: Input) -> list[tuple[memoryview, int, int]]:
        """Where calls have addresses in an input's memory, and how far behind its first element."""
        start = address(each.own)
        first = start + each.low
        stop = first + each.size
        found = [(s, self._calls.words_between(s, first, stop)) for s in self._steps if isinstance(s, np.ndarray)]
        return [(calls.data, place, int(calls[place]) - start) for calls, places in found for place in places.tolist()]

    def nodes(self) -> Counter[str]:
        """How many calls there are of each name."""
        return Counter(self._names)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the program's large arrays share, and of arguments that are copied."""
        planned = 0 if self._arena is None else self._arena.nbytes
        return planned + self._held_nbytes + sum([each.own.nbytes for each in self._inputs if each.fixed])


class _Primitives:
    """A backend's primitives, on arrays without values."""

    def __init__(self, program: Program, backend: ModuleType) -> None:
        self._program, self._backend = program, backend
        self._noted = getattr(backend, "NOTED", frozenset())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        program, function = self._program, getattr(self._backend, name)
        is_noted = name in self._noted  # by itself, call for call; another one is noted as a whole

        def primitive(*args: Any, **kwargs: Any) -> Any:
            args = program.plain(args, name)
            kwargs = program.plain(kwargs, name)
            if name.endswith("_step"):
                for array in arrays_in([x for x in args if type(x) in (list, tuple)]):
                    program._is_written(array)
            first = len(program._ops)
            results = function(*args, **kwargs) if is_noted else whole(function, *args, **kwargs)
            program._are_part_of(first, Call.of(name, args, kwargs, results))
            if isinstance(results, tuple):
                return tuple([program.adopt(result) for result in results])
            return results if results is None else program.adopt(results)

        setattr(self, name, primitive)
        return primitive


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


def _into(target: np.ndarray, ufunc: np.ufunc, *arguments: Any) -> None:
    ufunc(*arguments, out=target)


def _write_own(targets: tuple[Any, ...], function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    results = function(*args, **kwargs)
    several = results if isinstance(results, tuple) else (results,)
    found, wanted = ([None if x is None else (x.shape, x.dtype) for x in each] for each in (several, targets))
    if found != wanted:
        raise ValueError(f"{function.__name__}: gave {found}; expected {wanted}, as when the step was captured")
    for target, result in zip(targets, several):
        if target is not None:
            np.copyto(target, result)


def _blank(array: np.ndarray) -> np.ndarray:
    """An array laid out alike, of values that any function takes."""
    blank = np.full_like(array, 0 if array.dtype.kind in "iub" else 0.5)
    blank.flags.writeable = array.flags.writeable
    return blank


def _zeros(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    np.copyto(target, source, casting="unsafe")
