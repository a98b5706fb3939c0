"""The CPU backend: the reference, with what small nets spend their time on compiled by Numba.

Every override serves float32 in the shapes it is made for and hands all else to the reference, whose checks and
semantics it shares. Whatever a primitive of a *_cpu.py does with memory goes through kernels/program.py's doors, so
that a captured step has its parts; of the reference's primitives it has each as a whole.
"""

from kernels.activations_cpu import (
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
from kernels.conv2d_cpu import conv2d, conv2d_grad_bias, conv2d_grad_input, conv2d_grad_weight
from kernels.matmul_cpu import matmul
from kernels.optimizer_cpu import adam_step
from kernels.pool_cpu import max_pool2d, max_pool2d_grad
from kernels.reference import (
    avg_pool2d,
    avg_pool2d_grad,
    clip_norm_step,
    dropout,
    random_bits,
    sgd_step,
    take_rows,
    tanh,
)
from kernels.softmax_cpu import log_softmax, log_softmax_grad, softmax, softmax_grad
from kernels.softmax_xent_cpu import softmax_xent, softmax_xent_grad
from kernels.sum_cpu import sum
