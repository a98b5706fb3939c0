"""Initialisation: functions that fill a tensor in place, outside the graph, and return it.

A weight (out, in, ...) has fan_in = in * prod(...) and fan_out = out * prod(...).

    Xavier   keeps the variance forward and backward (Glorot & Bengio 2010)
    Kaiming  keeps it through ReLU in one direction (He, Zhang, Ren & Sun 2015)

Random numbers come from `generator`, by default the engine's own. They are drawn on the host: a seed gives the same
weights on every device.

Instead of a tensor its array may be given, as in PyTorch's programs: `init.normal_(layer.weight.data)`. The array is
filled, unnoticed by autograd, and returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.device import is_array
from tilegrad.random import Generator
from tilegrad.tensor import Tensor


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that makes up for what a nonlinearity takes from the standard deviation.

    param  leaky_relu's slope, 0.01 by default
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise TypeError(f"calculate_gain: the negative slope is {param!r}; expected a number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(
            f"calculate_gain: nonlinearity is {nonlinearity!r}; expected one of 'leaky_relu', "
            f"{', '.join(map(repr, _GAINS))}"
        )
    return _GAINS[nonlinearity]


_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


if TYPE_CHECKING:
    P = ParamSpec("P")
    T = TypeVar("T")

    class Filling(Protocol[P]):
        """A function that fills a tensor or an array, and returns it."""

        def __call__(self, tensor: T, *args: P.args, **options: P.kwargs) -> T: ...


_skipping: ContextVar[bool] = ContextVar("_skipping", default=False)


def skip_init(module_cls: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """module_cls(*args, **kwargs), but nothing is drawn: its weights are whatever the memory holds.

    For a module whose weights come from a file. Memory that nothing is written to takes no room yet.
    """
    token = _skipping.set(True)
    try:
        return module_cls(*args, **kwargs)
    finally:
        _skipping.reset(token)


def _of_arrays_too(fill: Callable[Concatenate[Tensor, P], Tensor]) -> Filling[P]:
    @wraps(fill)
    def wrapper(tensor: Any, *args: Any, **options: Any) -> Any:
        if isinstance(tensor, Tensor):
            return tensor if _skipping.get() else fill(tensor, *args, **options)
        if not is_array(tensor):
            raise TypeError(f"{fill.__name__}: got a {type(tensor).__name__}; expected a tensor, or an array")
        filled = fill(Tensor(tensor), *args, **options).data
        if filled is not tensor:  # a tensor cannot hold this array as it is
            tensor[...] = filled
        return tensor

    return wrapper


@_of_arrays_too
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform on [a, b)."""
    with no_grad():
        return tensor.uniform_(a, b, generator)


@_of_arrays_too
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with this mean and standard deviation."""
    with no_grad():
        return tensor.normal_(mean, std, generator)


@_of_arrays_too
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal, but drawn again while outside [a, b] (bounds, not multiples of std, as in PyTorch).

    Raises ValueError if [a, b] holds less than 1 % of the distribution, for which drawing would take for ever.
    """
    inside = _normal_cdf((b - mean) / std) - _normal_cdf((a - mean) / std) if std > 0 else 0.0
    if not inside >= 0.01:
        raise ValueError(f"trunc_normal_: [{a}, {b}] holds {inside:.2g} of N({mean}, {std}^2); expected at least 0.01")
    values = normal_(Tensor(np.empty(tensor.shape, tensor.dtype)), mean, std, generator).data
    outside = (values < a) | (values > b)
    while outside.any():
        again = Tensor(np.empty(int(outside.sum()), tensor.dtype))
        values[outside] = normal_(again, mean, std, generator).data
        outside = (values < a) | (values > b)
    return _write(tensor, values)


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


@_of_arrays_too
def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    with no_grad():
        return tensor.fill_(val)


@_of_arrays_too
def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


@_of_arrays_too
def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


@_of_arrays_too
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix, as far as a matrix of this shape holds it. Raises ValueError for anything but a matrix."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: the tensor is {tensor.shape}; expected a matrix")
    return _write(tensor, np.eye(*tensor.shape, dtype=tensor.dtype))


@_of_arrays_too
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """A (semi-)orthogonal matrix (out, rest), uniformly distributed, times gain (Saxe, McClelland & Ganguli 2013).

    From the QR decomposition of a normal matrix, with the signs that make it unique (Mezzadri 2007).
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: the tensor is {tensor.shape}; expected at least 2 dimensions")
    if tensor.numel() == 0:
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    tall = np.empty((max(rows, columns), min(rows, columns)), np.float64)
    q, r = np.linalg.qr(normal_(Tensor(tall), generator=generator).data)
    q = q * np.sign(np.diag(r))
    return _write(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


@_of_arrays_too
def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform on [-b, b),  b = gain sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / max(sum(_fans("xavier_uniform_", tensor)), 1))
    return uniform_(tensor, -bound, bound, generator)


@_of_arrays_too
def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with mean 0, std = gain sqrt(2 / (fan_in + fan_out))."""
    std = gain * math.sqrt(2.0 / max(sum(_fans("xavier_normal_", tensor)), 1))
    return normal_(tensor, 0.0, std, generator)


@_of_arrays_too
def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform on [-b, b),  b = gain sqrt(3 / fan),  gain that of the nonlinearity (slope a), fan by `mode`."""
    bound = _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity) * math.sqrt(3.0)
    return uniform_(tensor, -bound, bound, generator)


@_of_arrays_too
def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with mean 0, std = gain / sqrt(fan); arguments as kaiming_uniform_'s."""
    return normal_(tensor, 0.0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def _kaiming_std(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode is {mode!r}; expected 'fan_in' or 'fan_out'")
    fan_in, fan_out = _fans(op, tensor)
    fan = fan_in if mode == "fan_in" else fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))  # a fan of 0 has no elements to fill


def _fans(op: str, tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"{op}: the tensor is {tensor.shape}; expected at least 2 dimensions (out, in, ...)")
    out, into, *rest = tensor.shape
    return into * math.prod(rest), out * math.prod(rest)


def default_(weight: Tensor, bias: Tensor | None) -> None:
    """PyTorch's first values of a linear or convolution layer: both uniform on [-b, b),  b = 1 / sqrt(fan_in)."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = _fans("default_", weight)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        uniform_(bias, -bound, bound)


def _write(tensor: Tensor, values: Any) -> Tensor:
    with no_grad():
        return tensor.copy_(Tensor(values))
