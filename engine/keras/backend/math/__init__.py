"""keras.src.backend.math: functions that NumPy does not have. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.math import functions

export(globals(), "math", functions)
