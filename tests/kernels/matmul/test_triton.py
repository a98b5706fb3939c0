"""What matmul on device cuda has beyond the contract: configurations, sums in parts, precisions, strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.device import OnDevice, to_device
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.launch import tuning
from tilegrad.kernels.matmul import gpu_triton as triton_matmul
from tilegrad.kernels.matmul.gpu_geometry import geometry
from tilegrad.kernels.matmul.gpu_triton_configs import CONFIGS, bucket_of, parts_of, sums_of
from tilegrad.kernels.simulate import arrays as simulated

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []

DTYPE = {"half": bfloat16, "tf32": np.float32, "tf32x3": np.float32, "ieee": np.float32}


def _configurations() -> list[Any]:
    """(kind, arch, index): all of the card's; on the simulated device, without warps and stages, each tile once."""
    found = {}
    for kind, by_arch in CONFIGS.items():
        for arch in by_arch if gpu.is_simulated() else [gpu.capability()]:
            for index, config in enumerate(triton_matmul._TUNED[kind].of(arch)):
                c = {name: value for name, value in config.items() if not name.startswith("num_")}
                halved = sums_of(config) >= triton_matmul._HALVED
                key = (kind, halved, *c.items()) if gpu.is_simulated() else (kind, index)
                name = f"{kind}-{arch}-{c['BLOCK_M']}x{c['BLOCK_N']}x{c['BLOCK_K']}"
                found.setdefault(key, pytest.param(kind, arch, index, id=name))
    return list(found.values())


@pytest.fixture
def matmul():
    return OnDevice(kernels.load("triton")).matmul


@pytest.fixture
def parts(monkeypatch):
    """parts(n): every sum from here on is cut into n parts, or as many as it has steps."""

    def cut(n: int) -> None:
        triton_matmul._plans.clear()
        monkeypatch.setattr(triton_matmul, "parts_of", lambda *_: n)

    yield cut
    triton_matmul._plans.clear()


def integers(rng, dtype, *shape):
    """Exact in every precision, products and sums too."""
    return rng.integers(-3, 4, shape).astype(np.float32).astype(dtype)


def product(a, b, bias, dtype):
    exact = a.astype(np.float64) @ b.astype(np.float64) + bias.astype(np.float64)
    return np.maximum(exact, 0).astype(np.float32).astype(dtype)


@pytest.mark.parametrize(("kind", "arch", "index"), _configurations())
def test_every_configuration(monkeypatch, matmul, rng, kind, arch, index):
    """One tile exactly, and one element beyond a tile along every axis."""
    if gpu.is_simulated():
        monkeypatch.setattr(launch, "architecture", lambda: arch)
    config = triton_matmul._TUNED[kind].of(arch)[index]
    m, n, k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    dtype, precision = DTYPE[kind], "ieee" if kind == "half" else kind
    for shape in ((m, n, 2 * k), (m + 1, n + 1, k + 1)):
        m, n, k = shape
        a, b, bias = integers(rng, dtype, m, k), integers(rng, dtype, k, n), integers(rng, dtype, n)
        with tuning.forced(index):
            y = matmul(a, b, bias, "relu", precision)
        assert_same(y, product(a, b, bias, dtype))


@pytest.mark.parametrize("n", [2, 3, 64])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_sum_in_parts_is_the_sum(matmul, parts, rng, kind, n):
    """The last part is shorter, and 64 are more than there are steps."""
    dtype, precision = DTYPE[kind], "ieee" if kind == "half" else kind
    a, b, bias = integers(rng, dtype, 2, 17, 300), integers(rng, dtype, 2, 300, 9), integers(rng, dtype, 9)
    parts(1)
    whole = matmul(a, b, bias, "relu", precision)
    parts(n)
    assert_same(matmul(a, b, bias, "relu", precision), whole)
    assert_same(whole, product(a, b, bias, dtype))


@pytest.mark.parametrize("n", [1, 3])
def test_the_activation_s_argument_of_a_sum_in_parts(parts, rng, n):
    kept, matmul = (getattr(OnDevice(kernels.load("triton")), name) for name in ("matmul_kept", "matmul"))
    a, b, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 17, 300), (300, 9), (9,)))
    parts(n)
    z, y = kept(a, b, bias, "silu")
    assert_same(z, matmul(a, b, bias))
    assert_same(y, matmul(a, b, bias, "silu"))


@pytest.mark.parametrize("halved", [False, True])
def test_the_activation_s_argument_of_a_tile_in_halves(rng, halved):
    """A batch of two products, each a tile and a bit; by configurations that take the epilogue in halves, and not."""
    kept, matmul = (getattr(OnDevice(kernels.load("triton")), name) for name in ("matmul_kept", "matmul"))
    configs = triton_matmul._TUNED["ieee"].of(launch.architecture())
    index = next(i for i, c in enumerate(configs) if (triton_matmul.sums_of(c) >= triton_matmul._HALVED) == halved)
    m, n = configs[index]["BLOCK_M"] + 1, configs[index]["BLOCK_N"] + 1
    a, b, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, m, 8), (2, 8, n), (n,)))
    with tuning.forced(index):
        z, y = kept(a, b, bias, "gelu")
        assert_same(z, matmul(a, b, bias))
        assert_same(y, matmul(a, b, bias, "gelu"))


@pytest.mark.parametrize("dtype", [np.float16, bfloat16, np.float32])
def test_parts_are_added_in_float32_in_one_order(matmul, parts, rng, dtype):
    a = rng.standard_normal((33, 520)).astype(dtype)
    b = rng.standard_normal((520, 10)).astype(dtype)
    bias = rng.standard_normal(10).astype(dtype)
    parts(4)
    y = matmul(a, b, bias, "tanh")
    assert_close(y, *oracle.value(lambda a, b, bias: (a @ b + bias).tanh(), a, b, bias))
    assert_same(matmul(a, b, bias, "tanh"), y)
    assert_same(matmul(np.asfortranarray(a), b, bias, "tanh"), y)


@pytest.mark.parametrize("small", [0, triton_matmul._SMALL], ids=["launches", "in the product"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [bfloat16, np.float32])
def test_gradients_together_at_any_size(parts, monkeypatch, rng, dtype, relu, n, small):
    """relu's mask and the sums for the bias in launches of their own, and in the product, whose sum is in n parts."""
    monkeypatch.setattr(triton_matmul, "_SMALL", small)
    parts(n)
    dy, x, w = integers(rng, dtype, 150, 33), integers(rng, dtype, 150, 7), integers(rng, dtype, 33, 7)
    y = np.maximum(integers(rng, dtype, 150, 33), 0).astype(dtype)
    linear_grad = OnDevice(kernels.load("triton")).linear_grad
    dz = np.where((y > 0) | (not relu), dy, 0).astype(np.float64)
    want = dz @ w.astype(np.float64), dz.T @ x.astype(np.float64), dz.sum(0)
    for got, exact in zip(linear_grad(dy, y if relu else None, x, w, True), want, strict=True):
        assert_same(got, exact.astype(np.float32).astype(dtype))


@pytest.mark.parametrize("arch", [80, 90])
def test_which_sums_are_cut(arch):
    """The weight's gradient over a large batch is; a large product, which fills the GPU, and a short sum are not."""

    def chosen(kind, *sizes):
        tuned = triton_matmul._TUNED[kind]
        config = tuned.of(arch)[tuned.default(arch, bucket_of(*sizes, True, True))]
        return parts_of(kind, arch, config, *sizes)

    for kind in CONFIGS:
        assert chosen(kind, 1, 128, 784, 65536) >= 8
        assert chosen(kind, 1, 4096, 4096, 4096) == 1
        assert chosen(kind, 1, 128, 64, 128) == 1


@pytest.mark.parametrize("arch", [80, 86, 90, 100, 120])
def test_default_tiles_follow_the_shape(arch):
    """Large tiles where there is enough to fill them; no more rows than a few, where there are few."""
    for kind, tuned in triton_matmul._TUNED.items():

        def tile(m, n, k, tuned=tuned):
            return tuned.of(arch)[tuned.default(arch, bucket_of(1, m, n, k, True, True))]

        large, few = tile(8192, 8192, 8192), tile(8, 4096, 4096)
        assert large["BLOCK_M"] * large["BLOCK_N"] >= 128 * 64, kind
        assert few["BLOCK_M"] <= 32, kind


def test_what_a_precision_is_worth(matmul, rng):
    """TF32 keeps 11 bits of each operand; three products of such halves keep nearly all that float32 has."""
    a = rng.standard_normal((33, 257)).astype(np.float32)
    b = rng.standard_normal((257, 17)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = {p: np.linalg.norm(matmul(a, b, precision=p) - exact) for p in ("ieee", "tf32", "tf32x3")}
    assert error["tf32"] > 100 * error["ieee"]
    most = 8 if gpu.is_available() else 4  # a GPU may cut the halves where the interpreter rounds them
    assert error["tf32x3"] < most * error["ieee"]
    assert error["tf32"] < 1e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_precision_is_of_float32_alone(matmul, rng, dtype):
    a, b = rng.standard_normal((5, 40)).astype(dtype), rng.standard_normal((40, 3)).astype(dtype)
    assert_same(matmul(a, b, precision="tf32x3"), matmul(a, b))


def test_float64_is_left_to_the_cpu(matmul):
    with pytest.raises(TypeError, match="matmul: the arrays are float64, which the backend 'triton' does not serve"):
        matmul(np.ones((2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [((2, 1, 3, 1, 4, 5), (1, 2, 1, 3, 5, 6)), ((2, 1, 3, 4, 5), (1, 2, 3, 5, 6)), ((3, 1, 2, 1, 5), (2, 2, 5, 6))],
    ids=str,
)
def test_batches_of_more_strides_than_the_kernel_walks(matmul, rng, of_a, of_b):
    a, b = rng.standard_normal(of_a).astype(np.float32), rng.standard_normal(of_b).astype(np.float32)
    assert_close(matmul(a, b), *oracle.value(lambda a, b: a @ b, a, b))


def test_only_those_are_copied(rng):
    x, w = (to_device(rng.standard_normal(s).astype(np.float32)) for s in ((2, 3, 4, 5), (2, 3, 5, 6)))
    for a, b in (
        (x, w),
        (x, w[0, 0]),
        (x[:, :1], w),
        (x.swapaxes(0, 1), w.swapaxes(0, 1)),
        (w.swapaxes(-1, -2), x.swapaxes(-1, -2)),
        (x[::-1, ::2, ::-1], w[:, ::2]),
    ):
        assert triton_matmul._plan(a, b, None, None, "ieee").copied == ()


def test_rows_of_a_batch_that_shares_b_are_one_product():
    assert geometry((8, 16, 5), (80, 5, 1), (5, 6), (6, 1))[:5] == (128, 6, 5, 5, 1)
    assert geometry((8, 16, 5), (160, 10, 1), (5, 6), (6, 1)).batch == 1
    assert geometry((8, 1, 5), (77, 5, 1), (5, 6), (6, 1))[:5] == (8, 6, 5, 77, 1)
    assert geometry((8, 16, 5), (160, 5, 1), (5, 6), (6, 1)).axes == ((8, 160, 0),)


@pytest.mark.parametrize("step", [2, -1, 0])
def test_bias_of_any_stride(matmul, rng, step):
    a, b = rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal((7, 10)).astype(np.float32)
    wide = rng.standard_normal(20).astype(np.float32)
    bias = wide[:20:2] if step == 2 else wide[:10][::-1] if step == -1 else np.broadcast_to(wide[:1], 10)
    assert_close(matmul(a, b, bias), *oracle.value(lambda a, b, bias: a @ b + bias, a, b, bias))


def test_offsets_beyond_31_bits():
    """Two rows that lie 2^31 elements apart; of what is between them nothing is touched."""
    far = 1 << 31
    base = simulated.adopt(np.zeros(far + 1, np.float16)) if gpu.is_simulated() else gpu.xp().zeros(far + 1, np.float16)
    base[0], base[far] = 2, 3
    a = base[::far][:, None]
    b = to_device(np.array([[1, 10, 100]], np.float16))
    want = np.array([[2, 20, 200], [3, 30, 300]], np.float16)
    assert_same(triton_matmul.matmul(a, b).get(), want)
    assert_same(triton_matmul.matmul(b.T, a.T).get(), want.T)
