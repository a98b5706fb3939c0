"""Every figure is in the unit that it says: seconds, bytes and FLOP that are known beforehand, beside what is told."""

from __future__ import annotations

import importlib
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tilegrad.bench import bandwidth, ceilings, launch, mnist, overhead, peak, rows, run
from tilegrad.bench.clock import Events, wall
from tilegrad.bench.inputs import Traffic, copies
from tilegrad.bench.measure import Effort, Measured, Times, interleaved
from tilegrad.bench.ops import OPS
from tilegrad.bench.results import Row
from tilegrad.bench.session import Deadline, Session, compared, filled

OF_CPU, OF_MEMORY = ceilings.of_cpu, ceilings.of_memory  # the other tests of this folder replace them


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.seconds = 100.0

    def passes(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: clock.seconds)
    return clock


# --- the time of one call


def test_a_call_of_a_quarter_second_takes_250_ms(clock):
    assert wall(lambda: clock.passes(0.25)) == pytest.approx(250)


def test_turns_are_in_milliseconds_of_a_call(clock):
    calls = {"a": [lambda: clock.passes(0.021)] * 3, "b": [lambda: clock.passes(0.0011)]}
    times = interleaved(calls, Effort(2, 0.1, 5))
    assert times["a"].median == pytest.approx(21) and times["b"].median == pytest.approx(1.1)
    assert times["a"].samples == 2 * 4  # the fifth ends after 0.1 s; the first does not count
    assert times["b"].samples == 2 * (91 - 18)  # nor does a fifth of many


def test_the_hosts_time_is_that_of_one_launch_without_the_wait(clock):
    cuda = SimpleNamespace(runtime=SimpleNamespace(deviceSynchronize=lambda: clock.passes(7)))
    events = Events(SimpleNamespace(cuda=cuda, zeros=np.zeros), flush=8)
    assert events.host([lambda: clock.passes(5e-6)] * 4) == pytest.approx(5e-3)  # ms


@pytest.mark.parametrize("available", [False, True])
def test_a_launch_is_told_in_microseconds(clock, monkeypatch, available):
    cuda = SimpleNamespace(runtime=SimpleNamespace(deviceSynchronize=lambda: clock.passes(1)))
    launched = []

    def kernel(*args, **kwargs):
        launched.append(args)
        clock.passes(8e-6)

    monkeypatch.setattr(launch, "_kernel", lambda: kernel)
    monkeypatch.setattr(launch, "missing", lambda: None)
    monkeypatch.setattr(launch.gpu, "is_available", lambda: available)
    monkeypatch.setattr(launch.gpu, "xp", lambda: SimpleNamespace(cuda=cuda, zeros=np.zeros))
    others = Times(4e-3, 3e-3, 5e-3, 9), Times(2e-2, 1e-2, 3e-2, 9)
    monkeypatch.setattr(launch, "relu_times", lambda: others[0])
    monkeypatch.setattr(launch, "replay_times", lambda: others[1])
    row, *rest = overhead.launch_rows(Session("cpu", False, Effort(1, 0, 2), {}))
    assert [(each.variant, each.rate) for each in rest] == [(launch.RELU, 4.0), (launch.REPLAY, 20.0)]
    assert (row.ms, row.rate) == (pytest.approx(8e-3), pytest.approx(8)) and row.unit == "us a launch"
    assert row.samples == launch.ROUNDS and len(launched) == launch.LAUNCHES * (launch.ROUNDS + 1)


def test_an_op_of_a_program_is_told_in_microseconds():
    row = Row("overhead", "chain", "forward", [500], "float32", "ieee", "engine")
    (row,) = overhead._timed([row], {"engine": Measured(Times(4.0, 3.0, 5.0, 9))}, 500)
    assert (row.rate, row.unit) == (pytest.approx(8), "us an op")
    assert (row.ms, row.p20, row.p80, row.samples) == (4.0, 3.0, 5.0, 9)


def test_the_columns_of_a_row_are_what_was_measured():
    row = Row("op", "v", "forward", [1], "float32", "ieee", "triton")
    filled(row, Measured(Times(4.0, 3.0, 5.0, 9), 0.5, 0.25, "why"))
    assert (row.graph_ms, row.host_ms, row.reason) == (0.5, 0.25, "no graph: why")


def test_a_ratio_is_to_the_fastest_rival_that_was_measured():
    made = {"cpu": (2.0, False), "torch": (3.0, True), "torch channels_last": (1.0, True), "wrong": (None, True)}
    found = compared([
        Row("op", "v", "forward", [1], "float32", "ieee", name, rival, ms=ms) for name, (ms, rival) in made.items()
    ])  # fmt: skip
    assert [row.times_rival for row in found] == [0.5, pytest.approx(1 / 3), 1.0, None]
    assert [row.best_rival for row in found] == ["torch channels_last"] * 3 + [None]
    (alone,) = compared([Row("op", "v", "forward", [1], "float32", "ieee", "cpu", ms=2.0)])
    assert alone.times_rival is None


def test_a_whole_training_is_told_in_seconds_its_step_in_ms_and_the_hosts_share_in_us(capsys):
    task = SimpleNamespace(
        net="MLP", device="cpu", batch=8, images=range(100), orders=[range(100), range(100)]
    )  # 13 steps an epoch
    times = mnist.Times([9.0, 2.0, 2.6, 5.2], [8.0, 0.01, 0.026, 0.052], [], 0.97)
    mnist._print({"plain": times}, task)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == "plain 9.000 s 2.600 s 100.000 ms 1000.0 us 97.00 %".split()


def test_minutes_are_shared_out_among_the_ops(clock):
    deadline = Deadline(2)
    deadline.start(2)
    clock.passes(59)
    assert not deadline.passed()
    clock.passes(2)
    assert deadline.passed()
    deadline.start(1)
    clock.passes(58)
    assert not deadline.passed()
    clock.passes(2)
    assert deadline.passed()


@pytest.mark.parametrize(
    ("nbytes", "many"), [(10, 10), (11, 10), (33, 4), (99, 2), (100, 1), (1000, 1), (1, 64), (0, 64)]
)
def test_the_copies_of_the_inputs_add_up_to_what_is_cold(nbytes, many):
    assert copies(nbytes, 100) == many
    assert nbytes * many >= 100 or many == 64


# --- ceilings


def test_copy_and_triad_are_of_arrays_beyond_any_cache(monkeypatch):
    """The bytes a second of bench/bandwidth.py as GB/s."""
    asked = []
    monkeypatch.setattr(bandwidth, "best", lambda traffic: asked.append(traffic) or bandwidth.Bandwidth(4e8, "by test"))
    monkeypatch.setattr(ceilings, "of_memory", OF_MEMORY)
    found = OF_CPU([], False)
    array = 128 * 2**20
    assert asked == [Traffic(array, array), Traffic(2 * array, array)]
    assert found["copy"] == {"value": 0.4, "unit": "GB/s", "how": "by test, 2 x 128 MiB"}
    assert found["triad"] == {"value": 0.4, "unit": "GB/s", "how": "by test, 3 x 128 MiB"}
    assert OF_CPU([], True)["copy"]["how"] == "by test, 2 x 64 MiB"


def test_without_numba_memory_has_no_ceiling_and_arithmetic_that_of_the_product(monkeypatch):
    monkeypatch.setattr(ceilings, "of_memory", OF_MEMORY)
    monkeypatch.setattr(ceilings, "_best_product", lambda calls, n, best_ms: {"value": 7.0})
    for name in ("tilegrad.bench.bandwidth", "tilegrad.bench.peak"):
        monkeypatch.setitem(sys.modules, name, None)
    assert OF_CPU(["float32"], True) == {"float32 product": {"value": 7.0}, "float32": {"value": 7.0}}


class Matrix:
    """Counts the FLOP of its products: M N sums of K products, the first of which is added to nothing."""

    flop = 0

    def __init__(self, shape, dtype=None):
        self.shape = shape

    def astype(self, dtype):
        return self

    def __matmul__(self, other):
        (m, k), (_, n) = self.shape, other.shape
        for _ in range(m):
            Matrix.flop += n * (k + k)
        return Matrix((m, n))


def counted(call):
    """The FLOP of a product, on matrices that have no elements."""
    Matrix.flop = 0
    call()
    return Matrix.flop


def test_the_cpus_ceilings_are_a_products_flop_in_the_best_time_or_what_multiply_adds_reach(monkeypatch):
    """4 ms by NumPy, 2 ms by torch, which alone has bfloat16; multiply-adds of float32 serve it too."""
    took, flop, peaks = {"NumPy": 4.0, "torch": 2.0}, [], []
    monkeypatch.setattr(ceilings, "_numpy_product", lambda dtype, n: ("NumPy", Matrix((n, n))))
    monkeypatch.setattr(ceilings, "_torch_product", lambda dtype, n, device: ("torch", Matrix((n, n))))

    def least(call):
        by, a = call
        flop.append(counted(lambda: a @ a))
        return took[by]

    def multiply_adds(dtype):
        peaks.append(dtype)
        return 3e12, "multiply-adds"

    monkeypatch.setattr(ceilings, "_least", least)
    monkeypatch.setattr(peak, "best", multiply_adds)
    found = OF_CPU(["float32", "bfloat16", "float64"], False)
    assert len(flop) == 5 and peaks == ["float32", "float32", "float64"]
    for dtype in ("float32", "bfloat16"):
        product, top = found[f"{dtype} product"], found[dtype]
        assert product["value"] == pytest.approx(flop[0] / 0.002 / 1e9)
        assert product["unit"] == top["unit"] == "GFLOP/s" and product["how"].startswith("torch, ")
        assert top == product, "8590 GFLOP/s, more than 3000"
    took["torch"] = 9.0
    found = OF_CPU(["bfloat16"], False)
    assert found["bfloat16"] == {"value": 3000.0, "unit": "GFLOP/s", "how": "multiply-adds"}
    assert found["bfloat16 product"]["value"] == pytest.approx(flop[0] / 0.009 / 1e9)


def test_the_products_that_are_timed_are_those_that_are_counted(monkeypatch):
    """(n, n) matrices of the dtype, all of whose product is computed."""
    with monkeypatch.context() as patch:
        patch.setattr(np, "matmul", lambda a, b, out: (a, b, out))
        for dtype in ("float32", "float64"):
            given = ceilings._numpy_product(dtype, 6)()
            assert [(x.shape, x.dtype) for x in given] == [((6, 6), np.dtype(dtype))] * 3
    torch = importlib.import_module("torch")
    for dtype in ("float32", "bfloat16"):
        product = ceilings._torch_product(dtype, 6, "cpu")()
        assert product.shape == (6, 6) and product.dtype == getattr(torch, dtype)


def test_a_cpus_ceiling_is_the_least_time(clock):
    took = iter([0.3, 0.06, 0.1, 0.03, 0.2, 0.01])
    assert ceilings._least(lambda: clock.passes(next(took))) == pytest.approx(30)  # ms
    took = iter([1.0, 2.0, 3.0, 0.1])  # three calls at least, and no more once half a second is over
    assert ceilings._least(lambda: clock.passes(next(took))) == pytest.approx(1000)


class Array:
    """Of a GPU, whose memory nobody touches."""

    def __init__(self, size, dtype):
        self.nbytes = size * np.dtype(dtype).itemsize
        self.written = 0

    def __setitem__(self, _, other):
        self.written = other.nbytes


def of_gpu(monkeypatch, pairs, has_torch):
    """The ceilings of a GPU on which the calls take 1, 2, ... 15 ms, with what torch was allowed for each product."""
    allowed, arrays, flop = [], [], []
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: has_torch),
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=None))),
    )

    def torch_product(dtype, n, device):
        assert device == "cuda"
        a, allow = Matrix((n, n)), torch.backends.cuda.matmul

        def product():
            allowed.append((dtype, allow.allow_tf32))
            flop.append(counted(lambda: a @ a))

        return product

    def zeros(size, dtype):
        arrays.append(Array(size, dtype))
        return arrays[-1]

    def kernel(call):
        call()
        took.append(len(took) % 15 + 1.0)
        return took[-1]

    took = []
    xp = SimpleNamespace(
        zeros=zeros, empty_like=lambda x: zeros(x.nbytes // 4, np.float32), asarray=lambda x: Matrix(x.shape)
    )
    drawn = SimpleNamespace(standard_normal=lambda shape, dtype: Matrix(shape))
    with monkeypatch.context() as patch:
        patch.setattr(ceilings.gpu, "xp", lambda: xp)
        patch.setattr(ceilings, "importlib", SimpleNamespace(
            import_module=lambda name: torch, util=SimpleNamespace(find_spec=lambda name: object())
        ))  # fmt: skip
        patch.setattr(ceilings, "_torch_product", torch_product)
        patch.setattr(np.random, "default_rng", lambda seed: drawn)
        Matrix.flop = 0
        found = ceilings.of_gpu(SimpleNamespace(kernel=kernel), pairs)
    return found, sorted(set(allowed)), arrays, flop


EVERY = [("float32", "ieee"), ("float32", "tf32"), ("float32", "tf32x3"), ("bfloat16", "ieee"), ("float16", "ieee")]


def test_a_gpus_copy_is_read_and_written(monkeypatch):
    found, _, (x, y), _ = of_gpu(monkeypatch, [], False)
    assert x.nbytes == y.nbytes == y.written == 2**30
    assert found == {"copy": {"value": pytest.approx(2 * 2**30 / 0.008 / 1e9), "unit": "GB/s", "how": "CuPy, 1 GiB"}}


def test_a_gpus_products_by_dtype_and_precision(monkeypatch):
    """Each once; of float32 one with TF32, which is another ceiling, and one without."""
    found, allowed, _, flop = of_gpu(monkeypatch, EVERY, True)
    assert found.keys() == {"copy", "float32", "float32 tf32", "bfloat16", "float16"}
    assert allowed == [("bfloat16", False), ("float16", False), ("float32", False), ("float32", True)]
    for name in found.keys() - {"copy"}:
        assert found[name]["value"] == pytest.approx(flop[0] / 0.008 / 1e9) and found[name]["unit"] == "GFLOP/s"
        assert found[name]["how"] == "cuBLAS by torch, 8192 x 8192 x 8192"


def test_without_torch_cupy_has_neither_tf32_nor_bfloat16(monkeypatch):
    found, _, _, _ = of_gpu(monkeypatch, EVERY, False)
    assert found.keys() == {"copy", "float32", "float16"}
    assert found["float16"]["how"] == "cuBLAS by CuPy, 8192 x 8192 x 8192"
    one = 2 * 8192**3
    assert found["float32"]["value"] == pytest.approx(one / 0.008 / 1e9)


def test_every_precision_that_is_measured_has_its_ceiling_measured(monkeypatch):
    settings = SimpleNamespace(dtypes=None, device="cuda", ops=["matmul", "conv", "softmax"], quick=False)
    monkeypatch.setattr(ceilings, "of_gpu", lambda events, pairs: set(pairs))
    pairs = run._ceilings(settings, SimpleNamespace(events=object()))
    assert pairs == {("float32", p) for p in ("ieee", "tf32", "tf32x3")} | {("bfloat16", "ieee")}
    assert {p for op in OPS.values() for p in op.precisions} == {"ieee", "tf32", "tf32x3"}


# --- a row against its ceiling

CEILINGS = {"copy": 100.0, "float32": 1000.0, "float32 tf32": 8000.0, "bfloat16": 16000.0}


@pytest.mark.parametrize(
    ("dtype", "precision", "nbytes", "flops", "rate", "unit", "ceiling"),
    [
        # 1 MB at 100 GB/s takes 10 us, 1 MFLOP at 1000 GFLOP/s 1 us: memory bounds; in 1 ms 1 GB/s
        ("float32", "ieee", 10**6, 10**6, 1.0, "GB/s", 100.0),
        # 20 MFLOP take 20 us: arithmetic bounds
        ("float32", "ieee", 10**6, 20 * 10**6, 20.0, "GFLOP/s", 1000.0),
        # with TF32 they would take 2.5 us
        ("float32", "tf32", 10**6, 20 * 10**6, 1.0, "GB/s", 100.0),
        ("float32", "tf32", 10**6, 400 * 10**6, 400.0, "GFLOP/s", 8000.0),
        ("float32", "tf32x3", 10**6, 400 * 10**6, 400.0, "GFLOP/s", 8000.0),
        ("bfloat16", "ieee", 10**6, 400 * 10**6, 400.0, "GFLOP/s", 16000.0),
    ],
)
def test_a_row_is_held_against_what_bounds_it(dtype, precision, nbytes, flops, rate, unit, ceiling):
    row = Row("op", "v", "forward", [1], dtype, precision, "x", ms=1.0, bytes=nbytes, flops=flops)
    rows._rated(row, under(**CEILINGS))
    assert (row.rate, row.unit, row.ceiling) == (pytest.approx(rate), unit, ceiling)
    assert row.of_ceiling == pytest.approx(rate / ceiling)


def test_where_a_ceiling_is_not_known_there_is_no_share_of_it():
    row = Row("op", "v", "forward", [1], "float16", "ieee", "x", ms=2.0, bytes=10**6, flops=10**9)
    rows._rated(row, under(copy=100.0))
    assert (row.rate, row.unit, row.of_ceiling) == (pytest.approx(0.5), "GB/s", pytest.approx(0.005))
    rows._rated(row, under())
    assert (row.rate, row.ceiling, row.of_ceiling) == (pytest.approx(0.5), None, None)


def under(**values):
    return Session("cpu", False, Effort(1, 0, 2), {}, {name: {"value": value} for name, value in values.items()})


def test_a_row_of_the_cpu_is_compared_with_memory_at_its_own_footprint(monkeypatch):
    """Measured once for each traffic, and not where rows have no ceilings, or a GPU's."""
    asked = []
    monkeypatch.setattr(ceilings, "of_memory", lambda traffic: asked.append(traffic) or {"value": 10.0 * len(asked)})
    session, small, large = under(copy=1.0), Traffic(1, 1), Traffic(9, 9)
    assert [session.of_memory(t) for t in (small, large, small)] == [10.0, 20.0, 10.0] and asked == [small, large]
    assert session.of_memory(small, again=True) == 30.0 and session.of_memory(small) == 30.0
    monkeypatch.setattr(ceilings, "of_memory", lambda traffic: {"value": 5.0})
    assert session.of_memory(small, again=True) == 30.0, "the most that was found"
    assert under().of_memory(small) is None
    session.events = object()
    assert session.of_memory(small) == 1.0


def test_arithmetic_that_is_measured_again_counts_if_it_is_more(monkeypatch):
    session = under(float32=10.0)
    for value, expected in ((12.0, 12.0), (11.0, 12.0)):
        monkeypatch.setattr(ceilings, "of_cpu", lambda dtypes, quick, value=value: {dtypes[0]: {"value": value}})
        assert session.of_arithmetic("float32", again=True) == expected
    assert session.of_arithmetic("float32") == 12.0 and session.of_arithmetic("float64", again=True) is None
