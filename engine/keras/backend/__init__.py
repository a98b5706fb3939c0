"""The backend, as Keras finds it: `keras.src.backend.tilegrad`.

Keras looks for functions in modules (core, numpy, nn, math, linalg, image, random) and some of them here as well. A
module is a folder, and a file in it is a family of functions. Coming versions look for the modules in `ops`.
"""

from tilegrad.keras.backend import core, image, linalg, math, nn, numpy, ops, random
from tilegrad.keras.backend.core import (
    IS_THREAD_SAFE,
    SUPPORTS_COMPLEX_DTYPES,
    SUPPORTS_GRADIENT,
    SUPPORTS_RAGGED_TENSORS,
    SUPPORTS_SPARSE_TENSORS,
    Variable,
    cast,
    compute_output_spec,
    cond,
    convert_to_numpy,
    convert_to_tensor,
    device_scope,
    is_tensor,
    name_scope,
    random_seed_dtype,
    scatter,
    shape,
    stop_gradient,
    vectorized_map,
)
from tilegrad.keras.backend.rnn import bidirectional_gru, bidirectional_lstm, cudnn_ok, gru, lstm, rnn
