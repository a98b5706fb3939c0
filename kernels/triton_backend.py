"""The Triton backend: the table of contents of the kernels for NVIDIA GPUs, one file an op."""

from kernels.activations_triton import (
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
from kernels.clip_triton import clip_norm_step
from kernels.conv2d_grad_input_triton import conv2d_grad_input
from kernels.conv2d_grad_weight_triton import conv2d_grad_weight
from kernels.conv2d_triton import conv2d
from kernels.dropout_triton import dropout, random_bits
from kernels.matmul_triton import matmul
from kernels.optimizer_triton import adam_step, sgd_step
from kernels.pool_triton import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from kernels.reduce_triton import conv2d_grad_bias, sum
from kernels.rows_triton import take_rows
from kernels.softmax_triton import log_softmax, log_softmax_grad, softmax, softmax_grad
from kernels.softmax_xent_triton import softmax_xent, softmax_xent_grad
