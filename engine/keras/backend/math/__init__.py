"""keras.src.backend.math: functions that NumPy does not have. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.math import distances, errors, fourier, functions, segments

export(globals(), "math", distances, errors, fourier, functions, segments)
