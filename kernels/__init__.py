"""Array functions, written by hand in every kernel language. They know arrays and no autograd.

    of(*arrays)   the backend that serves these arrays: a module that has every primitive
    use(name)     choose a backend
    name(device)  the one that is chosen
    load(name)    a backend by its name
    primitive     a decorator: a function of your own, as a step of a captured program

contract.py says what a primitive and a backend are, dispatch.py chooses. There is a folder for each family of
primitives, and the rest is machinery: backends, capture, compile, cpu, device, launch, multi_tensor, simulate, system.
"""

from tilegrad.kernels.contract import BACKENDS, PRIMITIVES
from tilegrad.kernels.dispatch import can_compile, load, name, of, use
from tilegrad.kernels.primitive import primitive

__all__ = ["BACKENDS", "PRIMITIVES", "can_compile", "load", "name", "of", "primitive", "use"]
