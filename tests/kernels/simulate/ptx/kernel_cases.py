"""The project's kernels as compilers made them for sm_80 or sm_90, executed: against the float64 specification.

Run by test_kernels.py in a process of its own with TILEGRAD_SIMULATE=ptx, or ptx:90: a simulator, which the other tests
use, takes the compiler's place. Every launch goes through the launcher: its parameter block, its specialisation, its
grid.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import triton.language as tl

from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tilegrad import kernels
from tilegrad.kernels.backends import reference
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.driver import Function
from tilegrad.kernels.launch.numba_kernel import kernel as numba_kernel
from tilegrad.kernels.launch.numba_target import cuda
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.losses.reference import KINDS
from tilegrad.kernels.simulate import tape
from tilegrad.kernels.simulate.ptx import driver, execute
from tilegrad.kernels.simulate.ptx.faults import Fault, PtxError

BACKENDS = {name: OnDevice(kernels.load(name)) for name in ("triton", "numba")}
SERVED = [
    ("triton", np.float32),
    ("triton", np.float16),
    ("triton", bfloat16),
    ("numba", np.float32),
    ("numba", np.float16),
]
each_served = pytest.mark.parametrize(
    ("backend", "dtype"), SERVED, ids=lambda x: x if isinstance(x, str) else np.dtype(x).name
)


def normal(dtype: Any, *shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def check(backend: str, name: str, *args: Any, scale: float = 0.0, **kwargs: Any) -> None:
    """The primitive's results against float64's, within twice the error of NumPy's in the same dtype."""

    def of(function: Any, convert: Any) -> list[np.ndarray]:
        result = function(*map(convert, args), **kwargs)
        return [each for each in (result if isinstance(result, tuple) else (result,)) if each is not None]

    got = of(getattr(BACKENDS[backend], name), lambda a: a)
    wide = of(getattr(reference, name), lambda a: a.astype(np.float64) if is_float(a) else a)
    same = of(getattr(reference, name), lambda a: a)
    for mine, want, baseline in zip(got, wide, same, strict=True):
        if is_float(baseline):
            assert_close(mine, want.astype(np.float64), baseline, scale=scale)
        else:
            assert_same(mine, baseline)


def is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind in "fV"


@each_served
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "erf"])
def test_activations(backend, dtype, name):
    """33 x 67: two blocks, the last not full; a transposed array; infinities and NaN."""
    x = normal(dtype, 33, 67)
    x[0, :4] = np.inf, -np.inf, np.nan, -0.0
    saved = getattr(reference, name)(x) if name in ("tanh", "sigmoid") else x
    check(backend, name, x.T)
    check(backend, f"{name}_grad", normal(dtype, 33, 67), saved)


@each_served
def test_softmax(backend, dtype):
    """Rows that a warp takes, rows that several warps take over shared memory, and columns."""
    for shape, axis in (((33, 257), -1), ((2, 1500), -1), ((5, 10), 0)):
        x = normal(dtype, *shape)
        y = reference.softmax(x, axis)
        check(backend, "softmax", x, axis)
        check(backend, "softmax_grad", normal(dtype, *shape), y, axis)
    check(backend, "log_softmax", normal(dtype, 33, 257))


@each_served
def test_attention(backend, dtype):
    """One past a tile of queries and keys; a bool mask, causality, and dropout from within a Philox block.

    tests/kernels judges rounding: a result here may be as far off as a sum of its terms is.
    """
    n, width = (33, 20) if backend == "triton" else (9, 33)
    q, k, v, dy = normal(dtype, 4, 1, 1, n, width)
    options = np.random.default_rng(0).random((1, 1, n, n)) < 0.7, True, 0.3, 0.25, 12345, 7
    y, lse = reference.attention(q, k, v, *options)
    check(backend, "attention", q, k, v, *options, scale=1.0)
    check(backend, "attention_grad", dy, q, k, v, y, lse, *options, scale=1.0)


@each_served
def test_recurrent_layers(backend, dtype):
    """Packed sequences in both directions, of a width that no vector fits; two programs of rows in Triton."""
    sizes, width = (40, 3, 1) if backend == "triton" else (4, 3, 1), 5
    n = sum(sizes)
    dy, h, c = normal(dtype, n, width), normal(dtype, sizes[0], width), normal(dtype, sizes[0], width)
    w = (normal(np.float32, 4 * width, width) / 4).astype(dtype)
    x, bias = normal(dtype, n, 4 * width), normal(dtype, 3 * width)
    for name, given in (("lstm", (x, w, h, c)), ("gru", (x[:, :15], w[:15], bias, h)), ("rnn", (dy, w[:5], h))):
        for reverse, gradients in ((False, (None, h, c)), (True, (dy, None, None))):
            how = sizes, reverse
            check(backend, name, *given, *how, scale=1.0)
            y, *kept = getattr(reference, name)(*given, *how)
            saved = {"lstm": (c, *kept[-2:]), "gru": (h, y, kept[-1]), "rnn": (y,)}[name]
            of_states = gradients if name == "lstm" else gradients[:2]
            check(backend, f"{name}_grad", *of_states, given[1], *saved, *how, scale=1.0)


@each_served
def test_layer_norm(backend, dtype):
    """Rows that a warp takes, rows that several warps take, and several programs' parts of the sums over rows."""
    for shape in ((5, 10), (70, 33), (2, 1500)):
        x, w, b = normal(dtype, *shape), normal(dtype, shape[1]), normal(dtype, 1, shape[1])[0]
        check(backend, "layer_norm", x, 1, w, b)
        check(backend, "rms_norm", x, 1, w)
        wide = [a.astype(np.float32) for a in (x, w)]
        _, mean, rstd = reference.layer_norm(wide[0], 1, wide[1])
        check(backend, "layer_norm_grad", normal(dtype, *shape), x, mean, rstd, w, True, True, scale=shape[0] ** 0.5)
        check(backend, "rms_norm_grad", normal(dtype, *shape), x, rstd, w, True, scale=shape[0] ** 0.5)


@each_served
def test_layer_norm_with_a_residual(backend, dtype):
    for shape in ((5, 10), (2, 1500)):
        x, residual, dy, ds = (normal(dtype, *shape) for _ in range(4))
        w, b = normal(dtype, shape[1]), normal(dtype, shape[1])
        # what is normalised is the sum in x's dtype: float64's would be another
        _, rstd, joined = reference.rms_norm(x, 1, w, 1e-5, residual)
        assert_same(BACKENDS[backend].rms_norm(x, 1, w, 1e-5, residual)[-1], joined)
        check(backend, "layer_norm", x, 1, w, b, 1e-5, residual, scale=1.0)
        check(backend, "rms_norm", x, 1, w, 1e-5, residual, scale=1.0)
        _, mean, rstd = reference.layer_norm(joined.astype(np.float32), 1)
        check(backend, "layer_norm_grad", dy, joined, mean, rstd, w, True, True, ds, scale=shape[0] ** 0.5)
        check(backend, "rms_norm_grad", dy, joined, rstd, w, True, ds, scale=shape[0] ** 0.5)


@pytest.mark.parametrize("dtype", [np.float16])
def test_layer_norm_with_a_residual_of_rows_beyond_registers(dtype):
    """The forward then makes the sum in each of its passes."""
    x, residual, w = normal(dtype, 2, 33000), normal(dtype, 2, 33000), normal(dtype, 33000)
    check("triton", "layer_norm", x, 1, w, None, 1e-5, residual, scale=1.0)
    _, mean, rstd = reference.layer_norm(x.astype(np.float32), 1)
    check("triton", "layer_norm_grad", residual, x, mean, rstd, w, True, True, residual, scale=3.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_layer_norm_of_rows_beyond_registers(dtype):
    """The sums of a program over its rows then lie in memory."""
    x, w = normal(dtype, 9, 9000), normal(dtype, 9000)
    _, mean, rstd = reference.layer_norm(x.astype(np.float32), 1)
    check("triton", "layer_norm_grad", normal(dtype, 9, 9000), x, mean, rstd, w, True, True, scale=3.0)


@each_served
def test_batch_norm(backend, dtype):
    """In both memory orders; parts of several tiles, several parts of an image, and groups of its channels."""
    cases = [((3, 5, 4, 7), None, True), ((3, 5, 4, 7), None, False), ((2, 6, 5, 3), 2, False)]
    if backend == "triton" and dtype == np.float32:
        cases.append(((1, 2, 90, 100), None, False))
    for shape, groups, last in cases:
        x, dy, w, b = (
            normal(dtype, *shape),
            normal(dtype, *shape),
            normal(dtype, shape[1]),
            normal(dtype, 1, shape[1])[0],
        )
        mean, var = reference.batch_moments(x.astype(np.float32), groups)
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if last else x
        check(backend, "batch_moments", x, groups, scale=1.0)
        check(backend, "batch_norm", x, mean, var, w, b, 1e-5, groups, "relu")
        options = 1e-5, groups, "relu", False, True, True
        check(backend, "batch_norm_grad", dy, x, mean, var, w, b, *options, scale=(x.size / shape[1]) ** 0.5)
        residual = normal(dtype, *shape)
        check(backend, "batch_norm", x, mean, var, w, b, 1e-5, groups, "relu", residual)
        y = reference.batch_norm(x, mean, var, w, b, 1e-5, groups, "relu", residual)
        check(backend, "batch_norm_grad", dy, x, mean, var, w, b, *options, y, scale=(x.size / shape[1]) ** 0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_running_statistics(backend):
    running, mean, var = [normal(np.float32, 5), normal(np.float32, 6)[:5]], normal(np.float32, 7)[:5], np.ones(5, "f")
    mine, theirs = ([a.copy() for a in running] for _ in range(2))
    BACKENDS[backend].batch_moments_step(mine, mean, var, 9, 0.1)
    reference.batch_moments_step(theirs, mean, var, 9, 0.1)
    for got, want in zip(mine, theirs, strict=True):
        assert_close(got, want.astype(np.float64), want)


@each_served
def test_cross_entropy(backend, dtype):
    """One label is left out."""
    x, labels = normal(dtype, 33, 10), np.arange(33) % 10
    labels[5] = -100
    check(backend, "softmax_xent", x, labels)


@each_served
@pytest.mark.parametrize("kind", KINDS)
def test_losses(backend, dtype, kind):
    """Three blocks, the last one not full; numbers at the corners; weights; one gradient and both."""
    x, t = np.tanh(normal(dtype, 33, 67)) ** 2, np.abs(np.tanh(normal(dtype, 33, 67, 1)[..., 0]))
    x, t = x.astype(dtype), t.astype(dtype)
    x[0, :4] = t[0, :4] = 0, 1, 0.5, 0.25
    w = p = None
    for reduction in ("mean", "none"):
        dy = normal(dtype, 33, 67) if reduction == "none" else np.asarray(1.5, dtype)
        options = kind, w, p, 0.5, reduction
        check(backend, "elementwise_loss", x, t, *options, scale=1.0)
        large = 1e12 if kind == "binary_cross_entropy" and dtype == np.float32 else 1.0
        check(backend, "elementwise_loss_grad", dy, x, t, *options, True, w is not None, scale=large)
        w = np.abs(normal(dtype, 33, 67))
        p = w if kind.endswith("logits") else None


@each_served
def test_sum(backend, dtype):
    check(backend, "sum", normal(dtype, 33, 257), (0, 1))
    check(backend, "sum", normal(dtype, 33, 257), (0,))
    check(backend, "sum", normal(dtype, 4, 3, 50), (0, 2))


@each_served
def test_pool(backend, dtype):
    x = normal(dtype, 2, 3, 8, 9)
    y, tap = reference.max_pool2d(x, (2, 2), (2, 2))
    check(backend, "max_pool2d", x, (2, 2), (2, 2))
    check(backend, "max_pool2d_grad", y, tap, x.shape, (2, 2), (2, 2))
    check(backend, "avg_pool2d", x, (3, 3), (2, 2))
    check(backend, "avg_pool2d_grad", normal(dtype, 2, 3, 3, 4), x.shape, (3, 3), (2, 2))


@each_served
def test_rows(backend, dtype):
    check(backend, "take_rows", normal(dtype, 50, 33), np.array([3, 0, 49, -1, 3]))


@each_served
def test_rows_are_added_in_their_order(backend, dtype):
    """More places than are sorted at once, rows of many places and of none, and one that is passed over."""
    dy, index = normal(dtype, 700, 33), np.arange(700) ** 2 % 50 - 50
    for padding in (None, 4):
        got = BACKENDS[backend].take_rows_grad(dy, index, 50, padding)
        assert_same(got, reference.take_rows_grad(dy, index, 50, padding))


@each_served
def test_bags(backend, dtype):
    """Bags of several rounds, empty ones, and a row that is passed over."""
    x, index, offsets = normal(dtype, 50, 33), np.arange(90) ** 2 % 50, np.array([0, 0, 7, 40, 40, 89])
    for name, of, last in (("sum_bags", x, 6), ("max_bags", x, 6), ("sum_bags_grad", x[:6], 50)):
        found, want = (getattr(of_, name)(of, index, offsets, last, 4) for of_ in (BACKENDS[backend], reference))
        for a, b in zip(*(y if isinstance(y, tuple) else (y,) for y in (found, want)), strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_become_floats_and_random_bits_are_the_streams(backend):
    images = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 1, 28, 28)
    check(backend, "take_rows", images, np.array([4, 1]), 0.01, -0.5)
    check(backend, "random_bits", 5, 3, 1001)


@each_served
def test_dropout(backend, dtype):
    check(backend, "dropout", normal(dtype, 33, 57), 0.3, 12345, 7)


@each_served
@pytest.mark.parametrize(("name", "states"), [("adam_step", 2), ("sgd_step", 1), ("sgd_step", 0)])
def test_optimizers(backend, dtype, name, states):
    """One launch for three parameters, which the kernel finds by a table of addresses."""
    shapes = (33, 57), (130,), (5, 3, 3, 3)
    params, grads = ([normal(dtype, *shape, n)[..., 0] for shape in shapes] for n in (1, 2))
    state = [[np.abs(normal(np.float32, *shape)) for shape in shapes] for _ in range(states)] or [None]
    options = (3, 1e-2) if name == "adam_step" else (1e-2, 0.9 if states else 0.0)

    def after(function: Any, kind: Any) -> list[np.ndarray]:
        mine = [p.astype(kind or p.dtype) for p in params]
        moved = [each and [s.astype(kind or s.dtype) for s in each] for each in state]
        function(mine, [g.astype(kind or g.dtype) for g in grads], *moved, *options)
        return mine

    got = after(getattr(BACKENDS[backend], name), None)
    wide, same = (after(getattr(reference, name), kind) for kind in (np.float64, None))
    for mine, want, baseline in zip(got, wide, same, strict=True):
        assert_close(mine, want, baseline)


@pytest.mark.parametrize("backend", BACKENDS)
def test_matrix_product_of_floats(backend):
    """Triton's goes through asynchronous copies, a stage behind the other."""
    check(backend, "matmul", normal(np.float32, 33, 70), normal(np.float32, 70, 20))
    check(backend, "matmul_kept", normal(np.float32, 33, 70), normal(np.float32, 70, 20), None, "silu")


def test_sums_of_rows():
    """They change their layout by ldmatrix."""
    check("triton", "sum", normal(np.float32, 33, 257), (1,))


# --- what a launch may touch


@kernel
def _unmasked_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n + 1)


def test_a_missing_mask_names_the_array():
    """The array behind is one byte further than the kernel may go, and mapped: a GPU would not have told."""
    memory = gpu.xp().zeros(300, np.float32)
    x, y = gpu.xp().ones(250, np.float32), memory[:250]
    with pytest.raises(Fault) as found:
        _unmasked_kernel((1,), x, y, 250, BLOCK=256, num_warps=4)
    assert "_unmasked_kernel, PTX line" in str(found.value) and "kernel_cases.py:" in str(found.value)
    assert "0 bytes behind the end of y_ptr (1000 bytes): outside of every array" in str(found.value)
    assert (memory.get() == 0).all(), "a vector that lies across the end was written in part"


def test_code_for_another_gpu_is_refused():
    """As a driver does, when the kernel is loaded."""
    other = {80: "sm_90a", 90: "sm_100"}[gpu.capability()]
    text = f".version 8.8\n.target {other}\n.address_size 64\n.visible .entry nothing()\n{{\nret;\n}}\n"
    with pytest.raises(PtxError, match=f"PTX line 2: target {other}; the device that executes it is sm_"):
        Function(text.encode(), "nothing", "", 0)


@numba_kernel
def _reverse_kernel(x, y):
    tile = cuda.shared.array(64, np.float32)
    i = cuda.threadIdx.x
    tile[i] = x[i]
    y[i] = tile[63 - i]


def test_a_missing_barrier_is_a_race():
    x = gpu.xp().ones(64, np.float32)
    with pytest.raises(
        Fault, match=r"_reverse_kernel.* shared memory: (a race with thread|read before it was written)"
    ):
        _reverse_kernel((1,), (64,), x, x.copy())


def test_a_captured_launch_keeps_its_parameters():
    """Collected with the numbers that it had, run when the graph is launched."""
    x = gpu.xp().asarray(np.arange(10, dtype=np.float32))
    y = gpu.xp().zeros(10, np.float32)
    graph = tape.Tape()
    with tape.collected_on(graph):
        kernels.load("triton").relu(x)
        _scale_kernel((1,), x, y, 10, 2.0, BLOCK=16)
    _scale_kernel((1,), x, y, 5, 3.0, BLOCK=16)
    assert y.get().tolist() == [0, 3, 6, 9, 12, 0, 0, 0, 0, 0]
    graph.launch()
    assert y.get().tolist() == [2 * n for n in range(10)] and list(graph.nodes()) == [
        "_activation_kernel",
        "_scale_kernel",
    ]


def test_a_program_that_is_no_longer_kept_is_made_again():
    """A process loads thousands of kernels, and a program is some megabytes: the driver keeps their text alone."""
    x = gpu.xp().asarray(np.arange(10, dtype=np.float32))
    y = gpu.xp().zeros(10, np.float32)
    _scale_kernel((1,), x, y, 10, 2.0, BLOCK=16)
    made = weakref.ref(execute.program(*driver.loaded[-1]))
    execute.program.cache_clear()
    gc.collect()
    assert made() is None
    _scale_kernel((1,), x, y, 10, 3.0, BLOCK=16)
    assert y.get().tolist() == [3 * n for n in range(10)]


@kernel
def _scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n) * factor, mask=i < n)


TENSOR_CORES = {80: "mma", 90: "wgmma"}  # the instruction that the large tiles are multiplied by


def assert_on_tensor_cores(*names: str) -> None:
    """Kernels of these names have been loaded whose products are the architecture's own."""
    opcode = TENSOR_CORES[gpu.capability()]
    assert set(names) <= {name for text, name in driver.loaded if f"\t{opcode}." in text}


PRODUCTS = [(np.float32, "ieee"), (np.float32, "tf32x3"), (np.float16, "ieee"), (bfloat16, "ieee")]


@pytest.mark.parametrize(("dtype", "precision"), PRODUCTS)
def test_matmul(dtype, precision):
    """On the float32 pipes and on tensor cores; whole tiles and ragged ones, either operand transposed."""
    for (m, n, k), turned in (((64, 64, 64), 0), ((65, 50, 72), 1), ((40, 33, 64), 2)):
        a = normal(dtype, k, m).T if turned == 1 else normal(dtype, m, k)
        b = normal(dtype, n, k).T if turned == 2 else normal(dtype, k, n)
        check("triton", "matmul", a, b, normal(dtype, n), "relu", precision)
        check("triton", "matmul_kept", a, b, normal(dtype, n), "gelu", precision)
    if (dtype, precision) != (np.float32, "ieee"):
        assert_on_tensor_cores("_matmul_kernel")


@pytest.mark.parametrize(("dtype", "precision"), PRODUCTS)
def test_conv2d(dtype, precision):
    x, w = normal(dtype, 2, 32, 9, 9), normal(dtype, 64, 32, 3, 3)
    geometry = (1, 1), (1, 1), (1, 1), 1
    y = reference.conv2d(x, w, None, *geometry)
    check("triton", "conv2d", x, w, normal(dtype, 64), *geometry, "relu", precision)
    check("triton", "conv2d_grad_input", y, w, x.shape, *geometry, precision)
    check("triton", "conv2d_grad_weight", y, x, w.shape, *geometry, precision)
    if (dtype, precision) != (np.float32, "ieee"):
        assert_on_tensor_cores("_conv2d_kernel", "_conv2d_grad_input_kernel", "_conv2d_grad_weight_kernel")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [5, 1])
def test_conv2d_with_a_stride_beyond_the_image(backend, channels):
    """A phase of the gradient then has no pixel, and 0 columns to divide by: no store may come of that."""
    geometry = (3, 2), (0, 0), (1, 1), 1
    x, w = normal(np.float32, 2, 5, 2, 1), normal(np.float32, channels, 5, 1, 1)
    y = reference.conv2d(x, w, None, *geometry)
    check(backend, "conv2d", x, w, None, *geometry)
    check(backend, "conv2d_grad_input", y, w, x.shape, *geometry)
    check(backend, "conv2d_grad_weight", y, x, w.shape, *geometry)
