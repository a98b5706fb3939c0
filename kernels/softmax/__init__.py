"""Softmax and its logarithm along an axis, and their gradients. Cross-entropy is softmax_xent's."""
