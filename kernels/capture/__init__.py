"""Device work recorded once and launched again: the CUDA graph, and on the CPU the program of compiled calls.

What a step of the engine makes of the host is tilegrad.captured's.
"""
