"""Cross-entropy and its gradient against torch.nn.functional.cross_entropy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ml_dtypes import bfloat16

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tests.layouts import LAYOUTS, untouched

IGNORE = -100


def wide(dtype):
    """What the loss, m, s and total are kept in."""
    return np.float64 if dtype == np.float64 else np.float32


def check(backend, z, t, weight=None, dloss=None, **options):
    """Loss, saved values and gradient against torch, and that no input was written to."""
    reduction = options.get("reduction", "mean")

    def cross_entropy(z):
        w = None if weight is None else oracle.to_tensor(weight).to(z.dtype)
        return F.cross_entropy(z, torch.from_numpy(np.array(t, np.int64)), w, **options)

    z_wide = z.astype(wide(z.dtype))
    with untouched(z, t, weight):
        loss, m, s, total = backend.softmax_xent(z, t, weight, **options)
    assert_close(loss, *oracle.value(cross_entropy, z_wide))

    kept = t != options.get("ignore_index", IGNORE)
    assert_same(m, z.max(1, initial=-np.inf).astype(wide(z.dtype)))
    p = np.exp((z.astype(np.float64) - m[:, None]) - s[:, None].astype(np.float64))
    assert_close(p.sum(1).astype(z.dtype), np.ones(len(t)), np.ones(len(t), z.dtype))
    counted = np.ones(z.shape[1]) if weight is None else weight.astype(np.float64)
    denominator = np.array(counted[t[kept]].sum() if reduction == "mean" else 1.0)
    assert_close(total, denominator, denominator.astype(wide(z.dtype)))

    if dloss is None:
        dloss = np.full(loss.shape, 0.75, loss.dtype)
    with untouched(dloss, z, t, m, s, total, weight):
        dz = backend.softmax_xent_grad(dloss, z, t, m, s, total, weight, **options)
    ((want, baseline),) = oracle.gradients(cross_entropy, dloss, z_wide)
    assert_close(dz, want, baseline.astype(z.dtype))
    return loss, dz


def widest(backend):
    """float64, where the backend has it."""
    return np.float32 if isinstance(backend, OnDevice) else np.float64


def sample(rng, rows, classes, dtype):
    z = (3 * rng.standard_normal((rows, classes))).astype(dtype)
    return z, rng.integers(0, classes, rows)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),  # degenerate: the loss is 0
        (1, 2),
        (5, 10),  # ragged
        (0, 10),  # no row: the mean is NaN, the sum 0
        (33, 257),  # one past a tile
        (3, 257),  # and few enough for a simulator
        (128, 128),  # exact
        (3, 4096),  # wide
    ],
    ids=str,
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_values_and_gradients(backend, shape, reduction, dtype, rng):
    z, t = sample(rng, *shape, dtype)
    loss, _ = check(backend, z, t, reduction=reduction)
    assert loss.shape == (shape[:1] if reduction == "none" else ())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignored", [0, 4, 13], ids=["none ignored", "some ignored", "all ignored"])
def test_every_combination_of_options(backend, reduction, smoothing, weighted, ignored, dtype, rng):
    z, t = sample(rng, 13, 7, dtype)
    t[:ignored] = IGNORE
    weight = (rng.random(7) + 0.5).astype(dtype) if weighted else None
    dloss = rng.standard_normal(13).astype(wide(dtype)) if reduction == "none" else None
    check(backend, z, t, weight, dloss, label_smoothing=smoothing, reduction=reduction)


@pytest.mark.parametrize("shape", [(33, 257), (3, 257)], ids=str)
def test_float16_is_computed_in_float32(backend, shape, rng):
    """The loss is float32, the gradient is rounded once."""
    z, t = sample(rng, *shape, np.float16)
    weight = (rng.random(257) + 0.5).astype(np.float16)
    results = []
    for kind in (np.float16, np.float32):
        floats = z.astype(kind), t, weight.astype(kind)
        loss, *saved = backend.softmax_xent(*floats, label_smoothing=0.1)
        dz = backend.softmax_xent_grad(np.ones((), np.float32), *floats[:2], *saved, floats[2], 0.1)
        results.append((loss, dz))
    (loss, dz), (want_loss, want_dz) = results
    assert_same(loss, want_loss)
    assert_same(dz, want_dz.astype(np.float16))


@pytest.mark.parametrize("shape", [(2, 262144)], ids=str)
def test_a_vocabulary_of_256k(backend, shape, rng):
    z, t = sample(rng, *shape, np.float32)
    check(backend, z, t, label_smoothing=0.1)


@pytest.mark.parametrize("shape", [(2, 5000), (2, 300)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_row_that_begins_with_masked_logits(backend, smoothing, shape, rng):
    """Nothing finite is seen for a whole block; with smoothing the loss is infinite, as in torch."""
    z, t = sample(rng, *shape, np.float32)
    weight = (rng.random(shape[1]) + 0.5).astype(np.float32)
    check(backend, z, t, weight, label_smoothing=smoothing)
    z[0, : shape[1] * 9 // 10], t[0] = -np.inf, shape[1] - 1
    options = {"label_smoothing": smoothing, "reduction": "none"}
    loss, m, *_ = backend.softmax_xent(z, t, weight, **options)
    w = torch.from_numpy(weight)
    assert_close(loss, *oracle.value(lambda z: F.cross_entropy(z, torch.from_numpy(t), w.to(z.dtype), **options), z))
    assert_same(m, z.max(1))


@pytest.mark.parametrize("shape", [(16400, 3), (100, 3)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_many_rows(backend, reduction, shape, rng):
    """More than one program of a GPU, or block of a simulated one, adds."""
    z, t = sample(rng, *shape, np.float32)
    t[::7] = IGNORE
    check(backend, z, t, (rng.random(3) + 0.5).astype(np.float32), reduction=reduction)


@pytest.mark.parametrize("ignore_index", [3, -1, 255])
def test_any_index_can_be_ignored(backend, ignore_index, dtype, rng):
    z, t = sample(rng, 20, 7, dtype)
    t[::3] = ignore_index
    check(backend, z, t, ignore_index=ignore_index)


def test_labels_of_32_bits(backend, dtype, rng):
    z, t = sample(rng, 20, 7, dtype)
    got, want = (backend.softmax_xent(z, labels)[0] for labels in (t.astype(np.int32), t))
    assert_same(got, want)
    check(backend, z, t.astype(np.int32))


def test_layouts(backend, layout, dtype, rng):
    z, t = sample(rng, 20, 7, dtype)
    weight = layout((rng.random(7) + 0.5).astype(dtype))
    dloss = layout(rng.standard_normal(20).astype(wide(dtype)))
    z, t = layout(z), layout(t)
    _, dz = check(backend, z, t, weight, dloss, label_smoothing=0.1, reduction="none")
    assert_same(np.argsort(np.abs(dz.strides)), np.argsort(np.abs(z.strides)))


def test_saved_arrays_may_be_strided(backend, rng):
    z, t = sample(rng, 20, 7, np.float32)
    _, m, s, total = backend.softmax_xent(z, t)
    dloss = np.array(1, np.float32)
    want = backend.softmax_xent_grad(dloss, z, t, m, s, total)
    for layout in LAYOUTS.values():
        got = backend.softmax_xent_grad(dloss, z, layout(t), layout(m), layout(s), np.asarray(layout(total)))
        assert_same(got, want)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_incoming_gradient_of_stride_0(backend, reduction, dtype, rng):
    z, t = sample(rng, 20, 7, dtype)
    one = np.full(1, -1.5, wide(dtype))
    dloss = np.broadcast_to(one, 20) if reduction == "none" else np.broadcast_to(one, 1)[0:1].reshape(())
    check(backend, z, t, dloss=dloss, reduction=reduction)


# --- extremes


@pytest.mark.parametrize(
    "row",
    [
        [1e4, 1e4 - 8, -1e4],
        [-1e4, -1e4 - 8, -1e4 - 16],
        [65504, 65504, 0],  # the largest float16
        [0, -65504, 65504],
        [-np.inf, 0, 1],  # a masked logit at the label: the loss is infinite
        [1, -np.inf, 3],  # and elsewhere: it is not
        [-np.inf, -np.inf, -np.inf],
        [np.inf, 0, 1],
        [np.nan, 0, 1],
    ],
    ids=str,
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits(backend, row, smoothing, dtype):
    """The label is class 0; a well-behaved row beside it must not notice."""
    z, t = np.array([row, [1, 2, 3]], dtype), np.array([0, 2])
    options = {"label_smoothing": smoothing, "reduction": "none"}

    def cross_entropy(z):
        return F.cross_entropy(z, torch.from_numpy(t), **options)

    loss, m, s, total = backend.softmax_xent(z, t, **options)
    want, baseline = oracle.value(cross_entropy, z.astype(wide(dtype)))
    assert_same(m, z.astype(wide(dtype)).max(1))
    for i in range(2):  # one at a time, so that a loss of 1e4 does not hide one of 1
        assert_close(loss[i], want[i], baseline[i])
    dloss = np.ones(2, loss.dtype)
    ((want, baseline),) = oracle.gradients(cross_entropy, dloss, z.astype(wide(dtype)))
    dz = backend.softmax_xent_grad(dloss, z, t, m, s, total, **options)
    assert_close(dz, want, baseline.astype(dtype))


def test_a_small_loss_beside_large_logits_keeps_its_digits(backend):
    """(m + s) - z_t would round s to the spacing of 1e4, 1e-3 in float32, and the loss here is 1.4e-4."""
    z, t = np.array([[1e4, 1e4 - 9, 1e4 - 11]], np.float32), np.array([0])
    loss, m, s, total = backend.softmax_xent(z, t)
    want, _ = oracle.value(lambda z: F.cross_entropy(z, torch.from_numpy(t)), z)
    assert_close(loss, want, want.astype(np.float32), scale=1.0)  # 1 + exp(-9) is rounded before its log
    dz = backend.softmax_xent_grad(np.array(1, np.float32), z, t, m, s, total)
    one = np.ones((), np.float32)
    ((want, baseline),) = oracle.gradients(lambda z: F.cross_entropy(z, torch.from_numpy(t)), one, z)
    assert_close(dz, want, baseline, scale=1.0)  # p is rounded beside 1 before 1 is subtracted from it


def test_ignored_rows_get_no_gradient_even_of_an_empty_mean(backend, dtype, rng):
    z, t = sample(rng, 5, 7, dtype)
    t[:] = IGNORE
    loss, m, s, total = backend.softmax_xent(z, t)
    assert np.isnan(loss)
    dz = backend.softmax_xent_grad(np.ones((), loss.dtype), z, t, m, s, total)
    assert_same(dz, np.zeros_like(z))


# --- invariances


def test_a_shift_of_every_logit_changes_nothing(backend, dtype, rng):
    """Exactly, where the shift itself is exact."""
    z, t = rng.integers(-8, 8, (20, 7)).astype(dtype), rng.integers(0, 7, 20)
    loss, _, s, _ = backend.softmax_xent(z, t)
    shift = dtype(128 if dtype == bfloat16 else 512)
    shifted, _, s_shifted, _ = backend.softmax_xent(z + shift, t)
    assert_same(shifted, loss)
    assert_same(s_shifted, s)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_rows_sum_to_0_without_weights(backend, smoothing, rng):
    kind = widest(backend)
    z, t = sample(rng, 20, 50, kind)
    loss, m, s, total = backend.softmax_xent(z, t, label_smoothing=smoothing)
    dz = backend.softmax_xent_grad(np.ones((), kind), z, t, m, s, total, label_smoothing=smoothing)
    assert_close(dz.sum(1), np.zeros(20), np.zeros(20, kind), scale=1 / 20)


def test_the_order_of_the_classes_does_not_matter(backend, rng):
    kind = widest(backend)
    z, t = sample(rng, 20, 7, kind)
    weight, order = (rng.random(7) + 0.5).astype(kind), rng.permutation(7)
    one = np.ones((), kind)
    renamed = np.argsort(order)[t]
    options = {"label_smoothing": 0.1}
    loss, *saved = backend.softmax_xent(z, t, weight, **options)
    other, *other_saved = backend.softmax_xent(z[:, order], renamed, weight[order], **options)
    assert_close(other, loss.astype(np.float64), loss)
    dz = backend.softmax_xent_grad(one, z, t, *saved, weight, **options)
    other_dz = backend.softmax_xent_grad(one, z[:, order], renamed, *other_saved, weight[order], **options)
    assert_close(other_dz, dz[:, order].astype(np.float64), dz[:, order])


def test_a_uniform_row_has_loss_log_c(backend, dtype):
    loss, *_ = backend.softmax_xent(np.zeros((4, 10), dtype), np.arange(4))
    want = np.array(np.log(10.0))
    assert_close(loss, want, want.astype(wide(dtype)))


# --- errors


@pytest.mark.parametrize("label, name", [(7, "7"), (-1, "-1"), (-101, "-101")])
def test_a_label_out_of_range_is_named_with_its_row(backend, label, name, rng):
    z, t = sample(rng, 20, 7, np.float32)
    t[0], t[5], t[9] = IGNORE, label, label
    message = rf"t\[5\] is {name}; expected 0 <= t < 7, or ignore_index -100$"
    with pytest.raises(ValueError, match="^softmax_xent: " + message):
        backend.softmax_xent(z, t)
    m = s = np.zeros(20, np.float32)
    one = np.ones((), np.float32)
    with pytest.raises(ValueError, match="^softmax_xent_grad: " + message):
        backend.softmax_xent_grad(one, z, t, m, s, one)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"z": np.zeros((20, 7), int)}, TypeError, "z is int64; expected float16, bfloat16, float32 or float64"),
        ({"z": np.zeros((20, 7, 2))}, ValueError, r"z is \(20, 7, 2\); expected \(N, C\) with C >= 1"),
        ({"z": np.zeros((20, 0))}, ValueError, r"z is \(20, 0\); expected \(N, C\) with C >= 1"),
        ({"t": np.zeros(20)}, TypeError, "t is float64; expected an int32 or int64 array"),
        ({"t": np.zeros(20, np.uint8)}, TypeError, "t is uint8; expected an int32 or int64 array"),
        ({"t": [0] * 20}, TypeError, "t is a list; expected an int32 or int64 array"),
        (
            {"t": np.zeros((20, 1), int)},
            ValueError,
            r"z is \(20, 7\) but t is \(20, 1\); expected t of shape \(20,\)",
        ),
        (
            {"t": np.zeros(1, int)},
            ValueError,
            r"z is \(20, 7\) but t is \(1,\); expected t of shape \(20,\)",
        ),
        ({"weight": np.ones(6)}, ValueError, r"weight is \(6,\); expected \(7,\)"),
        ({"weight": np.ones(7, np.float32)}, TypeError, "z is float64, weight is float32; expected one dtype"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5; expected 0 to 1"),
        ({"label_smoothing": np.nan}, ValueError, "label_smoothing is nan; expected 0 to 1"),
        ({"label_smoothing": "a"}, TypeError, "label_smoothing is 'a'; expected a real number"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index is 1.5; expected an int"),
        ({"reduction": "avg"}, ValueError, "reduction is 'avg'; expected one of 'mean', 'sum', 'none'"),
    ],
)
def test_wrong_arguments(backend, change, error, message):
    arguments = {"z": np.zeros((20, 7)), "t": np.zeros(20, int), **change}
    with pytest.raises(error, match="^softmax_xent: " + message):
        backend.softmax_xent(**arguments)
    saved = {"m": np.zeros(20), "s": np.zeros(20), "total": np.ones(()), "dloss": np.ones(())}
    with pytest.raises(error, match="^softmax_xent_grad: " + message):
        backend.softmax_xent_grad(**arguments, **saved)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"dloss": np.ones(20)}, ValueError, r"dloss is \(20,\); expected \(\) for z \(20, 7\), 'mean'"),
        ({"reduction": "none"}, ValueError, r"dloss is \(\); expected \(20,\) for z \(20, 7\), 'none'"),
        ({"m": np.zeros(19)}, ValueError, r"m is \(19,\); expected \(20,\) for z \(20, 7\), 'mean'"),
        ({"s": np.zeros((20, 1))}, ValueError, r"s is \(20, 1\); expected \(20,\) for z \(20, 7\), 'mean'"),
        ({"total": np.ones(1)}, ValueError, r"total is \(1,\); expected \(\) for z \(20, 7\), 'mean'"),
        (
            {"s": np.zeros(20, np.float32)},
            TypeError,
            "dloss is float64, m is float64, s is float32, total is float64; expected one dtype for all",
        ),
        (
            {"z": np.zeros((20, 7), np.float16)},
            TypeError,
            "dloss, m, s and total are float64 but z is float16; expected float32",
        ),
    ],
)
def test_wrong_saved_arguments(backend, change, error, message):
    arguments = {"z": np.zeros((20, 7)), "t": np.zeros(20, int), "dloss": np.ones(()), "m": np.zeros(20)}
    arguments |= {"s": np.zeros(20), "total": np.ones(()), **change}
    with pytest.raises(error, match=f"^softmax_xent_grad: {message}$"):
        backend.softmax_xent_grad(**arguments)
