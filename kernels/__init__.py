"""The contract between the engine and its kernels.

A *primitive* is a function of arrays, written by hand in every kernel language. A *backend* is a module that exports
every primitive below under the same name with the same signature:

    reference   NumPy, the specification: plain, float64 stays float64, every other backend is tested against it
    cpu         NumPy arrays again, with what small nets spend their time on compiled by Numba

`of(*arrays)` gives the backend that serves these arrays, `use(name)` chooses one. There is no registry: adding a
kernel is adding a function whose name already exists, adding a backend is adding a module.

Shared conventions: arrays may have any strides and are never written to unless the name of the primitive ends in
`_step`; a gradient primitive `f_grad` takes the incoming gradient first; images are logically (N, C, H, W) in whatever
memory order; every primitive checks shapes and dtypes before any arithmetic and says op, expectation and actual.
Floating types: float16 (accumulated in float32), float32, float64.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

PRIMITIVES: dict[str, str] = {
    "matmul": "batched a @ b, with bias and activation in the epilogue",
    "relu": "max(x, 0)",
    "relu_grad": "dy where y > 0",
    "leaky_relu": "x where x > 0, else negative_slope * x",
    "leaky_relu_grad": "its gradient, from x",
    "gelu": "x * Phi(x), exactly (erf) or by the tanh formula",
    "gelu_grad": "its gradient, from x",
    "silu": "x * sigmoid(x)",
    "silu_grad": "its gradient, from x",
    "tanh": "hyperbolic tangent",
    "tanh_grad": "its gradient, from y",
    "sigmoid": "1 / (1 + exp(-x))",
    "sigmoid_grad": "its gradient, from y",
    "softmax": "exp(x - m) / sum exp(x - m) along an axis",
    "softmax_grad": "its gradient, from y",
    "log_softmax": "(x - m) - log sum exp(x - m) along an axis",
    "log_softmax_grad": "its gradient, from y",
    "softmax_xent": "cross-entropy of softmax(z) against class indices, with (m, s) kept for the gradient",
    "softmax_xent_grad": "its gradient with respect to z",
    "conv2d": "2-D cross-correlation, with bias and activation in the epilogue",
    "conv2d_grad_input": "gradient of conv2d with respect to its input (a transposed convolution)",
    "conv2d_grad_weight": "gradient of conv2d with respect to its weight",
    "conv2d_grad_bias": "gradient of conv2d with respect to its bias: the sum over N, H, W",
    "max_pool2d": "maximum over windows, and which tap of the window it was",
    "max_pool2d_grad": "its gradient: dy scattered to the taps",
    "avg_pool2d": "mean over windows",
    "avg_pool2d_grad": "its gradient",
    "random_bits": "n 32-bit words of the Philox4x32-10 stream (seed, offset)",
    "dropout": "x / (1 - p) where the Philox stream keeps it, else 0; its own gradient",
    "adam_step": "Adam or AdamW over a list of parameters, in place",
    "sgd_step": "SGD with momentum over a list of parameters, in place",
}

BACKENDS: dict[str, str] = {
    "reference": "NumPy, the specification",
    "cpu": "NumPy, with the slow primitives compiled by Numba",
}
PLANNED: tuple[str, ...] = ("triton", "numba")

_chosen: ModuleType | None = None


def load(name: str) -> ModuleType:
    """The backend module called `name`; importing it is what loads its language.

    Raises ValueError for a name that no backend has, NotImplementedError for one that is not built yet, ImportError
    where a package that it needs is missing.
    """
    if name == "cpu" and not _has_numba():
        raise ImportError("kernels: the backend 'cpu' needs Numba, which is not installed: pip install numba")
    if name in BACKENDS:
        return importlib.import_module(f"kernels.{name}")
    built = ", ".join(BACKENDS)
    if name in PLANNED:
        raise NotImplementedError(f"kernels: the backend {name!r} is not built yet; built are: {built}")
    raise ValueError(f"kernels: no backend is called {name!r}; expected auto, {built}")


def use(name: str) -> contextlib.AbstractContextManager[None]:
    """Choose the backend for all that follows, or for a `with` block: auto, or a name from BACKENDS.

        kernels.use("reference")
        with kernels.use("reference"): ...

    TILEGRAD_KERNELS sets the choice that a process starts with. A backend that cannot run raises here.
    """
    global _chosen
    before, _chosen = _chosen, load(_best() if name == "auto" else name)
    return _restoring(before)


def _best() -> str:
    """The fastest backend that this machine can run; says so once where that is not the one it could be."""
    if _has_numba():
        return "cpu"
    warnings.warn(
        "kernels: Numba is not installed, so plain NumPy serves, at a fraction of the speed: pip install numba",
        stacklevel=4,
    )
    return "reference"


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def of(*arrays: Any) -> ModuleType:
    """The backend that serves these arrays (None is passed over). Raises TypeError for arrays of another kind."""
    for array in arrays:
        if array is not None and not isinstance(array, np.ndarray):
            kinds = ", ".join(type(a).__module__ + "." + type(a).__name__ for a in arrays)
            raise TypeError(f"kernels.of: expected NumPy arrays, the only kind served so far; got {kinds}")
    if _chosen is None:
        use(os.environ.get("TILEGRAD_KERNELS", "auto"))
    return _chosen  # type: ignore[return-value]


def name() -> str:
    """The name of the backend now chosen, as `use` takes it."""
    return of().__name__.rpartition(".")[2]


def _restoring(before: ModuleType | None) -> contextlib.AbstractContextManager[None]:
    """A context manager that does nothing on entry: the choice was made when `use` was called."""

    @contextlib.contextmanager
    def restore() -> Iterator[None]:
        global _chosen
        try:
            yield
        finally:
            _chosen = before

    return restore()
