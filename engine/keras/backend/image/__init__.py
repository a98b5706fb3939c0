"""keras.src.backend.image: images. A file is a family."""

from tilegrad.keras.backend.exports import export
from tilegrad.keras.backend.image import colours, filters, mapping, resampling

export(globals(), "image", colours, filters, mapping, resampling)
