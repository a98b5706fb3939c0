"""Conversion, variables, scopes, control flow, shapes of functions, random numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.backend import compute_output_spec

import tilegrad as tg


def test_a_variable_stays_on_its_memory():
    start = np.arange(3, dtype=np.float32)
    v = keras.Variable(start)
    tensor, memory = v.value, v.value.data
    v.assign([5, 6, 7])
    v.assign_add(np.ones(3))
    v.assign_sub(ops.ones(3) * 2)
    assert v.value is tensor and tensor.data is memory and memory is not start
    np.testing.assert_array_equal(start, [0, 1, 2])
    np.testing.assert_array_equal(v.numpy(), [4, 5, 6])
    np.testing.assert_array_equal(np.asarray(v), [4, 5, 6])
    copied = ops.convert_to_numpy(v)
    v.assign([0, 0, 0])
    np.testing.assert_array_equal(copied, [4, 5, 6])
    with pytest.raises(ValueError, match="must match"):
        v.assign([1, 2])


def test_arrays_of_the_program_and_tensors_have_memory_of_their_own():
    x, v = np.zeros(3, np.float32), keras.Variable([1.0, 2.0])
    tensor = ops.convert_to_tensor(x)
    array, now = ops.convert_to_numpy(tensor), ops.convert_to_numpy(v.value)
    tensor += 1
    v.assign([3, 4])
    np.testing.assert_array_equal([x, array], np.zeros((2, 3)))
    np.testing.assert_array_equal(now, [1, 2])
    brightened = keras.layers.RandomBrightness((0.5, 1.0), seed=1)(images := np.full((2, 2, 3), 200), training=True)
    assert (images == 200).all() and (ops.convert_to_numpy(brightened) == 255).all()


def test_operators_of_tensors_and_variables():
    v, x = keras.Variable(np.array([1.0, 2.0])), ops.convert_to_tensor(np.array([3.0, 5.0], np.float32))
    for got, want in (
        (x + v, [4, 7]), (v + x, [4, 7]), (x - v, [2, 3]), (v - x, [-2, -3]), (x * v, [3, 10]), (x / v, [3, 2.5]),
        (v / x, [1 / 3, 0.4]), (x**v, [3, 25]), (x // v, [3, 2]), (x % v, [0, 1]), (x > v, [True, True]),
        (v == x, [False, False]), (1.0 - v, [0, -1]), (-v, [-1, -2]), (v[1], 2),
    ):  # fmt: skip
        np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(ops.reshape(x, (1, 2)) @ keras.Variable(np.ones((2, 1))), [[8]])


def test_dtypes_of_variables_and_autocast():
    v = keras.Variable(np.ones(2, np.float64), dtype="float32")
    assert v.dtype == "float32" and keras.Variable(1, dtype="int").dtype == "int32"
    v._initialize(value=np.zeros(2, np.float32))  # as Keras' own tests and layers may, with an array
    np.testing.assert_array_equal(v.numpy(), [0, 0])
    with keras.src.backend.AutocastScope("float16"):
        assert v.dtype == "float16" and str(v.value.dtype) == "float16"
    with pytest.raises(TypeError, match="complex64"):
        keras.Variable(1, dtype="complex64")


def test_a_stateless_scope_keeps_writes():
    v = keras.Variable(np.ones(2))
    with keras.StatelessScope([(v, np.full(2, 5.0))]) as scope:
        np.testing.assert_array_equal(v.value.numpy(), [5, 5])
        v.assign(v * 2)
    np.testing.assert_array_equal(scope.get_current_value(v).numpy(), [10, 10])
    np.testing.assert_array_equal(v.numpy(), [1, 1])


def test_a_layer_without_state():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    trainable, other = layer.trainable_variables, layer.non_trainable_variables
    y, updated = layer.stateless_call([v.value * 3 for v in trainable], [v.value for v in other], x, training=True)
    np.testing.assert_array_equal(other[0].numpy(), np.zeros(3))
    np.testing.assert_allclose(updated[0], 0.01 * x.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ops.std(y, axis=0), np.full(3, 3.0), rtol=1e-2)


def test_devices():
    with keras.device("cpu:0"):
        assert ops.ones(2).device == "cpu"
    if not tg.cuda.is_available():
        assert ops.ones(2).device == "cpu"
    with keras.device("gpu"):
        x = ops.ones(2) * 3
        v = keras.Variable(np.ones(2))
    assert x.device == v.value.device == "cuda"
    np.testing.assert_array_equal(ops.convert_to_numpy(x + v), [4, 4])
    with pytest.raises(ValueError, match="expected a string such as"), keras.device(3):
        pass


def test_control_flow():
    x = ops.convert_to_tensor([1.0, 2.0, 3.0])
    assert float(ops.cond(ops.sum(x) > 5, lambda: x[0], lambda: x[1])) == 1
    assert float(ops.switch(ops.convert_to_tensor(7), [lambda: 1.0, lambda: 2.0])) == 2
    i, total = ops.while_loop(lambda i, t: i < 4, lambda i, t: (i + 1, t + i), (0, 0))
    assert (int(i), int(total)) == (4, 6)
    assert int(ops.while_loop(lambda i: True, lambda i: i + 1, 0, maximum_iterations=3)) == 3
    assert float(ops.fori_loop(0, 3, lambda i, t: t + x[i], 0.0)) == 6
    np.testing.assert_array_equal(ops.map(lambda a: a * 2, x), [2, 4, 6])
    np.testing.assert_array_equal(ops.vectorized_map(lambda a: a * 2, x), [2, 4, 6])
    carry, ys = ops.scan(lambda c, a: (c + a, c * a), 1.0, x)
    assert float(carry) == 7
    np.testing.assert_array_equal(ys, [1, 4, 12])
    carry, ys = ops.scan(lambda c, a: (c + a, c), 0.0, x, reverse=True)
    np.testing.assert_array_equal(ys, [5, 3, 0])
    np.testing.assert_array_equal(ops.associative_scan(lambda a, b: a * b, x), [1, 2, 6])
    np.testing.assert_array_equal(ops.associative_scan(lambda a, b: a + b, x, reverse=True), [6, 5, 3])


def test_slices():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(ops.slice(x, (1, 2), (2, 2)), x[1:, 2:])
    np.testing.assert_array_equal(ops.slice(x, np.array([1, 0]), (1, -1)), x[1:2])
    np.testing.assert_array_equal(ops.slice_update(x, (0, 1), np.ones((2, 2)))[:2, 1:3], np.ones((2, 2)))
    at, values = np.array([[0, 1], [2, 3], [0, 1], [-1, 0]]), np.array([1, 2, 3, 4], np.float32)
    want = np.zeros((3, 4), np.float32)
    np.add.at(want, tuple(at.T), values)
    np.testing.assert_array_equal(ops.scatter(at, values, (3, 4)), want)
    got = ops.convert_to_numpy(ops.scatter_update(x, at, values))
    assert (got[0, 1], got[2, 3], got[2, 0]) == (3, 2, 4) and got[1, 1] == x[1, 1]
    assert [int(a[0]) for a in ops.unstack(x, axis=1)] == [0, 1, 2, 3]


def test_shapes_of_functions():
    def rows(x):
        return ops.matmul(ops.sum(ops.cast(x, "float32"), axis=1)[:, :7], np.ones((7, 2), "float32"))

    y = compute_output_spec(rows, keras.KerasTensor((None, 3, None), "int32"))
    assert (y.shape, y.dtype) == ((None, 2), "float32")

    def features(x):
        return ops.max_pool(ops.conv(x, np.ones((5, 5, 3, 2), "float32")), 8)

    assert compute_output_spec(features, keras.KerasTensor((None, None, None, 3))).shape == (None, None, None, 2)

    class Twice(keras.layers.Layer):
        def call(self, x, extra=None):
            return {"flat": ops.reshape(x, (ops.shape(x)[0], -1)), "pair": (x, ops.any(x > 0, axis=-1))}

    spec = Twice()(keras.Input((4, 5)))
    assert spec["flat"].shape == (None, 20) and spec["pair"][1].shape == (None, 4)
    assert spec["pair"][1].dtype == "bool"


def test_variables_are_not_changed_by_asking_for_shapes():
    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.count.assign_add(1.0)
            return x * self.count

    layer = Counting()
    layer(keras.Input((3,)))
    assert float(layer.count) == 0
    layer(np.ones((1, 3)))
    assert float(layer.count) == 1


# --- random numbers


def test_random_numbers_are_functions_of_the_seed():
    draws = [
        lambda seed: keras.random.uniform((200,), seed=seed),
        lambda seed: keras.random.normal((200,), seed=seed),
        lambda seed: keras.random.truncated_normal((200,), seed=seed),
        lambda seed: keras.random.randint((200,), 0, 1000, seed=seed),
        lambda seed: keras.random.categorical(np.zeros((1, 9), np.float32), 200, seed=seed),
        lambda seed: keras.random.dropout(np.ones(200, np.float32), 0.5, seed=seed),
        lambda seed: keras.random.shuffle(np.arange(200), seed=seed),
    ]
    for draw in draws:
        first, same, other = [ops.convert_to_numpy(draw(seed)) for seed in (3, 3, 4)]
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()
        generator = keras.random.SeedGenerator(3)
        once, again = [ops.convert_to_numpy(draw(generator)) for _ in range(2)]
        np.testing.assert_array_equal(once, first)
        assert (once != again).any()
        assert (ops.convert_to_numpy(draw(None)) != ops.convert_to_numpy(draw(None))).any()


def test_distributions():
    n = 20_000
    u = ops.convert_to_numpy(keras.random.uniform((n,), -1, 3, seed=1))
    assert u.min() >= -1 and u.max() < 3 and abs(u.mean() - 1) < 0.03
    z = ops.convert_to_numpy(keras.random.normal((n,), 5, 2, seed=1))
    assert abs(z.mean() - 5) < 0.05 and abs(z.std() - 2) < 0.05
    t = ops.convert_to_numpy(keras.random.truncated_normal((n,), 5, 2, seed=1))
    assert abs(t - 5).max() <= 4 and abs(t.std() - 2 * 0.8796) < 0.05
    i = ops.convert_to_numpy(keras.random.randint((n,), 2, 5, seed=1))
    assert set(i) == {2, 3, 4}
    p = np.array([[0.5, 0.2, 0.3]], np.float32)
    c = ops.convert_to_numpy(keras.random.categorical(np.log(p), n, seed=1))
    assert c.shape == (1, n)
    np.testing.assert_allclose(np.bincount(c[0]) / n, p[0], atol=0.02)


def test_dropout_keeps_the_mean_and_shares_by_the_noise_shape():
    x = np.ones((200, 50), np.float32)
    y = ops.convert_to_numpy(keras.random.dropout(x, 0.25, seed=1))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)} and abs(y.mean() - 1) < 0.03
    rows = ops.convert_to_numpy(keras.random.dropout(x, 0.25, noise_shape=(None, 1), seed=1))
    assert (rows == rows[:, :1]).all() and 0 < (rows[:, 0] == 0).mean() < 0.5
