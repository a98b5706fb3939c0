"""Keras' LSTM and GRU in one primitive, beside the cell that Keras runs step by step (use_cudnn=False)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tilegrad.keras import GradientTape
from tilegrad.ops import recurrent

KINDS = {"lstm": layers.LSTM, "gru": layers.GRU}


@pytest.fixture
def calls(monkeypatch):
    """The names of the primitives' ops that were called."""
    found = []
    for name in KINDS:
        op = getattr(recurrent, name)
        monkeypatch.setattr(recurrent, name, lambda *a, op=op, name=name: found.append(name) or op(*a))
    return found


def both(kind, **options):
    """The same layer, fused and step by step."""
    keras.utils.set_random_seed(0)
    pair = [KINDS[kind](4, use_cudnn=use, **options) for use in ("auto", False)]
    for layer in pair:
        layer.build((2, 5, 3))
    pair[0].set_weights([np.random.default_rng(i).standard_normal(w.shape) for i, w in enumerate(pair[0].weights)])
    pair[1].set_weights(pair[0].get_weights())
    return pair


def results(layer, x, *states):
    """Outputs, last states, and the gradients by input and weights of a sum of squares."""
    variable = keras.Variable(x)
    with GradientTape() as tape:
        made = layer(variable, initial_state=list(states) or None)
        made = made if isinstance(made, (list, tuple)) else [made]
        loss = sum(keras.ops.sum(keras.ops.square(each)) for each in made)
    grads = tape.gradient(loss, [variable, *layer.trainable_variables])
    return [keras.ops.convert_to_numpy(each) for each in (*made, *grads)]


OPTIONS = [
    {},
    {"return_sequences": True, "return_state": True},
    {"go_backwards": True, "return_sequences": True},
    {"go_backwards": True, "return_state": True, "use_bias": False},
]


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "states"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_primitive_is_the_cell_step_by_step(kind, options, given, calls):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    count = {"lstm": 2, "gru": 1}[kind] if given else 0
    states = [rng.standard_normal((2, 4)).astype(np.float32) for _ in range(count)]
    fused, plain = both(kind, **options)
    got = results(fused, x, *states)
    assert calls == [kind]
    want = results(plain, x, *states)
    assert calls == [kind]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"recurrent_activation": "hard_sigmoid"}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_other_activations_run_step_by_step(kind, options, calls):
    fused, plain = both(kind, **options)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    for a, b in zip(results(fused, x), results(plain, x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert calls == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_runs_step_by_step(kind, calls):
    fused, plain = both(kind)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    mask = np.array([[True, True, False, True, False], [False, True, True, True, True]])
    np.testing.assert_array_equal(fused(x, mask=mask), plain(x, mask=mask))
    assert calls == []


def test_the_reset_before_the_product_runs_step_by_step(calls):
    fused, plain = both("gru", reset_after=False)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(fused(x), plain(x))
    assert calls == []


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions(kind, calls):
    keras.utils.set_random_seed(0)
    layer = layers.Bidirectional(KINDS[kind](4, return_sequences=True))
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    y = keras.ops.convert_to_numpy(layer(x))
    forward, backward = layer.forward_layer(x), keras.ops.flip(layer.backward_layer(x), 1)
    np.testing.assert_array_equal(y, keras.ops.convert_to_numpy(keras.ops.concatenate([forward, backward], -1)))
    assert set(calls) == {kind}
