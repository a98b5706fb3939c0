"""What a launch does, counted exactly while its PTX is executed.

    work.py     instruction -> class, and the floating-point operations of a thread, by pipe
    access.py   the addresses of a warp -> sectors of global memory, transactions with the banks of shared memory
    watch.py    a run that is watched, and its Counters

    counters = Counters()
    execute.run_program(program, grid, block, shared, parameters, arrays, Watch(counters))

A run without a Watch runs none of this. PTX is counted, not what ptxas makes of it: an instruction here may be several
of the machine's, or none. Sectors and transactions are the same for both.
"""
