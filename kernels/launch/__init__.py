"""The only place that knows how kernels are launched: Triton, Numba, driver, tuning, faults."""
