"""Gradients reach the arguments of every function that is differentiable, and are those of finite differences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

import tilegrad as tg
from tilegrad.keras.backend.core.recording import recording

UNARY = (
    "negative absolute square exp expm1 sin cos tan sinh cosh tanh arctan sigmoid silu softplus softsign log_sigmoid "
    "elu selu celu gelu leaky_relu relu relu6 hard_tanh hard_sigmoid hard_silu tanh_shrink soft_shrink hard_shrink "
    "squareplus softmax log_softmax sum mean max min prod var std cumsum ravel transpose flip logsumexp sort exp2 cbrt "
    "sparse_plus sparse_sigmoid nan_to_num copy"
).split()
POSITIVE = "log log2 log10 log1p sqrt reciprocal rsqrt".split()
BINARY = "add subtract multiply divide maximum minimum logaddexp logaddexp2 hypot divide_no_nan".split()


def normal(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def away_from_edges(x):
    """No element near a whole or half number, where the functions have their edges."""
    return tg.tensor(
        np.where(np.abs(x.detach().numpy() * 2 % 1 - 0.5) > 0.45, 0.37, x.detach().numpy()), requires_grad=True
    )


@pytest.mark.parametrize("name", UNARY)
def test_of_one(name):
    assert tg.gradcheck(getattr(ops, name), [away_from_edges(normal(3, 4))])


@pytest.mark.parametrize("name", POSITIVE)
def test_of_positive_numbers(name):
    x = tg.tensor(np.abs(normal(3, 4).detach().numpy()) + 0.5, requires_grad=True)
    assert tg.gradcheck(getattr(ops, name), [x])


@pytest.mark.parametrize("name", BINARY)
def test_of_two(name):
    assert tg.gradcheck(getattr(ops, name), [normal(3, 4), normal(4, seed=1)])


CALLS = {
    "matmul": (ops.matmul, (2, 3, 4), (4, 5)),
    "dot": (ops.dot, (3, 4), (2, 4, 2)),
    "tensordot": (lambda a, b: ops.tensordot(a, b, axes=([0, 2], [1, 0])), (2, 3, 4), (4, 2)),
    "einsum": (lambda a, b: ops.einsum("abc,cd->abd", a, b), (2, 3, 4), (4, 2)),
    "where": (lambda a, b: ops.where(np.array([True, False, True]), a, b), (2, 3), (3,)),
    "concatenate": (lambda a, b: ops.concatenate([a, b], axis=1), (2, 3), (2, 2)),
    "stack": (lambda a, b: ops.stack([a, b], axis=1), (2, 3), (2, 3)),
    "pad": (lambda a: ops.pad(a, ((1, 2), (0, 1)), mode="symmetric"), (3, 4)),
    "take": (lambda a: ops.take(a, np.array([[0, 2], [2, -1]]), axis=0), (3, 4)),
    "take_along_axis": (lambda a: ops.take_along_axis(a, np.array([[0, 2], [1, 1]]), axis=1), (2, 3)),
    "split": (lambda a: ops.split(a, 2, axis=1)[1], (3, 4)),
    "repeat": (lambda a: ops.repeat(a, 2, axis=0), (3, 4)),
    "slice_update": (lambda a, b: ops.slice_update(a, (1, 0), b), (3, 4), (2, 2)),
    "slice": (lambda a: ops.slice(a, (1, 1), (2, 2)), (3, 4)),
    "scatter": (lambda a: ops.scatter(np.array([[0], [2], [0]]), a, (4, 2)), (3, 2)),
    "scatter_update": (lambda a, b: ops.scatter_update(a, np.array([[0, 1], [2, 0]]), b), (3, 2), (2,)),
    "segment_sum": (lambda a: ops.segment_sum(a, np.array([0, 1, 0]), num_segments=2), (3, 2)),
    "moments": (lambda a: ops.moments(a, axes=[0, 1])[0] * ops.moments(a, axes=[0, 1])[1], (3, 4, 2)),
    "moments, kept": (lambda a: ops.moments(a, axes=[1], keepdims=True)[1], (3, 4, 2)),
    "conv": (lambda x, w: ops.conv(x, w, padding="same"), (2, 5, 5, 2), (3, 3, 2, 3)),
    "strided conv": (lambda x, w: ops.conv(x, w, strides=2, padding="same"), (2, 6, 5, 2), (3, 2, 2, 3)),
    "conv of sequences": (lambda x, w: ops.conv(x, w, dilation_rate=2), (2, 7, 2), (3, 2, 3)),
    "channels first": (lambda x, w: ops.conv(x, w, data_format="channels_first"), (2, 2, 4, 5), (3, 3, 2, 3)),
    "depthwise_conv": (ops.depthwise_conv, (2, 4, 4, 3), (2, 2, 3, 2)),
    "separable_conv": (ops.separable_conv, (1, 4, 4, 2), (2, 2, 2, 1), (1, 1, 2, 3)),
    "conv_transpose": (lambda x, w: ops.conv_transpose(x, w, strides=2, padding="same"), (2, 3, 3, 2), (3, 3, 4, 2)),
    "max_pool": (lambda x: ops.max_pool(x, 2, padding="same"), (2, 5, 4, 2)),
    "average_pool": (lambda x: ops.average_pool(x, 3, 2, padding="same"), (2, 5, 4, 2)),
    "pool of sequences": (lambda x: ops.max_pool(x, 3, 1), (2, 6, 2)),
    "categorical_crossentropy": (
        lambda z: ops.categorical_crossentropy(np.eye(4)[[0, 2, 3]], ops.softmax(z)), (3, 4),
    ),
    "of probabilities": (lambda z: ops.categorical_crossentropy(np.eye(4)[[0, 2, 3]], ops.exp(z)), (3, 4)),
    "sparse_categorical_crossentropy": (
        lambda z: ops.sparse_categorical_crossentropy(np.array([0, 2, 3]), z, from_logits=True), (3, 4),
    ),
    "sparse, of probabilities": (
        lambda z: ops.sparse_categorical_crossentropy(np.array([0, 2, 3]), ops.exp(z)), (3, 4),
    ),
    "binary_crossentropy": (lambda z: ops.binary_crossentropy(np.array([0.0, 1, 0.3]), ops.sigmoid(z)), (3,)),
    "binary, of probabilities": (
        lambda z: ops.binary_crossentropy(np.array([0.0, 1, 0.3]), ops.exp(-z * z) / 2), (3,),
    ),
    "dot_product_attention": (ops.dot_product_attention, (2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4)),
    "norm": (lambda a: ops.norm(a, axis=1), (3, 4)),
    "average": (lambda a, w: ops.average(a, axis=0, weights=w * w + 1), (3, 2), (3,)),
    "linspace": (lambda a, b: ops.linspace(a, b, 3), (2,), (2,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    function, *shapes = CALLS[name]
    assert tg.gradcheck(function, [normal(*shape, seed=i) for i, shape in enumerate(shapes)])


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_normalization(frozen):
    """By the moments of x itself, and by constants."""

    def normalized(x, scale, offset):
        mean, variance = ops.moments(x, axes=[0, 1, 2])
        if frozen:
            mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
        return ops.batch_normalization(x, mean, variance, axis=-1, offset=offset, scale=scale)

    inputs = [normal(2, 3, 3, 2), normal(2, seed=1), normal(2, seed=2)]
    if not frozen:
        assert tg.gradcheck(normalized, inputs)
    else:
        constants = [x.detach() for x in ops.moments(inputs[0], axes=[0, 1, 2])]
        assert tg.gradcheck(lambda x, s, o: ops.batch_normalization(x, *constants, -1, o, s), inputs)


def test_moments_of_another_tensor_are_not_taken_for_its_own():
    x, other = normal(8, 3), normal(8, 3, seed=1)

    def normalized(x, other):
        return ops.batch_normalization(x, *ops.moments(other, axes=[0]), axis=-1)

    assert tg.gradcheck(normalized, [x, other])


def test_custom_gradient_and_stop_gradient():
    @ops.custom_gradient
    def log1pexp(x):
        e = ops.exp(x)

        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return ops.multiply(upstream, 10.0 - 1.0 / ops.add(1, e))

        return ops.log(1 + e), grad

    x = normal(3)
    (found,) = tg.grad(log1pexp(x).sum(), x)
    np.testing.assert_allclose(found.numpy(), 10 - 1 / (1 + np.exp(x.detach().numpy())), rtol=1e-6)
    assert not ops.stop_gradient(x * 2).requires_grad


def test_variables_want_gradients_while_they_are_recorded():
    v, frozen = keras.Variable(np.ones(2)), keras.Variable(np.ones(2), trainable=False)
    count = keras.Variable(1, dtype="int32")
    assert not (v * 2.0).requires_grad
    np.testing.assert_array_equal((v * 2.0).numpy(), [2, 2])
    with recording():
        assert (v * 2.0).requires_grad and not (frozen * 2.0).requires_grad and not (count * 2).requires_grad
        (v * 2.0).sum().backward()
        np.testing.assert_array_equal(v.value.grad.numpy(), [2, 2])
        v.trainable = False
        assert not (v * 2.0).requires_grad
        frozen.trainable = True
        assert (frozen * 2.0).requires_grad
