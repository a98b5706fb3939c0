"""The reference backend: the table of contents of the NumPy specification, one file an op."""

from kernels.activations_reference import (
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
from kernels.clip_reference import clip_norm_step
from kernels.conv2d_reference import conv2d, conv2d_grad_bias, conv2d_grad_input, conv2d_grad_weight
from kernels.dropout_reference import dropout, random_bits
from kernels.matmul_reference import matmul
from kernels.optimizer_reference import adam_step, sgd_step
from kernels.pool_reference import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from kernels.rows_reference import take_rows
from kernels.softmax_reference import log_softmax, log_softmax_grad, softmax, softmax_grad
from kernels.softmax_xent_reference import softmax_xent, softmax_xent_grad
from kernels.sum_reference import sum
