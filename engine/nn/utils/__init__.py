"""What training loops do to all parameters at once, and batches of sequences of different lengths (`rnn`)."""

from tilegrad.nn.init import skip_init
from tilegrad.nn.utils import rnn
from tilegrad.nn.utils.parameters import (
    clip_grad_norm_,
    clip_grad_value_,
    parameters_to_vector,
    vector_to_parameters,
)

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "parameters_to_vector",
    "rnn",
    "skip_init",
    "vector_to_parameters",
]
