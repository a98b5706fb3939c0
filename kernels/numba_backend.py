"""The Numba backend: the table of contents of the Numba-CUDA kernels for NVIDIA GPUs, one file an op."""

from kernels.activations_numba import (
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
    tanh,
    tanh_grad,
)
from kernels.clip_numba import clip_norm_step
from kernels.conv2d_grad_input_numba import conv2d_grad_input
from kernels.conv2d_grad_weight_numba import conv2d_grad_weight
from kernels.conv2d_numba import conv2d
from kernels.dropout_numba import dropout, random_bits
from kernels.matmul_numba import matmul
from kernels.optimizer_numba import adam_step, sgd_step
from kernels.pool_numba import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from kernels.reduce_numba import conv2d_grad_bias, sum
from kernels.rows_numba import take_rows
from kernels.softmax_numba import log_softmax, log_softmax_grad, softmax, softmax_grad
from kernels.softmax_xent_numba import softmax_xent, softmax_xent_grad
