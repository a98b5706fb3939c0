"""Checking gradients against finite differences, along random directions.

For f with inputs x, a random direction u for the inputs and v for the output,

    <v, f(x + h u) - f(x - h u)> / 2h   must be close to   <v, J u> = <J^T v, u>,

which takes two evaluations however many elements there are (HIPS/autograd's test_util has the idea). A wrong entry of
the gradient hides only where u happens to be orthogonal to the error, hence several directions.

Differences need float64. Where the inputs are narrower, or on a GPU, the gradients are those of the kernels there, and
the differences those of the same function in float64 on the CPU. A function that cannot be evaluated so (its kernels
take no float64, its weights are float32, or it casts) is evaluated as it is, with a larger step and tolerance; u is
then the step that was really taken, after the inputs were rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tilegrad import dtypes
from tilegrad.autograd.backward import grad
from tilegrad.autograd.grad_mode import enable_grad
from tilegrad.device import move, on_host
from tilegrad.tensor import Tensor, wrap


class GradcheckError(RuntimeError):
    """A gradient differs from the finite differences."""


class _Tolerance(NamedTuple):
    """eps: of the step that each element takes; rtol: of the norm of the gradients, or of the differences."""

    eps: float
    atol: float
    rtol: float


_EXACT = _Tolerance(1e-6, 1e-6, 1e-4)  # all in float64
_AGAINST_FLOAT64 = {  # by the dtype of the gradients
    dtypes.float64: _EXACT, dtypes.float32: _Tolerance(1e-6, 1e-6, 1e-4),
    dtypes.float16: _Tolerance(1e-6, 1e-3, 1e-2), dtypes.bfloat16: _Tolerance(1e-6, 1e-2, 6e-2),
}  # fmt: skip
_AGAINST_ITSELF = {  # the step balances the rounding of f, eps / h, against what differences leave out, h^2
    dtypes.float64: _EXACT, dtypes.float32: _Tolerance(2**-7, 1e-4, 5e-3),
    dtypes.float16: _Tolerance(2**-4, 1e-2, 6e-2), dtypes.bfloat16: _Tolerance(2**-3, 5e-2, 2e-1),
}  # fmt: skip


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = True,
    directions: int = 4,
    reference: Callable[..., Any] | None = None,
) -> bool:
    """Whether func's gradients with respect to the tensors among inputs that require grad are right.

    func(*inputs) gives a tensor or a tuple of them. Central differences along `directions` random directions; a
    failure raises GradcheckError naming both numbers, or gives False without raise_exception.

    eps, atol, rtol  the step of the differences, and what may lie between the two numbers: atol + rtol times the
                     differences, or times the gradients' norm if one of them is not float64. None: 1e-6, 1e-6 and 1e-4
                     for float64, and what fits for other dtypes
    reference        evaluated for the differences instead of func, in float64 on the CPU: for a func that cannot be

    Raises ValueError if there is nothing to check, for an input that is no leaf, and for a reference whose outputs are
    of other shapes.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = _checked("gradcheck", inputs)
    rng = np.random.default_rng(0)
    with enable_grad():
        outputs = _outputs("gradcheck", func(*inputs))
    weights = [_drawn(rng, y) for y in outputs]
    # An output without a graph claims to be constant; the differences will tell.
    claims = [(y, w) for y, w in zip(outputs, weights) if y.requires_grad]
    found = grad([y for y, _ in claims], checked, [w for _, w in claims], allow_unused=True)
    function, values, kind = _evaluated(func, reference, inputs, outputs)
    narrowest = max([x.dtype for x in (*checked, *outputs)], key=lambda dtype: float(ml_dtypes.finfo(dtype).eps))
    is_exact = all([x.dtype == dtypes.float64 for x in (*checked, *outputs)])
    fitting = (_AGAINST_ITSELF if kind == "itself" else _AGAINST_FLOAT64)[narrowest]
    step, low, high = (given if given is not None else own for given, own in zip((eps, atol, rtol), fitting))
    norm = math.fsum([float(np.linalg.norm(_wide(g))) for g in found if g is not None])
    for _ in range(directions):
        steps = [_direction(_drawn(rng, x, wide=True), is_exact) for x in checked]
        numeric, taken = _difference(function, inputs, values, checked, steps, weights, step)
        analytic = math.fsum([float((_wide(g) * u).sum()) for g, u in zip(found, taken) if g is not None])
        allowed = low + high * (abs(numeric) if is_exact else max(abs(numeric), norm))
        if not abs(analytic - numeric) <= allowed:
            if raise_exception:
                raise GradcheckError(
                    f"gradcheck: along a random direction the gradient is {analytic:.10g}; finite differences "
                    f"{_OF[kind]}give {numeric:.10g} (atol {low}, rtol {high})"
                )
            return False
    return True


_OF = {"float64": "", "itself": "of the function as it is ", "reference": "of the reference "}


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = True,
    directions: int = 4,
) -> bool:
    """gradcheck of func's gradient itself: second order, in the inputs and in the incoming gradient."""
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    _checked("gradgradcheck", inputs)
    rng = np.random.default_rng(1)
    with enable_grad():
        outputs = _outputs("gradgradcheck", func(*inputs))
    seeds = [_drawn(rng, y).requires_grad_() for y in outputs]

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
        if not x.is_leaf:
            raise ValueError(f"{op}: an input is the result of an op; expected leaves")
    return checked


def _outputs(op: str, result: Any) -> list[Tensor]:
    outputs = [result] if isinstance(result, Tensor) else [y for y in result if isinstance(y, Tensor)]
    outputs = [y for y in outputs if y.is_floating_point()]
    if not outputs:
        raise ValueError(f"{op}: func gave no floating-point tensor; expected at least one")
    return outputs


def _evaluated(
    func: Callable[..., Any], reference: Callable[..., Any] | None, inputs: Sequence[Any], outputs: Sequence[Tensor]
) -> tuple[Callable[..., Any], list[Any], str]:
    """(the function that differences are of, its inputs, whose it is): in float64 on the CPU where it can be."""
    if reference is None and all([x.dtype == dtypes.float64 for x in inputs if _is_floating(x)]):
        return func, list(inputs), "float64" if all([y.dtype == dtypes.float64 for y in outputs]) else "itself"
    values = [_in_float64(x) if isinstance(x, Tensor) else x for x in inputs]
    try:
        with enable_grad():
            found = _outputs("gradcheck", (reference or func)(*values))
            is_fine = reference is not None or _tells_apart(func, values, found)
    except Exception:  # whatever a function raises that was written for other dtypes or another device
        if reference is not None:
            raise
        return func, list(inputs), "itself"
    if reference is not None:
        if [y.shape for y in found] != [y.shape for y in outputs]:
            shapes = f"{[y.shape for y in found]} but func's {[y.shape for y in outputs]}"
            raise ValueError(f"gradcheck: the reference's outputs are {shapes}; expected the same")
        return reference, values, "reference"
    return (func, values, "float64") if is_fine else (func, list(inputs), "itself")


def _tells_apart(func: Callable[..., Any], values: list[Any], outputs: list[Tensor]) -> bool:
    """Whether func computes in float64 on the CPU, with no cast in between: a step that narrower types round away, of
    any input, is seen in its outputs.
    """
    if any([y.dtype != dtypes.float64 or y.is_cuda for y in outputs]):
        return False
    for i, x in enumerate(values):
        if _is_floating(x) and x.requires_grad:
            beside = Tensor(np.asarray(x.data * (1 + 2**-40)), requires_grad=True)
            found = _outputs("gradcheck", func(*values[:i], beside, *values[i + 1 :]))
            if all([y.data.tobytes() == z.data.tobytes() for y, z in zip(found, outputs)]):
                return False
    return True


def _is_floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _in_float64(x: Tensor) -> Tensor:
    """A tensor's values on the CPU, in float64 if they are floating-point."""
    host = on_host(x.data)
    return Tensor(host.astype(np.float64) if _is_floating(x) else host, requires_grad=x.requires_grad)


def _wide(x: Tensor) -> np.ndarray:
    """On the host, in float64."""
    return on_host(x.data).astype(np.float64, copy=False)


def _drawn(rng: np.random.Generator, like: Tensor, wide: bool = False) -> Any:
    """Normal numbers of a tensor's shape: a tensor like it; or in float64, an array of the host's."""
    drawn = np.asarray(rng.standard_normal(like.shape))
    return drawn if wide else wrap(move(drawn.astype(like.dtype, copy=False), like.device))


def _direction(drawn: np.ndarray, is_unit: bool) -> np.ndarray:
    """A direction of length 1; or of root-mean-square 1, along which a gradient is about as large as its norm."""
    length = max(float(np.linalg.norm(drawn)), 1e-300)
    return np.asarray(drawn / length * (1 if is_unit else math.sqrt(drawn.size)))


def _difference(
    func: Callable[..., Any],
    inputs: Sequence[Any],
    values: Sequence[Any],
    checked: list[Tensor],
    steps: list[np.ndarray],
    weights: list[Tensor],
    eps: float,
) -> tuple[float, list[np.ndarray]]:
    """(<weights, f(x + eps u) - f(x - eps u)> / 2 eps, the directions as they were after rounding)

    values  what func is given for the inputs, which are moved at copies
    """
    ends, places = [], []
    for h in (eps, -eps):
        moved: dict[int, Tensor] = {}
        for x, u in zip(checked, steps):
            at = next(value for value, given in zip(values, inputs) if given is x)
            place = np.asarray(_wide(at) + h * u, at.dtype)
            moved[id(x)] = Tensor(move(place, at.device), requires_grad=True)
        places.append([_wide(moved[id(x)]) for x in checked])
        with enable_grad():  # func may be a gradient itself
            found = func(*[moved.get(id(given), value) for given, value in zip(inputs, values)])
        ends.append([_wide(y) for y in _outputs("gradcheck", found)])
    taken = [(a - b) / (2 * eps) for a, b in zip(*places)]
    rise = math.fsum([float((_wide(w) * (a - b)).sum()) for w, a, b in zip(weights, *ends)]) / (2 * eps)
    return rise, steps if all([x.dtype == dtypes.float64 for x in values if _is_floating(x)]) else taken
