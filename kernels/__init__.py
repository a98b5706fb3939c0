"""The contract between the engine and its kernels.

A *primitive* is a function of arrays, written by hand in every kernel language. A *backend* is a module that exports
every primitive below under the same name with the same signature:

    reference   NumPy, the specification: plain, float64 stays float64, every other backend is tested against it
    cpu         NumPy arrays again, with what small nets spend their time on compiled by Numba
    triton      CuPy arrays, on an NVIDIA GPU; with TRITON_INTERPRET=1 arrays of a simulated one
                (kernels/simulate/arrays.py)
    numba       the same arrays; with NUMBA_ENABLE_CUDASIM=1 simulated ones

`of(*arrays)` gives the backend that serves these arrays, `use(name)` chooses one. There is no registry: adding a
kernel is adding a function whose name already exists, adding a backend is adding a module.

Shared conventions: arrays may have any strides and are never written to unless the name of the primitive ends in
`_step`; a gradient primitive `f_grad` takes the incoming gradient first; images are logically (N, C, H, W) in whatever
memory order; every primitive checks shapes and dtypes before any arithmetic and says op, expectation and actual.
Floating types: float16 and bfloat16 (accumulated in float32), float32, and on NumPy arrays float64; numba has no
bfloat16.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import warnings
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from tilegrad.kernels.capture.program import recording
from tilegrad.kernels.cpu import sources  # sources: before any of the kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system import forks
from tilegrad.kernels.system.modes import Undone
from tilegrad.kernels.system.unreached import unreached

PRIMITIVES: dict[str, str] = {
    "matmul": "batched a @ b, with bias and activation in the epilogue",
    "linear_grad": "gradients of relu(x W^T + b), or without relu: to x, W and b together",
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
    "conv2d_grad": "gradients of conv2d, or of relu of it: to input, weight and bias together",
    "max_pool2d": "maximum over windows, with relu in the epilogue, and which tap of the window it was",
    "max_pool2d_grad": "its gradient: dy scattered to the taps",
    "avg_pool2d": "mean over windows",
    "avg_pool2d_grad": "its gradient",
    "sum": "sum over any axes",
    "take_rows": "rows of a table by their index; of uint8 images as floats, scale x + shift",
    "random_bits": "n 32-bit words of the Philox4x32-10 stream (seed, offset)",
    "dropout": "x / (1 - p) where the Philox stream keeps it, else 0; its own gradient",
    "clip_norm_step": "a list of arrays scaled, in place, to a joint norm of at most max_norm",
    "adam_step": "Adam or AdamW over a list of parameters, in place",
    "sgd_step": "SGD with momentum over a list of parameters, in place",
}

BACKENDS: dict[str, str] = {
    "reference": "NumPy, the specification",
    "cpu": "NumPy, with the slow primitives compiled by Numba",
    "triton": "NVIDIA GPUs, in Triton",
    "numba": "NVIDIA GPUs, in Numba-CUDA",
}
_DEVICES = {"reference": "cpu", "cpu": "cpu", "triton": "cuda", "numba": "cuda"}

_NEEDS = {  # packages to be found, and how they are installed
    "triton": [("triton", "triton")],
    "numba": [("numba", "numba"), ("numba_cuda", "numba-cuda")],
}

_chosen: dict[str, ModuleType] = {}  # by device
_modules: dict[str, ModuleType] = {}  # that were imported, by name


def load(name: str) -> ModuleType:
    """The backend module called `name`; importing it is what loads its language.

    Raises ValueError for a name that no backend has, ImportError where a package that it needs is missing,
    RuntimeError where a GPU is.
    """
    if name == "cpu" and (lacking := _lacking()) is not None:
        raise ImportError(f"kernels: the backend 'cpu' needs Numba, which {lacking}")
    if name not in BACKENDS:
        raise ValueError(f"kernels: no backend is called {name!r}; expected auto, {', '.join(BACKENDS)}")
    if _DEVICES[name] == "cpu":
        return _imported(f"tilegrad.kernels.backends.{name}")
    gpu.xp()
    if not gpu.runs(name):
        expected = f"expected {gpu.SIMULATORS[name]}=1 too"
        raise RuntimeError(f"kernels: the backend {name!r} cannot run on the simulated device; {expected}")
    for package, install in _NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            missing = f"needs {package}, which is not installed: pip install {install}"
            raise ImportError(f"kernels: the backend {name!r} {missing}")
    return importlib.import_module(f"tilegrad.kernels.backends.{name}")


def use(name: str) -> contextlib.AbstractContextManager[None]:
    """Choose a backend for the arrays that it serves, for all that follows or for a `with` block.

        kernels.use("reference")
        with kernels.use("reference"): ...

    name   one of BACKENDS; the choice for arrays of the other device stays. Or auto: the best for each device

    TILEGRAD_KERNELS sets the choice that a process starts with. A backend that cannot run raises here.
    """
    global _chosen
    module = load(_best() if name == "auto" else name)
    chosen = {"cpu": module} if name == "auto" else _chosen | {_DEVICES[name]: module}
    block = Undone(partial(setattr, sys.modules[__name__], "_chosen", _chosen))
    _chosen = chosen
    return block


def _best() -> str:
    """The fastest backend for NumPy arrays on this machine; says so once where that is not the one it could be."""
    lacking = _lacking()
    if lacking is None:
        return "cpu"
    warnings.warn(f"kernels: Numba {lacking}; plain NumPy serves, at a fraction of the speed", stacklevel=4)
    return "reference"


def _lacking() -> str | None:
    """What keeps Numba from compiling the kernels of the CPU; None if nothing does."""
    if not _has_numba():
        return "is not installed: pip install numba"
    try:
        _imported("tilegrad.kernels.cpu.code")
    except Exception as error:  # a broken installation raises what it likes
        return f"cannot be used ({type(error).__name__}: {error})"
    return None


def can_compile() -> bool:
    """Whether Numba is there to compile the CPU's kernels, and to play a program of them."""
    return _lacking() is None


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _imported(name: str) -> ModuleType:
    module = _modules.get(name)
    if module is None:
        forks.hold()
        module = _modules[name] = _import(name)
    return module


@unreached
def _import(name: str) -> ModuleType:
    with forks.loading:
        return importlib.import_module(name)


def of(*arrays: Any) -> ModuleType:
    """The backend that serves these arrays (None is passed over; no array at all counts as NumPy's).

    Raises TypeError for arrays of two devices, and for what is no array.
    """
    for array in arrays:
        if type(array) is not np.ndarray and array is not None:
            break
    else:  # what is asked for by every op of a program on the CPU
        module = _chosen.get("cpu")
        if module is not None and recording() is None:
            return module
    device = None
    for array in arrays:
        if array is None:
            continue
        kind = "cpu" if isinstance(array, np.ndarray) else "cuda" if gpu.is_array(array) else None
        if kind is None or kind != (device or kind):
            kinds = ", ".join(type(a).__module__ + "." + type(a).__name__ for a in arrays if a is not None)
            raise TypeError(f"kernels.of: expected arrays of one device, NumPy's or CuPy's; got {kinds}")
        device = kind
    module = _chosen.get(device or "cpu") or _choose(device or "cpu")
    recorded = recording()
    return module if recorded is None or device == "cuda" else recorded.primitives(module)


def name(device: str = "cpu") -> str:
    """The name of the backend now chosen for a device, "cpu" or "cuda", as `use` takes it."""
    module = _chosen.get(device) or _choose(device)
    return module.__name__.rpartition(".")[2]


def _choose(device: str) -> ModuleType:
    """The backend that serves a device where none was chosen: what TILEGRAD_KERNELS says, or the best."""
    asked = os.environ.get("TILEGRAD_KERNELS") or "auto"
    if asked != "auto":
        load(asked)  # a name that cannot be served is an error whichever device comes first
    if _DEVICES.get(asked) != device:
        asked = _best() if device == "cpu" else "triton" if gpu.runs("triton") else "numba"
    _chosen[device] = load(asked)
    return _chosen[device]
