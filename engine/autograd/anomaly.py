"""Which op a gradient became NaN in, and where its forward stands in the program.

Costs nothing where it is not used: the functions that look are put in their places when the first block is entered,
and the first call after the last block takes them away again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from inspect import isgeneratorfunction
from threading import get_ident
from typing import Any, TypeVar

from tilegrad import capture_hooks
from tilegrad.autograd import backward
from tilegrad.autograd.pieces import Pieces
from tilegrad.autograd.record import Node
from tilegrad.kernels.system.modes import Block
from tilegrad.tensor import Tensor

Function = TypeVar("Function", bound=Callable)


class detect_anomaly(contextlib.ContextDecorator, Block):
    """Within this block (or decorated function) a NaN in a gradient is an error where it comes up.

        with tg.autograd.detect_anomaly():
            loss = F.mse_loss(model(x), t)
            loss.backward()    # RuntimeError: detect_anomaly: the gradient of 'sqrt' ... its forward: model.py:12

    check_nan   False: gradients are not looked at; an error that a gradient rule raises still gets the line of the
                forward as a note

    The forward must run within the block to have its line known. Each gradient is looked at, and on a GPU waited for,
    so a step is slower: for debugging. A captured step looks at no values; within the block its function runs plainly,
    and a RuntimeWarning says so once. Of this thread alone.

    Raises RuntimeError from backward and grad: the op whose gradient rule gave NaN, for which of its arguments, and
    where its forward was called. Infinity is no anomaly.
    """

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(among=_entered)
        self.check_nan = check_nan
        self.thread = 0

    def __call__(self, function: Function) -> Function:
        if isgeneratorfunction(function):
            raise TypeError("detect_anomaly: a generator runs outside it; expected a `with` block inside it")
        return super().__call__(function)

    def _recreate_cm(self) -> detect_anomaly:
        return type(self)(self.check_nan)

    def __enter__(self) -> Any:
        capture_hooks.refuse("looks at the values of gradients (detect_anomaly), which are not there yet")
        self.thread = get_ident()
        if len(_originals) < len(places):
            _take_away()  # what an interrupt has left half done
            _put()
        try:
            return super().__enter__()
        except BaseException:  # an interrupt, when all was set
            self.close()
            raise


_entered: list[Block] = []
_originals: list[tuple[Any, str, Any]] = []  # what was there before: owner, name, function
places: list[tuple[Any, str, Callable[..., Any]]] = []  # owner, name, what is called there with the original first


def _current() -> detect_anomaly | None:
    """The innermost block that this thread is in."""
    thread = get_ident()
    for block in reversed(_entered):
        if isinstance(block, detect_anomaly) and block.thread == thread:
            return block
    return None


def _put() -> None:
    for owner, name, instead in places:
        original = getattr(owner, name)
        _originals.append((owner, name, original))
        setattr(owner, name, _within(original, instead))


def _take_away() -> None:
    with contextlib.suppress(IndexError):  # another thread was faster
        while _originals:
            setattr(*_originals[-1])
            _originals.pop()


def _within(original: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """instead(original, ...) in a thread that is in a block; the original in others."""

    def function(*args: Any, **kwargs: Any) -> Any:
        if _current() is not None:
            return instead(original, *args, **kwargs)
        if not _entered:
            _take_away()
        return original(*args, **kwargs)

    return function


def _make_node(make: Callable[..., None], node: Node, *args: Any, **kwargs: Any) -> None:
    make(node, *args, **kwargs)
    node.place = _line()


def _apply(apply: Callable[..., Any], node: Node, dy: Tensor) -> tuple[Tensor | None, ...]:
    name, place = node.name, getattr(node, "place", "before the block of detect_anomaly")
    try:
        grads = apply(node, dy)
    except Exception as error:
        error.add_note(f"detect_anomaly: raised by the gradient of {name!r}; its forward: {place}")
        raise
    block = _current()
    if block is not None and block.check_nan:
        for i, g in enumerate(grads):
            if g is not None and _has_nan(g):
                came = "; the gradient that it was given had NaN already" if _has_nan(dy) else ""
                raise RuntimeError(
                    f"detect_anomaly: the gradient of {name!r} with respect to its argument {i} has NaN{came}; "
                    f"its forward: {place}"
                )
    return grads


def _has_nan(g: Tensor) -> bool:
    if isinstance(g, Pieces):  # which has no values of its own
        return any(map(_has_nan, g.parts.values()))
    array = g.data
    return bool((array != array).any())


def _line() -> str:
    """The line of the program that led here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "tilegrad":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


places += [(Node, "__init__", _make_node), (backward, "_apply", _apply)]
