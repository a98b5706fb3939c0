"""A compiled kernel's call, shared out among threads with no Python in between.

A kernel whose last parameters are (begin, stop, part, team), four integers, begins with

    if team:
        share(begin, stop, part, team)
        return

Called with a team it does nothing by itself then: `share` cuts range(begin, stop) into `part` contiguous pieces and
has the kernel called for each, with the same arguments otherwise, with the number of the piece for `part` and no team.
What is called is the very function that `share` stands in, so that a kernel is compiled once for both.

The team is a piece of memory. Its threads look for work there without holding Python's lock (`serve`), so that a piece
is handed over in well under a microsecond; a thread that sleeps, or comes late, finds that the caller has done it all.
Which thread does a piece is chance; what the pieces are is not.

    claim      ticket of the call << 16 | the next piece; _CLOSED pieces between calls
    finished   pieces that are done

A thread that has read the call's fields owns a piece if it then still finds the claim as it was before, and raises it
by one: the fields change only while the claim is closed.

Other memory may stand in the team's place, whose word RUN is the address of what is to be done with a call: a step that
is captured has its calls noted (kernels/capture/calls.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.code import cfunc, njit

_CLOSED = (1 << 16) - 1

# Words of the team's memory; what threads write to is 128 bytes apart, for caches fetch lines in pairs.
_CLAIM, _FINISHED, _STOP = 0, 16, 32
RUN, _THUNK, _ARGUMENTS, _BEGIN, _END, _PIECES = range(48, 54)
WORDS = 64
MOST_WORDS = 512  # that the arguments of a call may take

_PAUSES = 1 << 10  # that a waiting thread makes before it lets others have its core between looks; some 25 microseconds
_IDLE = 1 << 12  # looks of a thread without work before it sleeps, most of them yielding; a millisecond on an idle core

_void, _i8, _i64 = ir.VoidType(), ir.IntType(8), ir.IntType(64)
_pointer = _i8.as_pointer()
_THUNK_TYPE = ir.FunctionType(_void, [_pointer, _i64, _i64, _i64])
_RUN_TYPE = ir.FunctionType(_void, [_i64] * 7)
_RUN_SIGNATURE = types.void(*[types.int64] * 7)


def new_team() -> np.ndarray:
    """The memory of a team; its address is what kernels take."""
    memory = np.zeros(WORDS, np.int64)
    memory[_CLAIM] = _CLOSED
    memory[RUN] = address_of(_run)
    serve.compile("void(int64)")  # by the caller, whom Ctrl-C reaches while it waits for Numba's compiler
    return memory


@intrinsic
def share(context: Any, begin: Any, stop: Any, pieces: Any, team: Any) -> Any:
    """Call the function that this stands in for `pieces` parts of range(begin, stop) (see the module)."""
    sig = types.void(*[types.int64] * 4)

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        function = b.function
        begin, stop, pieces, team = args
        kept = function.args[2:-4]  # behind where results and exceptions go, before (begin, stop, part, team)
        assert all(a.type == _i64 for a in function.args[-4:]), "a shared kernel ends with four integers"
        function.attributes.add("noinline")
        arguments = ir.LiteralStructType([a.type for a in kept])
        place = cgutils.alloca_once(b, arguments)
        for i in range(len(kept)):
            b.store(_borrowed(i, kept), cgutils.gep_inbounds(b, place, 0, i))
        thunk = _thunk(b.module, function, arguments)
        words = context.get_abi_sizeof(arguments) // 8  # whole ones: an array's are among them
        assert words <= MOST_WORDS
        run = b.inttoptr(b.load(_word(b, team, RUN)), _RUN_TYPE.as_pointer())
        b.call(run, [team, b.ptrtoint(thunk, _i64), b.ptrtoint(place, _i64), _i64(words), begin, stop, pieces])
        return context.get_dummy_value()

    return sig, codegen


def _borrowed(i: int, arguments: list[ir.Value]) -> ir.Value:
    """Argument i, unless it says to whom an array belongs: two pointers, to Numba's count of references and to Python's
    object, come first of what an array is passed as (numba.core.datamodel). The count lives as long as the call only.
    """
    is_pointer = [isinstance(a.type, ir.PointerType) for a in arguments]
    owner = is_pointer[i] and (is_pointer[i + 1 : i + 2] == [True] or (i > 0 and is_pointer[i - 1]))
    return ir.Constant(arguments[i].type, None) if owner else arguments[i]


def _thunk(module: ir.Module, function: ir.Function, arguments: ir.Type) -> ir.Function:
    """thunk(arguments, begin, stop, part): the function with its arguments from a struct and no team."""
    thunk = ir.Function(module, _THUNK_TYPE, f"{function.name}.piece")
    thunk.linkage = "internal"
    b = ir.IRBuilder(thunk.append_basic_block())
    place = b.bitcast(thunk.args[0], arguments.as_pointer())
    values = [b.load(cgutils.gep_inbounds(b, place, 0, i)) for i in range(len(arguments.elements))]
    # None and no exception: nobody reads what these point to.
    results = [b.bitcast(b.alloca(_i64), a.type) for a in function.args[:2]]
    b.call(function, [*results, *values, *thunk.args[1:], _i64(0)])
    b.ret_void()
    return thunk


def piece_of(kernel: Callable[..., None], *arguments: Any) -> int:
    """The address of what does a piece of a shared kernel, for arguments of these types; it stays there.

    `call_by_address` calls it from other kernels, which need no copy of the kernel's code then. It is asked for with a
    team that only reads it off: the kernel does nothing.
    """
    found: list[int] = []
    read_off = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 7)(lambda team, thunk, *call: found.append(thunk))
    memory = np.zeros(WORDS, np.int64)
    memory[RUN] = ctypes.cast(read_off, ctypes.c_void_p).value
    kernel(*arguments, 0, 0, 0, memory.ctypes.data)
    return found[0]


def call_by_address(
    context: Any, b: ir.IRBuilder, piece: ir.Value, kinds: Any, values: Any, span: list[ir.Value]
) -> None:
    """Have a piece done: `piece` is what `piece_of` gave for arguments of these kinds, `span` begin, stop and part."""
    packed = context.get_arg_packer(kinds).as_arguments(b, values)
    place = cgutils.alloca_once(b, ir.LiteralStructType([a.type for a in packed]))
    for i in range(len(packed)):
        b.store(_borrowed(i, packed), cgutils.gep_inbounds(b, place, 0, i))
    b.call(b.inttoptr(piece, _THUNK_TYPE.as_pointer()), [b.bitcast(place, _pointer), *span])


def _word(b: ir.IRBuilder, address: ir.Value, word: int) -> ir.Value:
    return b.inttoptr(b.add(address, _i64(8 * word)), _i64.as_pointer())


# --- memory that threads share ---------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def _load(context: Any, team: Any, word: Any) -> Any:
    """The word, with all that was written before it."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.load_atomic(_word(b, args[0], word.literal_value), "acquire", 8)

    return types.int64(types.int64, word), codegen


@intrinsic(prefer_literal=True)
def _store(context: Any, team: Any, word: Any, value: Any) -> Any:
    """Write the word after all that was written before."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        b.store_atomic(args[2], _word(b, args[0], word.literal_value), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, word, types.int64), codegen


@intrinsic
def _add_finished(context: Any, team: Any) -> Any:
    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        b.atomic_rmw("add", _word(b, args[0], _FINISHED), _i64(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _claim(context: Any, team: Any, found: Any) -> Any:
    """Whether the claim was still as it was found, and is now raised by one."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        where = _word(b, args[0], _CLAIM)
        result = b.cmpxchg(where, args[1], b.add(args[1], _i64(1)), "seq_cst", "seq_cst")
        return b.extract_value(result, 1)

    return types.boolean(types.int64, types.int64), codegen


@intrinsic
def call_piece(context: Any, thunk: Any, arguments: Any, begin: Any, stop: Any, part: Any) -> Any:
    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        thunk = b.inttoptr(args[0], _THUNK_TYPE.as_pointer())
        b.call(thunk, [b.inttoptr(args[1], _pointer), *args[2:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def _pause(context: Any) -> Any:
    """Tell the core that this is a loop that waits (Intel SDM, PAUSE; Arm ARM, YIELD)."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        triple, i32 = b.module.triple, ir.IntType(32)
        if triple.startswith(("x86", "i386", "i686", "amd64")):
            hint = cgutils.get_or_insert_function(b.module, ir.FunctionType(_void, []), "llvm.x86.sse2.pause")
            b.call(hint, [])
        elif triple.startswith(("aarch64", "arm64")):
            hint = cgutils.get_or_insert_function(b.module, ir.FunctionType(_void, [i32]), "llvm.aarch64.hint")
            b.call(hint, [i32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _let_others(context: Any) -> Any:
    """Let another thread that waits for this core have it (POSIX sched_yield; nothing on Windows)."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if "windows" not in b.module.triple:
            yields = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
            b.call(yields, [])
        return context.get_dummy_value()

    return types.void(), codegen


# --- the threads -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _do_a_piece(team):
    """Claim a piece of the call that there is, and do it. Returns whether there was one."""
    found = _load(team, _CLAIM)
    piece, pieces = found & _CLOSED, _load(team, _PIECES)
    if piece >= pieces:
        return False
    thunk, arguments = _load(team, _THUNK), _load(team, _ARGUMENTS)
    begin, stop = _load(team, _BEGIN), _load(team, _END)
    if _claim(team, found):
        items = stop - begin
        call_piece(thunk, arguments, begin + items * piece // pieces, begin + items * (piece + 1) // pieces, piece)
        _add_finished(team)
    return True


@njit(nogil=True, cache=True)
def run_pieces(team, thunk, arguments, begin, stop, pieces):
    """All pieces, with whatever threads of the team are there to help."""
    ticket = _load(team, _CLAIM) >> 16
    _store(team, _THUNK, thunk)
    _store(team, _ARGUMENTS, arguments)
    _store(team, _BEGIN, begin)
    _store(team, _END, stop)
    _store(team, _PIECES, pieces)
    _store(team, _FINISHED, 0)
    _store(team, _CLAIM, (ticket + 1) << 16)
    while _do_a_piece(team):
        pass
    looks = 0
    while _load(team, _FINISHED) < pieces:
        looks += 1
        if looks < _PAUSES:
            _pause()
        else:
            _let_others()
    _store(team, _CLAIM, (ticket + 1) << 16 | _CLOSED)


def _run(team, thunk, arguments, words, begin, stop, pieces):
    run_pieces(team, thunk, arguments, begin, stop, pieces)


@cache
def _compiled(function: Any) -> Any:
    return cfunc(_RUN_SIGNATURE, function)


def address_of(function: Any) -> int:
    """Where share finds the function; it stays there."""
    return _compiled(function).address


@intrinsic
def read(context: Any, address: Any) -> Any:
    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.load(_word(b, args[0], 0))

    return types.int64(types.int64), codegen


@intrinsic
def write(context: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        b.store(args[1], _word(b, args[0], 0))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@njit(nogil=True, cache=True)
def serve(team):
    """Do pieces until there have been none for a while, or `stop` was said."""
    looks = 0
    while looks < _IDLE and not _load(team, _STOP):
        if _do_a_piece(team):
            looks = 0
        else:
            looks += 1
            if looks < _PAUSES:
                _pause()
            else:
                _let_others()


def stop(team: np.ndarray) -> None:
    """Have the threads of a team leave `serve`, now and whenever they enter it."""
    team[_STOP] = 1
