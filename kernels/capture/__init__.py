"""A captured step as the device knows it: a CUDA graph, on the CPU a program of kernels' calls.

What a step of the engine makes of tensors and of the host is tilegrad.captured's.
"""
