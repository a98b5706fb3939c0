"""Faults that a kernel notes on the device: what is raised for them, when, and that nothing else happens meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []
CLASSES = 7


@pytest.fixture(autouse=True)
def no_slots_yet(monkeypatch):
    monkeypatch.setattr(faults, "_blocks", {})
    monkeypatch.setattr(faults, "_slots", {})
    monkeypatch.setattr(faults, "_pending", False)


@pytest.fixture
def triton():
    return kernels.load("triton")


def batch(*labels):
    """(z, t) on the device, one row for each label."""
    xp = gpu.xp()
    z = np.random.default_rng(0).standard_normal((len(labels), CLASSES)).astype(np.float32)
    return xp.asarray(z), xp.asarray(np.array(labels))


def error(kind: str, row: int, value: int) -> ValueError:
    return ValueError(f"{kind}: {row} has {value}")


def note(slot, row, value):
    """What a kernel writes."""
    slot[...] = row << 32 | value + 2**31


def test_good_labels_raise_nothing(triton):
    triton.softmax_xent(*batch(0, 6, -100))
    faults.raise_pending()


def test_a_launch_does_not_wait_and_the_check_raises_once(triton):
    triton.softmax_xent(*batch(0, 9, 8))
    message = r"^softmax_xent: t\[1\] is 9; expected 0 <= t < 7, or ignore_index -100$"
    with pytest.raises(ValueError, match=message):
        faults.raise_pending()
    faults.raise_pending()
    triton.softmax_xent(*batch(0, 6, 1))
    faults.raise_pending()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_faulty_row_is_nan_and_the_others_are_not(triton, reduction):
    z, t = batch(0, 9, 2)
    loss, m, s, total = triton.softmax_xent(z, t, reduction=reduction)
    faulty = np.array([False, True, False])
    assert_same(np.isnan(loss.get()), faulty if reduction == "none" else np.array(True))
    dloss = gpu.xp().ones(loss.shape, np.float32)
    dz = triton.softmax_xent_grad(dloss, z, t, m, s, total, reduction=reduction).get()
    assert_same(np.isnan(dz), np.repeat(faulty[:, None], CLASSES, 1))


def test_of_several_launches_the_first_watched_is_raised_with_its_least_row(triton):
    z, t = batch(0, 1, 2, 30)
    _, m, s, total = triton.softmax_xent(z, t)
    triton.softmax_xent_grad(gpu.xp().ones((), np.float32), z, t, m, s, total)
    triton.softmax_xent(*batch(0, 20))
    triton.softmax_xent(*batch(0, 1, 10))
    with pytest.raises(ValueError, match=r"^softmax_xent: t\[1\] is 20;"):
        faults.raise_pending()
    faults.raise_pending()  # all were cleared


def test_the_facts_of_the_launch_are_told(triton):
    triton.softmax_xent(*batch(0, 1), ignore_index=3)
    triton.softmax_xent(*batch(0, -100), ignore_index=3)
    with pytest.raises(ValueError, match=r"t\[1\] is -100; expected 0 <= t < 7, or ignore_index 3$"):
        faults.raise_pending()


@pytest.mark.parametrize("label", [2**31, 2**40, -(2**31) - 1, -(2**63)])
def test_a_label_beyond_32_bits_is_told_as_the_nearest_of_them(triton, label):
    triton.softmax_xent(*batch(0, label))
    nearest = min(max(label, -(2**31)), 2**31 - 1)
    with pytest.raises(ValueError, match=rf"t\[1\] is {nearest};"):
        faults.raise_pending()


def test_a_check_costs_nothing_where_nothing_was_watched(monkeypatch):
    monkeypatch.setattr(gpu, "xp", None)
    faults.raise_pending()


def test_launches_with_the_same_facts_share_a_slot():
    first, again, other = (faults.watch(error, kind) for kind in ("a", "a", "b"))
    assert first is again
    assert first.data.ptr != other.data.ptr
    assert (other.data.ptr - first.data.ptr) % 16 == 0  # one alignment: one specialisation


def test_more_slots_than_a_block_has():
    slots = [faults.watch(error, f"launch {i}") for i in range(600)]
    note(slots[590], 5, -3)
    with pytest.raises(ValueError, match="^launch 590: 5 has -3$"):
        faults.raise_pending()


def test_the_replay_of_a_graph_is_expected():
    slot = faults.watch(error, "replayed")
    faults.raise_pending()
    note(slot, 2**31 - 2, 2**31 - 1)
    faults.raise_pending()  # nobody was told
    faults.expect()
    with pytest.raises(ValueError, match="^replayed: 2147483646 has 2147483647$"):
        faults.raise_pending()
