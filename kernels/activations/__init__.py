"""Activations and their gradients, elementwise. Those in the epilogue of a product or convolution are applied there."""
