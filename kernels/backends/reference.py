"""The reference backend: the table of contents of the NumPy specification, one file an op."""

from tilegrad.kernels.activations.reference import (
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
from tilegrad.kernels.clip_norm.reference import clip_norm_step
from tilegrad.kernels.conv2d.reference import (
    conv2d,
    conv2d_grad,
    conv2d_grad_bias,
    conv2d_grad_input,
    conv2d_grad_weight,
)
from tilegrad.kernels.dropout.reference import dropout, random_bits
from tilegrad.kernels.matmul.reference import linear_grad, matmul
from tilegrad.kernels.optimizer.reference import adam_step, sgd_step
from tilegrad.kernels.pool.reference import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from tilegrad.kernels.softmax.reference import log_softmax, log_softmax_grad, softmax, softmax_grad
from tilegrad.kernels.softmax_xent.reference import softmax_xent, softmax_xent_grad
from tilegrad.kernels.sum.reference import sum
from tilegrad.kernels.take_rows.reference import take_rows
