"""The same function or layer in both libraries: forward and every gradient, by the comparer's law.

Each comparison runs in every memory layout of its inputs (tests/layouts.py), and with two incoming gradients: a random
one, and one that has stride 0 along an axis, as the gradient of a sum has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.layouts import LAYOUTS, untouched
from tilegrad import nn
from tilegrad.tensor import Tensor

DTYPES = [np.float32, np.float64]


def tensor(x: np.ndarray, requires_grad: bool = True) -> Tensor:
    """A leaf on this very array; only floating ones require grad."""
    return Tensor(x, requires_grad=requires_grad and x.dtype.kind == "f")


def assert_function(
    ours: Callable[..., Tensor],
    theirs: Callable[..., torch.Tensor],
    *arrays: np.ndarray,
    scale: float = 0.0,
    layouts: dict = LAYOUTS,
    repeated: int = 0,
) -> None:
    """ours(*tensors) and the gradients by all floating inputs are torch's.

    scale: as assert_close has it. repeated: the axis of the stride 0; not one along which a constant gradient vanishes.
    """
    want = oracle.value(theirs, *arrays)
    dy = np.random.default_rng(1).standard_normal(want[1].shape).astype(want[1].dtype)
    stride_0 = np.broadcast_to(dy.take([0], repeated), dy.shape) if dy.ndim and dy.size else dy
    for layout in layouts.values():
        _assert_run(ours, theirs, want, dy, [layout(a) if a.ndim else a for a in arrays], scale)
    _assert_run(ours, theirs, want, stride_0, list(arrays), scale)


def _assert_run(ours, theirs, want, dy, arrays, scale) -> None:
    with untouched(*arrays, dy):
        tensors = [tensor(a) for a in arrays]
        y = ours(*tensors)
        assert_close(y.detach().numpy(), *want, scale=scale)
        y.backward(Tensor(dy))
    leaves = [t for t in tensors if t.requires_grad]
    for leaf, pair in zip(leaves, oracle.gradients(theirs, dy, *arrays), strict=True):
        assert_close(leaf.grad.numpy(), *pair, scale=scale)


def load_from_torch(ours: nn.Module, theirs: torch.nn.Module) -> None:
    """Their state in our module."""
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})


def randomize(theirs: torch.nn.Module, rng: np.random.Generator, spread: float = 1.0) -> None:
    """Random parameters and floating buffers in place of the ones and zeros that hide mistakes."""
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.from_numpy(spread * rng.standard_normal(p.shape)))
        for name, b in theirs.named_buffers():
            if b.is_floating_point():
                values = rng.standard_normal(b.shape)
                b.copy_(torch.from_numpy(np.abs(values) + 0.1 if "var" in name else values))


def assert_module(
    ours: nn.Module, theirs: torch.nn.Module, *arrays: np.ndarray, scale: float = 0.0, spread: float = 1.0
) -> None:
    """From one random state: outputs, gradients of inputs and parameters, and buffers afterwards are torch's.

    spread: the deviation of the parameters. In a deep module large ones make a rounding error a large one.
    """
    rng = np.random.default_rng(2)
    dtype = next(a.dtype for a in arrays if a.dtype.kind == "f") if _any_float(arrays) else np.dtype(np.float32)
    theirs = theirs.to(getattr(torch, dtype.name))
    randomize(theirs, rng, spread)
    ours.to(dtype)
    load_from_torch(ours, theirs)
    assert ours.training == theirs.training

    runs = []
    for wide in (True, False):
        model = copy.deepcopy(theirs).double() if wide else copy.deepcopy(theirs)
        inputs = [torch.from_numpy(a.astype(np.float64) if wide and a.dtype.kind == "f" else a.copy()) for a in arrays]
        inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
        y = model(*inputs)
        dy = torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape).astype(dtype)).to(y.dtype)
        y.backward(dy)
        runs.append((y, dy, inputs, model))
    (want, _, want_inputs, want_model), (baseline, dy, inputs, model) = runs

    tensors = [tensor(a) for a in arrays]
    with untouched(*arrays):
        y = ours(*tensors)
        assert_close(y.detach().numpy(), _numpy(want), _numpy(baseline), scale=scale)
        y.backward(Tensor(dy.numpy()))
    for x, a, b in zip(tensors, want_inputs, inputs, strict=True):
        if x.requires_grad:
            assert_close(x.grad.numpy(), _numpy(a.grad), _numpy(b.grad), scale=scale)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in ours.named_parameters()] == names
    for name in names:
        p, a, b = ours.get_parameter(name), want_model.get_parameter(name), model.get_parameter(name)
        assert_close(p.grad.numpy(), _numpy(a.grad), _numpy(b.grad), scale=scale)
    for name, b in model.named_buffers():
        if b.is_floating_point():
            assert_close(ours.get_buffer(name).numpy(), _numpy(want_model.get_buffer(name)), _numpy(b))
        else:
            assert_same(ours.get_buffer(name).numpy(), _numpy(b))


def _any_float(arrays) -> bool:
    return any(a.dtype.kind == "f" for a in arrays)


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy()
