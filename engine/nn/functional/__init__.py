"""Layers and losses as functions, with PyTorch's names: `from tilegrad.nn import functional as F`.

PyTorch has deprecated arguments in the middle of some signatures (size_average, reduce). They are left out here, and
the arguments after them are keyword-only.
"""

from tilegrad.nn.functional.activation import (
    elu,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    tanh,
)
from tilegrad.nn.functional.attention import scaled_dot_product_attention
from tilegrad.nn.functional.conv import conv2d, pad
from tilegrad.nn.functional.conv1d import conv1d
from tilegrad.nn.functional.conv_transpose import conv_transpose1d, conv_transpose2d
from tilegrad.nn.functional.cross_entropy import cross_entropy, nll_loss
from tilegrad.nn.functional.divergence import binary_cross_entropy, binary_cross_entropy_with_logits, kl_div
from tilegrad.nn.functional.dropout import dropout, dropout2d
from tilegrad.nn.functional.embedding import embedding, embedding_bag, one_hot
from tilegrad.nn.functional.linear import linear
from tilegrad.nn.functional.norm import batch_norm, group_norm, instance_norm, layer_norm, normalize, rms_norm
from tilegrad.nn.functional.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tilegrad.nn.functional.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from tilegrad.nn.functional.upsample import interpolate, pixel_shuffle, pixel_unshuffle

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "embedding",
    "embedding_bag",
    "gelu",
    "glu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool2d",
    "mish",
    "mse_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
]
