"""Making tensors, against torch: values, dtypes, defaults, and what shares memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same

DATA = [
    1,
    1.5,
    True,
    [],
    [[], []],
    [1, 2],
    [1, 2.5],
    [True, 2],
    [[1.0, 2.0], [3.0, 4.0]],
    ((1, 2), (3, 4)),
    [np.float64(1.0), 2.0],
    [1.0, np.float64(2.0)],
    np.float64(1.5),
    np.int32(2),
    np.arange(3.0),
    np.arange(6, dtype=np.int16).reshape(2, 3).T,
    np.zeros((0, 3)),
    [np.zeros(0)],
    np.array(2.5),
    [np.arange(2), np.arange(2)],
    range(3),
]


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays")
@pytest.mark.parametrize("data", DATA, ids=repr)
def test_tensor(data):
    assert_same(tg.tensor(data).numpy(), torch.tensor(data).numpy())
    for dtype in ("float64", "int32", "bool", "float16"):
        want = torch.tensor(data, dtype=getattr(torch, dtype)).numpy()
        assert_same(tg.tensor(data, dtype=dtype).numpy(), want)
        assert_same(tg.as_tensor(data, dtype=dtype).numpy(), want)


def test_tensor_of_tensors():
    a = tg.tensor([1.0, 2.0], requires_grad=True)
    assert tg.tensor([a, [3.0, 4.0]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    copy = tg.tensor(a)
    assert copy.tolist() == [1.0, 2.0] and not copy.requires_grad and not np.shares_memory(copy.data, a.data)


def test_tensor_copies_and_as_tensor_shares():
    array = np.zeros(3)
    copied, shared, converted = tg.tensor(array), tg.as_tensor(array), tg.as_tensor(array, dtype="float32")
    array[0] = 1.0
    assert copied.tolist() == converted.tolist() == [0.0, 0.0, 0.0] and shared.tolist() == [1.0, 0.0, 0.0]
    x = tg.ones(2, requires_grad=True) * 2
    assert tg.as_tensor(x) is x and tg.as_tensor(x, dtype="float64").requires_grad


def test_from_numpy_shares_both_ways():
    array = np.arange(6.0).reshape(2, 3).T
    x = tg.from_numpy(array)
    array[0, 0], x[1, 1] = 7.0, 8.0
    assert x[0, 0].item() == 7.0 and array[1, 1] == 8.0 and x.stride() == (1, 3)


def test_foreign_arrays_become_plain_ones(tmp_path):
    mapped = np.memmap(tmp_path / "data", np.float32, "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    big_endian = np.array([1.0, 2.0], ">f8")
    for x in (tg.from_numpy(mapped), tg.Tensor(mapped), tg.as_tensor(mapped), tg.ones(3) * mapped):
        assert type(x.data) is np.ndarray and (x + tg.ones(3)).tolist() == [2.0, 3.0, 4.0]
    assert np.shares_memory(tg.from_numpy(mapped).data, mapped)
    for x in (tg.from_numpy(big_endian), tg.Tensor(big_endian), tg.tensor(big_endian)):
        assert x.dtype.isnative and x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ([[1, 2], [3]], ValueError, "tensor: expected nested sequences of equal lengths"),
        ("abc", TypeError, "tensor: expected numbers; got <U3 from str"),
        (None, TypeError, "tensor: expected numbers; got object from NoneType"),
        ([1j], TypeError, "tensor: expected numbers; got complex128"),
        ([2**70], TypeError, "tensor: expected numbers; got object"),
        (np.zeros(2, np.longdouble), TypeError, "tensor: the array is float128; expected one of bool"),
    ],
)
def test_tensor_refuses(data, error, text):
    with pytest.raises(error, match=text):
        tg.tensor(data)


@pytest.mark.parametrize("size", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("dtype", [None, "float64", "int64", "bool"])
def test_of_a_shape(size, dtype):
    theirs = None if dtype is None else getattr(torch, dtype)
    for name in ("zeros", "ones"):
        want = getattr(torch, name)(size, dtype=theirs).numpy()
        assert_same(getattr(tg, name)(size, dtype=dtype).numpy(), want)
        assert_same(getattr(tg, name)(*size, dtype=dtype).numpy(), want)
        assert_same(getattr(tg, name + "_like")(tg.tensor(want)).numpy(), want)
    for value in (0, 2, 1.5, True):
        want = torch.full(size, value, dtype=theirs).numpy()
        assert_same(tg.full(size, value, dtype=dtype).numpy(), want)
        assert_same(tg.full_like(tg.tensor(want), value).numpy(), np.full(size, value, want.dtype))
    empty = tg.empty(size, dtype=dtype)
    assert empty.shape == size and empty.dtype == (dtype or "float32") and tg.empty_like(empty).shape == size


@pytest.mark.parametrize(
    "arguments",
    [(5,), (2, 7), (2, 7, 2), (7, 2, -2), (0,), (1.0, 2.0, 0.1), (0, 1, 0.3), (5.0,), (-1, 1, 0.25), (0.0, 1.0, 1 / 3)],
)
def test_arange(arguments):
    assert_same(tg.arange(*arguments).numpy(), torch.arange(*arguments).numpy())
    for dtype in ("float32", "float64", "int16") if all(a == int(a) for a in arguments) else ("float64",):
        want = torch.arange(*arguments, dtype=getattr(torch, dtype)).numpy()
        if dtype == "float64":  # torch's steps are rounded differently in vectors
            assert_close(tg.arange(*arguments, dtype=dtype).numpy(), want)
        else:
            assert_same(tg.arange(*arguments, dtype=dtype).numpy(), want)


def many_ranges(rng):
    """Bounds and steps of all sizes, integers among them, up and down; ends that a whole number of steps reaches."""
    for _ in range(3000):
        start = rng.choice([0, 1, -9, 1e6, 1e-6, 0.1, rng.uniform(-5, 5)])
        step = rng.choice([1, 2, 3, 0.1, 0.3, 1 / 3, 0.7, rng.uniform(0.01, 2), rng.uniform(1e-7, 1e-6)])
        step = step * rng.choice([-1, 1])
        steps = rng.choice([0, 1, 2, 3, rng.integers(40), rng.integers(1000)])
        end = start + step * (steps + rng.choice([0, 0, rng.random()]))
        yield [int(a) if a == int(a) and rng.random() < 0.5 else float(a) for a in (start, end, step)]


def test_arange_over_many_bounds():
    """torch's count; each element start + i step, rounded twice, which torch's vectors do otherwise."""
    for start, end, step in many_ranges(np.random.default_rng(0)):
        got = tg.arange(start, end, step, dtype="float64").numpy()
        want = torch.arange(start, end, step, dtype=torch.float64).numpy()
        assert got.shape == want.shape, (start, end, step)
        assert got.tolist() == [start + step * i for i in range(len(got))], (start, end, step)
        assert np.abs(got - want).max(initial=0) <= 2 * np.spacing(max(abs(start), abs(end))), (start, end, step)
        if any(type(a) is float for a in (start, end, step)):
            assert_same(tg.arange(start, end, step).numpy(), got.astype(np.float32))


@pytest.mark.parametrize("arguments", [(0, 1, 5), (1, -1, 3), (2, 2, 4), (0, 1, 1), (0, 1, 0), (0, 10, 11)])
def test_linspace(arguments):
    want = np.linspace(*arguments)
    assert_same(tg.linspace(*arguments, dtype="float64").numpy(), want)
    assert_same(tg.linspace(*arguments).numpy(), want.astype(np.float32))
    theirs = torch.linspace(*arguments, dtype=torch.float64).numpy()
    np.testing.assert_allclose(want, theirs, rtol=1e-15, atol=1e-15)


def test_eye():
    for arguments in ((3,), (2, 3), (3, 2), (0,)):
        assert_same(tg.eye(*arguments).numpy(), torch.eye(*arguments).numpy())


def test_requires_grad():
    for x in (
        tg.tensor([1.0], requires_grad=True),
        tg.zeros(2, requires_grad=True),
        tg.rand(2, requires_grad=True),
        tg.full((2,), 1.0, requires_grad=True),
        tg.linspace(0, 1, 3, requires_grad=True),
        tg.zeros_like(tg.ones(2), requires_grad=True),
    ):
        assert x.requires_grad and x.is_leaf and x.grad is None
    with pytest.raises(RuntimeError, match="requires_grad: expected a floating-point tensor; got int64"):
        tg.arange(3, requires_grad=True)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: tg.zeros(-1), ValueError, r"zeros: the size is \(-1,\); expected no negative entry"),
        (lambda: tg.ones(2, 1.5), TypeError, r"ones: got \(2, 1.5\); expected ints"),
        (lambda: tg.full("ab", 1), TypeError, "full: got"),
        (lambda: tg.full((2,), 300, dtype="uint8"), ValueError, "full: 300 does not fit uint8"),
        (lambda: tg.rand(2, -3), ValueError, r"rand: the size is \(2, -3\)"),
        (lambda: tg.rand(2, dtype="int32"), TypeError, "rand: dtype is int32"),
        (lambda: tg.randn_like(tg.arange(2)), TypeError, "randn: dtype is int64"),
        (lambda: tg.arange(0, 5, -1), ValueError, "arange: start=0, end=5, step=-1"),
        (lambda: tg.arange(0, 5, 0), ValueError, "arange: start=0, end=5, step=0"),
        (lambda: tg.linspace(0, 1, -1), ValueError, "linspace: steps is -1"),
        (lambda: tg.eye(-1), ValueError, r"eye: the size is \(-1, -1\)"),
        (lambda: tg.from_numpy([1.0]), TypeError, "from_numpy: expected a NumPy array; got list"),
        (lambda: tg.zeros(2, device="cuda:7"), ValueError, 'device: got "cuda:7"; expected "cuda" or "cuda:0"'),
        (lambda: tg.zeros(2, device="tpu"), ValueError, "device: expected .*; got 'tpu'"),
    ],
)
def test_refusals(act, error, text):
    with pytest.raises(error, match=text):
        act()


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint8"])
def test_linspace_is_computed_in_the_dtype_of_the_result(dtype):
    kind = getattr(torch, dtype)
    low = torch.tensor(-3.3)  # a float32: exact in float64
    for start, end in ((0.1, 0.7), (4.3, 250), (250, 4.9), *([(low, 50)] if dtype[0] != "u" else [])):
        for steps in (0, 1, 2, 50):
            ours = tg.tensor(start.numpy()) if isinstance(start, torch.Tensor) else start
            got, want = tg.linspace(ours, end, steps, dtype=dtype), torch.linspace(start, end, steps, dtype=kind)
            if dtype == "float32":
                exact = torch.linspace(start, end, steps, dtype=torch.float64).numpy()
                assert_close(got.numpy(), exact, want.numpy())
            elif dtype == "float64":
                assert_close(got.numpy(), want.numpy())
            else:
                assert_same(got.numpy(), want.numpy())


BOUNDS = [(3.1,), (0.0, -8.000001, -4.0), (-0.9, 2.1, 2.0), (2.1, -2.9, -1.0), (0.5, 5.5), (1.0, 1.9), (0, 7.9, 2.5)]


@pytest.mark.parametrize("arguments", BOUNDS, ids=str)
@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "float32"])
def test_arange_of_fractional_bounds_has_torchs_count(arguments, dtype):
    want = torch.arange(*arguments, dtype=getattr(torch, dtype)).numpy()
    assert_same(tg.arange(*arguments, dtype=dtype).numpy(), want)


def test_arange_by_less_than_one_integer_is_refused():
    with pytest.raises(ValueError, match="as int64 by 0; expected a step of at least 1"):
        tg.arange(0, 5, 0.5, dtype="int64")


def test_the_like_functions_take_a_device_and_requires_grad():
    x = tg.ones(2, 3, dtype="float64")
    for make in (tg.zeros_like, tg.empty_like, tg.rand_like, tg.randn_like):
        y = make(x, device="cpu", requires_grad=True, dtype="float32")
        assert (y.shape, y.dtype.name, y.device, y.requires_grad) == ((2, 3), "float32", "cpu", True)


def test_negative_numbers_are_twos_complement_in_uint8():
    for n in (-1, -3, -255):
        assert tg.full((2,), n, dtype="uint8").tolist() == torch.full((2,), n, dtype=torch.uint8).tolist()
    with pytest.raises(ValueError, match="-256 does not fit uint8"):
        tg.full((2,), -256, dtype="uint8")
