"""What a primitive of the CPU does with memory: done at once, or noted while a step is captured.

A primitive goes through one of these doors for everything that reads or writes values,

    threads.share(kernel, most, items, *arguments)   a call of a compiled kernel
    do(function, *arguments)                         a call of any other function that writes to arrays it is given
    whole(primitive, *arguments)                     a primitive that the reference computes, as one such call

and computes nothing beside them. While this thread captures a step, nothing runs: the program
(kernels/capture/program.py) notes the calls, and each launch makes them. Otherwise the doors just call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.kernels.cpu import buffers
from tilegrad.kernels.system.modes import Block

if TYPE_CHECKING:
    from tilegrad.kernels.capture.program import Program


class _Local(threading.local):
    program: Program | None = None


of_thread = _Local()


def capturing() -> Program | None:
    """The program that this thread captures; None where calls are made at once."""
    return of_thread.program


def captured_by(program: Program | None) -> tuple[Any, str, Any]:
    """The setting of a block within which this thread's calls are noted by that program, or made at once."""
    return of_thread, "program", program


def paused() -> Block:
    """Within the block this thread's calls are made at once."""
    return Block(captured_by(None))


def do(function: Callable[..., Any], *arguments: Any) -> None:
    """function(*arguments), which writes to arrays among its arguments."""
    if of_thread.program is None:
        function(*arguments)
    else:
        of_thread.program.function(function.__name__.strip("_"), function, arguments)


def guard(word: np.ndarray, told: Callable[..., None], *arguments: Any) -> None:
    """Call told(*arguments), which raises, if the kernel that was shared last has left the word, int64 (1,), >= 0."""
    if of_thread.program is not None:
        of_thread.program.guard(word, told, arguments)
    elif word[0] >= 0:
        told(*arguments)


def whole(primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """primitive(*args, **kwargs): an array, a tuple of arrays, or None.

    While a step is captured the primitive runs once for the shapes of its results. The arrays that this returns have
    those shapes, and each launch writes them.
    """
    program = of_thread.program
    if program is None:
        return primitive(*args, **kwargs)
    name = primitive.__name__
    with paused():
        results = primitive(*_copies(args), **kwargs) if name.endswith("_step") else primitive(*args, **kwargs)
    targets = tuple([pooled(result) for result in as_tuple(results)])
    program.function(name.strip("_"), write_results, (targets, primitive, args, kwargs))
    return results if results is None else targets if isinstance(results, tuple) else targets[0]


def dense(array: np.ndarray) -> np.ndarray:
    """A copy in C order."""
    target = buffers.empty(array.shape, array.dtype)
    do(np.copyto, target, array)
    return target


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array where it is in C order, otherwise a copy that is."""
    return array if array.flags.c_contiguous else dense(array)


def write_results(targets: tuple[np.ndarray, ...], function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Copy what function(*args, **kwargs) returns to the targets."""
    for target, result in zip(targets, as_tuple(function(*args, **kwargs)), strict=True):
        np.copyto(target, result)


def pooled(array: np.ndarray) -> np.ndarray:
    """Memory of this thread's pool with the array's layout; the array itself where it is small or has gaps."""
    if array.nbytes < buffers.SMALLEST or buffers.pool_of(array) is not None:
        return array
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    memory = buffers.empty(tuple([array.shape[axis] for axis in order]), array.dtype).transpose(np.argsort(order))
    return memory if memory.strides == array.strides else array


def as_tuple(results: Any) -> tuple[np.ndarray, ...]:
    return () if results is None else results if isinstance(results, tuple) else (results,)


def _copies(x: Any) -> Any:
    """x with copies of its arrays: a step primitive writes to its arguments, and the launch is not yet."""
    if isinstance(x, np.ndarray):
        return x.copy()
    return type(x)(map(_copies, x)) if type(x) in (list, tuple) else x
