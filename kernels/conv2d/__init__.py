"""Two-dimensional convolution and its three gradients; the CPU's loops stand on cpu/tile.py."""
