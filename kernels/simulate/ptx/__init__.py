"""PTX executed on a CPU: what the compilers made of a kernel, run as the PTX ISA manual defines it, and checked.

    parse.py        PTX text -> instructions
    machine.py      the state of a chunk of blocks
    operands.py     registers, immediates and special registers, one lane a thread
    integer.py floating.py convert.py compare.py shuffle.py transfer.py atomics.py fences.py matrices.py warpgroups.py
                    what an instruction does, a file a family
    tensor_cores/   what the instructions of matrices.py and warpgroups.py compute
    async_proxy.py  what asynchronous products read of shared memory
    table.py        opcode -> family
    memory.py       the arrays of the launch, shared memory, and what may not be done to them
    target.py       what the code is for, and which instructions that has
    written.py      which arrays a kernel may write to
    races.py releases.py
                    who touched global memory, and what orders two touches
    control.py      branches, barriers
    execute.py      a grid in chunks of blocks

    rounding.py     exact sums and products, rounded once
    types.py faults.py

    counters/       what a run did, counted where a caller asks: instructions, FLOP, memory, branches

    driver.py       what the launcher uses of CuPy's driver: TILEGRAD_SIMULATE=ptx

Sections are those of the PTX ISA manual 8.8. Executed PTX is not a run on a GPU: ptxas has not compiled it, the order
of threads is one of many, and `.approx` instructions give the exact value, rounded, where a GPU's may be a few ulp off.
"""
