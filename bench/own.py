"""An op of your own in the benchmark: inputs, bytes, FLOP, the specification to check against, and rivals.

bench.op(
    "scale", axes=("N",), cpu={(1 << 20,): "beyond the caches"}, cuda={(1 << 26,): "beyond L2"}, toy=(100,),
    inputs=lambda rng, shape: {"x": rng.standard_normal(shape)},
    reference=lambda x: 2 * x, torch=lambda torch, x: 2 * x,
    bytes=lambda shape, size: 2 * size * shape[0], flops=lambda shape: shape[0],
)

@bench.provider("mine", op="scale")
def scale(x): ...

bench.main(["scale"])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilegrad.bench.inputs import DTYPES
from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant
from tilegrad.bench.providers import as_tuple

Count = Callable[..., int] | Mapping[str, Callable[..., int]]


def op(
    name: str,
    *,
    axes: Sequence[str],
    inputs: Callable[[np.random.Generator, Shape], dict[str, np.ndarray]],
    reference: Callable[..., Any],
    bytes: Count,
    flops: Count,
    cpu: Mapping[Shape, str],
    cuda: Mapping[Shape, str],
    toy: Shape,
    gradient: Callable[..., Any] | None = None,
    incoming: str = "dy",
    torch: Callable[..., Any] | None = None,
    cupy: Callable[..., Any] | None = None,
    dtypes: Sequence[str] = ("float32", "bfloat16", "float16", "float64"),
    wide: Sequence[str] = (),
    terms: Count | None = None,
    fusible: bool = True,
) -> None:
    """Add an op to what `python -m tilegrad.bench` measures, in this process.

    axes        names of a shape's numbers
    inputs      (rng, shape) -> the arrays by name. Floating ones are rounded to the row's dtype
    reference   the specification, in NumPy: takes inputs, by the names of its parameters, and gives the output, or a
                tuple of it and what the gradient needs. Rows are checked against it in float64. 16-bit inputs come as
                float32; then the first output is rounded, and the others are left so
    gradient    the same of the gradients: takes the incoming gradient, the inputs, and the outputs, and gives those of
                the first inputs, in order. `inputs` then has the incoming gradient too, under the name `incoming`
    bytes       (shape, bytes of an element) -> bytes that have to be read and written; with a gradient a dict of two,
                "forward" and "backward"
    flops       (shape) -> floating-point operations, of the same kind
    cpu, cuda   the shapes that are measured, each with its reason; toy: the simulated device's
    torch       (torch, inputs...) -> the first output: a rival, as is its gradient by torch's autograd
    cupy        (cupy, inputs...) -> the outputs: a rival
    wide        inputs that are float32 beside 16-bit ones
    terms       (shape) -> terms of the longest sum, over which rounding adds up, where there is one
    fusible     whether torch.compile has several operations to fuse

    Raises ValueError for a name that is taken, and for what is missing.
    """
    from tilegrad.bench.programs import PROGRAMS  # they import the engine

    if name in OPS or name in PROGRAMS or any(name == v.name for each in OPS.values() for v in each.variants):
        raise ValueError(f"bench.op: the name {name!r} is taken; expected another one")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"bench.op: dtype {dtype!r}; expected some of {', '.join(DTYPES)}")
    for shape in (*cpu, *cuda, toy):
        if len(shape) != len(axes):
            raise ValueError(f"bench.op: {name}'s shape {shape}; expected one number for each of {', '.join(axes)}")
    modes = ("forward",) if gradient is None else ("forward", "backward")
    names = tuple(inspect.signature(reference).parameters)
    drawn = inputs(np.random.default_rng(0), toy)
    for each in (*names, *(() if gradient is None else (incoming,))):
        if each not in drawn:
            raise ValueError(f"bench.op: {name}'s inputs are {', '.join(drawn)}; expected {each} too")
    differentiated = tuple([each for each in names if drawn[each].dtype.kind == "f"])
    forward, backward = _promoted(reference, 1), None if gradient is None else _promoted(gradient, None)

    def taken(i: Inputs) -> list[Any]:
        return [getattr(i, each) for each in names]

    variant = Variant(
        name=name,
        names=names,
        draw=inputs,
        forward=lambda k, i: forward(*taken(i)),
        backward=None if backward is None else lambda k, i, y: backward(getattr(i, incoming), *taken(i), *y),
        torch=None if torch is None else lambda library, i: torch(library, *taken(i)),
        cupy=None if cupy is None else lambda library, i: cupy(library, *taken(i)),
        wrt=differentiated,
        incoming=incoming,
        wide=tuple(wide),
        bytes=_by_mode(name, "bytes", bytes, modes),
        flops=_by_mode(name, "flops", flops, modes),
        uses=dict.fromkeys(modes, ()),
        terms={} if terms is None else _by_mode(name, "terms", terms, modes),
        fusible=fusible,
    )
    sizes = [[Sizes(shape, why, quick=i == 0) for i, (shape, why) in enumerate(each.items())] for each in (cpu, cuda)]
    OPS[name] = Op(name, tuple(axes), tuple(sizes[0]), tuple(sizes[1]), toy, (variant,), tuple(dtypes))


def _by_mode(name: str, what: str, given: Count, modes: Sequence[str]) -> dict[str, Callable[..., int]]:
    found = dict(given) if isinstance(given, Mapping) else {"forward": given}
    if sorted(found) != sorted(modes):
        raise ValueError(f"bench.op: {name}'s {what} are of {', '.join(found)}; expected {' and '.join(modes)}")
    return found


def _promoted(function: Callable[..., Any], rounded: int | None) -> Callable[..., tuple[Any, ...]]:
    """The function on 16-bit arrays: computed in float32 and rounded once, as the specifications here are.

    rounded  how many of its outputs; None: all
    """

    def call(*arrays: Any) -> tuple[Any, ...]:
        narrow = next((x.dtype for x in arrays if x.dtype.itemsize == 2 and x.dtype.kind not in "iu"), None)
        if narrow is None:
            return as_tuple(function(*arrays))
        outputs = as_tuple(function(*[x.astype(np.float32) if x.dtype == narrow else x for x in arrays]))
        stop = len(outputs) if rounded is None else rounded
        return *[y.astype(narrow) if y.dtype.kind == "f" else y for y in outputs[:stop]], *outputs[stop:]

    return call
