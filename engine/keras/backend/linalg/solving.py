"""Linear systems and inverses. Gradients by Giles, "An extended collection of matrix derivative results", 2008."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.hosted import differentiable, host, library, like
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.tensor import Tensor


def turned(x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    return x.transpose(-1, -2)


def inv(x: Any) -> Tensor:
    """The inverse of square matrices."""
    x = floating(x)

    def rule(dy: Tensor) -> tuple:
        return (tg.neg(tg.matmul(turned(y), tg.matmul(dy, turned(y)))),)

    y = differentiable("inv", library(x).linalg.inv(x.data), [x], rule)
    return y


def solve(a: Any, b: Any) -> Tensor:
    """The x with a x = b."""
    a, b = [convert_to_tensor(value) for value in promoted(a, b, least=float)]
    if b.ndim == a.ndim - 1:
        return solve(a, b.unsqueeze(-1)).squeeze(-1)

    def rule(dy: Tensor) -> tuple:
        db = solve(turned(a), dy)
        return tg.neg(tg.matmul(db, turned(x))), db

    x = differentiable("solve", library(a).linalg.solve(a.data, b.data), [a, b], rule)
    return x


def solve_triangular(a: Any, b: Any, lower: bool = False) -> Tensor:
    """The x with a x = b, of the upper (or the lower) triangle of a alone."""
    a = floating(a)
    return solve(tg.tril(a) if lower else tg.triu(a), b)


def det(x: Any) -> Tensor:
    """The determinant."""
    x = floating(x)

    def rule(dy: Tensor) -> tuple:
        return (tg.mul(tg.mul(dy, y).unsqueeze(-1).unsqueeze(-1), turned(inv(x))),)

    y = differentiable("det", library(x).asarray(library(x).linalg.det(x.data), x.dtype), [x], rule)
    return y


def lstsq(a: Any, b: Any, rcond: Any = None) -> Tensor:
    """The x with the least ||a x - b||, and of those the shortest: pinv(a) b."""
    a, b = [convert_to_tensor(value) for value in promoted(a, b, least=float)]
    if b.ndim == 1:
        return lstsq(a, b.unsqueeze(-1), rcond).squeeze(-1)
    return tg.matmul(pinv(a, rcond), b)


def pinv(x: Any, rcond: Any = None) -> Tensor:
    """Moore and Penrose's inverse; singular values below rcond times the largest count as 0."""
    x = floating(x)
    share = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if rcond is None else rcond
    array = np.linalg.pinv(host(x), rcond=share if isinstance(share, (int, float)) else host(convert_to_tensor(share)))

    def rule(dy: Tensor) -> tuple:  # Golub & Pereyra 1973, for a rank that does not change
        yt = turned(y)
        first = tg.neg(tg.matmul(tg.matmul(yt, dy), yt))
        n, m = x.shape[-2:]
        eye_n, eye_m = tg.eye(n, dtype=x.dtype, device=x.device), tg.eye(m, dtype=x.dtype, device=x.device)
        outside = tg.sub(eye_n, tg.matmul(x, y))
        second = tg.matmul(tg.matmul(outside, turned(dy)), tg.matmul(y, yt))
        third = tg.matmul(tg.matmul(yt, y), tg.matmul(turned(dy), tg.sub(eye_m, tg.matmul(y, x))))
        return (tg.add(first, tg.add(second, third)),)

    y = differentiable("pinv", like(array.astype(x.dtype), x), [x], rule)
    return y


def matrix_rank(x: Any, tol: Any = None) -> Tensor:
    """How many singular values are above tol; int32."""
    x = floating(x).detach()
    found = np.linalg.matrix_rank(host(x), tol if tol is None or isinstance(tol, (int, float)) else host(tol))
    return tg.tensor(np.asarray(found), dtype=tg.int32, device=x.device)


def jvp(fun: Any, primals: Any, tangents: Any, has_aux: bool = False) -> tuple:
    """(fun(*primals), its derivative along the tangents): two gradients in turn, the first of which is linear."""
    xs = [convert_to_tensor(x).detach().requires_grad_() for x in primals]
    vs = [convert_to_tensor(v) for v in tangents]
    with tg.enable_grad():
        found = fun(*xs)
        y, aux = found if has_aux else (found, None)
        weights = tg.ones_like(y).detach().requires_grad_()
        back = tg.grad(y, xs, weights, create_graph=True, allow_unused=True)
        products = [tg.sum(tg.mul(g, v)) for g, v in zip(back, vs) if g is not None]
        total = sum(products[1:], products[0]) if products else None
        (slope,) = tg.grad(total, [weights], allow_unused=True) if total is not None else (None,)
    along = tg.zeros_like(y).detach() if slope is None else slope.detach()
    return (y.detach(), along, aux) if has_aux else (y.detach(), along)
