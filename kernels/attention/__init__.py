"""Scaled dot-product attention and its gradients, in blocks: the matrix of scores is never in memory."""
