"""Benchmarks: python -m tilegrad.bench --help

Every figure stands beside a ceiling and its rivals, all measured in one process.

arguments   what the command line asks for, checked before anything is measured
ops/        what is measured, one file per op: inputs, bytes and FLOP, and how each provider is called
nets, train, memory, overhead   benchmarks of programs: training steps, their memory, and what one eager op costs
keras_fit, keras_epochs, keras_step, keras_venv   Keras' `fit` on tilegrad beside its other backends
providers   who is measured, and why one is not; `provider` adds your own (examples/bench_my_kernel.py)
own         `op` adds an op of your own, that is not here (examples/my_rms_norm.py)
check       a provider's output against the float64 reference, before it is timed
ceilings, bandwidth, peak    what this machine can do at most: of memory, of arithmetic
clock, measure    one call; rounds of calls in turns
results, table, compare, plot, readme    what becomes of the figures
"""

from tilegrad.bench.own import op
from tilegrad.bench.providers import provider

__all__ = ["main", "op", "provider"]


def main(arguments: list[str] | None = None) -> int:
    """`python -m tilegrad.bench` with these arguments (None: the command line's); its exit status."""
    from tilegrad.bench.run import main

    return main(arguments)
