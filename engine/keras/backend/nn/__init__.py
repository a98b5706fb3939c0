"""keras.src.backend.nn: what layers and losses are made of. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.nn import (
    activations,
    adaptive,
    attention,
    convolution,
    crossentropy,
    ctc,
    encoding,
    folding,
    normalization,
    pooling,
    quality,
    sparse,
)

export(
    globals(),
    "nn",
    activations,
    adaptive,
    attention,
    convolution,
    crossentropy,
    ctc,
    encoding,
    folding,
    normalization,
    pooling,
    quality,
    sparse,
)
