"""Hand-written PTX: a few instructions between the loads and the stores that every snippet needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx import execute
from tilegrad.kernels.simulate.ptx.memory import Array, array_of

TEMPORARIES = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %l<9>;"


def module(body: str, parameters: int = 0, declared: str = "", target: str = "sm_80") -> str:
    """A module with one kernel, `snippet`, whose parameters are pointers. The body begins on line 7."""
    names = ",".join(f".param .u64 p{i}" for i in range(parameters))
    head = f".version 8.8\n.target {target}\n.address_size 64\n{declared}\n.visible .entry snippet({names})\n{{"
    return f"{head} {TEMPORARIES}\n{body}\nret;\n}}\n"


def run(
    text: str, *arrays: Any, grid: Any = (1, 1, 1), block: Any = (32, 1, 1), shared: int = 0, known: Any = None
) -> Any:
    """Run a module's `snippet` with pointers to these arrays; `known` are what it may touch, if not these."""
    parameters = [np.uint64(a.__array_interface__["data"][0]).tobytes() for a in arrays]
    touched = known if known is not None else [named(i, a) for i, a in enumerate(arrays)]
    return execute.run(text, "snippet", grid, block, shared, parameters, touched)


def named(number: int, array: np.ndarray) -> Array:
    return array_of(f"array {number}", array, array.flags.writeable)


def lanewise(body: str, *inputs: Any, result: Any = np.uint32, threads: int | None = None) -> np.ndarray:
    """A thread for each element: the body takes its elements in %a0, %a1, ... and leaves its result in %d."""
    text, arrays = lanewise_module(body, *inputs, result=result, threads=threads)
    run(text, *arrays, block=(arrays[-1].size, 1, 1))
    return arrays[-1]


def lanewise_module(
    body: str, *inputs: Any, result: Any = np.uint32, threads: int | None = None
) -> tuple[str, list[np.ndarray]]:
    """What `lanewise` runs, and with which arrays: the last one takes the results."""
    inputs = tuple(np.ascontiguousarray(each) for each in np.broadcast_arrays(*inputs))
    n = threads or inputs[0].size
    out = np.zeros(n, result)
    lines = ["mov.u32 %i, %tid.x; cvt.u64.u32 %il, %i;"]
    registers = [".reg .b32 %i;", ".reg .b64 %il, %at, %ptr;", _register("%d", out.dtype)]
    for k, each in enumerate(inputs):
        bits = each.itemsize * 8
        registers.append(_register(f"%a{k}", each.dtype))
        lines.append(f"ld.param.u64 %ptr, [p{k}]; mul.lo.s64 %at, %il, {each.itemsize}; add.s64 %at, %at, %ptr;")
        lines.append(f"ld.global.b{bits} %a{k}, [%at];")
    lines += [body, f"ld.param.u64 %ptr, [p{len(inputs)}]; mul.lo.s64 %at, %il, {out.itemsize};"]
    lines += ["add.s64 %at, %at, %ptr;", f"st.global.b{out.itemsize * 8} [%at], %d;"]
    return module("\n".join([*registers, *lines]), len(inputs) + 1), [*inputs, out]


def _register(name: str, dtype: np.dtype) -> str:
    return f".reg .b{max(16, dtype.itemsize * 8)} {name};"


def bits(values: Any) -> np.ndarray:
    """The bits of floats."""
    values = np.asarray(values)
    return values.view(f"u{values.itemsize}")
