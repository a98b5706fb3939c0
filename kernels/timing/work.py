"""The least that a call of a primitive moves and computes, by the shapes of its arrays.

Bytes: each array among the arguments is read once and each result is written once, unless a rule below says otherwise.
FLOP: a multiply-add is two; a comparison, an exp or an erf counts as one, as in the rows of the benchmarks. Those of
functions that are no primitives are one for each element of their largest array.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from tilegrad.kernels.contract import PRIMITIVES, module_of
from tilegrad.kernels.described import Call, Layout

Arguments = Any  # a SimpleNamespace of the primitive's arguments by name, with Layouts for arrays
Results = tuple[Layout, ...]


class Work(NamedTuple):
    """Of a call, or of several."""

    nbytes: int
    flop: int

    def plus(self, other: Work) -> Work:
        return Work(self.nbytes + other.nbytes, self.flop + other.flop)


def work(call: Call) -> Work:
    """What the call moves and computes."""
    if call.op not in PRIMITIVES:
        arrays = [*call.layouts(), *call.results]
        flop = 0 if call.op in _MOVES else max([x.size for x in arrays], default=0)
        return Work(sum(x.nbytes for x in arrays), flop)
    bound = _signature(call.op).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    a = SimpleNamespace(**bound.arguments)
    return Work(_nbytes(call, a), int(_FLOP[call.op](a, call.results)))


_MOVES = frozenset("copy copyto positive cast setitem fill concatenate take getitem where".split())


@cache
def _signature(op: str) -> inspect.Signature:
    return inspect.signature(getattr(importlib.import_module(module_of(op, "reference")), op))


# --- bytes

_UNREAD = {"conv2d_grad": ("like",)}  # arguments that say how the result lies in memory
_TWICE = {"batch_norm_grad": ("dy", "x")}  # that are read once more when their sums are known
_WRITTEN = {  # arrays that a step writes to as well
    "adam_step": ("params", "exp_avgs", "exp_avg_sqs"),
    "sgd_step": ("params", "momentum_buffers"),
    "clip_norm_step": ("arrays",),
    "batch_moments_step": ("running",),
}


def _nbytes(call: Call, a: Arguments) -> int:
    read = sum(x.nbytes for x in call.layouts()) - sum(_bytes(getattr(a, name)) for name in _UNREAD.get(call.op, ()))
    read += sum(_bytes(getattr(a, name)) for name in _TWICE.get(call.op, ()))
    if call.op in ("sum_bags", "max_bags"):
        read += _places(a.x, a.index) * a.x.dtype.itemsize - a.x.nbytes
    if call.op == "take_rows":  # of the table only the rows that are taken
        read += call.results[0].size * a.x.dtype.itemsize - a.x.nbytes
    if call.op == "batch_norm_grad" and (a.activation is None or a.y is not None):  # the bias is for relu's mask alone
        read -= _bytes(a.bias)
    written = sum(y.nbytes for y in call.results)
    return read + written + sum(_bytes(getattr(a, name)) for name in _WRITTEN.get(call.op, ()))


def _bytes(x: Any) -> int:
    return x.nbytes if isinstance(x, Layout) else sum(map(_bytes, x)) if type(x) in (list, tuple) else 0


# --- FLOP

_ACTIVATIONS = {  # of an element, forward and backward
    "relu": (1, 1),
    "leaky_relu": (2, 2),
    "gelu": (5, 12),
    "silu": (4, 9),
    "tanh": (1, 3),
    "sigmoid": (4, 3),
    "erf": (1, 5),
}
_EPILOGUES = {name: each[0] for name, each in _ACTIVATIONS.items()} | {"gelu_tanh": 9}
_LOSSES = {  # of an element, beside the sum or the incoming gradient
    "mse_loss": (2, 2),
    "l1_loss": (2, 3),
    "smooth_l1_loss": (6, 6),
    "huber_loss": (7, 6),
    "binary_cross_entropy": (7, 5),
    "binary_cross_entropy_with_logits": (11, 9),
}
_SCORE, _SLOPE = 5, 4  # of attention, beside the products: scale, max, - m, exp, sum; exp, - sum, times p, times scale


def _epilogue(a: Arguments, y: Layout) -> int:
    """Bias and activation."""
    return y.size * ((a.bias is not None) + (_EPILOGUES[a.activation] if a.activation else 0))


def _matmul(a: Arguments, results: Results) -> int:
    return 2 * results[0].size * a.a.shape[-1] + _epilogue(a, results[0])


def _linear_grad(a: Arguments, results: Results) -> int:
    inner = (a.x or a.w).shape[-1]
    products = (a.x is not None) + (a.w is not None)
    return a.dy.size * (2 * inner * products + bool(a.bias) + (a.y is not None))


def _conv2d(a: Arguments, results: Results) -> int:
    return 2 * results[0].size * math.prod(a.w.shape[1:]) + _epilogue(a, results[0])


def _conv2d_grad(a: Arguments, results: Results) -> int:
    products = (a.x is not None) + (a.w is not None)
    return a.dy.size * (2 * math.prod(a.w_shape[1:]) * products + bool(a.bias) + (a.y is not None))


def _scores(a: Arguments) -> int:
    length, other = a.q.shape[-2], a.k.shape[-2]
    if not a.causal:
        return math.prod(a.q.shape[:-1]) * other
    diagonal = min(length, other)
    below = (length - diagonal) * other
    return math.prod(a.q.shape[:-2]) * (diagonal * (diagonal + 1) // 2 + below)


def _rows(a: Arguments) -> int:
    return math.prod(a.x.shape[: len(a.x.shape) - a.ndim])


def _layer_norm(a: Arguments, results: Results) -> int:
    affine = (a.weight is not None) + (a.bias is not None)
    return a.x.size * (5 + affine + (a.residual is not None)) + 5 * _rows(a)


def _layer_norm_grad(a: Arguments, results: Results) -> int:
    each = 9 + (a.weight is not None) + 2 * a.to_weight + a.to_bias + (a.ds is not None)
    return a.x.size * each + 2 * a.rstd.size


def _rms_norm(a: Arguments, results: Results) -> int:
    return a.x.size * (3 + (a.weight is not None) + (a.residual is not None)) + 4 * _rows(a)


def _rms_norm_grad(a: Arguments, results: Results) -> int:
    each = 6 + (a.weight is not None) + 2 * a.to_weight + (a.ds is not None)
    return a.x.size * each + a.rstd.size


def _batch_norm(a: Arguments, results: Results) -> int:
    affine = (a.weight is not None) + (a.bias is not None)
    return a.x.size * (1 + affine + (a.activation is not None) + (a.residual is not None)) + 3 * a.var.size


def _batch_norm_grad(a: Arguments, results: Results) -> int:
    mask = 0 if a.activation is None else 3 if a.y is None else 1
    return a.x.size * (10 + mask) + 5 * a.var.size


def _recurrent(rows: str, gates: int, each: Callable[[Arguments], int]) -> Callable[[Arguments, Results], int]:
    """Of the state's every number in each of the rows: gates times a row of w, and `each` operations more.

    rows  the argument that has a row for each step of each sequence
    """

    def count(a: Arguments, results: Results) -> int:
        width = a.w.shape[1]
        return getattr(a, rows).shape[0] * width * (2 * gates * width + each(a))

    return count


def _loss(backward: bool) -> Callable[[Arguments, Results], int]:
    return lambda a, results: (_LOSSES[a.kind][backward] + 1) * a.x.size + 1


def _taps(a: Arguments) -> int:
    return math.prod(a.kernel_size)


def _places(x: Any, index: Any) -> int:
    """The elements of one row of x for each place of an index."""
    return index.size * (x.size // max(x.shape[0], 1))


def _sizes(x: Any) -> int:
    return x.size if isinstance(x, Layout) else sum(map(_sizes, x or ()))


def _sgd(a: Arguments, results: Results) -> int:
    each = 2 + 2 * bool(a.momentum_buffers) + 2 * (type(a.weight_decay) is not float or a.weight_decay != 0)
    return each * _sizes(a.params)


_FLOP: dict[str, Callable[[Arguments, Results], int]] = {
    "matmul": _matmul,
    "matmul_kept": _matmul,
    "linear_grad": _linear_grad,
    **{name: lambda a, y, n=each[0]: n * a.x.size for name, each in _ACTIVATIONS.items()},
    **{f"{name}_grad": lambda a, y, n=each[1]: n * a.dy.size for name, each in _ACTIVATIONS.items()},
    "softmax": lambda a, y: 5 * a.x.size,  # max, x - m, exp, sum, quotient
    "softmax_grad": lambda a, y: 4 * a.dy.size,  # dy y, sum, dy - sum, y *
    "log_softmax": lambda a, y: 5 * a.x.size + (a.x.size // a.x.shape[a.axis] if a.x.size else 0),
    "log_softmax_grad": lambda a, y: 4 * a.dy.size,
    "softmax_xent": lambda a, y: 4 * a.z.size + 4 * a.t.size + 1,
    "softmax_xent_grad": lambda a, y: 4 * a.z.size + a.t.size + 1,
    "elementwise_loss": _loss(False),
    "elementwise_loss_grad": _loss(True),
    "attention": lambda a, y: _scores(a) * (2 * (a.q.shape[-1] + a.v.shape[-1]) + _SCORE),
    "attention_grad": lambda a, y: _scores(a) * (6 * a.q.shape[-1] + 4 * a.v.shape[-1] + _SCORE + _SLOPE),
    # x + product, three sigmoids, tanh, f c + i g, o tanh
    "lstm": _recurrent("x", 4, lambda a: 4 + 3 * 4 + 1 + 3 + 2),
    # dy +; tanh, dc + * * * - +; four slopes; a product of two for each, and of c for f; dc f
    "lstm_grad": _recurrent("gates", 4, lambda a: (a.dy is not None) + 1 + 6 + 9 + 8 + 1),
    # x + q twice, two sigmoids, x + r q, tanh, n + z (h - n), and the bias
    "gru": _recurrent("x", 3, lambda a: 2 + 2 * 4 + 2 + 1 + 3 + 3 * (a.bias is not None)),
    # dy +; dn * - * - * +, dz * - * *, dr * * - *, dn r, dh z +
    "gru_grad": _recurrent("y", 3, lambda a: (a.dy is not None) + 6 + 4 + 4 + 1 + 2),
    "rnn": _recurrent("x", 1, lambda a: 2),
    "rnn_grad": _recurrent("y", 1, lambda a: (a.dy is not None) + (4 if a.nonlinearity == "tanh" else 1)),
    "layer_norm": _layer_norm,
    "layer_norm_grad": _layer_norm_grad,
    "rms_norm": _rms_norm,
    "rms_norm_grad": _rms_norm_grad,
    "batch_moments": lambda a, y: 4 * a.x.size + 2 * y[0].size,  # sum, x - mean, square, sum
    "batch_norm": _batch_norm,
    "batch_norm_grad": _batch_norm_grad,
    "batch_moments_step": lambda a, y: 3 * _sizes(a.running),
    "conv2d": _conv2d,
    "conv2d_grad_input": lambda a, y: 2 * a.dy.size * math.prod(a.w.shape[1:]),
    "conv2d_grad_weight": lambda a, y: 2 * a.dy.size * math.prod(a.w_shape[1:]),
    "conv2d_grad_bias": lambda a, y: a.dy.size,
    "conv2d_grad": _conv2d_grad,
    "max_pool2d": lambda a, y: (_taps(a) - 1 + (a.activation is not None)) * y[0].size,
    "max_pool2d_grad": lambda a, y: 0,
    "avg_pool2d": lambda a, y: _taps(a) * y[0].size,
    "avg_pool2d_grad": lambda a, y: a.dy.size,
    "sum": lambda a, y: a.x.size,
    "take_rows": lambda a, y: 0 if a.scale is None else 2 * y[0].size,
    "take_rows_grad": lambda a, y: a.dy.size,
    "sum_bags": lambda a, y: _places(a.x, a.index),
    "sum_bags_grad": lambda a, y: _places(a.dy, a.index),
    "max_bags": lambda a, y: _places(a.x, a.index),
    "random_bits": lambda a, y: 0,  # integers only
    "dropout": lambda a, y: a.x.size,
    "clip_norm_step": lambda a, y: 3 * _sizes(a.arrays),  # square, sum, scale
    "adam_step": lambda a, y: 13 * _sizes(a.params),
    "sgd_step": _sgd,
}
assert _FLOP.keys() == PRIMITIVES.keys(), _FLOP.keys() ^ PRIMITIVES.keys()
