"""NumPy's elementwise functions by its own loops: its bits and its layouts, or left to it. Plainly, and captured."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

import tilegrad as tg
from tests import dirty
from tests.captured.steps import graphs
from tests.kernels.cpu.test_pieces import in_order
from tilegrad import kernels
from tilegrad.kernels.capture.program import Program
from tilegrad.kernels.cpu import formulas, numpy_structs, threads, ufuncs

SIZE = threads.WORTH_SHARING // 4 + 5  # numbers: just too many
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1.0, -2.5], np.float32)


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def images(*shape, seed=0):
    n, c, h, w = shape
    return numbers(n, h, w, c, seed=seed).transpose(0, 3, 1, 2)


def special(n):
    """Every pair of the special values, again and again."""
    a, b = (x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL))
    return np.resize(a, n), np.resize(b, n)


ONE = np.array(1.5, np.float32)
LAYOUTS = {
    "a few": (numbers(3), numbers(3, seed=1)),
    "without dimensions": (ONE, ONE),
    "a row": (numbers(SIZE), numbers(SIZE, seed=1)),
    "special values": special(SIZE),
    "special values, and one number": (np.resize(SPECIAL, SIZE), np.array(0, np.float32)),
    "C order": (numbers(9, 3, 40, 41), numbers(9, 3, 40, 41, seed=1)),
    "channels last": (images(9, 3, 40, 41), images(9, 3, 40, 41, seed=1)),
    "two orders": (images(9, 3, 40, 41), numbers(9, 3, 40, 41)),
    "transposed": (numbers(70, 300).T, numbers(300, 70, seed=1)),
    "both transposed": (numbers(70, 300).T, numbers(70, 300, seed=1).T),
    "a number": (numbers(SIZE), ONE),
    "of a number": (ONE, numbers(SIZE)),
    "a short row for all": (numbers(9, 700, 5), numbers(5)),
    "a long row for all": (numbers(40, 900), numbers(900)),
    "a row and a number that is repeated": (numbers(700, 5), np.broadcast_to(ONE, (700, 5))),
    "a repeated row": (np.broadcast_to(numbers(5), (9000, 5)), numbers(9000, 5)),
    "a column": (numbers(300, 120), numbers(300, 1)),
    "channels of images": (numbers(9, 3, 40, 41), numbers(1, 3, 1, 1)),
    "channels of images, channels last": (images(9, 3, 40, 41), numbers(3, 1, 1)),
    "channels of each image": (images(9, 3, 40, 41), numbers(9, 3, 1, 1)),
    "a map for all channels": (images(9, 3, 40, 41), numbers(9, 1, 40, 41)),
    "a row by a column": (numbers(300, 1), numbers(1, 120)),
    "rows and columns by turns": (numbers(3, 1, 40, 1, 5), numbers(1, 60, 1, 7, 1)),
    "gaps": (numbers(SIZE, 2)[:, 0], numbers(SIZE, 2)[:, 1]),
    "rows with gaps": (numbers(200, 400)[:, ::2], numbers(200, 250)[:, 50:]),
    "four axes with gaps": (numbers(8, 9, 10, 12)[:, ::2, ::3, ::4], numbers(8, 9, 10, 12)[:, ::2, ::3, 1::4]),
}
FUNCTIONS = {
    name: getattr(np, name)
    for name in """
    add subtract multiply divide maximum minimum power arctan2 less equal logical_and
    exp log sqrt tanh sin absolute negative square reciprocal isnan
    """.split()
}


def assert_bits(got, want):
    """The same dtype, layout and bits; the bits of NaN are any."""
    want = np.asarray(want)
    assert (got.dtype, got.shape, got.strides) == (want.dtype, want.shape, want.strides)
    if want.dtype.kind == "f":
        assert np.array_equal(np.isnan(got), np.isnan(want))
        got, want = np.where(np.isnan(want), 0, got), np.where(np.isnan(want), 0, want)
    assert got.tobytes() == want.tobytes()


def both(function, arrays, monkeypatch):
    """Assert that the function gives NumPy's bits, whatever the pieces and their order."""
    with np.errstate(all="ignore"):
        want = function(*arrays)
    for order in (iter, reversed):
        with monkeypatch.context() as patch:
            patch.setattr(threads, "share", in_order(order))
            with dirty.memory():
                assert_bits(ufuncs.call(function, *arrays), want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_and_layouts_are_numpys(name, layout, monkeypatch):
    function = FUNCTIONS[name]
    both(function, LAYOUTS[layout][: function.nin], monkeypatch)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_where(layout, dtype, monkeypatch):
    with np.errstate(invalid="ignore"):
        a, b = (np.asarray(x.astype(dtype, copy=False)) for x in LAYOUTS[layout])
    mask, zero = np.asarray(numbers(*a.shape, seed=3) > 0), np.zeros((), dtype)
    for arrays in ((mask, a, b), (mask, a, zero), (mask, zero, b), (np.array(True), a, b)):
        both(np.where, arrays, monkeypatch)


@pytest.mark.parametrize("low", SPECIAL)
@pytest.mark.parametrize("high", SPECIAL[:5])
def test_clip_is_the_smaller_of_the_larger(low, high):
    for x in (np.resize(SPECIAL, 5000), np.resize(SPECIAL, 5000)[::2]):
        for bounds in ((np.asarray(low), np.asarray(high)), (np.full_like(x, low), np.full_like(x, high))):
            assert_bits(ufuncs.call(np.clip, x, *bounds), np.minimum(np.maximum(x, bounds[0]), bounds[1]))


@pytest.mark.parametrize("formula", [formulas.rsqrt, formulas.cube])
def test_formulas_in_one_pass(formula, monkeypatch):
    for x in (np.resize(SPECIAL, SIZE), numbers(SIZE, 2)[:, 0], images(9, 3, 40, 41)):
        both(formula, (x,), monkeypatch)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_])
def test_other_dtypes(dtype, monkeypatch):
    a, b = (np.asarray(numbers(50, 700, seed=seed) * 3, dtype) for seed in (0, 1))
    names = "add multiply maximum equal".split() + (["divide", "power"] if a.dtype.kind == "f" else [])
    for name in names:
        both(getattr(np, name), (a, b), monkeypatch)
        both(getattr(np, name), (a, b[0]), monkeypatch)
        both(getattr(np, name), (a, np.asarray(b[0, 0])), monkeypatch)


def test_a_dtype_that_is_a_copy_counts_as_the_one_it_equals():
    """NumPy says of a copy that it is not built in. A row that is filled in, of such a dtype, was an AssertionError."""
    copied = np.dtype(np.float32, copy=True)
    assert copied == np.float32 and copied.isbuiltin == 0
    numpy_structs.loop_of.cache_clear()
    ufuncs._call.cache_clear()
    assert numpy_structs.loop_of(np.positive, (copied,)) is not None
    x, row = np.ones((128, 512), np.float32), np.arange(512).astype(copied)
    np.testing.assert_array_equal(ufuncs.call(np.add, x, row), np.add(x, row))


def test_results_do_not_depend_on_where_arrays_lie():
    for function in FUNCTIONS.values():
        with np.errstate(all="ignore"):
            arrays = [np.ascontiguousarray(x[:300]) for x in special(400)][: function.nin]
            want = function(*arrays)
            for offset in range(1, 17):
                moved = [np.empty(350, np.float32)[offset:][:300] for _ in arrays]
                for each, x in zip(moved, arrays, strict=True):
                    each[...] = x
                assert_bits(ufuncs.call(function, *moved), want)


LEFT = {  # to NumPy
    "two dtypes": (np.add, numbers(SIZE), numbers(SIZE, dtype=np.float64)),
    "a number of Python's": (np.add, numbers(SIZE), 2.0),
    "backwards": (np.add, numbers(SIZE)[::-1], numbers(SIZE)[::-1]),
    "misaligned": (np.add, *(np.frombuffer(bytes(4 * SIZE + 1), np.float32, offset=1),) * 2),
    "another order of bytes": (np.add, *(numbers(SIZE).astype(">f4"),) * 2),
    "nothing": (np.add, numbers(0, 5), numbers(5)),
    "shapes that do not fit": (np.add, numbers(5), numbers(6)),
    "bfloat16": (np.add, *(numbers(SIZE, dtype=bfloat16),) * 2),
    "complex": (np.add, *(numbers(SIZE).astype(np.complex64),) * 2),
    "what raises for 0": (np.floor_divide, *(np.zeros(SIZE, np.int64),) * 2),
    "several results": (np.divmod, *(numbers(SIZE),) * 2),
    "a product": (np.matmul, *(numbers(200, 200),) * 2),
    "another function": (np.hypot.reduce, numbers(SIZE)),
    "a mask of integers": (np.where, np.ones(SIZE, np.int64), numbers(SIZE), numbers(SIZE)),
    "a choice of small things": (np.where, *(np.ones(SIZE, bool),) * 3),
    "too many dimensions": (np.add, numbers(2, 3, 2, 3, 2, 3)[..., ::2], numbers(2, 1, 2, 1, 2, 1)),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_numpy(case):
    function, *arrays = LEFT[case]
    assert ufuncs.call(function, *arrays) is None


def test_a_result_goes_where_it_is_asked_to():
    a, b = numbers(60, 700), numbers(700, seed=1)
    want, out = a + b, numbers(60, 1400)[:, ::2]
    assert ufuncs.call(np.add, a, b, out=out) is out
    assert np.array_equal(out, want)
    assert ufuncs.call(np.add, a, b, out=a) is a
    assert np.array_equal(a, want)


def test_a_place_that_numpy_would_make_a_copy_for_or_refuse_is_left_to_it():
    a = numbers(60, 700)
    refused = a.copy()
    refused.flags.writeable = False
    for out in (a[:, ::-1], refused, np.empty((60, 700)), np.empty((2, 60, 700), np.float32)):
        assert ufuncs.call(np.add, a, a, out=out) is None
    assert ufuncs.call(np.add, a[1:], a[1:], out=a[:-1]) is None


WHOLE = np.array([-(2**31), -3, 0, 1, 255, 2**24 + 1, 2**31 - 1])


@pytest.mark.parametrize("to", ["int32", "int64", "float32"])
@pytest.mark.parametrize("source", ["bool", "uint8", "int32", "int64", "float32"])
def test_a_cast_has_numpys_bits(source, to):
    if source == to:
        assert ufuncs.cast(WHOLE.astype(to), to) is None  # there is nothing to do
        return
    x = WHOLE.astype(source)
    x = np.where(x > 1e9, 7, x).astype(source) if source == "float32" else x  # 2^31 does not fit int32
    for each in (x, np.resize(x, 2 * ufuncs.LONG + 3), np.resize(x, (6, 5)).T, np.resize(x, (6, 5))[:, ::2], x[1]):
        found = ufuncs.cast(np.asarray(each), to)
        assert_bits(found, np.asarray(each).astype(to))
    assert ufuncs.cast(x, "float64") is None


def test_a_copy_takes_no_python():
    target = np.zeros((4, 6), np.float32)
    for source in (numbers(4, 6), numbers(6, 4).T, numbers(6), np.float32([[2]]), np.resize(SPECIAL, (4, 6))):
        assert ufuncs.copy(target, source)
        assert target.tobytes() == np.broadcast_to(source, (4, 6)).tobytes()
    bools = np.zeros(3, bool)
    assert ufuncs.copy(bools, np.array([True, False, True])) and bools.tolist() == [True, False, True]
    before = target.copy()
    for source in (np.arange(6), target[::-1], target[0]):  # another dtype; what overlaps
        assert not ufuncs.copy(target, source)
    assert target.tobytes() == before.tobytes()


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 31, 128, 129, 1000, ufuncs.LONG])
def test_a_sum_of_few_has_numpys_bits(n):
    for x in (numbers(n), numbers(2 * n)[::2], np.resize(SPECIAL[:2], n), np.resize(SPECIAL, n)):
        for each in (x, x[:1].reshape(())):
            with np.errstate(all="ignore"):
                assert ufuncs.sum_of_few(each).tobytes() == np.add.reduce(each, tuple(range(each.ndim))).tobytes()
    assert ufuncs.sum_of_few(numbers(ufuncs.LONG + 1)) is None and ufuncs.sum_of_few(numbers(2, 2)) is None
    assert ufuncs.sum_of_few(numbers(0)) is None


def test_a_dtype_that_was_copied_is_served():
    """NumPy makes such ones itself, and they are equal to the others: `isbuiltin` is 0 for them."""
    copied = np.dtype(np.float32).newbyteorder("=")
    assert copied.isbuiltin == 0
    found = numpy_structs.loop_of.__wrapped__(np.add, (copied, copied))
    assert found == numpy_structs.loop_of(np.add, (np.dtype(np.float32),) * 2)
    swapped = np.dtype(np.float32).newbyteorder()
    assert numpy_structs.loop_of(np.add, (swapped, swapped)) is None
    assert numpy_structs.loop_of(np.add, (np.dtype(bfloat16),) * 2) is None


def test_the_struct_is_numpys():
    """The loops found are those of NumPy's table; an array lies where NumPy says."""
    assert numpy_structs.loop_of(np.add, (np.dtype(np.float32),) * 2).result == np.float32
    assert numpy_structs.loop_of(np.less, (np.dtype(np.float32),) * 2).result == np.bool_
    assert numpy_structs.loop_of(np.add, (np.dtype(np.float32), np.dtype(np.float64))) is None
    for array in (numbers(5), numbers(5)[2:], numbers(), np.broadcast_to(ONE, (3, 4))):
        assert numpy_structs.address(array) == array.ctypes.data


def test_a_copy_of_a_dtype_is_that_dtype():
    """`newbyteorder` and pickle make copies that are equal, so what is remembered for one is found for the other."""
    copy = np.dtype(np.float32).newbyteorder("=")
    assert copy.isbuiltin == 0 and np.dtype(bfloat16).isbuiltin == 2
    for kind in (copy, np.dtype(np.float32)):
        numpy_structs.loop_of.cache_clear()
        assert numpy_structs.loop_of(np.positive, (kind,)) is not None
    assert numpy_structs.loop_of(np.positive, (np.dtype(bfloat16),)) is None


# --- the engine, and captured steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_engine_computes_large_tensors_by_the_backend(backend, monkeypatch):
    seen, call = [], ufuncs.call
    monkeypatch.setattr(ufuncs, "call", lambda function, *arrays: seen.append(function) or call(function, *arrays))
    a, b = tg.tensor(numbers(600, 700)), tg.tensor(numbers(600, 700, seed=1))
    with kernels.use(backend):
        y = tg.where(a > b, tg.exp(a + b[0]), a * b)
    assert np.array_equal(
        y.numpy(), np.where(a.numpy() > b.numpy(), np.exp(a.numpy() + b.numpy()[0]), a.numpy() * b.numpy())
    )
    assert seen == ([np.greater, np.add, np.exp, np.multiply, np.where] if backend == "cpu" else [])


def test_small_tensors_are_numpys(monkeypatch):
    monkeypatch.setattr(ufuncs, "call", None)
    a, b = tg.tensor(numbers(64, 64)), tg.tensor(numbers(64, 64, seed=1))
    assert np.array_equal(tg.maximum(a.exp() + b, b).numpy(), np.maximum(np.exp(a.numpy()) + b.numpy(), b.numpy()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_captured_step_has_a_function_as_a_kernel_of_its_own(layout):
    a, b = map(tg.tensor, LAYOUTS[layout])
    step = tg.capture(lambda a, b: tg.maximum(a, b).exp(), warmup=1)
    for _ in range(3):
        a = a + 1
        assert step(a, b).numpy().tobytes() == tg.maximum(a, b).exp().numpy().tobytes()
    nodes = graphs(step)[0].graph.nodes()
    assert nodes.keys() - {"elementwise_kernel"} == {"maximum_kernel", "exp_kernel"}  # the former fills short rows


def test_a_program_keeps_what_it_reads():
    program = Program()
    with program.capturing():
        rows = program.constant(np.full(1000, 2, np.float32))
        y = np.maximum(rows, program.constant(np.array(3, np.float32)))
        z = np.add(y, y, out=y)
    others = [np.full(1024, np.nan, np.float32) for _ in range(200)]  # take memory that was let go
    program.launch()
    assert (z.view(np.ndarray) == 6).all()
    del others


def test_the_gradients_of_a_tensor_that_is_used_twice_are_added():
    x = tg.tensor(images(9, 3, 40, 41)).requires_grad_()

    def step():
        return tg.grad((tg.relu(x) + tg.sigmoid(x)).sum(), x)[0]

    want, captured = step().numpy(), tg.capture(step, warmup=1)
    for _ in range(3):
        got = captured().numpy()
    assert got.tobytes() == want.tobytes()
    assert graphs(captured)[0].graph.nodes()["add_kernel"] == 2
