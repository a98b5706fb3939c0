"""keras.src.backend.numpy: NumPy's functions, on tensors with gradients. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.numpy import (
    arithmetic,
    bits,
    comparison,
    exponential,
    indexing,
    making,
    products,
    reductions,
    shapes,
    trigonometry,
)

export(
    globals(),
    "numpy",
    arithmetic,
    bits,
    comparison,
    exponential,
    indexing,
    making,
    products,
    reductions,
    shapes,
    trigonometry,
)
