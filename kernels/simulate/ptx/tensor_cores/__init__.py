"""What the matrix instructions of PTX compute, for many warps at once, in NumPy.

elements.py    bits of float16, bfloat16 and tf32, and their values
fragments.py   which element lies in which register of which lane
mma.py         a warp multiplies matrices that are in registers
ldmatrix.py    8x8 matrices between shared memory and registers
descriptors.py where the bytes of a matrix lie in shared memory, by its 64-bit descriptor
wgmma.py       four warps multiply matrices that are in shared memory
pending.py     which of these products may still be running
faults.py      what a warp may not do with shared memory

A register of a warp is an array (warps, 32) of uint32, a lane in each column. Shared memory is an array (blocks, bytes)
of uint8, and `block` (warps,) says in which block each warp is. All functions are pure, apart from `stmatrix`, which
writes to shared memory, and `Pending`. Where the manual leaves a result open, the docstring says what is chosen.

Source: PTX ISA 9.0, sections 9.7.14 (mma, ldmatrix, stmatrix) and 9.7.15 (wgmma); sections are cited by title too, as
their numbers move.
"""
