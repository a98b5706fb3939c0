"""The CPU backend: the reference, with what small nets spend their time on compiled by Numba.

Every override serves float32 in the shapes it is made for and hands all else to the reference, whose checks and
semantics it shares.
"""

from tilegrad.kernels import PRIMITIVES as _PRIMITIVES
from tilegrad.kernels.activations.cpu import (
    gelu,
    gelu_grad,
    leaky_relu,
    leaky_relu_grad,
    relu,
    relu_grad,
    sigmoid,
    sigmoid_grad,
    silu,
    silu_grad,
    tanh_grad,
)
from tilegrad.kernels.backends import reference as _reference
from tilegrad.kernels.backends.reference import (
    avg_pool2d,
    avg_pool2d_grad,
    clip_norm_step,
    dropout,
    random_bits,
    sgd_step,
    take_rows,
    tanh,
)
from tilegrad.kernels.conv2d.cpu import conv2d, conv2d_grad_bias, conv2d_grad_input, conv2d_grad_weight
from tilegrad.kernels.matmul.cpu import matmul
from tilegrad.kernels.optimizer.cpu import adam_step
from tilegrad.kernels.pool.cpu import max_pool2d, max_pool2d_grad
from tilegrad.kernels.softmax.cpu import log_softmax, log_softmax_grad, softmax, softmax_grad
from tilegrad.kernels.softmax_xent.cpu import softmax_xent, softmax_xent_grad
from tilegrad.kernels.sum.cpu import sum

# Primitives whose functions note their own kernels: what they do with memory goes through the doors of
# kernels/capture/program.py. A captured step notes each of the others, which are the reference's, as a whole.
NOTED: frozenset[str] = frozenset([name for name in _PRIMITIVES if globals()[name] is not getattr(_reference, name)])
