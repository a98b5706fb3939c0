"""Cross-entropy of softmax against class indices: the fused primitive, tied into the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import capture_hooks, kernels
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.activations import softmax, softmax_grad
from tilegrad.ops.arithmetic import div, mul, sub
from tilegrad.ops.reduce import sum
from tilegrad.ops.shape import expand, reshape
from tilegrad.tensor import Tensor, wrap


def softmax_xent(
    z: Tensor,
    t: Tensor,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of softmax(z) (N, C) against class indices t (N,), as `nn.functional.cross_entropy` describes it,
    which has checked the arguments.

    dz = dloss_n (W_n p - q_n),   q the target distribution with smoothing and class weights, W_n = sum_c q_nc
    """
    options = {
        "weight": None if weight is None else weight.data,
        "label_smoothing": label_smoothing,
        "ignore_index": ignore_index,
        "reduction": reduction,
    }
    capture_hooks.reads(t, weight)
    loss, m, s, total = kernels.of(z.data, t.data).softmax_xent(z.data, t.data, **options)

    def rule(dy: Tensor) -> tuple:
        return (_softmax_xent_grad(dy, z, t, (m, s, total), options),)

    return record("softmax_xent", loss, (z,), rule)


def _softmax_xent_grad(dy: Tensor, z: Tensor, t: Tensor, kept: tuple[Any, Any, Any], options: dict[str, Any]) -> Tensor:
    m, s, total = kept
    dz = kernels.of(dy.data, z.data).softmax_xent_grad(dy.data, z.data, t.data, m, s, total, **options)

    def rule(v: Tensor) -> tuple:
        # dz_n = g_n (W_n p - q_n) is linear in g = dloss (/ total), and depends on z through p alone.
        q, mass = _target_distribution(z, t, options)
        p = softmax(z, 1)
        g = dy if options["reduction"] == "none" else expand(reshape(dy, (1,)), (z.shape[0],))
        g = reshape(g, (-1, 1)).to(z.dtype)
        if options["reduction"] == "mean":
            g = div(g, wrap(total.astype(z.dtype)))
        slope = sum(mul(v, sub(mul(mass, p), q)), 1)
        if options["reduction"] == "mean":
            slope = div(slope, wrap(total.astype(z.dtype)))
        ddy = slope if options["reduction"] == "none" else sum(slope)
        return ddy.to(dy.dtype), softmax_grad(mul(v, mul(g, mass)), p, 1)

    return record("softmax_xent_grad", dz, (dy, z), rule)


def _target_distribution(z: Tensor, t: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """q (N, C) and its row sums W (N, 1); both 0 where the label is ignored."""
    xp = array_module(z.data)
    classes, eps, weight = z.shape[1], options["label_smoothing"], options["weight"]
    counted = t.data != options["ignore_index"]
    hit = (t.data[:, None] == xp.arange(classes)) & counted[:, None]
    q = (1 - eps) * hit + (eps / classes) * counted[:, None]
    if weight is not None:
        q = q * weight
    q = q.astype(z.dtype)
    return wrap(q), wrap(q.sum(axis=1, keepdims=True, dtype=np.float64).astype(z.dtype))
