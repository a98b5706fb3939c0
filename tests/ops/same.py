"""The same op in both libraries: results and gradients, in every memory layout, by the comparer's law.

    assert_same_op(lambda x: x.sum(1), lambda x: x.sum(1), x)        # or, one lambda for both:
    assert_same_op(lambda x: x.sum(1), None, x)

Floating inputs are run as float64, where a few ulp are allowed, and as float32, where torch's own rounding tells how
much; integers and bools must be equal. Every floating input is a leaf. The incoming gradients are random, and once
of stride 0, as the gradient of a sum is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.layouts import LAYOUTS, untouched
from tilegrad import Tensor

FLOATS = (np.float64, np.float32)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float64."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def assert_same_op(
    ours: Callable[..., Any],
    theirs: Callable[..., Any] | None,
    *arrays: np.ndarray,
    layouts: Sequence[str] = tuple(LAYOUTS),
    gradients: bool = True,
    scale: float = 0.0,
) -> None:
    """ours(*tensors) is theirs(*tensors) (None: the same callable), and so are the gradients of all floating inputs.

    scale: as assert_close has it, for results in which larger terms cancel.
    """
    __tracebackhide__ = True
    theirs = theirs or ours
    for dtype in FLOATS if any(a.dtype.kind == "f" for a in arrays) else FLOATS[:1]:
        given = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
        wide, narrow = (_torch_run(theirs, given, kind, gradients) for kind in (np.float64, dtype))
        for name in layouts:
            laid = [_laid(name, a) for a in given]
            with untouched(*laid):
                _assert_run(ours, laid, wide, narrow, gradients, scale)


def _laid(name: str, x: np.ndarray) -> np.ndarray:
    """x in that layout; bools by their bytes, as they have no value to poison a frame with."""
    if x.dtype == bool:
        return np.asarray(LAYOUTS[name](x.view(np.uint8))).view(bool)
    return np.asarray(LAYOUTS[name](x))


def outputs_of(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _seeds(outputs: Sequence[Any], stretched: bool) -> list[np.ndarray]:
    """One incoming gradient an output: float64, to be rounded to its dtype."""
    rng = np.random.default_rng(1)
    seeds = []
    for y in outputs:
        dy = np.asarray(rng.standard_normal(tuple(y.shape)), np.float32).astype(np.float64)
        seeds.append(np.broadcast_to(np.float64(dy.ravel()[0]), dy.shape) if stretched and dy.size else dy)
    return seeds


def _torch_run(function: Callable, arrays: Sequence[np.ndarray], dtype: Any, gradients: bool) -> Any:
    tensors = [torch.from_numpy(np.array(a, dtype if a.dtype.kind == "f" else None, order="C")) for a in arrays]
    leaves = [x.requires_grad_() for x in tensors if x.is_floating_point()]
    outputs = outputs_of(function(*tensors))
    found = []
    if gradients and leaves:
        linked = [y for y in outputs if y.requires_grad]
        for stretched in (False, True):
            seeds = [torch.from_numpy(np.array(s)).to(y.dtype) for s, y in zip(_seeds(linked, stretched), linked)]
            found.append(torch.autograd.grad(linked, leaves, seeds, retain_graph=True, allow_unused=True))
    return [y.detach().numpy() for y in outputs], found


def _assert_run(ours, arrays, wide, narrow, gradients, scale) -> None:
    __tracebackhide__ = True
    tensors = [Tensor(a, requires_grad=gradients and a.dtype.kind == "f") for a in arrays]
    leaves = [x for x in tensors if x.requires_grad]
    outputs = outputs_of(ours(*tensors))
    assert len(outputs) == len(wide[0])
    for y, want, baseline in zip(outputs, wide[0], narrow[0]):
        assert isinstance(y, Tensor)
        if y.dtype.kind == "f":
            assert_close(y.detach().numpy(), want.astype(np.float64), baseline, scale=scale)
        else:
            assert_same(y.numpy(), baseline)
    linked = [y for y in outputs if y.requires_grad]
    for stretched, wants, baselines in zip((False, True), wide[1], narrow[1]):
        seeds = [Tensor(_rounded(s, y.dtype)) for s, y in zip(_seeds(linked, stretched), linked)]
        with untouched(*(s.data for s in seeds)):
            grads = tg.grad(linked, leaves, seeds, retain_graph=True, allow_unused=True)
        for g, want, baseline in zip(grads, wants, baselines, strict=True):
            assert (g is None) == (want is None), "one library says that the input was not used"
            if g is not None:
                assert_close(g.numpy(), want.numpy(), baseline.numpy(), scale=scale)


def _rounded(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """x in another dtype, with its strides of 0."""
    if x.size and not any(x.strides):
        return np.broadcast_to(x.ravel()[:1].astype(dtype).reshape(()), x.shape)
    return x.astype(dtype)
