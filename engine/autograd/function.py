"""Function: an op of the user's own, with a gradient rule, as PyTorch spells it.

    class Scale(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, dy):
            return dy * ctx.factor, None

    y = Scale.apply(x, 2.0)

The decorator `tilegrad.op` (engine/autograd/op.py) is a shorter way to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.autograd.results import Backward, Once, linked, operands
from tilegrad.tensor import Tensor


class _Result(NamedTuple):
    """In the place of a saved tensor that is a result."""

    number: int


class FunctionCtx:
    """What forward leaves for backward. Attributes of any name may be set.

    needs_input_grad  of each argument of forward, whether it is a tensor that requires grad
    saved_tensors     what `save_for_backward` got
    """

    needs_input_grad: tuple[bool, ...]

    def __init__(self, name: str) -> None:
        self._name = name
        self._saved: tuple[Any, ...] = ()
        self._constant: tuple[Tensor, ...] = ()
        self._zeros = True
        self._results: list[Any] = []  # while backward runs

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep arguments and results, or other tensors. One that is written to in place before backward is an error.

        Raises TypeError for what is neither a tensor nor None; that can be an attribute.
        """
        for i, x in enumerate(tensors):
            if not (x is None or isinstance(x, Tensor)):
                got = f"argument {i} is a {type(x).__name__}"
                raise TypeError(f"save_for_backward: {got}; expected tensors or None. Set an attribute of ctx instead")
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple([self._results[x.number] if isinstance(x, _Result) else x for x in self._saved])

    def mark_non_differentiable(self, *results: Tensor) -> None:
        """These results have no gradient."""
        self._constant = results

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Not there: raises NotImplementedError."""
        raise NotImplementedError(f"{self._name}: mark_dirty is not supported; expected a result with its own memory")

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (the default) or None for a result that nothing was computed from."""
        self._zeros = value


class Function:
    """An op of the user's own: a subclass has `forward` and `backward`, static methods, and is called by `apply`.

        forward(ctx, *args)           the result, a tensor or an array, or a tuple of results. Nothing in it is recorded
        backward(ctx, *gradients)     one gradient for each argument of forward, in order: None for what is no tensor or
                                      needs none. It gets one gradient for each result
        setup_context(ctx, inputs, output)
                                      if there is one, forward is called without ctx, and this afterwards

    Gradients that are tensors, computed by ops, can be differentiated again. Arrays, such as kernels give, and what a
    backward with `@once_differentiable` gives, cannot: doing so raises RuntimeError.

    In a captured step forward and backward are part of the step, like ops. Kernels of the user's own for arrays of the
    CPU need `tilegrad.kernels.primitive` for that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"{type(self).__name__}: a Function has no instances; expected {type(self).__name__}.apply(...)"
        )

    forward: Callable[..., Any]
    backward: Callable[..., Any]

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """forward's result or results, recorded. Raises TypeError for arguments by name."""
        name = cls.__name__
        if kwargs:
            raise TypeError(f"{name}.apply: takes no arguments by name; got {', '.join(kwargs)}")
        if not hasattr(cls, "forward"):
            raise NotImplementedError(f"{name}: has no forward; expected a static method forward(ctx, ...)")
        setup = getattr(cls, "setup_context", None)
        ctx = FunctionCtx(name)
        given = tuple(operands(args))
        capture_hooks.runs(cls.forward, setup, getattr(cls, "backward", None))
        ctx.needs_input_grad = tuple([isinstance(x, Tensor) and x._requires_grad for x in given])
        with no_grad():
            if setup is None:
                made = cls.forward(ctx, *given)
            else:
                made = cls.forward(*given)
                setup(ctx, given, made)
        results = made if isinstance(made, tuple) else (made,)
        numbers = {id(y): k for k, y in enumerate(results) if isinstance(y, Tensor)}
        inputs = {id(x) for x in given}
        ctx._saved = tuple([x if id(x) in inputs else _placed(x, numbers) for x in ctx._saved])
        marked = {id(y) for y in ctx._constant}
        constant = [k for k, y in enumerate(results) if id(y) in marked]
        saved = dict.fromkeys([x.number for x in ctx._saved if isinstance(x, _Result)])
        known = [k for k in saved if k not in constant and results[k].is_floating_point()]
        backward = Backward(
            call=_backward(cls, ctx),
            kept=tuple([x for x in ctx._saved if isinstance(x, Tensor)]),
            known=tuple(known),
            held=tuple([k for k in saved if k not in known]),
            zeros=ctx._zeros,
        )
        outputs = linked(name, given, results, backward, constant)
        stay = {_Result(k): outputs[k] for k in backward.held}  # no graph is behind these
        ctx._saved = tuple([stay[x] if isinstance(x, _Result) and x in stay else x for x in ctx._saved])
        ctx._constant = ()
        return tuple(outputs) if isinstance(made, tuple) else outputs[0]


def _placed(x: Tensor | None, numbers: dict[int, int]) -> Any:
    return x if x is None or id(x) not in numbers else _Result(numbers[id(x)])


def _backward(cls: type[Function], ctx: FunctionCtx) -> Callable[..., Any]:
    def call(dy: list[Any], y: list[Any]) -> Any:
        if not hasattr(cls, "backward"):
            raise NotImplementedError(f"{cls.__name__}: has no backward; expected a static method backward(ctx, ...)")
        ctx._results = y
        try:
            return cls.backward(ctx, *dy)
        finally:
            ctx._results = []  # they lead back to ctx

    return call


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of `Function.backward`: nothing in it is recorded, and to differentiate its gradients is an error."""

    @wraps(backward)
    def once(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            found = backward(ctx, *gradients)
        return Once(found if isinstance(found, tuple) else (found,))

    return once
