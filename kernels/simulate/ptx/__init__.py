"""PTX, the code that NVIDIA's driver is given, executed on the CPU."""
