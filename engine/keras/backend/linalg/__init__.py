"""keras.src.backend.linalg: linear algebra. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.linalg import decompositions, factors, norms, solving

export(globals(), "linalg", decompositions, factors, norms, solving)
