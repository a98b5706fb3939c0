"""Recurrent layers and their gradients on every backend, against the specification in float64."""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16
from torch.nn.utils.rnn import pack_padded_sequence

from tests.compare import assert_close, assert_same
from tests.kernels.conftest import ON_DEVICE
from tests.layouts import untouched
from tilegrad import kernels
from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.recurrent.steps import states_before

REFERENCE = kernels.load("reference")
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}  # the last two of rnn
GRADIENTS = {"lstm": 3, "gru": 2, "tanh": 2, "relu": 2}  # that come in: dy, dh (and dc)
SIZES = {
    "dense": (2, 2, 2),
    "packed": (4, 2, 2, 1),
    "one step": (3,),
    "one sequence": (1, 1),
    "steps without rows": (2, 1, 0, 0),
}


@pytest.fixture(params=GATES)
def layer(request) -> str:
    return request.param


class Layer(NamedTuple):
    """A call: what it takes, as its dtype has it."""

    name: str
    sizes: tuple[int, ...]
    reverse: bool
    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    states: tuple[np.ndarray, ...]  # h0 (and c0)
    gradients: tuple[np.ndarray | None, ...]  # dy, dh (and dc)

    def arrays(self) -> list[np.ndarray]:
        return [a for a in (self.x, self.w, self.bias, *self.states, *self.gradients) if a is not None]

    def each(self, convert: Any) -> Layer:
        """The same of converted arrays."""

        def converted(a: np.ndarray | None) -> np.ndarray | None:
            return None if a is None else convert(a)

        return self._replace(
            x=convert(self.x), w=convert(self.w), bias=converted(self.bias), states=tuple(map(convert, self.states)),
            gradients=tuple(map(converted, self.gradients)),
        )  # fmt: skip


def draw(rng, name: str, sizes: tuple[int, ...], width: int, dtype: Any, reverse: bool = False) -> Layer:
    """Weights of the size that layers start with: the states neither die out nor saturate."""
    rows, batch, gates = sum(sizes), sizes[0], GATES[name]

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    w = (rng.uniform(-1, 1, (gates * width, width)) / width**0.5).astype(dtype)
    states = tuple(normal(batch, width) for _ in range(2 if name == "lstm" else 1))
    gradients = normal(rows, width), *(normal(batch, width) for _ in states)
    bias = normal(gates * width) if name == "gru" else None
    return Layer(name, sizes, reverse, normal(rows, gates * width), w, bias, states, gradients)


def forward(backend, of: Layer) -> tuple[np.ndarray, ...]:
    if of.name == "lstm":
        return backend.lstm(of.x, of.w, *of.states, of.sizes, of.reverse)
    if of.name == "gru":
        return backend.gru(of.x, of.w, of.bias, *of.states, of.sizes, of.reverse)
    return backend.rnn(of.x, of.w, *of.states, of.sizes, of.reverse, of.name)


def saved(of: Layer, results: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """What the gradient takes of a forward's results."""
    if of.name == "lstm":
        return results[3:]
    return (results[0], results[2]) if of.name == "gru" else results[:1]


def backward(backend, of: Layer, kept: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    if of.name == "lstm":
        return backend.lstm_grad(*of.gradients, of.w, of.states[1], *kept, of.sizes, of.reverse)
    if of.name == "gru":
        return backend.gru_grad(*of.gradients, of.w, of.states[0], *kept, of.sizes, of.reverse)
    return backend.rnn_grad(*of.gradients, of.w, *kept, of.sizes, of.reverse, of.name)


def wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64)


def check(backend, of: Layer) -> tuple[np.ndarray, ...]:
    """Values and gradients, in C order, and that nothing given was written to; the values."""
    with untouched(*of.arrays()):
        results = forward(backend, of)
    # In a step the terms of h w^T cancel; those of the first step are the largest.
    scale = max(1.0, float((np.abs(wide(of.states[0])) @ np.abs(wide(of.w).T)).max())) if of.states[0].size else 1.0
    _judge(results, forward(REFERENCE, of.each(wide)), forward(REFERENCE, of), scale)
    kept = saved(of, forward(REFERENCE, of))
    with untouched(*of.arrays(), *kept):
        found = backward(backend, of, kept)
    _judge(found, backward(REFERENCE, of.each(wide), tuple(map(wide, kept))), backward(REFERENCE, of, kept), scale)
    return results


def _judge(results, wanted, baselines, scale) -> None:
    for got, want, baseline in zip(results, wanted, baselines, strict=True):
        assert got.flags.c_contiguous
        assert_close(got, want, baseline, scale=scale)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_values_and_gradients_of_packed_sequences(backend, layer, reverse, dtype, rng):
    check(backend, draw(rng, layer, SIZES["packed"], 5, dtype, reverse))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(backend, layer, sizes, reverse, rng):
    check(backend, draw(rng, layer, SIZES[sizes], 3, np.float32, reverse))


@pytest.mark.parametrize("width", [1, 8, 33])
def test_widths(backend, layer, width, rng):
    check(backend, draw(rng, layer, (2, 1), width, np.float32))


@pytest.mark.parametrize("shape", [(2, 70, 5), (2, 9, 130), (12, 2, 3)], ids=str)
def test_more_than_a_program_takes(backend, layer, shape, rng):
    """Of rows, of columns, of both; and many steps."""
    steps, batch, width = shape
    check(backend, draw(rng, layer, (batch,) * steps, width, np.float32))


@pytest.mark.parametrize("sizes", [(0,), (0, 0)], ids=str)
def test_no_sequence(backend, layer, sizes, rng):
    of = draw(rng, layer, sizes, 4, np.float32)
    results = forward(backend, of)
    assert [each.shape for each in results] == [each.shape for each in forward(REFERENCE, of)]
    found = backward(backend, of, saved(of, results))
    assert [each.shape for each in found] == [each.shape for each in backward(REFERENCE, of, saved(of, results))]


def test_a_gradient_that_is_none_is_zero(backend, layer, rng):
    of = draw(rng, layer, (3, 1), 5, np.float32, reverse=True)
    kept = saved(of, forward(REFERENCE, of))
    for given in itertools.product((False, True), repeat=GRADIENTS[layer]):
        nones, zeros = (
            of._replace(gradients=tuple(a if there else instead(a) for a, there in zip(of.gradients, given)))
            for instead in (lambda a: None, np.zeros_like)
        )
        for got, want in zip(backward(backend, nones, kept), backward(backend, zeros, kept), strict=True):
            assert_same(got, want)


def test_gru_without_a_bias(backend, rng):
    of = draw(rng, "gru", SIZES["packed"], 5, np.float32)
    without, with_zeros = of._replace(bias=None), of._replace(bias=np.zeros_like(of.bias))
    check(backend, without)
    for got, want in zip(forward(backend, without), forward(backend, with_zeros), strict=True):
        assert_same(got, want)


def test_layouts(backend, layer, layout, rng):
    of = draw(rng, layer, SIZES["packed"], 5, np.float32)
    check(backend, of.each(layout))
    kept = tuple(map(layout, saved(of, forward(REFERENCE, of))))
    for got, want in zip(backward(backend, of, kept), backward(REFERENCE, of, kept), strict=True):
        assert_close(got, want.astype(np.float64), want, scale=1.0)


def test_an_incoming_gradient_of_stride_0(backend, layer, rng):
    """One number for all, as sum() sends it."""
    of = draw(rng, layer, SIZES["packed"], 5, np.float32)
    check(backend, of._replace(gradients=tuple(np.broadcast_to(np.float32(0.5), a.shape) for a in of.gradients)))


def test_a_sequence_knows_nothing_of_its_neighbours(backend, layer, rng):
    """NaN in one of them, and infinity in another, from the step on in which they come."""
    of = draw(rng, layer, (4, 3, 2), 5, np.float32)
    clean = forward(backend, of)
    x = of.x.copy()
    x[4 + 1, 2], x[4 + 2, 0] = np.nan, np.inf  # sequences 1 and 2, step 1
    spoilt = forward(backend, of._replace(x=x))
    its_own = [0, 1, 2, 3, 4, 7]  # rows of sequences 0 and 3, and of step 0
    for got, want in zip(spoilt, clean, strict=True):
        rows = its_own if len(got) == 9 else [0, 3]
        assert_same(got[rows], want[rows])
    assert np.isnan(spoilt[0][5]).any() and np.isnan(spoilt[0][8]).all() and np.isnan(spoilt[1][1]).all()
    kept, dy = saved(of, clean), of.gradients[0].copy()
    dy[4 + 1, 2] = np.nan
    for got, want in zip(
        backward(backend, of._replace(gradients=(dy, *of.gradients[1:])), kept),
        backward(backend, of, kept),
        strict=True,
    ):
        rows = [0, 2, 3, 4, 6, 7, 8] if len(got) == 9 else [0, 2, 3]  # step 2 is not before step 1
        assert_same(got[rows], want[rows])
        assert np.isnan(got[1]).any()


@pytest.mark.parametrize("name", ["gru", "tanh", "relu"])
def test_a_layer_is_one_step_after_the_other(backend, name, dtype, rng):
    """Bit for bit, of 16-bit types too: the state is y."""
    of = draw(rng, name, (2, 2, 2), 5, dtype)
    y, h, *_ = forward(backend, of)
    state = of.states[0]
    for t in range(3):
        one = of._replace(x=of.x[2 * t : 2 * t + 2], sizes=(2,), states=(state,))
        state = forward(backend, one)[1]
        assert_same(state, y[2 * t : 2 * t + 2])
    assert_same(h, state)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16], ids=["float16", "bfloat16"])
def test_a_product_is_not_rounded_before_it_is_added(backend, dtype):
    """A product whose digits behind those of the inputs' part are all that the sum has."""
    width, eps = 8, float(ml_dtypes.finfo(dtype).eps)
    w = np.full((width, width), 8, dtype)
    w[:, :2] = 8 + 8 * eps
    y, _ = backend.rnn(np.full((1, width), -64, dtype), w, np.ones((1, width), dtype), (1,))
    want = np.full((1, width), np.tanh(16 * eps))
    assert_close(y, want, want.astype(dtype))


def test_two_runs_have_the_same_bits(backend, layer, rng):
    of = draw(rng, layer, (5, 5, 4), 14, np.float32)
    first, second = forward(backend, of), forward(backend, of)
    kept = saved(of, first)
    for a, b in zip((*first, *backward(backend, of, kept)), (*second, *backward(backend, of, kept)), strict=True):
        assert_same(a, b)


# --- on the device


@pytest.mark.parametrize("name", ON_DEVICE)
def test_no_memory_is_taken_within_a_step(name, layer, rng, monkeypatch):
    """As many arrays for eight steps as for two."""
    xp, module, counts = gpu.xp(), kernels.load(name), []
    for steps in (2, 8):
        of = draw(rng, layer, (2,) * steps, 3, np.float32).each(xp.asarray)
        made = []
        with monkeypatch.context() as patch:
            for function in ("empty", "zeros"):
                patch.setattr(xp, function, _counted(getattr(xp, function), made))
            backward(module, of, saved(of, forward(module, of)))
        counts.append(len(made))
    assert 0 < counts[0] == counts[1]


def test_a_kernel_is_compiled_once_whatever_rows_its_steps_have(layer, rng):
    """First rows of 0, of 16, of what 16 does not divide; a batch, and one sequence."""
    module = kernels.load("triton")
    of = draw(rng, layer, (32, 16, 5, 1), 4, np.float32).each(gpu.xp().asarray)
    kept = saved(of, forward(REFERENCE, draw(rng, layer, (32, 16, 5, 1), 4, np.float32)))
    with launch.collecting() as specs:
        forward(module, of)
        backward(module, of, tuple(map(gpu.xp().asarray, kept)))
    gates = [spec for spec in specs if spec.kernel.name.split("_")[1] in ("lstm", "gru", "rnn")]
    assert len(gates) == 2 * 4 and len(set(gates)) == 2


def _counted(make, made):
    def call(*args, **kwargs):
        made.append(args)
        return make(*args, **kwargs)

    return call


@pytest.mark.skipif(gpu.is_available() or gpu.is_executed(), reason="the graph of the simulated device")
@pytest.mark.parametrize("name", ON_DEVICE)
def test_a_graph_goes_through_the_steps_at_each_launch(name, layer, rng):
    xp, module = gpu.xp(), kernels.load(name)
    hosts = [draw(rng, layer, SIZES["packed"], 3, np.float32) for _ in range(2)]
    of = hosts[0].each(xp.asarray)
    with cuda_graph.capture() as captured:
        results = forward(module, of)
        found = backward(module, of, saved(of, results))
    for host in hosts:
        for held, a in zip(of.arrays(), host.arrays(), strict=True):
            held.set(a)
        captured.launch()
        plain = forward(module, host.each(xp.asarray))
        for got, want in zip((*results, *found), (*plain, *backward(module, host.each(xp.asarray), saved(of, plain)))):
            assert_same(got.get(), want.get())


@pytest.mark.parametrize("name", ON_DEVICE)
def test_float64_is_left_to_the_cpu(name, layer, rng):
    of = draw(rng, layer, (2,), 3, np.float64).each(gpu.xp().asarray)
    op = "rnn" if layer in ("tanh", "relu") else layer
    with pytest.raises(TypeError, match=f"^{op}: the arrays are float64, which the backend '{name}' does not serve"):
        forward(kernels.load(name), of)


# --- errors


def test_wrong_arrays(backend):
    def zeros(*shape):
        return np.zeros(shape, np.float32)

    x, w, h, y = zeros(5, 12), zeros(12, 3), zeros(3, 3), zeros(5, 3)
    gates, sizes = zeros(5, 12), (3, 2)
    for text, call in {
        r"lstm: w is \(9, 3\); expected \(4 H, H\), H > 0": lambda: backend.lstm(x, zeros(9, 3), h, h, sizes),
        r"lstm: w is \(0, 0\); expected \(4 H, H\), H > 0": lambda: backend.lstm(x, zeros(0, 0), h, h, sizes),
        r"lstm: x is \(4, 12\); expected \(5, 12\)": lambda: backend.lstm(x[:4], w, h, h, sizes),
        r"lstm: h0 is \(2, 3\); expected \(3, 3\)": lambda: backend.lstm(x, w, h[:2], h, sizes),
        r"lstm: c0 is \(2, 3\); expected \(3, 3\)": lambda: backend.lstm(x, w, h, h[:2], sizes),
        r"lstm_grad: gates is \(4, 12\); expected \(5, 12\)": lambda: backend.lstm_grad(
            y, h, h, w, h, gates[:4], y, sizes
        ),
        r"lstm_grad: dc is \(2, 3\); expected \(3, 3\)": lambda: backend.lstm_grad(y, h, h[:2], w, h, gates, y, sizes),
        r"gru: bias is \(3,\); expected \(9,\)": lambda: backend.gru(x[:, :9], w[:9], zeros(3), h, sizes),
        r"gru_grad: dy is \(4, 3\); expected \(5, 3\)": lambda: backend.gru_grad(y[:4], h, w[:9], h, y, gates, sizes),
        r"rnn: w is \(12, 3\); expected \(H, H\), H > 0": lambda: backend.rnn(y, w, h, sizes),
        r"rnn_grad: dh is \(2, 3\); expected \(3, 3\)": lambda: backend.rnn_grad(y, h[:2], w[:3], y, sizes),
        r"rnn: nonlinearity is 'sin'; expected one of 'tanh', 'relu'": lambda: backend.rnn(
            y, w[:3], h, sizes, False, "sin"
        ),
    }.items():
        with pytest.raises(ValueError, match=f"^{text}$"):
            call()
    with pytest.raises(
        TypeError, match="^lstm: x is float32, w is float16, h0 is float32, c0 is float32; expected one"
    ):
        backend.lstm(x, w.astype(np.float16), h, h, sizes)
    with pytest.raises(TypeError, match="^gru_grad: gates is float16; expected float32$"):
        backend.gru_grad(y, h, w[:9], h, y, gates.astype(np.float16), sizes)


def test_wrong_sizes(backend):
    y, w, h = np.zeros((5, 3), np.float32), np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)
    for sizes in ((), (2, 3), (6, -1)):
        with pytest.raises(
            ValueError, match=rf"^rnn: sizes is {re.escape(str(sizes))}; expected at least one, not neg"
        ):
            backend.rnn(y, w, h, sizes)
    for sizes in ([3, 2], (3, 2.0), (3, True), 5):
        with pytest.raises(TypeError, match=rf"^rnn: sizes is {re.escape(str(sizes))}; expected a tuple of ints$"):
            backend.rnn(y, w, h, sizes)
    numbers = backend.rnn(y, w, h, (np.int64(3), np.int64(2)))
    assert_same(numbers[0], backend.rnn(y, w, h, (3, 2))[0])


# --- the specification


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [(4, 4, 4), (7, 5, 5, 2, 1)], ids=str)
def test_the_specification_is_torchs_layer(layer, lengths, reverse, rng):
    """Of sequences that torch has packed: values, final states, and the gradients by all that the layer has."""
    width, features = 4, 6
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(layer, torch.nn.RNN)
    options = {} if layer in ("lstm", "gru") else {"nonlinearity": layer}
    module = kind(features, width, bidirectional=True, dtype=torch.float64, **options)
    packed = pack_padded_sequence(torch.randn(max(lengths), len(lengths), features, dtype=torch.float64), lengths)
    first = [torch.randn(2, len(lengths), width, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    first = first if layer == "lstm" else first[:1]
    out, last = module(packed, tuple(first) if layer == "lstm" else first[0])
    side = slice(width, None) if reverse else slice(width)
    y, last = out.data[:, side], [each[int(reverse)] for each in (last if layer == "lstm" else [last])]
    gradients = [torch.randn_like(each) for each in (y, *last)]
    torch.autograd.backward([y, *last], gradients)

    w_ih, w_hh, b_ih, b_hh = (
        getattr(module, name + "_l0" + "_reverse" * reverse)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    sizes = tuple(packed.batch_sizes.tolist())
    inputs = packed.data.numpy()
    x = inputs @ _array(w_ih).T + _array(b_ih) + (0 if layer == "gru" else _array(b_hh))
    bias = _array(b_hh) if layer == "gru" else None
    states = tuple(_array(each[int(reverse)]) for each in first)
    of = Layer(layer, sizes, reverse, x, _array(w_hh), bias, states, tuple(map(_array, gradients)))
    results = forward(REFERENCE, of)
    for got, want in zip(results, (y, *last), strict=False):
        assert_close(got, _array(want), scale=1.0)
    dx, *found = backward(REFERENCE, of, saved(of, results))
    dq = found.pop(0) if layer == "gru" else dx
    before = np.concatenate((states[0], results[0]))[states_before(sizes, reverse)]
    for got, want in (
        (dx.T @ inputs, w_ih.grad),
        (dx.sum(0), b_ih.grad),
        (dq.T @ before, w_hh.grad),
        (dq.sum(0), b_hh.grad),
        *zip(found, [each.grad[int(reverse)] for each in first], strict=True),
    ):
        assert_close(got, _array(want), scale=10.0)


def _array(x):
    return x.detach().numpy()
