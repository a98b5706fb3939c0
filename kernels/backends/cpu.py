"""The CPU backend: the reference, with what small nets spend their time on compiled by Numba.

Every override serves float32 in the shapes it is made for and hands all else to the reference, whose checks and
semantics it shares. Whatever a primitive of a family's cpu.py does with memory goes through the doors of
kernels/capture/program.py, so that a captured step has its parts; of the reference's primitives it has each as a whole.
"""

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
from tilegrad.kernels.conv2d.cpu import (
    conv2d,
    conv2d_grad,
    conv2d_grad_bias,
    conv2d_grad_input,
    conv2d_grad_weight,
)
from tilegrad.kernels.matmul.cpu import linear_grad, matmul
from tilegrad.kernels.optimizer.cpu import adam_step
from tilegrad.kernels.pool.cpu import max_pool2d, max_pool2d_grad
from tilegrad.kernels.softmax.cpu import log_softmax, log_softmax_grad, softmax, softmax_grad
from tilegrad.kernels.softmax_xent.cpu import softmax_xent, softmax_xent_grad
from tilegrad.kernels.sum.cpu import sum
