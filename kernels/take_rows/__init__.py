"""Rows of a table by their index; of uint8 images as normalised floats."""
