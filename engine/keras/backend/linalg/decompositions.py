"""Matrices as products of simpler ones."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.hosted import differentiable, host, library, like, undifferentiated
from tilegrad.keras.backend.linalg.solving import inv, turned
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def cholesky(x: Any, upper: bool = False) -> Tensor:
    """The lower triangle l with x = l l^T, or its transpose. Gradient: Murray, "Differentiation of Cholesky", 2016."""
    x = floating(x)
    array = library(x).linalg.cholesky(x.data)

    def rule(dy: Tensor) -> tuple:
        inverse = inv(y)
        middle = tg.tril(tg.matmul(turned(y), dy))
        half = tg.mul(tg.eye(x.shape[-1], dtype=x.dtype, device=x.device), 0.5)
        middle = tg.mul(middle, tg.sub(1.0, half))  # the diagonal counts half
        found = tg.matmul(turned(inverse), tg.matmul(middle, inverse))
        return (tg.mul(tg.add(found, turned(found)), 0.5),)

    y = differentiable("cholesky", array, [x], rule)
    return turned(y) if upper else y


def cholesky_inverse(x: Any, upper: bool = False) -> Tensor:
    """The inverse of the matrix whose Cholesky factor x is."""
    inverse = inv(floating(x))
    return tg.matmul(inverse, turned(inverse)) if upper else tg.matmul(turned(inverse), inverse)


def svd(x: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """u, s, v^T with x = u diag(s) v^T; s alone without compute_uv. Without a gradient."""
    x = floating(x)
    found = library(x).linalg.svd(x.data, full_matrices, compute_uv)
    if not compute_uv:
        return undifferentiated("svd", found, [x])
    return tuple(undifferentiated("svd", array, [x]) for array in found)


def eigh(x: Any) -> tuple[Tensor, Tensor]:
    """Eigenvalues, in ascending order, and eigenvectors, as columns, of symmetric matrices. Without a gradient."""
    x = floating(x)
    values, vectors = library(x).linalg.eigh(x.data)
    return undifferentiated("eigh", values, [x]), undifferentiated("eigh", vectors, [x])


def eig(x: Any) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, as columns, that are real. Raises NotImplementedError for complex ones."""
    x = floating(x)
    values: Any
    vectors: Any
    values, vectors = np.linalg.eig(host(x))
    if np.iscomplexobj(values):
        if np.abs(values.imag).max() > 0:
            raise NotImplementedError("linalg.eig: complex eigenvalues are not implemented in the tilegrad backend")
        values, vectors = values.real, vectors.real
    return tuple(undifferentiated("eig", like(part.astype(x.dtype), x), [x]) for part in (values, vectors))  # type: ignore[return-value]


def lu_factor(x: Any) -> tuple[Tensor, Tensor]:
    """(l and u in one matrix, the row that each step took, int32), with partial pivoting. Without a gradient."""
    x = floating(x)
    lu = host(x).copy()
    flat = lu.reshape(-1, *lu.shape[-2:])
    rows, columns = flat.shape[1:]
    pivots = np.empty((len(flat), min(rows, columns)), np.int32)
    for matrix, taken in zip(flat, pivots):
        for k in range(len(taken)):
            p = taken[k] = k + np.abs(matrix[k:, k]).argmax()
            matrix[[k, p]] = matrix[[p, k]]
            if matrix[k, k]:
                matrix[k + 1 :, k] /= matrix[k, k]
                matrix[k + 1 :, k + 1 :] -= np.outer(matrix[k + 1 :, k], matrix[k, k + 1 :])
    pivots = pivots.reshape(*lu.shape[:-2], -1)
    return undifferentiated("lu_factor", like(lu, x), [x]), tg.tensor(pivots, dtype=dtypes.int32, device=x.device)
