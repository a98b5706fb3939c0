"""Activations, erf and their gradients on the CPU, compiled: NumPy makes a pass over memory for every operation.

Served here are float32 arrays of one dense memory order, and the 16-bit types in C order by way of float32. All else is
left to the reference. 2,768,896 numbers, two cores with AVX-512 shared with other work, in milliseconds (torch's
threads do not spin between calls here: spinning threads halve the speed of what is timed next):

    |                        | reference |     here |    torch |
    | relu                   |       1.9 |      1.0 |      1.0 |
    | leaky_relu, gradient   |    23, 24 | 0.9, 1.2 | 1.0, 1.2 |
    | sigmoid, gradient      |   11, 6.0 | 1.3, 1.6 | 1.3, 1.6 |
    | silu, gradient         |    16, 32 | 1.6, 2.1 | 1.5, 1.8 |
    | tanh's gradient        |       6.7 |      1.5 |      1.6 |
    | gelu by tanh, gradient |    28, 60 | 2.5, 3.3 | 4.9, 5.4 |

On a newer machine gelu and its gradient take 0.78 and 0.82 milliseconds on one thread, torch 1.04 and 1.89. erf takes
0.9 there, torch 2.8.

For 32 x 128 numbers a call takes 7 to 17 microseconds, of which 6 are spent outside the loop. The reference is faster
at relu only: 5 microseconds against 7. tanh is NumPy's loop, shared among threads. One made of exp would be off by 2.5
units in the last place instead of 1.3, and the gradient, which is taken from the result as 1 - y^2, by much more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.activations import cpu_loops as loops
from tilegrad.kernels.activations import reference
from tilegrad.kernels.cpu import buffers, threads, ufuncs
from tilegrad.kernels.cpu.effects import capturing, do, whole
from tilegrad.kernels.cpu.halves import HALVES

_float32 = np.dtype(np.float32)
_CHEAP = loops.relu, loops.relu_grad, loops.leaky_relu, loops.leaky_relu_grad, loops.sigmoid_grad, loops.tanh_grad
_WORTH_SHARING = 1 << 16  # bytes written by one of the other loops: some 20 microseconds of one core
_GELU = {"none": loops.gelu, "tanh": loops.gelu_tanh}
_GELU_GRAD = {"none": loops.gelu_grad, "tanh": loops.gelu_tanh_grad}


def relu(x: np.ndarray) -> np.ndarray:
    """activations.reference.relu. Traffic: reads 4, writes 4 bytes an element, as all that take one array do."""
    return _elementwise(loops.relu, reference.relu, x)


def relu_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """activations.reference.relu_grad. Traffic: reads 8, writes 4 bytes an element, as all that take two do."""
    return _elementwise(loops.relu_grad, reference.relu_grad, dy, y)


def leaky_relu(x: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """activations.reference.leaky_relu."""
    if type(negative_slope) is not float:
        return whole(reference.leaky_relu, x, negative_slope)
    return _elementwise(loops.leaky_relu, reference.leaky_relu, x, options=(negative_slope,))


def leaky_relu_grad(dy: np.ndarray, x: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """activations.reference.leaky_relu_grad."""
    if type(negative_slope) is not float:
        return whole(reference.leaky_relu_grad, dy, x, negative_slope)
    return _elementwise(loops.leaky_relu_grad, reference.leaky_relu_grad, dy, x, options=(negative_slope,))


def gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """activations.reference.gelu; small results keep all their digits."""
    if type(approximate) is not str or approximate not in _GELU:
        return whole(reference.gelu, x, approximate)
    return _elementwise(_GELU[approximate], reference.gelu, x, formula=(approximate,))


def gelu_grad(dy: np.ndarray, x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """activations.reference.gelu_grad; small results keep all their digits."""
    if type(approximate) is not str or approximate not in _GELU_GRAD:
        return whole(reference.gelu_grad, dy, x, approximate)
    return _elementwise(_GELU_GRAD[approximate], reference.gelu_grad, dy, x, formula=(approximate,))


def silu(x: np.ndarray) -> np.ndarray:
    """activations.reference.silu."""
    return _elementwise(loops.silu, reference.silu, x)


def silu_grad(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """activations.reference.silu_grad."""
    return _elementwise(loops.silu_grad, reference.silu_grad, dy, x)


def tanh(x: np.ndarray) -> np.ndarray:
    """activations.reference.tanh, with its bits: NumPy's loop."""
    if type(x) is np.ndarray and x.dtype == _float32 and (x.nbytes > _WORTH_SHARING or capturing() is not None):
        y = ufuncs.call(np.tanh, x)
        if y is not None:
            return y
    return whole(reference.tanh, x)


def tanh_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """activations.reference.tanh_grad."""
    return _elementwise(loops.tanh_grad, reference.tanh_grad, dy, y)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """activations.reference.sigmoid."""
    return _elementwise(loops.sigmoid, reference.sigmoid, x)


def sigmoid_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """activations.reference.sigmoid_grad."""
    return _elementwise(loops.sigmoid_grad, reference.sigmoid_grad, dy, y)


def erf(x: np.ndarray) -> np.ndarray:
    """activations.reference.erf."""
    return _elementwise(loops.erf, reference.erf, x)


def erf_grad(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """activations.reference.erf_grad; small results keep all their digits."""
    return _elementwise(loops.erf_grad, reference.erf_grad, dy, x)


_EPILOGUES = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "gelu_tanh": lambda y: gelu(y, "tanh"),
    "silu": silu,
    "tanh": tanh,
    "sigmoid": sigmoid,
}


def activated(y: np.ndarray, name: str | None) -> np.ndarray:
    """The activation of that name, one of activations.reference.ACTIVATIONS, of y; y itself for None.

    The epilogue of products. It gives the same bits as the primitive.
    """
    return y if name is None else _EPILOGUES[name](y)


def _elementwise(
    loop: Callable[..., None],
    specification: Callable[..., np.ndarray],
    *arrays: np.ndarray,
    options: tuple[float, ...] = (),
    formula: tuple[str, ...] = (),
) -> np.ndarray:
    """The loop over the arrays with these options; the specification for arrays that are not served.

    formula  options of the specification alone: the loop was chosen by them
    """
    order = _dense_order(*arrays)
    if order is None and len(arrays) == 2:
        arrays = _in_one_order(*arrays)
        order = _dense_order(*arrays)
    if order is None:
        if _are_16_bit(*arrays):
            return whole(_rounded_once, loop, *arrays, *options)
        return whole(specification, *arrays, *options, *formula)
    return _along_memory(loop, order, arrays, options)


def _along_memory(loop: Callable[..., None], order: Any, arrays: Any, options: tuple[float, ...]) -> np.ndarray:
    """The loop over float32 arrays of one memory order, that of the result."""
    if order:
        arrays = [a.transpose(order) for a in arrays]
    y = buffers.empty(arrays[0].shape, _float32)
    pieces = y.size if y.nbytes > (threads.WORTH_SHARING if loop in _CHEAP else _WORTH_SHARING) else 1
    threads.share(loop, pieces, y.size, *[a.reshape(-1) for a in arrays], *options, y.reshape(-1))
    return y.transpose(_inverse(order)) if order else y


def _dense_order(a: Any, b: Any = None) -> list[int] | tuple[()] | None:
    """The axes, outermost in memory first, of one array or of two alike; () for C order, None if they are not served.

    Arrays that are not served may be ones that the reference refuses.
    """
    if type(a) is not np.ndarray or a.dtype != _float32 or not a.flags.aligned:
        return None
    if b is None:
        if a.flags.c_contiguous:
            return ()
    elif type(b) is not np.ndarray or b.dtype != _float32 or not b.flags.aligned or b.shape != a.shape:
        return None
    elif a.flags.c_contiguous and b.flags.c_contiguous:
        return ()
    elif a.strides != b.strides:
        return None
    order = sorted(range(a.ndim), key=lambda d: -a.strides[d])
    return order if a.transpose(order).flags.c_contiguous else None


def _inverse(order: list[int]) -> list[int]:
    """The order that takes this one back; np.argsort takes ten times as long."""
    return sorted(range(len(order)), key=order.__getitem__)


def _in_one_order(a: Any, b: Any) -> tuple[Any, Any]:
    """The arrays, the first copied to the memory order of the second if that is their only difference."""
    order = _dense_order(b)
    if order is None or type(a) is not np.ndarray or a.dtype != _float32 or a.shape != b.shape:
        return a, b
    copy = buffers.empty([b.shape[axis] for axis in order or range(b.ndim)], _float32)
    copy = copy.transpose(_inverse(order)) if order else copy
    do(np.copyto, copy, a)
    return copy, b


def _are_16_bit(*arrays: Any) -> bool:
    """Whether the arrays are of one shape and one 16-bit dtype, and in C order."""
    for a in arrays:
        if type(a) is not np.ndarray or a.dtype not in HALVES or not a.flags.c_contiguous:
            return False
        if a.dtype != arrays[0].dtype or a.shape != arrays[0].shape:
            return False
    return True


def _rounded_once(loop: Callable[..., None], *arguments: Any) -> np.ndarray:
    """The loop for 16-bit arrays: computed in float32, rounded once."""
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    dtype = arrays[0].dtype
    with np.errstate(all="ignore"):
        wide = [a.astype(_float32) for a in arrays]
        return _along_memory(loop, (), wide, arguments[len(arrays) :]).astype(dtype)
