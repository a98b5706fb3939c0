"""`@op`: an op of the user's own, with its gradient rule under it, as the engine's are written.

@tg.op
def scale(x, factor):
    y = x.data * factor

    def gradient(dy):
        return dy * factor

    return y, gradient

y = scale(x, 2.0)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.autograd.results import Backward, Once, linked, operands
from tilegrad.device import is_array
from tilegrad.dtypes import FLOATS
from tilegrad.tensor import Tensor, wrap


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an op: called with tensors, it gives tensors, and its gradient rule is recorded behind them.

    function(...)      -> its results and, last, its gradient rule (None: it has none). Results are arrays, such as
                       kernels give, or tensors. Nothing in it is recorded
    gradient(*dy)      -> one gradient for each argument of function, in order, or a single one: None for what is no
                       tensor or needs none, and those at the end may be left out. It gets a gradient for each result
    gradient(*dy, *y)  where it takes twice as many, it gets the results as well

    The rule uses the arguments by their names. Its gradients can be differentiated again if they are tensors, computed
    by ops, and all that the rule names are arguments, results that it gets, and numbers. Otherwise, as with kernels,
    asking for a second derivative raises RuntimeError.

    In a captured step function and rule are part of the step. Kernels of the user's own for arrays of the CPU need
    `tilegrad.kernels.primitive` for that.
    """
    name = getattr(function, "__name__", type(function).__name__)
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:  # in the order of the parameters
            bound = signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        given = operands(args)
        named = dict(zip(kwargs, operands([*kwargs.values()])))
        capture_hooks.runs(function)
        with no_grad():
            made = function(*given, **named)
        if not isinstance(made, tuple) or len(made) < 2 or not (made[-1] is None or callable(made[-1])):
            raise TypeError(f"{name}: gave a {type(made).__name__}; expected (result, gradient), or more results")
        results, rule = made[:-1], made[-1] or _no_rule(name)
        outputs = linked(name, [*given, *named.values()], results, _backward(name, rule, given, named, results))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return call


def _backward(name: str, rule: Callable[..., Any], given: list[Any], named: dict[str, Any], results: Any) -> Backward:
    arguments = {id(x) for x in (*given, *named.values())}
    cells = [x for cell in getattr(rule, "__closure__", None) or () for x in _flat(cell.cell_contents)]
    own = [x for x in cells if id(x) not in arguments and _is_floating(x)]
    takes_results = _count(name, rule, len(results)) > len(results)
    others = [k for k, y in enumerate(results) if takes_results and _is_array(y) and not _is_floating(y)]
    integers = {
        k: wrap(results[k].data if isinstance(results[k], Tensor) else results[k]) for k in others
    }  # no graph is behind these

    def backward(dy: list[Any], y: list[Any]) -> Any:
        found = rule(*dy, *[integers.get(k, each) for k, each in enumerate(y)]) if takes_results else rule(*dy)
        if type(found) is list:
            raise TypeError(f"{name}: the gradient rule gave a list; expected a tensor, or a tuple of gradients")
        return Once(found if isinstance(found, tuple) else (found,)) if own else found

    return Backward(
        call=backward,
        kept=tuple([x for x in cells if isinstance(x, Tensor)]),
        known=tuple([k for k, y in enumerate(results) if takes_results and _is_floating(y)]),
        held=tuple([k for k, y in enumerate(results) if k in integers or any([x is y for x in own])]),
        is_short=True,
    )


def _flat(x: Any) -> tuple[Any, ...]:
    return x if type(x) is tuple else (x,)


def _is_array(x: Any) -> bool:
    return isinstance(x, (Tensor, np.generic)) or is_array(x)


def _is_floating(x: Any) -> bool:
    return _is_array(x) and x.dtype in FLOATS


def _count(name: str, rule: Callable[..., Any], results: int) -> int:
    """How many arguments the rule takes: the gradients of the results, and perhaps the results."""
    code = getattr(rule, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return results
    takes = code.co_argcount - len(getattr(rule, "__defaults__", None) or ())
    if takes not in (results, 2 * results):
        also = f"the gradients of {results} results; or {2 * results}, with the results"
        raise TypeError(f"{name}: the gradient rule takes {takes} arguments; expected {results}, {also}")
    return takes


def _no_rule(name: str) -> Callable[..., Any]:
    def gradient(*dy: Any) -> Any:
        raise RuntimeError(f"{name}: has no gradient rule; expected (result, gradient) from it")

    return gradient
