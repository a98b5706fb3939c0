"""Sums over axes; on a GPU also the bias gradient of a convolution, which is one."""
