"""2-D convolution: the primitive and its gradients. Each of the three is differentiated through the other two."""

from __future__ import annotations

from tilegrad import kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import RELU, record
from tilegrad.autograd.relu_mask import is_masked
from tilegrad.ops.activations import ACTIVATIONS, activation_grad, from_output
from tilegrad.ops.operands import made_together, require_float
from tilegrad.ops.shape import expand, reshape
from tilegrad.tensor import Tensor

Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair, int]  # stride, padding, dilation, groups


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str | None = None,
    channels_last: bool = True,
) -> Tensor:
    """act(x * w + b): x (N, C, H, W), w (O, C / groups, KH, KW), b (O,) -> (N, O, OH, OW), a cross-correlation.

    Gradients, with dz = dy act'(z): dx the transposed convolution of dz with w, dw the correlation of x with dz,
    db the sum of dz over N, OH, OW. activation as in `linear`.
    channels_last  how the result lies in memory: else in C order, where to flatten it takes no copy
    """
    require_float("conv2d", input, weight, bias)
    geometry = (stride, padding, dilation, groups)
    parents = (input, weight) if bias is None else (input, weight, bias)
    if (
        activation in ACTIVATIONS
        and activation not in from_output
        and is_grad_enabled()
        and any([p._requires_grad for p in parents])
    ):
        return ACTIVATIONS[activation](conv2d(input, weight, bias, *geometry, channels_last=channels_last))

    x, w, b = input._data, weight._data, None if bias is None else bias._data
    y = kernels.of(x, w, b).conv2d(x, w, b, *geometry, activation=activation, channels_last=channels_last)
    count, biased = len(parents), bias is not None and bias._requires_grad
    x_shape, w_shape = x.shape, w.shape
    # Each operand is kept only for the other's gradient.
    for_x, for_w = weight if input._requires_grad else None, input if weight._requires_grad else None

    relu = RELU if activation == "relu" else None
    like = None if w.flags.c_contiguous else w  # an array: what lies in it does not count

    def rule(dy: Tensor, y: Tensor | None = None) -> tuple:
        if relu is not None and y is not None and is_masked(dy, y):
            y = None
        if not is_grad_enabled():  # these gradients need none themselves: one primitive for them all
            relu_of = y if activation == "relu" else None
            dz = dy if y is relu_of else activation_grad(activation, dy, y)
            used = dz, relu_of, for_w, for_x
            arrays = [None if t is None else t._data for t in used]
            found = kernels.of(*arrays).conv2d_grad(*arrays, x_shape, w_shape, *geometry, biased, like)
            return tuple(made_together("conv2d_grad", used, found, (for_x, for_w, biased or None))[:count])
        dz = activation_grad(activation, dy, y)
        dx = None if for_x is None else conv2d_grad_input(dz, for_x, x_shape, geometry)
        dw = None if for_w is None else conv2d_grad_weight(dz, for_w, w_shape, geometry)
        return (dx, dw, conv2d_grad_bias(dz) if biased else None)[:count]

    return record("conv2d", y, parents, rule, output=activation is not None, mask=relu)


def conv2d_grad_input(dy: Tensor, w: Tensor, shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """dx of conv2d, bilinear in dy and w."""

    def rule(g: Tensor) -> tuple:
        ddy = conv2d(g, w, None, *geometry) if dy.requires_grad else None
        return ddy, conv2d_grad_weight(dy, g, w.shape, geometry) if w.requires_grad else None

    dx = kernels.of(dy.data, w.data).conv2d_grad_input(dy.data, w.data, shape, *geometry)
    return record("conv2d_grad_input", dx, (dy, w), rule)


def conv2d_grad_weight(dy: Tensor, x: Tensor, shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """dw of conv2d, bilinear in dy and x."""

    def rule(g: Tensor) -> tuple:
        ddy = conv2d(x, g, None, *geometry) if dy.requires_grad else None
        return ddy, conv2d_grad_input(dy, g, x.shape, geometry) if x.requires_grad else None

    dw = kernels.of(dy.data, x.data).conv2d_grad_weight(dy.data, x.data, shape, *geometry)
    return record("conv2d_grad_weight", dw, (dy, x), rule)


def conv2d_grad_bias(dy: Tensor) -> Tensor:
    """db of conv2d: dy summed over N, OH, OW."""
    shape = dy.shape
    db = kernels.of(dy.data).conv2d_grad_bias(dy.data)
    return record("conv2d_grad_bias", db, (dy,), lambda g: (expand(reshape(g, (1, -1, 1, 1)), shape),))
