"""Convolutions and Dense are one primitive with bias and activation: values and gradients are those of the parts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.core.dense import Dense

import tilegrad as tg
from tilegrad.keras import GradientTape
from tilegrad.keras.backend import layer as layer_module
from tilegrad.ops import conv

PARTS = {kind: kind.call.__wrapped__ for kind in (BaseConv, Dense)}  # Keras' own
EPILOGUES = ("relu", "tanh", "gelu", "silu")


def images(*shape):
    return keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def both(layer, x):
    """(result, gradients of kernel, bias and x) of the layer, and of its parts."""
    layer.build(x.shape)
    variables = [v for v in (layer.kernel, layer.bias) if v is not None]
    if layer.bias is not None:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    parts = next(parts for kind, parts in PARTS.items() if isinstance(layer, kind))
    found = []
    for call in (layer.call, lambda x: parts(layer, x)):
        with GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            total = keras.ops.sum(y * keras.ops.reshape(keras.ops.arange(y.numel(), dtype="float32"), y.shape))
        found.append([y, *tape.gradient(total, [*variables, x])])
    return found


@pytest.fixture
def fused(monkeypatch):
    """What was computed as one primitive: the activations' names."""
    names = []

    def counting(real):
        def counted(x, kernel, bias, activation, *geometry):
            names.append(activation)
            return real(x, kernel, bias, activation, *geometry)

        return counted

    for name in ("conv_activated", "dense"):
        monkeypatch.setattr(layer_module, name, counting(getattr(layer_module, name)))
    return names


def assert_both(layer, x):
    for got, want in zip(*both(layer, x), strict=True):
        got, want = (keras.ops.convert_to_numpy(tg.Tensor.detach(each)) for each in (got, want))
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4 * np.abs(want).max(initial=0))


ACTIVATIONS = pytest.mark.parametrize("activation", [None, *EPILOGUES, "sigmoid", "leaky_relu", lambda x: x * x])


@ACTIVATIONS
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
    assert_both(layer, images(*shape))
    if fused:  # Conv1D has a call of its own
        assert fused == [activation if activation in EPILOGUES else None]
    assert fused or isinstance(layer, keras.layers.Conv1D)


@ACTIVATIONS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(33, 20), (2, 5, 20), (2, 3, 2, 20), (0, 20)])
def test_the_parts_of_dense_give_the_same(shape, bias, activation, fused):
    assert_both(keras.layers.Dense(16, activation=activation, use_bias=bias), images(*shape))
    assert fused == [activation if activation in EPILOGUES else None]


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


class Doubled(keras.layers.Dense):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def test_a_dense_class_with_its_own_way_keeps_it(fused):
    x = images(3, 5)
    plain, doubled = (kind(4, activation="relu") for kind in (keras.layers.Dense, Doubled))
    y = plain(x)
    doubled.build(x.shape)
    doubled.set_weights(plain.get_weights())
    np.testing.assert_array_equal(doubled(x).numpy(), 2 * y.numpy())
    assert fused == ["relu", "relu"]


def test_lora_and_quantised_kernels(fused):
    x = images(3, 8)
    layer = keras.layers.Dense(4, activation="relu")
    y = layer(x)
    layer.enable_lora(2)
    np.testing.assert_allclose(layer(x).numpy(), y.numpy(), rtol=1e-5, atol=1e-6)  # the second matrix is 0 yet
    layer.lora_kernel_b.assign(np.ones((2, 4)))
    want = np.maximum(x.numpy() @ keras.ops.convert_to_numpy(layer.kernel), 0)
    np.testing.assert_allclose(layer(x).numpy(), want, rtol=1e-4, atol=1e-5)
    assert fused == ["relu"] * 3
    layer = keras.layers.Dense(4, activation="relu")
    y = layer(x)
    layer.quantize("int8")
    np.testing.assert_allclose(layer(x).numpy(), y.numpy(), atol=0.1)
    assert fused == ["relu"] * 4


def test_what_dense_does_not_serve_goes_the_long_way(fused):
    layer = keras.layers.Dense(2)
    assert layer(keras.Input((4,))).shape == (None, 2)
    for bias in (True, False):
        layer = keras.layers.Dense(2, use_bias=bias, autocast=False)
        layer.build((None, 3))
        for dtype in ("int32", "float16"):
            assert layer.call(keras.ops.ones((4, 3), dtype)).dtype == tg.float32
    assert fused == []


def test_what_is_not_served_goes_the_long_way(fused):
    keras.layers.Conv3D(2, 2, activation="relu")(images(1, 4, 4, 4, 2))
    keras.layers.Conv2D(2, 2, use_bias=False, activation="relu")(images(1, 4, 4, 2))
    symbolic = keras.layers.Conv2D(2, 2, activation="relu")(keras.Input((4, 4, 2)))
    assert symbolic.shape == (None, 3, 3, 2) and fused == []


def test_mixed_precision(fused):
    layer = keras.layers.Conv2D(2, 2, activation="relu", dtype="mixed_bfloat16")
    y = layer(images(1, 4, 4, 2))
    assert y.dtype == tg.bfloat16 and fused == ["relu"] and layer.kernel.dtype == "float32"
    layer = keras.layers.Dense(2, activation="tanh", dtype="mixed_bfloat16")
    assert layer(images(3, 4)).dtype == tg.bfloat16 and fused == ["relu", "tanh"] and layer.kernel.dtype == "float32"


def test_relu_before_pooling_is_masked_after_it(monkeypatch):
    """Keras' layers in a row, through the views between its images and the engine's."""
    skips, real = [], conv.is_masked
    monkeypatch.setattr(conv, "is_masked", lambda *args: skips.append(real(*args)) or skips[-1])
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(2)])
    model.compile("sgd", "mse")
    model.fit(images(4, 8, 8, 3).numpy(), np.zeros((4, 3, 3, 4), np.float32), verbose=0)
    assert skips == [True]

    x = images(2, 8, 8, 3)
    layer = model.layers[0]
    layer.bias.assign(np.array([0.0, -9.0, 9.0, 0.0]))  # windows of zeros, and none
    with GradientTape() as tape:
        features = layer(x)
        score = keras.ops.sum(model.layers[1](features))
    found, _ = tape.gradient(score, [features, layer.kernel])
    assert skips == [True, False]
    windows = found.reshape(2, 3, 2, 3, 2, 4).sum((2, 4))
    np.testing.assert_array_equal(windows.numpy(), np.ones((2, 3, 3, 4)))  # one pixel of each, zero or not
