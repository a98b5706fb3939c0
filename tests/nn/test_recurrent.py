"""Recurrent layers and cells against torch's: outputs, last states and all gradients, packed or not, to any order."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close
from tests.nn.versus import assert_module
from tilegrad import nn
from tilegrad.gradcheck import gradcheck, gradgradcheck
from tilegrad.ops import recurrent

T, B, I, H = 5, 3, 4, 6
LENGTHS = [2, 5, 1]
KINDS = ["LSTM", "GRU", "RNN"]
LAW = {"scale": 4.0, "spread": 0.5}  # sums of a dozen terms about 1

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def whole(library, layer, packed=False):
    """A module of either library: all results of the layer, in one row. Its states, if any, come behind the input."""

    class Whole(library.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, *states):
            if packed:
                pack = library.nn.utils.rnn.pack_padded_sequence
                x = pack(x, LENGTHS, batch_first=self.layer.batch_first, enforce_sorted=False)
            y, last = self.layer(x, states[0] if len(states) == 1 else states or None)
            if packed:
                y, lengths = library.nn.utils.rnn.pad_packed_sequence(y, padding_value=0.5)
                assert lengths.tolist() == LENGTHS
            last = last if isinstance(last, tuple) else (last,)
            return library.cat([each.reshape(-1) for each in (y, *last)])

    return Whole()


def both(kind, **options):
    return [getattr(library.nn, kind)(I, H, **options) for library in (tg, torch)]


def assert_layer(kind, x, *states, packed=False, **options):
    ours, theirs = both(kind, **options)
    assert_module(whole(tg, ours, packed), whole(torch, theirs, packed), x, *states, **LAW)


def states(rng, kind, dtype, *shape, width=H):
    count = 2 if kind == "LSTM" else 1
    return [rng.standard_normal((*shape, w)).astype(dtype) for w in (width, H)][:count]


FORMS = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_layer(kind, options, packed, dtype, rng):
    shape = (B, T, I) if options.get("batch_first") else (T, B, I)
    count = 4 if options.get("bidirectional") else 1
    given = states(rng, kind, dtype, count, B)
    assert_layer(kind, rng.standard_normal(shape).astype(dtype), *given, packed=packed, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_without_states_they_are_zeros(kind, dtype, rng):
    assert_layer(kind, rng.standard_normal((T, B, I)).astype(dtype))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_relu(packed, dtype, rng):
    x = rng.standard_normal((T, B, I)).astype(dtype)
    assert_layer("RNN", x, *states(rng, "RNN", dtype, 1, B), packed=packed, nonlinearity="relu")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_projection(packed, dtype, rng):
    x = rng.standard_normal((T, B, I)).astype(dtype)
    given = states(rng, "LSTM", dtype, 4, B, width=2)
    assert_layer("LSTM", x, *given, packed=packed, proj_size=2, num_layers=2, bidirectional=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence_without_a_batch(kind, batch_first, dtype, rng):
    x = rng.standard_normal((T, I)).astype(dtype)
    assert_layer(kind, x, *states(rng, kind, dtype, 2), bidirectional=True, batch_first=batch_first)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_last_states_are_used(kind, dtype, rng):
    """No gradient comes from the outputs, and one from the states."""

    def last(library):
        layer = getattr(library.nn, kind)(I, H)

        class Last(library.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = layer

            def forward(self, x):
                states = self.layer(x)[1]
                return states[1] if kind == "LSTM" else states

        return Last()

    assert_module(last(tg), last(torch), rng.standard_normal((T, B, I)).astype(dtype), **LAW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dropout_lies_between_layers(kind, training, dtype, rng):
    """With a rate of 1 the second layer sees zeros, and what it gives is kept."""
    ours, theirs = (whole(library, each) for library, each in zip((tg, torch), both(kind, num_layers=2, dropout=1.0)))
    x = rng.standard_normal((T, B, I)).astype(dtype)
    assert_module(ours.train(training), theirs.train(training), x, **LAW)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("options", [{}, {"bias": False}], ids=str)
def test_cell(kind, options, batched, dtype, rng):
    def stepped(library):
        cell = getattr(library.nn, kind)(I, H, **options)

        class Twice(library.nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = cell

            def forward(self, x):
                state = self.cell(x, self.cell(x))
                return library.cat(state, -1) if isinstance(state, tuple) else state

        return Twice()

    x = rng.standard_normal((B, I) if batched else (I,)).astype(dtype)
    assert_module(stepped(tg), stepped(torch), x, **LAW)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 2, 1)], ids=["plain", "packed"])
@pytest.mark.parametrize("op", ["lstm", "gru", "rnn", "rnn relu", "lstm proj"])
def test_both_orders_by_differences(op, sizes, reverse, rng):
    def drawn(*shape):
        return tg.tensor(rng.standard_normal(shape), requires_grad=True)

    width, rows, batch = 2, sum(sizes), sizes[0]
    gates = {"l": 4, "g": 3, "r": 1}[op[0]]
    x, w, h0, c0 = drawn(rows, gates * width), drawn(gates * width, width), drawn(batch, width), drawn(batch, width)
    function, inputs = {
        "lstm": (lambda *given: recurrent.lstm(*given, sizes, reverse), (x, w, h0, c0)),
        "gru": (lambda *given: recurrent.gru(*given, sizes, reverse), (x, w, drawn(3 * width), h0)),
        "rnn": (lambda *given: recurrent.rnn(*given, sizes, reverse), (x, w, h0)),
        "rnn relu": (lambda *given: recurrent.rnn(*given, sizes, reverse, "relu"), (x, w, h0)),
        "lstm proj": (
            lambda x, w, h, c, p: recurrent.lstm(x, w, h, c, sizes, reverse, p),
            (x, drawn(gates * width, 1), drawn(batch, 1), c0, drawn(1, width)),
        ),
    }[op]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_recorded_are_the_same(kind, rng):
    """create_graph takes the way through single ops. Hooks on the input see its whole gradient, once."""
    layer = getattr(nn, kind)(I, H, dtype="float64")
    x = tg.tensor(rng.standard_normal((T, B, I)), requires_grad=True)
    seen = []

    def gradients(**options):
        rows = x * 2
        rows.register_hook(lambda g: seen.append(g.detach().numpy().copy()))
        y, last = layer(rows)
        loss = (y**2).sum() + sum(each.sum() for each in (last if isinstance(last, tuple) else (last,)))
        return tg.grad(loss, [x, *layer.parameters()], **options)

    for plain, recorded in zip(gradients(), gradients(create_graph=True)):
        np.testing.assert_allclose(recorded.detach().numpy(), plain.numpy(), rtol=1e-12, atol=1e-13)
    assert len(seen) == 2
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_16_bits(kind, half, rng):
    """Outputs and gradients are float32's, but for the rounding of the states and of the gradients."""
    wide = getattr(nn, kind)(I, H, bidirectional=True)
    narrow = getattr(nn, kind)(I, H, bidirectional=True).to(half)
    narrow.load_state_dict(wide.state_dict())
    wide.load_state_dict(narrow.state_dict())  # rounded
    x = tg.tensor(rng.standard_normal((T, B, I)).astype(np.float32)).to(half)
    results = []
    for layer in (wide, narrow):
        given = x.to(layer.weight_ih_l0.dtype).detach().requires_grad_()
        y, _ = layer(given)
        assert y.dtype == given.dtype
        y.sum().backward()
        results.append([y, given.grad, layer.weight_hh_l0.grad])
    step = 2.0**-10 if half == "float16" else 2.0**-7
    for want, got in zip(*results):
        want, got = (each.detach().to("float32").numpy() for each in (want, got))
        assert np.abs(got - want).max() <= 4 * step * np.abs(want).max()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_torchs_names_and_begin_in_its_range(kind):
    tg.manual_seed(0)
    ours, theirs = both(kind, num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [[p.shape for p in each] for each in ours.all_weights] == [
        [tuple(p.shape) for p in each] for each in theirs.all_weights
    ]
    values = np.concatenate([p.detach().numpy().reshape(-1) for p in ours.parameters()])
    bound = 1 / np.sqrt(H)
    assert 0.98 * bound < np.abs(values).max() <= bound and abs(values.mean()) < 0.05 * bound
    assert ours.flatten_parameters() is None


@pytest.mark.parametrize("kind", KINDS)
def test_repr(kind):
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    for given in ({}, options):
        ours, theirs = both(kind, **given)
        assert repr(ours) == repr(theirs)
    for each in (f"{kind}Cell",):
        ours, theirs = both(each, bias=False)
        assert repr(ours) == repr(theirs)


def test_one_layer_has_no_dropout():
    with pytest.warns(UserWarning, match=r"GRU: dropout is 0.5 but there is one layer"):
        nn.GRU(I, H, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.GRU(I, H, num_layers=2, dropout=0.5)


def test_a_layer_is_the_cell_step_by_step(rng):
    layer, cell = nn.LSTM(I, H), nn.LSTMCell(I, H)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x = tg.tensor(rng.standard_normal((T, B, I)).astype(np.float32))
    y, (h, c) = layer(x)
    state = None
    for t in range(T):
        state = cell(x[t], state)
        assert_close(y[t].detach().numpy(), state[0].detach().numpy().astype(np.float64), y[t].detach().numpy())
    assert (h[0] == y[-1]).all().item() and h.shape == c.shape == (1, B, H)


BAD = {
    "hidden_size": (lambda: nn.LSTM(I, 0), ValueError, "LSTM: hidden_size is 0; expected >= 1"),
    "num_layers": (lambda: nn.GRU(I, H, 0), ValueError, "GRU: num_layers is 0; expected >= 1"),
    "a float": (lambda: nn.RNN(I, 2.5), TypeError, r"RNN: hidden_size is 2\.5; expected an int"),
    "nonlinearity": (lambda: nn.RNN(I, H, nonlinearity="gelu"), ValueError, "RNN: nonlinearity is 'gelu'"),
    "proj_size": (lambda: nn.LSTM(I, H, proj_size=H), ValueError, "LSTM: proj_size is 6 and hidden_size 6"),
    "dropout": (lambda: nn.LSTM(I, H, 2, dropout=1.5), ValueError, r"LSTM: p is 1\.5; expected 0 <= p <= 1"),
    "width": (lambda: nn.LSTM(I, H)(tg.zeros(T, B, 7)), ValueError, r"LSTM: input is \(5, 3, 7\); expected 4 in"),
    "dimensions": (lambda: nn.GRU(I, H)(tg.zeros(I)), ValueError, r"GRU: input is \(4,\); expected 2 dimensions, or 3"),
    "no steps": (lambda: nn.RNN(I, H)(tg.zeros(0, B, I)), ValueError, "expected at least one step"),
    "no tensor": (lambda: nn.GRU(I, H)(np.zeros((T, B, I))), TypeError, "GRU: input is ndarray; expected a tensor"),
    "h_0": (
        lambda: nn.GRU(I, H)(tg.zeros(T, B, I), tg.zeros(1, 2, H)),
        ValueError,
        r"GRU: h_0 is \(1, 2, 6\); expected \(1, 3, 6\)",
    ),
    "c_0": (
        lambda: nn.LSTM(I, H)(tg.zeros(T, B, I), (tg.zeros(1, B, H), tg.zeros(1, B, 5))),
        ValueError,
        r"LSTM: c_0 is \(1, 3, 5\); expected \(1, 3, 6\)",
    ),
    "one state": (
        lambda: nn.LSTM(I, H)(tg.zeros(T, B, I), tg.zeros(1, B, H)),
        TypeError,
        r"LSTM: hx is Tensor; expected two tensors, \(h, c\)",
    ),
    "dtypes": (lambda: nn.LSTM(I, H)(tg.zeros(T, B, I, dtype="float64")), TypeError, "dtypes are float64 and float32"),
    "cell": (lambda: nn.LSTMCell(I, H)(tg.zeros(B, 3)), ValueError, r"LSTMCell: input is \(3, 3\); expected \(4,\)"),
    "cell's state": (
        lambda: nn.GRUCell(I, H)(tg.zeros(B, I), tg.zeros(B, I)),
        ValueError,
        r"GRUCell: hx is \(3, 4\); expected \(3, 6\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, error, text = BAD[case]
    with pytest.raises(error, match=text):
        make()
