"""Batch and group normalisation, with their gradients and running statistics."""
