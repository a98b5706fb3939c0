"""One sample on both sides: do results, dtypes, shapes and gradients agree?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import tilegrad as tg
from tests.conformity.opinfos import our_function, our_inplace_form
from tests.conformity.samples import Sample
from tests.conformity.translate import NotTaken, call_arguments
from tests.oracle import to_array, to_tensor
from tilegrad import Tensor

# Their values are random, or whatever lay in memory: shapes and dtypes alone are compared.
RANDOM = set(
    "rand randn randint rand_like randn_like empty empty_like nn.functional.dropout nn.functional.dropout2d".split()
)

# Which of equal elements they name is free, unless stable=True is asked for.
ORDERS = {"sort", "argsort", "topk"}

# Errors that a user can read. Any other, such as an AttributeError, came from somewhere within.
CLEAR = (ValueError, TypeError, IndexError, RuntimeError)


@dataclass
class Verdict:
    """kind: "agrees", "not taken", or in what they differ."""

    kind: str
    why: str = ""


class Difference(Exception):
    """Ours and torch's differ in `kind`."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind, self.why = kind, why


def judge(sample: Sample) -> Verdict:
    """Run both sides and compare."""
    try:
        args, kwargs, leaves = call_arguments(sample.info.name, sample.args, sample.kwargs)
    except NotTaken as reason:
        return Verdict("not taken", str(reason))
    try:
        _compare(sample, args, kwargs, leaves)
    except Difference as d:
        return Verdict(d.kind, d.why)
    return Verdict("agrees")


def _compare(sample: Sample, args: tuple, kwargs: dict, leaves: list[Tensor]) -> None:
    want = None
    if not sample.raises:
        try:
            want = _flat(_run_torch(sample, sample.args, sample.kwargs))
        except RuntimeError:  # of an in-place form, whose result the tensor cannot hold
            if not sample.inplace:
                raise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = _flat(_run_ours(sample, args, kwargs))
    except CLEAR as error:
        if want is None:
            return
        raise Difference("raises", f"{type(error).__name__}: {error}") from error
    except (Warning, Exception) as error:
        raise Difference("crashes", f"{type(error).__name__}: {error}") from error
    if want is None:
        raise Difference("accepts", f"{_flat(got)}")
    if len(got) != len(want):
        raise Difference("count", f"{len(got)} results; torch has {len(want)}")
    for y, t in zip(got, want):
        _alike(sample, y, t)
    if sample.info.name in RANDOM or sample.kwargs.get("dropout_p"):
        return
    if sample.info.name in ORDERS and _other_order(sample, got[-1], want[-1]):
        got, want = got[:-1], want[:-1]  # values alone: the gradients of equal elements are exchanged
        leaves = []
    for i, (y, t) in enumerate(zip(got, want)):
        if not isinstance(t, torch.Tensor):
            if y != t and not (y != y and t != t):
                raise Difference("value", f"{y}; torch has {t}")
        elif not _close(y.data, t) and not _as_good(y.data, t, _wide_run(sample)[0], i):
            raise Difference("value", _shown(y.data, t))
    for x, t in zip(_tensors((args, kwargs), Tensor), _tensors((sample.args, sample.kwargs), torch.Tensor)):
        if not _close(x.data, t, last_bits=2):
            raise Difference("arguments", _shown(x.data, t))
    if leaves:
        _compare_gradients(sample, got, want, leaves)


def _tensors(x: Any, kind: type) -> list[Any]:
    """The tensors among arguments, in order."""
    if isinstance(x, dict):
        x = list(x.values())
    return (
        [t for part in x for t in _tensors(part, kind)] if isinstance(x, (tuple, list)) else [x] * isinstance(x, kind)
    )


def _other_order(sample: Sample, y: Tensor, t: torch.Tensor) -> bool:
    """Whether y names other elements than t, which are equal to those."""
    x, dim = sample.args[0].detach(), sample.kwargs.get("dim", -1)
    if sample.kwargs.get("stable") or np.array_equal(y.data, t.numpy()):
        return False
    if sample.info.name == "topk" and len(sample.args) > 2:
        dim = sample.args[2]
    ours = to_tensor(y.data)
    in_range = ours.numel() == 0 or (ours.min() >= 0 and ours.max() < x.shape[dim])
    return in_range and torch.equal(x.gather(dim, ours).double().nan_to_num(), x.gather(dim, t).double().nan_to_num())


def _run_torch(sample: Sample, args: tuple, kwargs: dict) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sample.inplace:
            first, *rest = args
            return sample.info.inplace_variant(first.clone(), *rest, **kwargs)
        return sample.info.op(*args, **kwargs)


def _run_ours(sample: Sample, args: tuple, kwargs: dict) -> Any:
    if sample.inplace:
        first, *rest = args
        return our_inplace_form(sample.info)(first.clone(), *rest, **kwargs)
    return our_function(sample.info.name)(*args, **kwargs)


def _flat(x: Any) -> list[Any]:
    return [y for part in x for y in _flat(part)] if isinstance(x, (tuple, list)) else [x]


def _alike(sample: Sample, y: Any, t: Any) -> None:
    """Shape, dtype, whether it has a gradient."""
    if not isinstance(t, torch.Tensor):
        if type(y) is not type(t):
            raise Difference("kind", f"{type(y).__name__}; torch has {type(t).__name__}")
        return
    if not isinstance(y, Tensor):
        raise Difference("kind", f"{type(y).__name__}; torch has a tensor")
    if y.shape != tuple(t.shape):
        raise Difference("shape", f"{y.shape}; torch has {tuple(t.shape)}")
    if y.dtype.name != str(t.dtype).removeprefix("torch."):
        raise Difference("dtype", f"{y.dtype.name}; torch has {t.dtype}")
    if y.requires_grad != t.requires_grad:
        raise Difference("requires_grad", f"{y.requires_grad}; torch has {t.requires_grad}")


def _compare_gradients(sample: Sample, got: list, want: list, leaves: list[Tensor]) -> None:
    theirs = _leaves((sample.args, sample.kwargs))
    pairs = [(y, t) for y, t in zip(got, want) if isinstance(t, torch.Tensor) and t.requires_grad]
    if not pairs:
        return
    seeds = _seeds([t for _, t in pairs])
    try:
        expected = torch.autograd.grad([t for _, t in pairs], theirs, seeds, allow_unused=True)
    except RuntimeError:  # of reference inputs: torch's own gradient fails, as clamp's does where x broadcasts
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            seeds = [Tensor(to_array(s)) for s in seeds]
            found = tg.grad([y for y, _ in pairs], leaves, seeds, allow_unused=True)
    except (Warning, Exception) as error:
        raise Difference("gradient", f"{type(error).__name__}: {error}") from error
    for i, (g, e) in enumerate(zip(found, expected, strict=True)):
        g = np.zeros(e.shape, np.float64) if g is None and e is not None else None if g is None else g.data
        if e is None:
            if g is not None and g.any():
                raise Difference("gradient", f"{g}; torch has none")
            continue
        if g.dtype.name != str(e.dtype).removeprefix("torch.") and e.any():
            raise Difference("gradient", f"{g.dtype}; torch has {e.dtype}")
        if not _close(g, e) and not _as_good(g, e, _wide_run(sample)[1], i):
            raise Difference("gradient", _shown(g, e))


def _leaves(arguments: Any) -> list[torch.Tensor]:
    return [x for x in _tensors(arguments, torch.Tensor) if x.requires_grad]


def _seeds(results: list[torch.Tensor]) -> list[torch.Tensor]:
    rng = np.random.default_rng(1)
    return [torch.from_numpy(np.asarray(rng.uniform(0.5, 1.5, tuple(t.shape)))).to(t.dtype) for t in results]


def _close(got: np.ndarray, want: torch.Tensor, last_bits: int = 0) -> bool:
    """Equal, but for a last few bits of float64 and float32, and for last_bits of 16-bit floats."""
    if not want.is_floating_point():
        return np.array_equal(got, to_array(want.detach()))
    rtol, atol = {torch.float64: (1e-10, 1e-12), torch.float32: (1.3e-6, 1e-5)}.get(
        want.dtype, (last_bits * torch.finfo(want.dtype).eps, 0)
    )
    return torch.allclose(
        to_tensor(np.asarray(got)).double(), want.detach().double(), rtol=rtol, atol=atol, equal_nan=True
    )


def _wide_run(sample: Sample) -> tuple[list, list]:
    """torch's results and gradients in float64, of the same inputs: what rounding is measured against."""

    def wide(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return x.detach().double().requires_grad_(x.requires_grad)
        if isinstance(x, dict):
            return {k: wide(v) for k, v in x.items()}
        if isinstance(x, torch.dtype) and x.is_floating_point:
            return torch.float64
        return type(x)(wide(i) for i in x) if type(x) in (tuple, list) else x

    args, kwargs = wide(sample.args), wide(sample.kwargs)
    results = _flat(_run_torch(sample, args, kwargs))
    linked = [t for t in results if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves = _leaves((args, kwargs))
    return results, list(torch.autograd.grad(linked, leaves, _seeds(linked), allow_unused=True)) if linked else []


def _as_good(got: np.ndarray, theirs: torch.Tensor, wide: list, i: int) -> bool:
    """Whether ours is no further from the float64 result than twice torch's distance, and two last bits."""
    if not theirs.is_floating_point() or theirs.dtype == torch.float64 or i >= len(wide) or wide[i] is None:
        return False
    kind, theirs = torch.finfo(theirs.dtype), theirs.detach().double()
    want, ours = wide[i].detach().double(), to_tensor(np.asarray(got)).double()
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if not torch.equal(ours.isnan() & ~same, want.isnan() & ~same):
        return False
    lost = (theirs - want)[theirs.isfinite() & want.isfinite()].abs()
    want, ours = (x.clamp(-kind.max, kind.max) for x in (want, ours))  # what rounds to infinity is as large as can be
    budget = 2 * (lost.max() if lost.numel() else 0) + 2 * kind.eps * want.abs() + kind.smallest_normal
    return bool((same | want.isnan() | ((ours - want).abs() <= budget)).all())


def _shown(got: np.ndarray, want: torch.Tensor) -> str:
    want = to_array(want.detach())
    if got.dtype.kind not in "fV":
        bad = got != want
    else:
        bad = ~np.isclose(got.astype(float), want.astype(float), rtol=1e-5, atol=1e-7, equal_nan=True)
        bad = bad if bad.any() else got != want
    where = tuple(int(k[0]) for k in np.nonzero(bad)) if got.ndim else ()
    return f"{np.asarray(got)[where]} at {where}; torch has {np.asarray(want)[where]} ({int(bad.sum())} of {bad.size})"
