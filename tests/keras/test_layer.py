"""Convolution layers are one primitive with their bias and activation: values and gradients are those of the parts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.src.layers.convolutional.base_conv import BaseConv

import tilegrad as tg
from tilegrad.keras import GradientTape
from tilegrad.keras.backend import layer as layer_module

PARTS = BaseConv.call.__wrapped__  # Keras' own


def images(*shape):
    return keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def both(layer, x):
    """(result, gradients of kernel, bias and x) of the layer, and of its parts."""
    layer.build(x.shape)
    layer.bias.assign(np.linspace(-1, 1, layer.filters))
    found = []
    for call in (layer.call, lambda x: PARTS(layer, x)):
        with GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            total = keras.ops.sum(y * keras.ops.reshape(keras.ops.arange(y.numel(), dtype="float32"), y.shape))
        found.append([y, *tape.gradient(total, [layer.kernel, layer.bias, x])])
    return found


@pytest.fixture
def fused(monkeypatch):
    """What was computed as one primitive: the activations' names."""
    names, real = [], layer_module.conv_activated

    def counted(x, kernel, bias, activation, *geometry):
        names.append(activation)
        return real(x, kernel, bias, activation, *geometry)

    monkeypatch.setattr(layer_module, "conv_activated", counted)
    return names


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "leaky_relu", lambda x: x * x])
@pytest.mark.parametrize(
    ("layer", "options", "shape"),
    [
        ("Conv2D", {"strides": 2, "padding": "same"}, (2, 9, 8, 4)),
        ("Conv2D", {"data_format": "channels_first", "groups": 2}, (2, 4, 7, 6)),
        ("Conv2D", {"dilation_rate": (2, 1)}, (2, 9, 8, 4)),
        ("Conv1D", {"padding": "same"}, (2, 9, 4)),
    ],
)
def test_the_parts_give_the_same(layer, options, shape, activation, fused):
    layer = getattr(keras.layers, layer)(6, 3, activation=activation, **options)
    for got, want in zip(*both(layer, images(*shape)), strict=True):
        got, want = (keras.ops.convert_to_numpy(tg.Tensor.detach(each)) for each in (got, want))
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4 * np.abs(want).max())
    if fused:  # Conv1D has a call of its own
        assert fused == [activation if activation in ("relu", "tanh") else None]
    assert fused or isinstance(layer, keras.layers.Conv1D)


class Scaled(keras.layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, 2 * kernel)


class Shifted(keras.layers.Conv2D):
    def call(self, inputs):
        return super().call(inputs) + 1


def test_a_class_with_its_own_way_keeps_it(fused):
    x = images(1, 5, 5, 2)
    plain, scaled, shifted = (kind(3, 3, activation="relu") for kind in (keras.layers.Conv2D, Scaled, Shifted))
    y = plain(x)
    for other in (scaled, shifted):
        other.build(x.shape)
        other.set_weights(plain.get_weights())
    assert fused == ["relu"]
    np.testing.assert_allclose(scaled(x).numpy(), 2 * y.numpy(), rtol=1e-5, atol=1e-6)  # its bias is 0
    assert fused == ["relu"]
    np.testing.assert_allclose(shifted(x).numpy(), y.numpy() + 1, rtol=1e-6)
    assert fused == ["relu", "relu"]


def test_what_is_not_served_goes_the_long_way(fused):
    keras.layers.Conv3D(2, 2, activation="relu")(images(1, 4, 4, 4, 2))
    keras.layers.Conv2D(2, 2, use_bias=False, activation="relu")(images(1, 4, 4, 2))
    symbolic = keras.layers.Conv2D(2, 2, activation="relu")(keras.Input((4, 4, 2)))
    assert symbolic.shape == (None, 3, 3, 2) and fused == []


def test_mixed_precision(fused):
    layer = keras.layers.Conv2D(2, 2, activation="relu", dtype="mixed_bfloat16")
    y = layer(images(1, 4, 4, 2))
    assert y.dtype == tg.bfloat16 and fused == ["relu"] and layer.kernel.dtype == "float32"
