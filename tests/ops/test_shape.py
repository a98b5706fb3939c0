"""Ops that move elements, against torch: values, gradients, and whose memory the result is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tests.ops.same import assert_same_op, outputs_of, random
from tilegrad.nn import functional as F

VIEWS = {
    # name: (op, shape)
    "reshape": (lambda x: x.reshape(10, 5), (5, 10)),
    "reshape with -1": (lambda x: x.reshape(2, -1), (5, 10)),
    "reshape from a tuple": (lambda x: x.reshape((25, 2)), (5, 10)),
    "reshape of nothing": (lambda x: x.reshape(5, 0, 2), (0, 10)),
    "reshape of a scalar": (lambda x: x.reshape(1, 1), ()),
    "reshape to a scalar": (lambda x: x.reshape(()), (1, 1)),
    "flatten": (lambda x: x.flatten(), (2, 3, 4)),
    "flatten from": (lambda x: x.flatten(1), (2, 3, 4)),
    "flatten between": (lambda x: x.flatten(-3, -2), (2, 3, 4)),
    "flatten a scalar": (lambda x: x.flatten(), ()),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), (5, 10)),
    "permute": (lambda x: x.permute(2, 0, 1), (2, 3, 4)),
    "permute negative": (lambda x: x.permute(-1, 0, -2), (2, 3, 4)),
    "permute from a tuple": (lambda x: x.permute((1, 2, 0)), (2, 3, 4)),
    "permute a scalar": (lambda x: x.permute(()), ()),
    "transpose": (lambda x: x.transpose(0, -1), (2, 3, 4)),
    "t": (lambda x: x.t(), (5, 10)),
    "t of a vector": (lambda x: x.t(), (5,)),
    "T": (lambda x: x.T, (5, 10)),
    "mT": (lambda x: x.mT, (2, 3, 4)),
    "movedim": (lambda x: x.movedim(0, -1), (2, 3, 4)),
    "movedim several": (lambda x: x.movedim((0, 1), (-1, 0)), (2, 3, 4)),
    "squeeze": (lambda x: x.squeeze(), (1, 5, 1)),
    "squeeze one": (lambda x: x.squeeze(-1), (1, 5, 1)),
    "squeeze not 1": (lambda x: x.squeeze(1), (1, 5, 1)),
    "squeeze several": (lambda x: x.squeeze((0, 1)), (1, 5, 1)),
    "squeeze none": (lambda x: x.squeeze(()), (1, 5, 1)),
    "unsqueeze": (lambda x: x.unsqueeze(0), (5, 10)),
    "unsqueeze at the end": (lambda x: x.unsqueeze(-1), (5, 10)),
    "unsqueeze a scalar": (lambda x: x.unsqueeze(0), ()),
    "expand": (lambda x: x.expand(3, 5, 10), (5, 1)),
    "expand with -1": (lambda x: x.expand(-1, 4), (5, 1)),
    "expand to nothing": (lambda x: x.expand(0, 5), (1, 5)),
    "expand a scalar": (lambda x: x.expand(2, 3), ()),
    "broadcast_to": (lambda x: x.broadcast_to((4, 5)), (5,)),
    "narrow": (lambda x: x.narrow(1, 2, 3), (5, 10)),
    "narrow to nothing": (lambda x: x.narrow(-1, 10, 0), (5, 10)),
    "select": (lambda x: x.select(1, -2), (5, 10)),
    "split": (lambda x: x.split(4, 1), (5, 10)),
    "split sizes": (lambda x: x.split([1, 0, 4]), (5, 10)),
    "split nothing": (lambda x: x.split(3), (0, 10)),
    "chunk": (lambda x: x.chunk(3, -1), (5, 10)),
    "chunk into more than there are": (lambda x: x.chunk(7), (5, 10)),
    "chunk nothing": (lambda x: x.chunk(3), (0, 10)),
    "unbind": (lambda x: x.unbind(1), (2, 3, 4)),
    "diagonal": (lambda x: x.diagonal(), (5, 10)),
    "diagonal above": (lambda x: x.diagonal(3), (5, 10)),
    "diagonal beyond": (lambda x: x.diagonal(-7), (5, 10)),
    "diagonal of others": (lambda x: x.diagonal(1, -1, 0), (2, 3, 4)),
}

COPIES = {
    "clone": (lambda x: x.clone(), (5, 10)),
    "contiguous": (lambda x: x.contiguous() * 1.0, (2, 3, 4)),
    "flip": (lambda x: x.flip(0), (5, 10)),
    "flip several": (lambda x: x.flip((0, -1)), (2, 3, 4)),
    "flip none": (lambda x: x.flip(()), (2, 3, 4)),
    "flip a scalar": (lambda x: x.flip(()), ()),
    "roll": (lambda x: x.roll(3, 1), (5, 10)),
    "roll the flattened": (lambda x: x.roll(-7), (5, 10)),
    "roll several": (lambda x: x.roll((1, -2), (0, -1)), (5, 10)),
    "roll nothing": (lambda x: x.roll(2, 0), (0, 10)),
    "repeat": (lambda x: x.repeat(2, 3), (5, 10)),
    "repeat in front": (lambda x: x.repeat(2, 1, 3), (5, 2)),
    "repeat no times": (lambda x: x.repeat(0, 1), (5, 10)),
    "repeat a scalar": (lambda x: x.repeat(3), ()),
    "repeat once": (lambda x: x.repeat(1, 1), (5, 10)),
    "tile": (lambda x: x.tile(2), (5, 10)),
    "tile in front": (lambda x: x.tile(2, 1, 2), (5, 2)),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, 1), (5, 2)),
    "repeat_interleave the flattened": (lambda x: x.repeat_interleave(2), (5, 2)),
    "repeat_interleave once": (lambda x: x.repeat_interleave(1, 0), (5, 2)),
    "tril": (lambda x: x.tril(), (5, 10)),
    "tril above": (lambda x: x.tril(2), (2, 3, 4)),
    "triu": (lambda x: x.triu(), (5, 10)),
    "triu below": (lambda x: x.triu(-1), (2, 4, 3)),
    "triu of nothing": (lambda x: x.triu(), (0, 3)),
    "trace": (lambda x: x.trace(), (5, 10)),
}


@pytest.mark.parametrize("name", [*VIEWS, *COPIES])
def test_op(name):
    op, shape = (VIEWS | COPIES)[name]
    assert_same_op(op, None, random(*shape))
    assert_same_op(op, None, np.arange(np.prod(shape, dtype=int)).reshape(shape), layouts=["contiguous"])


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (5, 2), (2, 4, 3)], ids=str)
def test_diagonals_of_every_offset(shape):
    for offset in range(-7, 8):
        assert_same_op(lambda x, k=offset: x.diagonal(k), None, random(*shape), layouts=["contiguous", "framed"])
        assert_same_op(lambda x, k=offset: x.diagonal(k, -1, 0), None, random(*shape), layouts=["contiguous"])


@pytest.mark.parametrize("several", [1, 2, 3, 4])
def test_movedim_of_any_dimensions_to_any_places(several):
    x = random(2, 3, 4, 5)
    for source in itertools.permutations(range(4), several):
        for destination in itertools.permutations(range(-4, 0), several):
            want = torch.from_numpy(x).movedim(source, destination).numpy()
            assert_same(tg.tensor(x).movedim(source, destination).numpy(), want)


@pytest.mark.parametrize("name", [n for n in VIEWS if n != "reshape of nothing"])
def test_a_view_shares_memory_and_writes_go_both_ways(name):
    op, shape = VIEWS[name]
    x = tg.tensor(random(*shape))
    for i, y in enumerate(outputs_of(op(x))):
        if y.numel() == 0:
            continue
        assert np.shares_memory(y.data, x.data)
        if 0 not in y.data.strides:  # what is expanded is read-only
            before = x._version
            y += 1.0
            assert y._version == x._version == before + 1
            assert_same(outputs_of(op(x))[i].numpy(), y.numpy())  # taken anew, it shows what was written


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_does_not_share_memory(name):
    op, shape = COPIES[name]
    x = tg.tensor(random(*shape))
    assert not np.shares_memory(op(x).data, x.data)


def test_reshape_copies_only_where_it_must():
    x = tg.tensor(random(2, 3, 4))
    assert np.shares_memory(x.reshape(6, 4).data, x.data)
    assert not np.shares_memory(x.permute(2, 1, 0).reshape(4, 6).data, x.data)
    assert np.shares_memory(x.view(-1).data, x.data)
    with pytest.raises(RuntimeError, match=r"view: \(4, 3, 2\).*expected reshape"):
        x.permute(2, 1, 0).view(24)


def test_contiguous_is_the_tensor_itself_where_it_can_be():
    x = tg.tensor(random(2, 3))
    assert x.contiguous() is x and not x.T.is_contiguous() and x.T.contiguous().is_contiguous()


def test_the_clone_of_an_expanded_tensor_is_dense():
    assert tg.ones(1, 4).expand(3, 4).clone().is_contiguous()
    assert tg.ones(3, 4).T.clone().stride() == (1, 4)  # any other keeps its order


def test_size_and_stride():
    x = tg.tensor(random(2, 3, 4))
    y = x.transpose(0, 2)
    assert y.size() == (4, 3, 2) and y.size(-1) == 2 and y.stride() == (1, 4, 12) and y.stride(0) == 1
    assert x.dim() == x.ndim == 3 and x.numel() == 24 and x.nbytes == 24 * x.itemsize == 192


def test_expand_as_and_broadcast_tensors():
    a, b = random(5, 1), random(4)
    assert_same_op(lambda a, b: a.expand_as((a + b).detach()), None, a, b)
    assert_same_op(tg.broadcast_tensors, torch.broadcast_tensors, a, b)


@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_cat_and_stack(dim):
    a, b, c = random(5, 10), random(5, 10, seed=1), random(5, 10, seed=2)
    for name in ("cat", "stack", "concat", "concatenate"):
        ours, theirs = getattr(tg, name), getattr(torch, name)
        assert_same_op(lambda *x, f=ours: f(x, dim), lambda *x, f=theirs: f(x, dim), a, b, c)


def test_cat_of_different_sizes():
    parts = [random(5, n, seed=n) for n in (1, 0, 3)]
    assert_same_op(lambda *x: tg.cat(x, -1), lambda *x: torch.cat(x, -1), *parts)
    a = random(3)
    assert_same_op(lambda x: tg.cat([x, x, x]), lambda x: torch.cat([x, x, x]), a)  # one parent thrice
    assert_same_op(lambda x: tg.stack([x, x], 0), lambda x: torch.stack([x, x], 0), random())


PADDINGS = {
    "constant": [(1, 2), (1, 2, 3, 0), (-1, 2, 0, -2), (-2, -3), (0, 0), (0, 0, 0, 0, 2, 1), ()],
    "reflect": [(3, 4), (0, 2)],
    "replicate": [(1, 2), (5, 0), (-1, 2)],
    "circular": [(1, 2), (10, 10), (-2, 3)],
}


@pytest.mark.parametrize(("mode", "pad"), [(m, p) for m, ps in PADDINGS.items() for p in ps], ids=str)
def test_pad(mode, pad):
    x = random(4, 5, 10)
    more = {"value": 1.5} if mode == "constant" else {}
    assert_same_op(
        lambda x: tg.ops.pad(x, pad, mode, **more), lambda x: torch.nn.functional.pad(x, pad, mode, **more), x
    )


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_pad_of_two_dimensions(mode):
    assert_same_op(
        lambda x: tg.ops.pad(x, (1, 2, 3, 0), mode),
        lambda x: torch.nn.functional.pad(x, (1, 2, 3, 0), mode),
        random(2, 3, 4, 5),
    )


def test_pad_of_nothing():
    pad = (1, 2, 2, 0)
    assert_same_op(
        lambda x: tg.ops.pad(x, pad, value=2.0), lambda x: torch.nn.functional.pad(x, pad, value=2.0), random(0, 3)
    )


def test_detach_shares_memory_and_the_version_but_no_history():
    x = tg.tensor(random(3), requires_grad=True)
    y = (x * 2).detach()
    z = x.detach()
    assert not y.requires_grad and y.is_leaf and not z.requires_grad
    z += 1.0
    assert np.shares_memory(z.data, x.data) and x._version == z._version == 1


def test_sizes_and_dimensions_by_keyword():
    x = random(2, 3, 4)
    assert_same_op(lambda x: x.flip(dims=(0, 2)), None, x)
    assert_same_op(lambda x: x.permute(dims=(2, 0, 1)), None, x)
    assert_same_op(lambda x: x.tile(dims=(2, 1)), None, x)
    assert_same_op(lambda x: x.reshape(shape=(6, 4)), None, x)
    with pytest.raises(TypeError, match=r"flip: got \(0,\) and, by keyword, \(1,\); expected one of the two"):
        tg.tensor(x).flip(0, dims=(1,))


def test_cat_passes_over_what_has_shape_0():
    x, y, nothing = random(3, 2, 2), random(3, 4, 2), random(0)
    for dim in (0, 1, -1):
        for order in ((nothing, x), (x, nothing), (nothing, x, nothing, x)):
            assert_same_op(lambda *x, d=dim: tg.cat(x, d), lambda *x, d=dim: torch.cat(x, d), *order)
    assert_same_op(lambda *x: tg.cat(x, 1), lambda *x: torch.cat(x, 1), x, nothing, y)
    assert_same_op(lambda *x: tg.cat(x), lambda *x: torch.cat(x), nothing, nothing)
    long = tg.zeros(0, dtype="int64")
    assert tg.cat([long, tg.ones(2, dtype="uint8")]).dtype == tg.int64  # its dtype still counts
    with pytest.raises(ValueError, match=r"cat: tensor 0 is \(3, 2, 2\) but tensor 1 is \(0, 3\)"):
        tg.cat([tg.tensor(x), tg.zeros(0, 3)])


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (-5, 2), (-5, 5), (-1, 0), (5, 0)])
def test_narrow_counts_a_negative_start_from_the_end(start, length):
    assert_same_op(lambda x: x.narrow(1, start, length), None, random(2, 5, 3))


@pytest.mark.parametrize("start", [-6, -4])
def test_narrow_refuses_what_is_outside(start):
    with pytest.raises(IndexError, match=f"narrow: start is {start} and length 5"):
        tg.zeros(5).narrow(0, start, 5)


@pytest.mark.parametrize("pads", [(-4, 5), (5, -4), (6, -5), (-3, 3), (-1, 2), (3, -1), (2, -4)], ids=str)
@pytest.mark.parametrize("mode", ["replicate", "reflect"])
def test_padding_with_a_negative_side_sees_what_is_cut(mode, pads):
    if mode == "reflect" and max(pads) > 3:
        with pytest.raises(ValueError, match="expected no more than there is to reflect"):
            F.pad(tg.zeros(1, 1, 4), pads, mode)
        return
    theirs = torch.nn.functional.pad
    assert_same_op(lambda x: F.pad(x, pads, mode), lambda x: theirs(x, pads, mode), random(2, 3, 4))


@pytest.mark.parametrize("repeats", [[1, 0, 2], [3], 2, [0, 0, 0]], ids=str)
def test_repeat_interleave_by_a_tensor(repeats):
    n = np.asarray(repeats)
    total = int(np.broadcast_to(n, 3).sum())
    assert_same_op(lambda x, n: x.repeat_interleave(n, 1), None, random(2, 3, 4), n, layouts=["contiguous"])
    assert_same_op(lambda x, n: x.repeat_interleave(n, -1, output_size=total), None, random(2, 3), n)
    assert_same_op(lambda x, n: x.repeat_interleave(n), None, random(3), n)
