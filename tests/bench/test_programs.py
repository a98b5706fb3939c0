"""train and overhead: the same losses as the reference, the right sums; wrong ones are not timed."""

from __future__ import annotations

import importlib
import math

import pytest

from tilegrad import kernels, nn
from tilegrad.bench import launch, table, train
from tilegrad.bench.measure import Effort
from tilegrad.bench.nets import LAYERS, LAYERS_BATCH, TRAINED
from tilegrad.bench.overhead import call_rows, chain_rows, launch_rows
from tilegrad.bench.programs import PROGRAMS
from tilegrad.bench.providers import PROVIDERS
from tilegrad.bench.session import Session


def session(*names, simulated=False, device="cpu"):
    return Session(device, simulated, Effort(1, 0, 2), {name: PROVIDERS[name] for name in names})


@pytest.mark.parametrize("net", TRAINED)
def test_a_step_of_every_provider_is_compared_and_timed(net):
    before = kernels.name("cpu")
    rows = train.net_rows(session("cpu", "reference", "torch"), net, 4)
    assert kernels.name("cpu") == before
    formats = ["torch", "torch channels_last"] if net.endswith("CNN") else ["torch"]
    assert [row.provider for row in rows] == ["cpu", "cpu captured", "reference", *formats]
    counted = {"transformer": "tokens", "LSTM": "frames"}.get(net, "images")
    shape = [4] if counted == "images" else [4, 64]
    for row in rows:
        assert row.mode == "step" and row.shape == shape
        if row.provider == "reference" and not TRAINED[net].is_seed:
            assert row.status == "skipped" and row.ms is None
            continue
        assert row.status == "ok", row.reason
        assert row.rate == pytest.approx(math.prod(shape) / row.ms * 1e3) and row.unit == f"{counted}/s"
        assert row.times_rival is not None and row.best_rival.startswith("torch")


@pytest.mark.parametrize("net", TRAINED)
def test_both_libraries_have_the_nets_weights(net):
    """The same names and shapes, buffers included."""
    torch = importlib.import_module("torch")
    ours, theirs = (
        {name: tuple(x.shape) for name, x in TRAINED[net].make(library).state_dict().items()}
        for library in (nn, torch.nn)
    )
    assert ours == theirs
    assert sum(math.prod(shape) for shape in ours.values()) == {
        "CNN": 93_322, "MLP": 109_386, "BatchNorm CNN": 50_572, "residual CNN": 44_064, "transformer": 591_626,
        "LSTM": 133_386,
    }[net]  # fmt: skip


def test_each_net_is_measured_at_its_own_batches_or_at_those_that_are_asked_for():
    def asked(shapes, asked):
        return [case.args[1:] for case in train.rows(session("cpu"), shapes, asked) if case.func is train.net_rows]

    own = [s.shape for s in PROGRAMS["train"].cpu]
    assert asked(own, False) == [
        ("CNN", 32), ("CNN", 128), ("CNN", 512), ("MLP", 32), ("MLP", 128), ("MLP", 512), ("BatchNorm CNN", 64),
        ("BatchNorm CNN", 256), ("residual CNN", 64), ("residual CNN", 256), ("transformer", 16), ("transformer", 8),
        ("LSTM", 32),
    ]  # fmt: skip
    quick = [s.shape for s in PROGRAMS["train"].cpu if s.quick]
    assert {net for net, _ in asked(quick, False)} == TRAINED.keys()
    assert asked([(5,)], True) == [(net, 5) for net in TRAINED]
    layers = [case.args[-1] for case in train.rows(session("cpu"), quick, False) if case.func is train.layer_rows]
    assert set(layers) == {LAYERS_BATCH} and len(layers) == 2 * len(LAYERS)


def test_a_captured_step_that_runs_plainly_says_so(monkeypatch):
    """A net that reads a value: its row has the reason, no other one has, and a table shows it."""

    def reads(nn):
        class Net(nn.Sequential):
            def forward(self, x):
                y = super().forward(x)
                return y * (1.0 if y[0, 0].item() > 0 else 1.0)

        return Net(nn.Flatten(), nn.Linear(784, 10))

    monkeypatch.setitem(TRAINED, "MLP", TRAINED["MLP"]._replace(make=reads))
    rows = {row.provider: row for row in train.net_rows(session("cpu", "torch"), "MLP", 4)}
    assert rows["cpu captured"].status == "ok" and rows["cpu captured"].reason.startswith("runs plainly: ")
    reason = rows["cpu captured"].reason
    assert "item reads values" in reason and "(test_programs.py:" in reason, "the file without its folder"
    assert reason in table.line(rows["cpu captured"])
    assert rows["cpu"].reason is None and rows["torch"].reason is None


def test_a_provider_whose_step_fails_ends_its_own_row(monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("used up")

    monkeypatch.setattr(train, "torch_step", broken)
    rows = {row.provider: row for row in train.net_rows(session("cpu", "torch"), "MLP", 4)}
    assert (rows["torch"].status, rows["torch"].reason) == ("failed", "MemoryError: used up")
    assert rows["cpu"].status == "ok" and rows["cpu"].ms


def test_other_losses_are_wrong(monkeypatch):
    torch_step = train.torch_step

    def other(*args, **kwargs):
        made = torch_step(*args, **kwargs)
        return made._replace(step=lambda: made.step() * 1.01)

    monkeypatch.setattr(train, "torch_step", other)
    rows = {row.provider: row for row in train.net_rows(session("reference", "torch"), "MLP", 4)}
    assert rows["torch"].status == "wrong" and "the reference's are" in rows["torch"].reason
    assert rows["torch"].ms is None and rows["reference"].status == "ok"


@pytest.mark.parametrize(("index", "mode"), [(0, "both"), (2, "both"), (3, "both"), (7, "both"), (1, "forward")])
def test_every_layer_is_checked_and_timed(index, mode):
    rows = train.layer_rows(session("cpu", "reference", "torch"), index, mode, 2)
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
