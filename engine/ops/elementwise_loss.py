"""Losses of numbers against numbers of the same shape: the fused primitive, tied into the graph."""

from __future__ import annotations

from tilegrad import capture_hooks, dtypes, kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.activations import sigmoid
from tilegrad.ops.arithmetic import abs, div, mul, sign, sub
from tilegrad.ops.exponential import log, log1p
from tilegrad.ops.operands import as_tensor, cast, made_together
from tilegrad.ops.selection import clamp, where
from tilegrad.ops.shape import expand, reshape
from tilegrad.tensor import Tensor


def has_kernel(x: Tensor) -> bool:
    """Whether the primitive takes this tensor: floats, on a GPU no float64."""
    return x.dtype in dtypes.FLOATS and (x.dtype != dtypes.float64 or not x.is_cuda)


def elementwise_loss(
    x: Tensor,
    t: Tensor,
    kind: str,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """weight * l(x, t), reduced, as kernels/losses/reference.py has l for each kind;  dx = g l'_x,  dt = g l'_t.

    All tensors have one dtype and one shape. The weights get no gradients. Where a gradient needs a gradient itself,
    the slopes are computed by ops.
    """
    capture_hooks.reads(weight, pos_weight)
    weights = weight, pos_weight
    options = kind, *[None if w is None else w.data for w in weights], float(beta), reduction
    loss = kernels.of(x.data, t.data, *options[1:3]).elementwise_loss(x.data, t.data, *options)

    def rule(dy: Tensor) -> tuple:
        asked = x.requires_grad, t.requires_grad
        if is_grad_enabled():
            return _gradients(dy, x, t, kind, weight, pos_weight, beta, reduction, asked)
        arrays = dy.data, x.data, t.data, *[None if w is None else w.data for w in weights]
        given = *arrays[:3], kind, *arrays[3:], float(beta), reduction
        found = kernels.of(*arrays).elementwise_loss_grad(*given, *asked)
        return tuple(made_together("elementwise_loss_grad", (dy, x, t, *weights), found, [a or None for a in asked]))

    return record("elementwise_loss", loss, (x, t), rule)


def _gradients(
    dy: Tensor,
    x: Tensor,
    t: Tensor,
    kind: str,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    beta: float,
    reduction: str,
    asked: tuple[bool, bool],
) -> tuple:
    """By ops: those of the 16-bit types in float32."""
    dtype = x.dtype
    if dtype in dtypes.HALVES:
        dy, x, t = (cast(a, dtypes.float32) for a in (dy, x, t))
        weight, pos_weight = (None if w is None else cast(w, dtypes.float32) for w in (weight, pos_weight))
    g = dy if reduction == "none" else expand(reshape(dy, (1,) * x.ndim), x.shape)
    if reduction == "mean":
        g = div(g, float(x.numel()))
    if weight is not None:
        g = mul(g, weight)
    slopes = slopes_of(x, t, kind, pos_weight, beta)
    return tuple([cast(mul(g, slope), dtype) if a else None for slope, a in zip(slopes, asked)])


def slopes_of(x: Tensor, t: Tensor, kind: str, p: Tensor | None = None, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(l'_x, l'_t), by ops; p is pos_weight."""
    if kind == "binary_cross_entropy":
        dx = div(sub(x, t), clamp(mul(x, sub(1.0, x)), min=1e-12))
        return dx, sub(clamp(log1p(mul(x, -1.0)), min=-100.0), clamp(log(x), min=-100.0))
    if kind == "binary_cross_entropy_with_logits":
        positive = t if p is None else mul(p, t)
        dx = sub(mul(sub(1.0, t), sigmoid(x)), mul(positive, sigmoid(mul(x, -1.0))))
        return dx, mul(x, -1.0) if p is None else sub(mul(p, _softplus(mul(x, -1.0))), _softplus(x))
    d = sub(x, t)
    if kind == "mse_loss":
        dx = mul(d, 2.0)
    elif kind == "l1_loss" or beta == 0:
        dx = sign(d)
    elif kind == "smooth_l1_loss":
        dx = where(abs(d) < beta, div(d, beta), sign(d))
    else:
        dx = where(abs(d) <= beta, d, mul(sign(d), beta))
    return dx, mul(dx, -1.0)


def _softplus(x: Tensor) -> Tensor:
    """max(x, 0) + log(1 + e^-|x|);  dx = dy sigmoid(x)."""
    x = as_tensor("softplus", x)
    xp = array_module(x.data)
    y = xp.maximum(x.data, 0) + xp.log1p(xp.exp(-xp.abs(x.data)))
    return record("softplus", y, (x,), lambda dy: (mul(dy, sigmoid(x)),))
