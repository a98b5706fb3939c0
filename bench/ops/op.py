"""What an op to be measured is made of.

An `Op` (matmul, softmax) has shapes, each with its reason, and variants (softmax, log_softmax). A `Variant` knows its
inputs, how a library is called, and the least that one call moves and computes. A `Case` is a row of the table
that no provider has run yet: a variant in one mode, shape, dtype and precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]
Inputs = SimpleNamespace  # the arrays by name, and `precision`
MODES = ("forward", "backward", "both")


class Sizes(NamedTuple):
    """A shape that is measured by default."""

    shape: Shape
    reason: str
    quick: bool = False  # also under --quick


@dataclass(frozen=True, eq=False)
class Variant:
    """One function of an op.

    names     of the forward's inputs, in the order in which a user's own provider gets them
    draw      (rng, shape) -> the inputs by name, the incoming gradient among them; floating ones are then rounded
    forward   (k, inputs) -> outputs, for a backend k of the kernels' contract
    backward  (k, inputs, outputs of the forward) -> gradients in the order of `wrt`; None: there is none
    torch     (torch, inputs) -> the first of the outputs: its gradients come from torch.autograd; None: torch has none
    cupy      as forward, composed of CuPy's own operations; None: CuPy has no such thing
    wrt       inputs that get gradients
    incoming  name of the incoming gradient
    wide      inputs that are float32 beside 16-bit ones
    bytes     by mode: (shape, itemsize) -> bytes that must be read and written
    flops     by mode: (shape) -> floating-point operations; a comparison, an exp or an erf counts as one
    uses      by mode: the primitives of the contract that are called; none of a user's own op
    terms     by mode: (shape) -> terms of the longest sum, over which rounding adds up; 1 by default
    rowwise   by mode: inputs whose leading axis is that of every output, so that a large result can be checked in part
    fusible   whether torch.compile has several operations to fuse
    """

    name: str
    names: tuple[str, ...]
    draw: Callable[[np.random.Generator, Shape], dict[str, np.ndarray]]
    forward: Callable[[Any, Inputs], Any]
    backward: Callable[[Any, Inputs, tuple[Any, ...]], Any] | None
    torch: Callable[[Any, Inputs], Any] | None
    bytes: dict[str, Callable[[Shape, int], int]]
    flops: dict[str, Callable[[Shape], int]]
    uses: dict[str, tuple[str, ...]]
    cupy: Callable[[Any, Inputs], Any] | None = None
    wrt: tuple[str, ...] = ("x",)
    incoming: str = "dy"
    wide: tuple[str, ...] = ()
    terms: dict[str, Callable[[Shape], int]] = field(default_factory=dict)
    rowwise: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fusible: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        return MODES if self.backward else MODES[:1]

    def gradients(self, k: Any, inputs: Inputs, outputs: tuple[Any, ...]) -> Any:
        """`backward`, of a variant that has one."""
        assert self.backward is not None, self.name
        return self.backward(k, inputs, outputs)


@dataclass(frozen=True, eq=False)
class Op:
    """What `python -m tilegrad.bench NAME` measures.

    axes        names of a shape's numbers: what --shapes expects
    cpu, cuda   the shapes that are measured where none are asked for
    toy         the shape for the simulated device, where a program instance takes milliseconds
    dtypes      those that it supports, the default first
    precisions  those of float32 on a GPU
    check       raises ValueError for a shape that this op cannot have
    """

    name: str
    axes: tuple[str, ...]
    cpu: tuple[Sizes, ...]
    cuda: tuple[Sizes, ...]
    toy: Shape
    variants: tuple[Variant, ...]
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16", "float64")
    precisions: tuple[str, ...] = ("ieee",)
    check: Callable[[Shape], None] | None = None


class Case(NamedTuple):
    """One row, for any provider."""

    op: Op
    variant: Variant
    mode: str
    shape: Shape
    dtype: str
    precision: str

    def bytes(self) -> int:
        """The least that is read and written. In mode both, what forward leaves is written once and read again."""
        size = itemsize(self.dtype)
        return sum(self.variant.bytes[mode](self.shape, size) for mode in _steps(self.mode))

    def flops(self) -> int:
        return sum(self.variant.flops[mode](self.shape) for mode in _steps(self.mode))

    def terms(self) -> int:
        """Terms of the longest sum."""
        return max(self.variant.terms.get(mode, lambda _: 1)(self.shape) for mode in _steps(self.mode))

    def primitives(self) -> tuple[str, ...]:
        return sum((self.variant.uses[mode] for mode in _steps(self.mode)), ())


def _steps(mode: str) -> tuple[str, ...]:
    return MODES[:2] if mode == "both" else (mode,)


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}[dtype]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers, float32: what an array holds changes how fast tensor cores clock."""
    return rng.standard_normal(shape, dtype=np.float32)


def channels_last(rng: np.random.Generator, n: int, c: int, h: int, w: int) -> np.ndarray:
    """Normal numbers (N, C, H, W) in the memory order that the kernels keep images in."""
    return normal(rng, n, h, w, c).transpose(0, 3, 1, 2)
