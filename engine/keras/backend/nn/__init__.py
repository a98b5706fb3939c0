"""keras.src.backend.nn: what layers and losses are made of. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.nn import (
    activations,
    attention,
    convolution,
    crossentropy,
    encoding,
    normalization,
    pooling,
)

export(globals(), "nn", activations, attention, convolution, crossentropy, encoding, normalization, pooling)
