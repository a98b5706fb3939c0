"""The prediction of a step's time: which nodes it counts, and how, against counts by hand."""

from __future__ import annotations

import pytest

from tilegrad.bench import predict
from tilegrad.kernels.device import gpu

pytestmark = pytest.mark.skipif(gpu.is_available(), reason="captures on the simulated device")


def test_bytes_and_flop_of_the_seed_cnn():
    nodes = predict.predict("CNN", 64)
    products = [(n.name, n.flop) for n in nodes if "conv2d" in n.name or "matmul" in n.name]
    of_conv = {1: 2 * 64 * 26 * 26 * 32 * 9, 2: 2 * 64 * 11 * 11 * 64 * 288, 3: 2 * 64 * 3 * 3 * 64 * 576}
    linear, last = 2 * 64 * 576 * 64, 2 * 64 * 64 * 10
    assert products == [
        ("_conv2d_few_kernel", of_conv[1]),
        ("_conv2d_kernel", of_conv[2]),
        ("_conv2d_kernel", of_conv[3]),
        ("_matmul_kernel", linear),
        *[("_matmul_kernel", last)] * 3,
        *[("_matmul_kernel", linear)] * 2,
        ("_conv2d_grad_input_kernel", 2 * 64 * 5 * 5 * 64 * 576),
        ("_conv2d_grad_weight_kernel", of_conv[3]),
        ("_conv2d_grad_input_kernel", 2 * 64 * 13 * 13 * 32 * 576),
        ("_conv2d_grad_weight_kernel", of_conv[2]),
        ("_conv2d_grad_weight_kernel", of_conv[1]),
    ]
    first, *_, update = nodes
    assert first.bytes == 64 * 784 * (4 + 1) + 64 * 8
    assert update.bytes == 28 * 93322
    pooled = next(n for n in nodes if n.name == "_max_pool2d_kernel")
    assert pooled.bytes == 64 * 32 * (26 * 26 * 4 + 13 * 13 * (4 + 1))


@pytest.mark.parametrize(
    ("node", "seconds"),
    [
        (predict.Node("a", 1, 0, 0), predict.LEAST),
        (predict.Node("a", 1000, 43_000_000, 0), 1e-5),
        (predict.Node("a", 1, 0, int(predict.FLOP)), 1.0),
        (predict.Node("a", 1000, 0, 132 * int(predict.FLOP)), 1.0),
    ],
)
def test_the_longest_of_three(node, seconds):
    assert node.seconds == pytest.approx(seconds + predict.GAP)


@pytest.mark.parametrize(("net", "batch", "goal"), [("mlp", "8", "predicted"), ("cnn", "64", "the goal is 213")])
def test_the_table(capsys, monkeypatch, net, batch, goal):
    """The goal is the CNN's."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert predict.main(["--net", net, "--batch-size", batch]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["node", "programs", "KB", "MFLOP", "us"]
    assert int(total.split()[0]) == len(rows) and total.endswith(goal)
    assert sum(float(row.split()[-1]) for row in rows) == pytest.approx(float(total.split()[3]), abs=0.05 * len(rows))


def test_it_needs_the_simulated_device(capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(SystemExit):
        predict.main([])
    assert "expected TRITON_INTERPRET=1" in capsys.readouterr().err
