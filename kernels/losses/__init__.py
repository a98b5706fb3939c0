"""Losses of numbers against numbers of the same shape: squares, absolute values, Huber's, binary cross-entropy."""
