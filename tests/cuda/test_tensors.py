"""What a tensor on device cuda is and does: values out, copies, indices, comparisons, in-place writes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn
from tilegrad.nn import functional as F

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def there(**options):
    return tg.tensor(VALUES, device="cuda", **options)


def on_host(x):
    return x.detach().cpu().numpy()


# --- out of the engine -----------------------------------------------------------------------------------------------


def test_values_come_out_as_python_numbers():
    x = there()
    assert x.tolist() == VALUES.tolist()
    assert (x[1, 2].item(), float(x[1, 2]), int(x[1, 2]), bool(x[1, 2])) == (1.0, 1.0, 1, True)
    assert f"{x[0, 0]:.2f}" == "-5.00" and [10, 20, 30][tg.tensor(2, device="cuda")] == 30
    assert 6.0 in x and 7.5 not in x
    with pytest.raises(RuntimeError, match=r"item: the tensor is \(3, 4\)"):
        x.item()


def test_numpy_is_never_an_implicit_copy():
    for convert in (lambda x: x.numpy(), np.asarray, lambda x: np.add(VALUES, x)):
        with pytest.raises(TypeError, match="on cuda|cpu and cuda"):
            convert(there())


def test_repr():
    assert repr(tg.tensor([1.0, 2.5], device="cuda")) == "tensor([1. , 2.5], device='cuda')"
    x = tg.ones(1, dtype="float64", device="cuda", requires_grad=True)
    assert repr(x) == "tensor([1.], dtype=float64, device='cuda', requires_grad=True)"
    assert repr(x * 1) == "tensor([1.], dtype=float64, device='cuda', grad_fn=<mul>)"


def test_pickle_and_copies():
    x = there(requires_grad=True)
    x.sum().backward()
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.copy(x)):
        assert (y.device, y.requires_grad, type(y)) == ("cuda", True, tg.Tensor)
        assert_same(on_host(y), VALUES)
    assert copy.deepcopy(x).grad.device == "cuda"
    p = pickle.loads(pickle.dumps(nn.Parameter(there())))
    assert isinstance(p, nn.Parameter) and p.device == "cuda"


def test_iteration_and_length():
    x = there()
    assert len(x) == 3
    assert [row.tolist() for row in x] == VALUES.tolist()
    a, b, c = x
    a.zero_()  # a view
    assert x[0].tolist() == [0.0] * 4


def test_faults_of_kernels_are_raised_where_the_program_waits():
    waits = [lambda y: y.item(), lambda y: y.tolist(), lambda y: y.cpu(), repr, lambda y: tg.cuda.synchronize()]
    for wait in waits:
        loss = F.cross_entropy(there(), tg.tensor([0, 4, 1], device="cuda"))
        with pytest.raises(ValueError, match=r"softmax_xent: t\[1\] is 4; expected 0 <= t < 4"):
            wait(loss)
        tg.cuda.synchronize()  # it is told once


# --- indices ---------------------------------------------------------------------------------------------------------

INDICES = {
    "int": 1,
    "slice": (slice(None, None, 2), slice(1, 3)),
    "new axis": (None, ..., 2),
    "list": [2, 0, 2],
    "array": np.array([1, -1]),
    "array of one": np.array(2),
    "mask as an array": VALUES > 1,
    "mask of rows": [True, False, True],
    "lists": ([0, 2], [1, 3]),
    "list and slice": (slice(1), [3, 0, 3]),
    "empty": [],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_indexing(index):
    x, y = there(requires_grad=True), tg.tensor(VALUES, requires_grad=True)
    got, want = x[index], y[index]
    assert got.device == "cuda"
    assert_same(on_host(got), on_host(want))
    (got * got).sum().backward()
    (want * want).sum().backward()
    assert_same(on_host(x.grad), on_host(y.grad))

    a, b = there(), tg.tensor(VALUES)
    a[index], b[index] = 7.0, 7.0
    assert_same(on_host(a), on_host(b))


def test_indexing_by_tensors():
    x, rows = there(), tg.tensor([2, 0], device="cuda")
    assert_same(on_host(x[rows]), VALUES[[2, 0]])
    assert_same(on_host(x[rows, rows + 1]), VALUES[[2, 0], [3, 1]])
    assert_same(on_host(x[..., rows]), VALUES[:, [2, 0]])
    assert_same(on_host(x[rows[0]]), VALUES[2])
    assert_same(on_host(x[x > 2]), VALUES[VALUES > 2])
    x[rows] = tg.tensor([[1.0], [2.0]], device="cuda")
    assert x[:, 0].tolist() == [2.0, -1.0, 1.0]
    x[x == 2.0] = 0
    assert x[0].tolist() == [0.0] * 4


@pytest.mark.parametrize("wrong", [[3], [0, -4], np.array([5]), ([0], [4]), (slice(None), [-5]), (..., [4])])
def test_an_index_out_of_range(wrong):
    for form in (wrong, tuple(tg.tensor(i, device="cuda") if isinstance(i, list) else i for i in as_tuple(wrong))):
        with pytest.raises(IndexError, match="getitem: index .* is out of bounds for dim . of size"):
            there()[form]
        x = there()
        with pytest.raises(IndexError, match="setitem: index"):
            x[form] = 1.0
        assert_same(on_host(x), VALUES)


def as_tuple(index):
    return index if isinstance(index, tuple) else (index,)


def test_rows_are_taken_without_a_wait_and_a_wrong_one_told_later():
    x = there().requires_grad_()
    at = tg.tensor([[2, -3], [0, 2]], device="cuda")
    y = x[at]
    y.backward(tg.ones_like(y))
    assert_same(on_host(y.detach()), VALUES[[[2, -3], [0, 2]]])
    assert_same(on_host(x.grad), np.repeat(np.array([[2.0], [0.0], [2.0]], np.float32), 4, 1))
    assert_same(on_host(x.detach().index_select(0, at[1].int())), VALUES[[0, 2]])
    wrong = there()[tg.tensor([1, 3], device="cuda")]
    with pytest.raises(IndexError, match=r"take_rows: index\[1\] is 3; expected -3 <= index < 3"):
        wrong.tolist()
    assert np.isnan(on_host(wrong)[1]).all()


def test_indices_of_another_kind():
    with pytest.raises(IndexError, match="an index is float32; expected integers or bools"):
        there()[tg.tensor([1.0], device="cuda")]
    with pytest.raises(IndexError, match="an index is float64"):
        there()[np.array([0.5])]


def test_integers_scatter_and_add_up():
    index = tg.tensor([0, 2, 0], device="cuda")
    for dtype in (tg.int64, tg.int8, tg.float16):
        x = tg.ones(3, dtype=dtype, device="cuda")
        y = x.scatter_add(0, index, tg.tensor([5, 1, -2], dtype=dtype, device="cuda"))
        assert (y.dtype, y.tolist()) == (dtype, [4, 1, 2])


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_comparisons_with_numbers_and_tensors():
    x = there()
    for got, want in ((x == 2, VALUES == 2), (x < 0.5, VALUES < 0.5), (1 <= x, 1 <= VALUES), (x != 3, VALUES != 3)):
        assert got.device == "cuda" and got.dtype == np.bool_
        assert_same(on_host(got), want)
    assert (x == None) is False  # noqa: E711
    assert x.equal(there()) and not x.equal(x + 1) and not x.equal(x[:2])
    assert x.allclose(x + 1e-9) and not x.allclose(x + 1)


def test_where_of_two_numbers_is_on_the_conditions_device():
    y = tg.where(there() > 0, 1.0, 0.0)
    assert y.device == "cuda"
    assert_same(on_host(y), (VALUES > 0).astype(np.float32))


def test_numbers_of_every_kind():
    x = there()
    for number in (2, 2.0, True, np.float32(2), np.int64(2), 1e30, 2**40):
        assert (x + number).device == (number - x).device == "cuda"
        np.testing.assert_allclose(on_host(x * number), VALUES * np.float32(number))
    with pytest.raises(ValueError, match="add: 300 does not fit uint8"):
        tg.zeros(2, dtype="uint8", device="cuda") + 300


# --- in-place writes -------------------------------------------------------------------------------------------------


def test_in_place_writes_change_the_memory():
    x = there()
    view, storage = x[1], x.data
    x.add_(1).mul_(2.0).sub_(there()).clamp_(0, 10)
    assert_same(on_host(x), np.clip((VALUES + 1) * 2 - VALUES, 0, 10))
    assert x.data is storage and view.tolist() == x[1].tolist()
    x.fill_(3), x[0].zero_()
    assert x[:2, 0].tolist() == [0.0, 3.0]
    x += 1
    assert x[0, 0].item() == 1.0


def test_in_place_writes_are_noticed_by_backward():
    w = there(requires_grad=True)
    y = w * 2
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match="a tensor saved by 'mul' was written to in place"):
        z.sum().backward()
    with pytest.raises(RuntimeError, match="add_: x is a leaf that requires grad"):
        w.add_(1)
    with pytest.raises(RuntimeError, match="shares its memory with a view"):
        v = w * 1
        row = v[0]
        v.mul_(w)
    assert row is not None


def test_reshaped_views_share_memory_and_copies_do_not():
    x = there()
    x.reshape(4, 3)[0, 0] = 9.0
    x.T.reshape(12)[0] = -9.0  # a copy
    x.T[1, 0] = 8.0
    assert x[0, :2].tolist() == [9.0, 8.0]
    with pytest.raises(RuntimeError, match="cannot be seen as"):
        x.T.view(12)


def test_an_expanded_view_is_not_written_to():
    x = tg.ones(1, 3, device="cuda")
    with pytest.raises(RuntimeError, match="add_: x is read-only"):
        x.expand(2, 3).add_(1)
    assert x.tolist() == [[1.0] * 3]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)], ids=str)
def test_in_place_writes_to_a_tensor_without_elements(shape):
    for x in (tg.zeros(*shape, device="cuda"), tg.zeros(*shape, device="cuda") + 1):  # an op's strides may be 0
        x.add_(1).mul_(x).zero_().relu_().copy_(x).normal_()
        x[...] = 2
        x += 1
        assert x.shape == shape and x._version == 8
