"""The Numba backend: the table of contents of the Numba-CUDA kernels for NVIDIA GPUs, one file an op."""

from tilegrad.kernels.activations.gpu_numba import (
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
from tilegrad.kernels.clip_norm.gpu_numba import clip_norm_step
from tilegrad.kernels.conv2d.gpu_numba import conv2d
from tilegrad.kernels.conv2d.gpu_numba_grad import conv2d_grad
from tilegrad.kernels.conv2d.gpu_numba_grad_input import conv2d_grad_input
from tilegrad.kernels.conv2d.gpu_numba_grad_weight import conv2d_grad_weight
from tilegrad.kernels.dropout.gpu_numba import dropout, random_bits
from tilegrad.kernels.matmul.gpu_numba import linear_grad, matmul
from tilegrad.kernels.optimizer.gpu_numba import adam_step, sgd_step
from tilegrad.kernels.pool.gpu_numba import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from tilegrad.kernels.softmax.gpu_numba import log_softmax, log_softmax_grad, softmax, softmax_grad
from tilegrad.kernels.softmax_xent.gpu_numba import softmax_xent, softmax_xent_grad
from tilegrad.kernels.sum.gpu_numba import conv2d_grad_bias, sum
from tilegrad.kernels.take_rows.gpu_numba import take_rows
