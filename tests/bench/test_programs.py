"""train and overhead: the same losses as the reference, the right sums; wrong ones are not timed."""

from __future__ import annotations

import pytest

from tilegrad import kernels
from tilegrad.bench import launch, train
from tilegrad.bench.measure import Effort
from tilegrad.bench.nets import LAYERS, NETS
from tilegrad.bench.overhead import call_rows, chain_rows, launch_rows
from tilegrad.bench.providers import PROVIDERS
from tilegrad.bench.session import Session


def session(*names, simulated=False, device="cpu"):
    return Session(device, simulated, Effort(1, 0, 2), {name: PROVIDERS[name] for name in names})


@pytest.mark.parametrize("net", NETS)
def test_a_step_of_every_provider_is_compared_and_timed(net):
    before = kernels.name("cpu")
    rows = train.net_rows(session("cpu", "reference", "torch"), net, 4)
    assert kernels.name("cpu") == before
    expected = ["cpu", "cpu captured", "reference", "torch", *(["torch channels_last"] if net == "CNN" else [])]
    assert [row.provider for row in rows] == expected
    for row in rows:
        assert row.status == "ok" and row.mode == "step" and row.shape == [4]
        assert row.rate == pytest.approx(4 / row.ms * 1e3) and row.unit == "images/s"
        assert row.times_rival is not None and row.best_rival.startswith("torch")


def test_other_losses_are_wrong(monkeypatch):
    torch_step = train._torch_step

    def slower(*args, **kwargs):
        step = torch_step(*args, **kwargs)
        return lambda: step() * 1.01

    monkeypatch.setattr(train, "_torch_step", slower)
    rows = {row.provider: row for row in train.net_rows(session("reference", "torch"), "MLP", 4)}
    assert rows["torch"].status == "wrong" and "the reference's are" in rows["torch"].reason
    assert rows["torch"].ms is None and rows["reference"].status == "ok"


@pytest.mark.parametrize(("index", "mode"), [(0, "both"), (2, "both"), (3, "both"), (7, "both"), (1, "forward")])
def test_every_layer_is_checked_and_timed(index, mode):
    rows = train.layer_rows(session("cpu", "torch"), index, mode, 2)
    assert rows[0].variant == f"CNN's {LAYERS[index][0]}" and rows[0].mode == mode
    assert [row.provider for row in rows][:2] == ["cpu", "torch"]
    assert all(row.status == "ok" and row.ms > 0 and row.variant.startswith("CNN's ") for row in rows), rows


@pytest.mark.parametrize("mode", ["forward", "backward", "both"])
def test_a_chain_of_additions(mode):
    rows = chain_rows(session("cpu", "reference", "torch"), mode)
    assert [row.provider for row in rows] == ["engine", "torch"]
    for row in rows:
        assert row.status == "ok" and row.unit == "us an op" and row.rate == pytest.approx(row.ms)


def test_a_call_and_a_launch():
    rows = call_rows(session("cpu", "reference", "torch"))
    assert [(row.provider, row.status) for row in rows] == [("cpu", "ok"), ("reference", "ok"), ("torch", "ok")]
    assert rows[0].rate == pytest.approx(rows[0].ms * 10)
    rows = launch_rows(session("cpu"))
    assert [row.variant for row in rows] == [launch.NAME_WITHOUT_GPU, launch.RELU, launch.REPLAY]
    assert all(row.status == "skipped" and "TRITON_INTERPRET" in row.reason for row in rows)


def test_the_stand_in_for_the_driver_leaves_no_trace():
    before = launch.gpu.xp, launch.gpu.capability
    with pytest.raises(RuntimeError), launch._without_driver():
        assert launch.gpu.capability() == 90
        raise RuntimeError
    assert (launch.gpu.xp, launch.gpu.capability) == before
