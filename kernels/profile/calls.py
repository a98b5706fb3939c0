"""A call of each primitive at a shape that is given as numbers: 256x256x256.

CALLS says what the numbers mean, and has a shape for who gives none. Arrays are drawn from a normal distribution,
labels and indices evenly. What a gradient takes of the forward is computed before, and is no part of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.device import gpu

Shape = tuple[int, ...]
Act = Callable[[], Any]

_ONE, _TWO, _ZERO = (1, 1), (2, 2), (0, 0)


class Arrays:
    """Arrays of the device, of one dtype unless another is asked for."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype, self._rng = dtype, np.random.default_rng(0)

    def __call__(self, *shape: int, dtype: Any = None) -> Any:
        return gpu.xp().asarray(self._rng.standard_normal(shape).astype(dtype or self.dtype))

    def images(self, n: int, channels: int, height: int, width: int) -> Any:
        """(n, channels, height, width), channels last in memory, as convolutions leave them."""
        return self(n, height, width, channels).transpose(0, 3, 1, 2)

    def below(self, bound: int, n: int) -> Any:
        """n int64 numbers."""
        return gpu.xp().asarray(self._rng.integers(0, bound, n))


class Call(NamedTuple):
    axes: str  # of the shape, as "M x N x K"; "..." for any number of them
    shape: Shape  # where none is given
    of: Callable[[ModuleType, Arrays, Shape], Act]  # what makes the call of a backend

    def refusal(self, shape: Shape) -> str:
        """Why this shape does not fit; empty if it does."""
        wanted = self.axes.split(" x ")
        if min(shape) < 0 or ("..." not in wanted and len(shape) != len(wanted)):
            return f"{'x'.join(map(str, shape))}; expected {self.axes}, as {'x'.join(map(str, self.shape))}"
        return ""


def _elementwise(name: str, saved: int) -> Call:
    """Of an array, and `saved` more of its shape."""

    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        arrays = [array(*shape) for _ in range(1 + saved)]
        return lambda: getattr(backend, name)(*arrays)

    return Call("...", (1024, 1024), of)


def _matmul(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    m, n, k = shape
    a, b = array(m, k), array(k, n)
    return lambda: backend.matmul(a, b)


def _matmul_kept(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    m, n, k = shape
    a, b, bias = array(m, k), array(k, n), array(n)
    return lambda: backend.matmul_kept(a, b, bias, "gelu")


def _linear_grad(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    rows, into, out = shape
    dy, x, w = array(rows, out), array(rows, into), array(out, into)
    return lambda: backend.linear_grad(dy, dy, x, w, True)


def _softmax_xent(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    z, t = array(*shape), array.below(shape[1], shape[0])
    return lambda: backend.softmax_xent(z, t)


def _softmax_xent_grad(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    z, t = array(*shape), array.below(shape[1], shape[0])
    loss, m, s, total = backend.softmax_xent(z, t)
    return lambda: backend.softmax_xent_grad(loss, z, t, m, s, total)


def _attention(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    q, k, v = (array(*shape) for _ in range(3))
    return lambda: backend.attention(q, k, v, None, False, shape[-1] ** -0.5)


def _attention_grad(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    dy, q, k, v = (array(*shape) for _ in range(4))
    scale = shape[-1] ** -0.5
    y, lse = backend.attention(q, k, v, None, False, scale)
    return lambda: backend.attention_grad(dy, q, k, v, y, lse, None, False, scale)


def _recurrent(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        steps, batch, width = shape
        sizes, layer = (batch,) * steps, name.removesuffix("_grad")
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[layer]
        x, w, h0 = array(steps * batch, gates * width), array(gates * width, width), array(batch, width)
        states = {"lstm": (h0, h0), "gru": (array(gates * width), h0), "rnn": (h0,)}[layer]
        if layer == name:
            return lambda: getattr(backend, name)(x, w, *states, sizes)
        y, *kept = getattr(backend, layer)(x, w, *states, sizes)
        dy, gradients = array(steps * batch, width), (None,) * (2 if layer == "lstm" else 1)
        saved = {"lstm": (h0, *kept[-2:]), "gru": (h0, y, kept[-1]), "rnn": (y,)}[layer]
        return lambda: getattr(backend, name)(dy, *gradients, w, *saved, sizes)

    return Call("STEPS x BATCH x WIDTH", (4, 64, 256), of)


def _row_norm(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        x, weight = array(*shape), array(shape[-1])
        given = (weight, array(shape[-1])) if name.startswith("layer_norm") else (weight,)
        if not name.endswith("_grad"):
            return lambda: getattr(backend, name)(x, 1, *given)
        _, *moments = getattr(backend, name.removesuffix("_grad"))(x, 1, *given)
        dy = array(*shape)
        return lambda: getattr(backend, name)(dy, x, *moments, weight, *[True] * len(given))

    return Call("ROWS x COLUMNS", (256, 768), of)


def _batch_norm(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        x, dy = array.images(*shape), array.images(*shape)
        weight, bias = array(shape[1]), array(shape[1])
        mean, var = backend.batch_moments(x)
        running = [array(shape[1], dtype=np.float32) for _ in range(2)]
        calls: dict[str, Act] = {
            "batch_moments": lambda: backend.batch_moments(x),
            "batch_norm": lambda: backend.batch_norm(x, mean, var, weight, bias, 1e-5, None, "relu"),
            "batch_norm_grad": lambda: backend.batch_norm_grad(
                dy, x, mean, var, weight, bias, 1e-5, None, "relu", False, True, True
            ),
            "batch_moments_step": lambda: backend.batch_moments_step(running, mean, var, x.size // shape[1], 0.1),
        }
        return calls[name]

    return Call("N x CHANNELS x HEIGHT x WIDTH", (8, 32, 26, 26), of)


def _conv2d(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        n, channels, size, out, kernel, padding = shape
        if not 0 < kernel <= size + 2 * padding:
            raise ValueError(
                f"{name}: a kernel of {kernel} on images of {size} + 2 x {padding}; expected 1 to their size"
            )
        x, dy = array.images(n, channels, size, size), array.images(n, out, *[size + 2 * padding - kernel + 1] * 2)
        w = array.images(out, channels, kernel, kernel)
        geometry = _ONE, (padding, padding), _ONE, 1
        arguments: tuple[Any, ...] = {
            "conv2d": (x, w, array(out), *geometry),
            "conv2d_grad_input": (dy, w, x.shape, *geometry),
            "conv2d_grad_weight": (dy, x, w.shape, *geometry),
            "conv2d_grad_bias": (dy,),
            "conv2d_grad": (dy, dy, x, w, x.shape, w.shape, *geometry, True, w),
        }[name]
        return lambda: getattr(backend, name)(*arguments)

    return Call("N x CHANNELS x SIZE x OUT x KERNEL x PADDING", (8, 32, 13, 64, 3, 0), of)


def _pool(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        x = array.images(*shape)
        if not name.endswith("_grad"):
            return lambda: getattr(backend, name)(x, _TWO, _TWO)
        forward = getattr(backend, name.removesuffix("_grad"))(x, _TWO, _TWO)
        saved = forward if type(forward) is tuple else (forward,)
        return lambda: getattr(backend, name)(*saved, x.shape, _TWO, _TWO)

    return Call("N x CHANNELS x HEIGHT x WIDTH", (8, 32, 26, 26), of)


def _sum(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    x = array(*shape)
    return lambda: backend.sum(x, (0,))


def _take_rows(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    rows, columns, taken = shape
    x, index = array(rows, columns), array.below(rows, taken)
    return lambda: backend.take_rows(x, index)


def _take_rows_grad(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    rows, columns, taken = shape
    dy, index = array(taken, columns), array.below(rows, taken)
    return lambda: backend.take_rows_grad(dy, index, rows)


def _bags(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        rows, columns, bags, each = shape
        index, offsets = array.below(rows, bags * each), gpu.xp().arange(0, bags * each, each)
        x, last = (array(bags, columns), rows) if name.endswith("_grad") else (array(rows, columns), bags)
        return lambda: getattr(backend, name)(x, index, offsets, last)

    return Call("ROWS x COLUMNS x BAGS x PLACES", (1000, 64, 32, 16), of)


def _loss(name: str) -> Call:
    def of(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
        x, t, dy = array(*shape), array(*shape), array()
        kind = "binary_cross_entropy_with_logits"
        return lambda: getattr(backend, name)(*([dy] if name.endswith("_grad") else []), x, t, kind)

    return Call("...", (1024, 1024), of)


def _random_bits(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    return lambda: backend.random_bits(0, 0, shape[0])


def _dropout(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    x = array(*shape)
    return lambda: backend.dropout(x, 0.1, 0, 0)


def _clip_norm_step(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    x = array(*shape)
    return lambda: backend.clip_norm_step([x], 1.0)


def _adam_step(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    param, grad = array(*shape), array(*shape)
    moments = [gpu.xp().zeros(shape, np.float32) for _ in range(2)]
    return lambda: backend.adam_step([param], [grad], [moments[0]], [moments[1]], 1, 1e-3)


def _sgd_step(backend: ModuleType, array: Arrays, shape: Shape) -> Act:
    param, grad, buffer = array(*shape), array(*shape), gpu.xp().zeros(shape, np.float32)
    return lambda: backend.sgd_step([param], [grad], [buffer], 1e-2, 0.9)


_HEADS = "N x HEADS x LENGTH x WIDTH", (4, 4, 64, 32)
_TABLE = "ROWS x COLUMNS x TAKEN", (1000, 512, 64)
_LOGITS = "ROWS x CLASSES", (256, 1024)
_ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "erf")

CALLS: dict[str, Call] = {
    "matmul": Call("M x N x K", (256, 256, 256), _matmul),
    "matmul_kept": Call("M x N x K", (256, 256, 256), _matmul_kept),
    "linear_grad": Call("ROWS x IN x OUT", (128, 784, 128), _linear_grad),
    **{name: _elementwise(name, 0) for name in _ACTIVATIONS},
    **{f"{name}_grad": _elementwise(f"{name}_grad", 1) for name in _ACTIVATIONS},
    **{name: _elementwise(name, 0) for name in ("softmax", "log_softmax")},
    **{f"{name}_grad": _elementwise(f"{name}_grad", 1) for name in ("softmax", "log_softmax")},
    "softmax_xent": Call(*_LOGITS, _softmax_xent),
    "softmax_xent_grad": Call(*_LOGITS, _softmax_xent_grad),
    **{name: _loss(name) for name in ("elementwise_loss", "elementwise_loss_grad")},
    "attention": Call(*_HEADS, _attention),
    "attention_grad": Call(*_HEADS, _attention_grad),
    **{name: _recurrent(name) for name in ("lstm", "lstm_grad", "gru", "gru_grad", "rnn", "rnn_grad")},
    **{name: _row_norm(name) for name in ("layer_norm", "layer_norm_grad", "rms_norm", "rms_norm_grad")},
    **{name: _batch_norm(name) for name in ("batch_moments", "batch_norm", "batch_norm_grad", "batch_moments_step")},
    **{
        f"conv2d{part}": _conv2d(f"conv2d{part}") for part in ("", "_grad_input", "_grad_weight", "_grad_bias", "_grad")
    },
    **{name: _pool(name) for name in ("max_pool2d", "max_pool2d_grad", "avg_pool2d", "avg_pool2d_grad")},
    "sum": Call("...", (1024, 256), _sum),
    "take_rows": Call(*_TABLE, _take_rows),
    "take_rows_grad": Call(*_TABLE, _take_rows_grad),
    **{name: _bags(name) for name in ("sum_bags", "sum_bags_grad", "max_bags")},
    "random_bits": Call("N", (1 << 16,), _random_bits),
    "dropout": Call("...", (256, 1024), _dropout),
    "clip_norm_step": Call("...", (256, 1024), _clip_norm_step),
    "adam_step": Call("...", (256, 1024), _adam_step),
    "sgd_step": Call("...", (256, 1024), _sgd_step),
}
