"""What compiled CPU kernels stand on: threads and their team, the register tile, memory, scalar maths, code on disk.

No primitive is here: those are the families' cpu.py.
"""
