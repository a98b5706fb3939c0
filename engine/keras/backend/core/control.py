"""Control flow: branches, loops, and functions applied along the first dimension. Python runs them, op by op.

A loop on values reads them, so a training step that has one is not captured. Of a branch a captured step computes both
sides, where neither does more than give a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras.src.backend.common.stateless_scope import StatelessScope

import tilegrad as tg
from tilegrad import capture_hooks
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.nested import tree
from tilegrad.tensor import Tensor

Function = Callable[..., Any]


def cond(pred: Any, true_fn: Function, false_fn: Function) -> Any:
    """true_fn() if pred holds, else false_fn()."""
    if isinstance(pred, bool):
        return true_fn() if pred else false_fn()
    pred = convert_to_tensor(pred)
    if capture_hooks.current() is not None or capture_hooks.is_watched():  # then what is captured must be seen before
        sides = _both(true_fn, false_fn)
        if sides is not None:
            return tree.map_structure(lambda a, b: tg.where(pred.bool(), a, b), *sides)
    return true_fn() if bool(pred) else false_fn()


def _both(true_fn: Function, false_fn: Function) -> tuple[Any, Any] | None:
    """What both give; None where one raises, writes to a variable, a gradient passes through, or they are not alike."""
    try:
        with StatelessScope() as scope, capture_hooks.without_checks():
            sides = true_fn(), false_fn()
    except capture_hooks.CaptureError:
        raise
    except Exception:  # on a side that is not taken, perhaps: the other way raises it again if need be
        return None
    if scope.state_mapping:
        return None
    flat = [tree.flatten(side) for side in sides]
    if not all(isinstance(x, Tensor) and not x.requires_grad for x in (*flat[0], *flat[1])):
        return None
    if [(x.shape, x.dtype) for x in flat[0]] != [(x.shape, x.dtype) for x in flat[1]]:
        return None
    return sides


def switch(index: Any, branches: list[Function], *operands: Any) -> Any:
    """branches[index](*operands), the index cut to those that there are."""
    at = min(max(int(convert_to_tensor(index).item()), 0), len(branches) - 1)
    return branches[at](*operands)


def while_loop(cond: Function, body: Function, loop_vars: Any, maximum_iterations: int | None = None) -> Any:
    """loop_vars = body(*loop_vars) as long as cond(*loop_vars) holds."""
    is_nested = isinstance(loop_vars, (tuple, list))
    now = tree.map_structure(convert_to_tensor, tuple(loop_vars) if is_nested else (loop_vars,))
    done = 0
    while (maximum_iterations is None or done < maximum_iterations) and bool(convert_to_tensor(cond(*now))):
        found = body(*now)
        now = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        done += 1
    return now if is_nested else now[0]


def fori_loop(lower: Any, upper: Any, body_fun: Function, init_val: Any) -> Any:
    """x = body_fun(i, x) for i in range(lower, upper), from init_val on."""
    x = init_val
    for i in range(int(lower), int(upper)):
        x = body_fun(i, x)
    return x


def map(f: Function, xs: Any) -> Any:
    """f of each entry along the first dimension, the results stacked."""
    n = len(tree.flatten(xs)[0])
    return _stacked([f(_entry(xs, i)) for i in range(n)])


def vectorized_map(function: Function, elements: Any) -> Any:
    """As `map`."""
    return map(function, elements)


def scan(
    f: Function, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False, unroll: int | bool = 1
) -> tuple[Any, Any]:
    """carry, y = f(carry, x) for each entry x along the first dimension: the last carry, and the ys stacked."""
    if not callable(f):
        raise TypeError(f"`f` should be a callable. Received: f={f}")
    if not isinstance(unroll, bool) and (not isinstance(unroll, int) or unroll < 1):
        raise ValueError(f"`unroll` must be an positive integer or boolean. Received: unroll={unroll}")
    if xs is None and length is None:
        raise ValueError("Got no `xs` to scan over and `length` not provided.")
    flat = [] if xs is None else tree.flatten(xs)
    n = len(flat[0]) if flat else int(length or 0)
    xs = None if xs is None else tree.map_structure(convert_to_tensor, xs)
    carry, ys = init, []
    for i in reversed(range(n)) if reverse else range(n):
        carry, y = f(carry, None if xs is None else _entry(xs, i))
        ys.append(y)
    return carry, None if not ys or ys[0] is None else _stacked(ys[::-1] if reverse else ys)


def associative_scan(f: Function, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """y_0 = x_0, y_i = f(y_i-1, x_i) along an axis, for an f of which it does not matter what is done first."""
    if not callable(f):
        raise TypeError(f"`f` should be a callable. Received: f={f}")
    elems = tree.map_structure(convert_to_tensor, elems)
    parts = [[x.narrow(axis, i, 1) for i in range(x.shape[axis])] for x in tree.flatten(elems)]
    if len({len(part) for part in parts}) != 1:
        raise ValueError(
            f"Array inputs to associative_scan must have the same first dimension. Received: {[len(x) for x in parts]}"
        )
    steps = [tree.pack_sequence_as(elems, list(step)) for step in zip(*parts)]
    steps = steps[::-1] if reverse else steps
    found = steps[:1]
    for step in steps[1:]:
        found.append(f(found[-1], step))
    flat = [tree.flatten(step) for step in (found[::-1] if reverse else found)]
    return tree.pack_sequence_as(elems, [tg.cat(list(column), axis) for column in zip(*flat)])


def _entry(xs: Any, i: int) -> Any:
    return tree.map_structure(lambda x: x[i], xs)


def _stacked(results: list[Any]) -> Any:
    columns = zip(*[tree.flatten(result) for result in results])
    stacked = [tg.stack([convert_to_tensor(x) for x in column]) for column in columns]
    return tree.pack_sequence_as(results[0], stacked)
