"""A captured step: the function that is captured and launched, its account of the host, and what keeps it valid.

The CUDA graph and the CPU program themselves are tilegrad.kernels.capture's.
"""
