"""Rows of a table by their index, with the gradient to the table; of uint8 images as normalised floats."""
