"""Checking gradients against finite differences, along random directions, in float64.

For f with inputs x, a random direction u for the inputs and v for the output,

    <v, f(x + h u) - f(x - h u)> / 2h   must be close to   <v, J u> = <J^T v, u>,

which takes two evaluations however many elements there are (HIPS/autograd's test_util has the idea). A wrong entry of
the gradient hides only where u happens to be orthogonal to the error, hence several directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilegrad.autograd.backward import grad
from tilegrad.autograd.grad_mode import enable_grad
from tilegrad.device import array_module, move
from tilegrad.tensor import Tensor, wrap


class GradcheckError(RuntimeError):
    """A gradient differs from the finite differences."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-4,
    raise_exception: bool = True,
    directions: int = 4,
) -> bool:
    """Whether func's gradients with respect to the float64 tensors among inputs that require grad are right.

    func(*inputs) gives a tensor or a tuple of them. Central differences with step eps along `directions` random
    directions; a failure raises GradcheckError naming both numbers, or gives False without raise_exception.
    Raises ValueError if there is nothing to check, and TypeError for an input that requires grad below float64.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = _checked("gradcheck", inputs)
    rng = np.random.default_rng(0)
    with enable_grad():
        outputs = _outputs("gradcheck", func(*inputs))
    weights = [wrap(_drawn(rng, y)) for y in outputs]
    # An output without a graph claims to be constant; the differences will tell.
    claims = [(y, w) for y, w in zip(outputs, weights) if y.requires_grad]
    found = grad([y for y, _ in claims], checked, [w for _, w in claims], allow_unused=True)
    for _ in range(directions):
        steps = [_unit(_drawn(rng, x)) for x in checked]
        analytic = math.fsum(float((g.data * u).sum()) for g, u in zip(found, steps) if g is not None)
        numeric = _difference(func, inputs, checked, steps, weights, eps)
        if not abs(analytic - numeric) <= atol + rtol * abs(numeric):
            if raise_exception:
                raise GradcheckError(
                    f"gradcheck: along a random direction the gradient is {analytic:.10g}; finite differences give "
                    f"{numeric:.10g} (atol {atol}, rtol {rtol})"
                )
            return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-4,
    raise_exception: bool = True,
    directions: int = 4,
) -> bool:
    """gradcheck of func's gradient itself: second order, in the inputs and in the incoming gradient."""
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    _checked("gradgradcheck", inputs)
    rng = np.random.default_rng(1)
    with enable_grad():
        outputs = _outputs("gradgradcheck", func(*inputs))
    seeds = [Tensor(_drawn(rng, y), requires_grad=True) for y in outputs]

    def gradient(*arguments: Any) -> tuple[Tensor, ...]:
        given, incoming = arguments[: len(inputs)], arguments[len(inputs) :]
        wanted = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        with enable_grad():
            linked = [(y, v) for y, v in zip(_outputs("gradgradcheck", func(*given)), incoming) if y.requires_grad]
        grads = grad([y for y, _ in linked], wanted, [v for _, v in linked], create_graph=True, allow_unused=True)
        return tuple(g for g in grads if g is not None and g.requires_grad)

    if not gradient(*inputs, *seeds):
        raise ValueError("gradgradcheck: the gradient depends on nothing; expected func to be differentiable")
    return gradcheck(gradient, [*inputs, *seeds], eps, atol, rtol, raise_exception, directions)


def _checked(op: str, inputs: Sequence[Any]) -> list[Tensor]:
    checked = list({id(x): x for x in inputs if isinstance(x, Tensor) and x.requires_grad}.values())
    if not checked:
        raise ValueError(f"{op}: no input requires grad; expected at least one that does")
    for x in checked:
        if x.dtype != np.float64:
            raise TypeError(f"{op}: an input is {x.dtype}; expected float64, in which differences mean something")
        if not x.is_leaf:
            raise ValueError(f"{op}: an input is the result of an op; expected leaves")
    return checked


def _outputs(op: str, result: Any) -> list[Tensor]:
    outputs = [result] if isinstance(result, Tensor) else [y for y in result if isinstance(y, Tensor)]
    outputs = [y for y in outputs if y.is_floating_point()]
    if not outputs:
        raise ValueError(f"{op}: func gave no floating-point tensor; expected at least one")
    return outputs


def _drawn(rng: np.random.Generator, like: Tensor) -> Any:
    """Normal numbers of a tensor's shape, on its device."""
    return move(np.asarray(rng.standard_normal(like.shape)), like.device)


def _unit(direction: Any) -> Any:
    """A direction of root-mean-square 1 spread over the input, scaled to length 1."""
    xp = array_module(direction)
    return xp.asarray(direction / max(float(xp.linalg.norm(direction)), 1e-300))


def _difference(
    func: Callable[..., Any],
    inputs: Sequence[Any],
    checked: list[Tensor],
    steps: list[Any],
    weights: list[Tensor],
    eps: float,
) -> float:
    """<weights, f(x + eps u) - f(x - eps u)> / 2 eps, at copies of the inputs."""
    ends = []
    for h in (eps, -eps):
        moved = {id(x): array_module(u).asarray(x.data + h * u) for x, u in zip(checked, steps)}
        arguments = [
            Tensor(moved[id(x)], requires_grad=True) if isinstance(x, Tensor) and id(x) in moved else x for x in inputs
        ]
        with enable_grad():  # func may be a gradient itself
            outputs = _outputs("gradcheck", func(*arguments))
        ends.append([y.data for y in outputs])
    return math.fsum(float((w.data * (a - b)).sum()) for w, a, b in zip(weights, *ends)) / (2 * eps)
