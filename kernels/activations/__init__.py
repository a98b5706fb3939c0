"""Activations and erf with their gradients, elementwise. Epilogues of products and convolutions are applied there."""
