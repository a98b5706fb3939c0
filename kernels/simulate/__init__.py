"""A GPU without a GPU: arrays inside guards, Triton's interpreter, Numba's simulator, the tape of a captured stream."""
