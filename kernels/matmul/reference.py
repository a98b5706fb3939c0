"""Matrix multiplication on NumPy: the specification."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.activations.reference import ACTIVATIONS, apply_activation, relu_grad
from tilegrad.kernels.checks import PRECISIONS, accumulator, float_dtype, one_of
from tilegrad.kernels.sum.reference import sum


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    precision: str = "ieee",
) -> np.ndarray:
    """Matrix product over the last two axes, with bias and activation in the epilogue.

        y[..., m, n] = activation(sum over k of a[..., m, k] * b[..., k, n] + bias[n])

    a           (..., M, K) float16 | bfloat16 | float32 | float64, any strides; transpose by view
    b           (..., K, N) of a's dtype; the leading axes of a and b broadcast by NumPy's rules
    bias        (N,) of a's dtype, or None
    activation  a name of ACTIVATIONS, or None
    precision   "ieee" | "tf32" | "tf32x3": what float32 products may be rounded to on tensor cores; NumPy
                always computes "ieee"
    ->          y (..., M, N) of a's dtype; 16-bit types are accumulated in float32. K = 0 gives activation(bias)

    Traffic: reads (M K + K N) * itemsize a matrix at least once, writes M N * itemsize.
    Raises ValueError for shapes, activation and precision, TypeError for dtypes.
    """
    check_matmul(a, b, bias, activation, precision)
    return unchecked_matmul(a, b, bias, activation)


def matmul_kept(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, activation: str | None, precision: str = "ieee"
) -> tuple[np.ndarray, np.ndarray]:
    """z = a @ b + bias and y = activation(z), for an activation whose gradient needs z.

    Arguments as matmul's.
    -> (z, y), both of matmul's shape and dtype; y is what matmul gives: of 16-bit types z is rounded after y is made

    Traffic: matmul's, and writes z: it spares the activation of its own that would read z.
    Raises what matmul raises.
    """
    dtype = check_matmul(a, b, bias, activation, precision)
    y = _wide_matmul(a, b, bias)
    z = y.astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return z, apply_activation(y, activation).astype(dtype, copy=False)


def linear_grad(
    dy: np.ndarray,
    y: np.ndarray | None,
    x: np.ndarray | None,
    w: np.ndarray | None,
    bias: bool = False,
    precision: str = "ieee",
) -> tuple[np.ndarray, ...]:
    """The gradients of y = x @ w.T + b, or of its relu, in one call: what they share is computed once.

        dz = dy where y > 0, as relu_grad has it, or dy
        dx = dz @ w            if w is given
        dw = dz.T @ x          if x is given
        db = dz summed over M  if bias is true

    dy    (M, O) float16 | bfloat16 | float32 | float64, any strides
    y     of dy's shape and dtype: the result with relu; None: it had no activation
    x, w  (M, K) and (O, K) of dy's dtype, any strides, or None
    ->    those of dx (M, K), dw (O, K), db (O,) that are asked for, in this order

    Traffic: at least that of the gradients one by one, of which dy (and y) count once.
    Raises what matmul, relu_grad and sum raise.
    """
    return one_by_one(Parts(relu_grad, matmul, sum), dy, y, x, w, bias, precision)


class Parts(NamedTuple):
    """The primitives of a backend that linear_grad is made of."""

    relu_grad: Callable[..., Any]
    matmul: Callable[..., Any]
    sum: Callable[..., Any]


def one_by_one(parts: Parts, dy: Any, y: Any, x: Any, w: Any, bias: bool, precision: str) -> tuple[Any, ...]:
    """linear_grad by the backend's other primitives, for backends without a kernel that does more."""
    dz = dy if y is None else parts.relu_grad(dy, y)
    found = []
    if w is not None:
        found.append(parts.matmul(dz, w, precision=precision))
    if x is not None:
        found.append(parts.matmul(dz.swapaxes(-1, -2), x, precision=precision))
    if bias:
        found.append(parts.sum(dz, (0,)))
    return tuple(found)


@np.errstate(over="ignore", invalid="ignore")  # infinity and NaN are results like any other
def unchecked_matmul(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, activation: str | None) -> np.ndarray:
    """matmul of arguments that passed check_matmul."""
    return apply_activation(_wide_matmul(a, b, bias), activation).astype(a.dtype, copy=False)


@np.errstate(over="ignore", invalid="ignore")
def _wide_matmul(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """a @ b + bias, not yet rounded to a 16-bit type."""
    accumulate = accumulator(a.dtype)
    k, n = b.shape[-2:]
    a, b = a.astype(accumulate, copy=False), b.astype(accumulate, copy=False)
    if b.ndim == 2:  # one product of (batch * M) rows is faster than a product for each matrix of the batch
        rows = a.shape[:-1]
        y = np.matmul(a.reshape(math.prod(rows), k), b).reshape(*rows, n)
    else:
        y = np.matmul(a, b)
    if bias is not None:
        y += bias
    return y


def check_matmul(a: Any, b: Any, bias: Any | None, activation: str | None, precision: str) -> np.dtype:
    """Raise as matmul does; the dtype. For arrays of any library."""
    op = "matmul"
    dtype = float_dtype(op, a=a, b=b, bias=bias)
    # No message is built before it is needed: small products cost as little as this.
    if a.ndim < 2 or b.ndim < 2:
        name, shape = ("a", a.shape) if a.ndim < 2 else ("b", b.shape)
        raise ValueError(f"{op}: {name} is {shape}; expected at least 2 dimensions")
    if b.shape[-2] != a.shape[-1]:
        raise ValueError(f"{op}: a is {a.shape} but b is {b.shape}; expected b.shape[-2] == {a.shape[-1]}")
    if (a.ndim > 2 or b.ndim > 2) and not _broadcastable(a.shape[:-2], b.shape[:-2]):
        raise ValueError(f"{op}: a is {a.shape} but b is {b.shape}; expected leading axes that broadcast")
    if bias is not None and bias.shape != b.shape[-1:]:
        raise ValueError(f"{op}: bias is {bias.shape}; expected {b.shape[-1:]}")
    one_of(op, "activation", activation, (None, *ACTIVATIONS))
    one_of(op, "precision", precision, PRECISIONS)
    return dtype


def _broadcastable(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))
