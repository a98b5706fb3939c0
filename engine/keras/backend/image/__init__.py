"""keras.src.backend.image: images. A file is a family."""

from tilegrad.keras.backend.exports import export

export(globals(), "image")
