"""Out of the engine and back: NumPy, DLPack, Python numbers, text, pickle, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import Tensor

OPERATORS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floor_divide": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "matmul": lambda a, b: a @ b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("name", "sum prod mean std var max min amax amin any all median argmax cumsum ptp".split())
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": 1, "keepdims": True}], ids=str)
def test_numpys_reductions_of_a_tensor_are_those_of_its_array(name, options):
    """NumPy calls the method of some, with keywords that ours do not have."""
    if name == "cumsum":
        options = {k: v for k, v in options.items() if k != "keepdims"}
    x = tg.tensor([[1.0, -2.5, 3.0], [0.0, 4.0, 4.5]])
    assert_same(np.asarray(getattr(np, name)(x, **options)), np.asarray(getattr(np, name)(x.numpy(), **options)))


def test_numpys_reductions_of_what_has_no_array_to_give_say_so():
    with pytest.raises(RuntimeError, match="numpy: the tensor requires grad; expected"):
        np.mean(tg.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match="NotImplemented"):
        np.mean(np.ones((2, 2)), axis=0, out=tg.ones(2))  # autograd would not notice the write


def test_other_functions_of_numpys_take_a_tensor_as_an_array():
    x = tg.tensor([1.0, 2.0])
    for got in (np.concatenate([x, np.ones(1)]), np.where(x > 1, x, 0), np.stack([x, x])):
        assert type(got) is np.ndarray
    with pytest.raises(TypeError, match="no implementation found"):
        np.mean(x, where=type("Foreign", (), {"__array_function__": lambda *a: NotImplemented})())


def test_numpy_shares_memory():
    x = tg.ones(2, 3)
    x.numpy()[0, 0] = 5.0
    assert x[0, 0].item() == 5.0
    assert np.shares_memory(np.asarray(x), x.data) and np.shares_memory(np.array(x, copy=False), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert_same(np.asarray(x, dtype=np.float64), x.numpy().astype(np.float64))
    with pytest.raises(ValueError, match="copy=False forbids it"):
        np.array(x, dtype=np.float64, copy=False)


def test_a_tensor_that_requires_grad_is_not_handed_out():
    x = tg.ones(2, requires_grad=True)
    for act in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(RuntimeError, match=r"numpy: the tensor requires grad; expected tensor.detach\(\)"):
            act()
    with pytest.raises(BufferError, match="requires grad"):
        np.from_dlpack(x)
    assert np.shares_memory(x.detach().numpy(), x.data)


@pytest.mark.parametrize("name", OPERATORS)
def test_arrays_and_tensors_in_either_order_give_a_tensor(name):
    op = OPERATORS[name]
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[2.0, 2.0], [0.5, 4.0]])
    want = op(a, b)
    for got in (op(Tensor(a), b), op(a, Tensor(b)), op(Tensor(a), Tensor(b))):
        assert type(got) is Tensor
        assert_same(got.numpy(), want)


@pytest.mark.parametrize("name", [n for n in OPERATORS if n != "matmul"])
def test_numpy_scalars_and_tensors_in_either_order(name):
    op, a = OPERATORS[name], np.array([1.0, 2.0])
    for scalar in (np.float64(2.0), np.int64(2), np.array(2.0)):
        for got, want in ((op(Tensor(a), scalar), op(a, 2.0)), (op(scalar, Tensor(a)), op(2.0, a))):
            assert type(got) is Tensor
            assert_same(got.numpy(), want)


def test_gradients_flow_through_operators_with_arrays():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    (np.array([3.0, 4.0]) * x + (np.eye(2) @ x) - np.float64(2.0) * x).sum().backward()
    assert x.grad.tolist() == [2.0, 3.0]


def test_augmented_assignment_of_a_tensor_to_an_array_writes_to_the_array():
    a = b = np.ones(2)
    a += tg.ones(2)
    a *= tg.tensor(3.0)
    assert a is b and a.tolist() == [6.0, 6.0]
    with pytest.raises(RuntimeError, match=r"numpy: the tensor requires grad; expected tensor.detach\(\)"):
        a -= tg.ones(2, requires_grad=True)
    counts = np.ones(2, np.int64)
    with pytest.raises(TypeError, match="float64|float32"):
        counts += tg.ones(2)
    assert a.tolist() == [6.0, 6.0] and counts.tolist() == [1, 1]


def test_functions_of_numpy_see_an_array():
    x = tg.tensor([1.0, 4.0])
    for got, want in (
        (np.sqrt(x), [1.0, 2.0]),
        (np.maximum(np.float32(2.0), x), [2.0, 4.0]),
        (np.add.reduce(x), 5.0),
        (np.add(x, x, out=np.zeros(2)), [2.0, 8.0]),
        (np.add(x, x, dtype=np.float64), [2.0, 8.0]),
    ):
        assert not isinstance(got, Tensor)
        assert_same(np.asarray(got), np.asarray(want, got.dtype))
    total = np.zeros(2)
    np.add.at(total, [1, 1], x)
    assert total.tolist() == [0.0, 5.0]


def test_numpy_does_not_write_to_a_tensor_behind_its_back():
    x = tg.ones(2)
    for write in (lambda: np.add(1.0, np.ones(2), out=x), lambda: np.add.at(x, [0], 1.0)):
        with pytest.raises(TypeError, match="returned NotImplemented"):
            write()
    assert x.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_dlpack_shares_memory_with_numpy_and_torch(dtype):
    x = tg.tensor(np.arange(6).reshape(2, 3), dtype=dtype)
    for other in (np.from_dlpack(x), torch.from_dlpack(x)):
        other[0, 0] = 1
        assert x[0, 0].item() == 1
        other[0, 0] = 0
        assert x[0, 0].item() == 0 and tuple(other.shape) == (2, 3)
    for source in (np.arange(6).reshape(2, 3).astype(dtype), torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))):
        y = tg.from_dlpack(source)
        assert y.dtype == dtype and y.shape == (2, 3)
        y[0, 0] = 1
        assert source[0, 0] == 1
        source[0, 0] = 0
        assert y[0, 0].item() == 0
    assert np.shares_memory(tg.from_dlpack(x).data, x.data)
    assert x.T.__dlpack_device__() == (1, 0) and torch.from_dlpack(x.T).stride() == (1, 3)


def test_from_dlpack_refuses_foreign_dtypes():
    with pytest.raises(TypeError, match="from_numpy: the array is complex64"):
        tg.from_dlpack(torch.zeros(2, dtype=torch.complex64))


# --- Python ----------------------------------------------------------------------------------------------------------


def test_numbers():
    x = tg.tensor(2.5)
    assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
    assert type(tg.tensor([[3]]).item()) is int and type(tg.tensor(True).item()) is bool
    assert tg.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]] and tg.tensor(3).tolist() == 3
    assert not tg.tensor([0.0]) and tg.tensor([[7]])
    assert [10, 20, 30][tg.tensor(1)] == 20 and list(range(tg.tensor([2]))) == [0, 1]
    assert tg.tensor(2.5, requires_grad=True).item() == 2.5
    for wrong in (tg.ones(2), tg.ones(0)):
        for act in (float, int, bool, Tensor.item):
            with pytest.raises(RuntimeError, match=r"the tensor is \("):
                act(wrong)
    for wrong in (tg.tensor(1.0), tg.tensor([1, 2])):
        with pytest.raises(TypeError, match="index: expected an integer scalar"):
            range(wrong)


def test_containers():
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2 and [row.tolist() for row in x] == [[1.0, 2.0], [3.0, 4.0]]
    first, second = x
    first += 1.0  # a view
    assert x.tolist() == [[2.0, 3.0], [3.0, 4.0]] and second.tolist() == [3.0, 4.0]
    assert 4.0 in x and 5.0 not in x and tg.tensor(2.0) in x and np.float32(2.0) in x
    assert [row.tolist() for row in reversed(x)] == [[3.0, 4.0], [2.0, 3.0]]
    for act in (len, iter):
        with pytest.raises(TypeError, match="0-d tensor"):
            act(tg.tensor(1.0))
    leaf = tg.ones(2, 2, requires_grad=True)
    sum(row.sum() * k for k, row in enumerate(leaf)).backward()
    assert leaf.grad.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_identity_is_what_hashes_and_equality_is_elementwise():
    x, y = tg.ones(2), tg.ones(2)
    assert {x: 1, y: 2}[x] == 1 and len({x, y}) == 2
    assert (x == y).tolist() == [True, True] and (x != y).tolist() == [False, False]
    assert (x == None) is False and (x != None) is True and (x == "a") is False  # noqa: E711
    assert [None, x].index(x) == 1


def test_format():
    x = tg.tensor(1.23456)
    assert f"{x:.2f}" == "1.23" and f"{x}" == f"{torch.tensor(1.23456)}" and f"{tg.tensor(7):03d}" == "007"
    y = tg.ones(2)
    assert f"{y}" == str(y)
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{y:.2f}"


@pytest.mark.parametrize(
    ("x", "want"),
    [
        (tg.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (tg.tensor([1, 2]), "tensor([1, 2])"),
        (tg.tensor(True), "tensor(True)"),
        (tg.tensor([0.5], dtype="float64"), "tensor([0.5], dtype=float64)"),
        (tg.tensor([[1, 2], [3, 4]], dtype="int8"), "tensor([[1, 2],\n        [3, 4]], dtype=int8)"),
        (tg.tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (tg.tensor([1.0], requires_grad=True) * 2, "tensor([2.], grad_fn=<mul>)"),
        (tg.zeros(0, 3), "tensor([], size=(0, 3))"),
    ],
)
def test_repr(x, want):
    assert repr(x) == want


def test_repr_of_a_large_tensor_is_short():
    assert len(repr(tg.zeros(1000, 1000))) < 500


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_leaves_can_be_copied(duplicate):
    for x in (
        tg.tensor(np.arange(6.0).reshape(2, 3)).T,
        tg.tensor([1, 2]),
        tg.tensor(2.0, requires_grad=True),
        tg.zeros(0, 3),
    ):
        y = duplicate(x)
        assert type(y) is Tensor and y.requires_grad == x.requires_grad and y.is_leaf and y._version == 0
        assert_same(y.detach().numpy(), x.detach().numpy())
        y.detach().fill_(7)
        assert 7 not in x.detach()


def test_deepcopy_keeps_the_gradient_and_shared_objects():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    a, b = copy.deepcopy([x, x])
    assert a is b and a.grad.tolist() == [2.0, 4.0]
    a.grad.mul_(100.0)
    assert x.grad.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.deepcopy])
def test_results_cannot_be_copied(duplicate):
    with pytest.raises(RuntimeError, match="the tensor is the result of an op; expected a leaf, or detach"):
        duplicate(tg.ones(2, requires_grad=True) * 2)


def test_a_shallow_copy_shares_the_memory_and_its_version():
    x = tg.ones(2)
    y = copy.copy(x)
    y += 1.0
    assert x.tolist() == [2.0, 2.0] and x._version == y._version == 1
