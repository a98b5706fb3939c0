"""What may be assigned to a tensor's `data` and `grad`; no tensor ever comes to lie inside a tensor."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import Tensor, nn, optim
from tilegrad.nn import init


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(tg.tensor(values or (1.0, 2.0, 3.0)))


def assert_sound(x: Tensor) -> None:
    assert type(x.data) is np.ndarray


# --- data: programs of PyTorch


def descend_rebinding(w, lr):
    w.data = w.data - lr * w.grad


def descend_rebinding_with_data(w, lr):
    w.data = w.data - lr * w.grad.data


def descend_in_place(w, lr):
    w.data -= lr * w.grad


def descend_in_place_with_data(w, lr):
    w.data -= lr * w.grad.data


def descend_by_multiplying(w, lr):
    w.data *= 1 - lr
    w.data += w.grad * -lr
    w.data /= 1 + w.grad * lr


def descend_item_by_item(w, lr):
    w.data[:] = w.data - lr * w.grad
    w.data[0] -= lr * w.grad[0]


STEPS = [
    descend_rebinding,
    descend_rebinding_with_data,
    descend_in_place,
    descend_in_place_with_data,
    descend_by_multiplying,
    descend_item_by_item,
]


@pytest.mark.parametrize("step", STEPS)
def test_gradient_descent_by_hand(step):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    found = []
    for library, make in ((torch, lambda v: torch.nn.Parameter(torch.tensor(v))), (tg, lambda v: parameter(*v))):
        w = make([1.0, 2.0, 3.0])
        inputs = library.tensor(x)
        for _ in range(5):
            loss = ((inputs * w).sum(1) ** 2).mean()
            w.grad = None
            loss.backward()
            step(w, 0.1)
        found.append(w.detach().numpy())
    assert_sound(w)
    assert w.requires_grad and w.is_leaf and w.dtype == np.float32
    np.testing.assert_allclose(found[1], found[0], rtol=2e-6)


def test_augmented_assignment_writes_to_the_memory_that_all_views_see():
    w = parameter()
    array, head, tied = w.data, w.detach()[:1], nn.Parameter(w.data)
    w.data -= 0.5 * tg.ones(3)
    w.data *= 2.0
    w.data += np.ones(3, np.float32)
    assert w.data is array and w.tolist() == tied.tolist() == [2.0, 4.0, 6.0] and head.tolist() == [2.0]


def test_an_assigned_tensor_shares_its_memory_and_its_version():
    w, t = parameter(), tg.zeros(3)
    w.data = t
    assert w.data is t.data
    t.fill_(4.0)
    assert w.tolist() == [4.0] * 3 and w._version == t._version == 1
    loss = (w * w).sum()
    t.fill_(5.0)
    with pytest.raises(RuntimeError, match="a tensor saved by 'mul' was written to in place"):
        loss.backward()


@pytest.mark.parametrize("step", [descend_rebinding, descend_in_place])
def test_a_graph_that_saved_the_tensor_does_not_go_on_with_other_values(step):
    w = parameter()
    w.grad = tg.ones(3)
    loss = (w * w).sum()
    step(w, 0.1)
    with pytest.raises(RuntimeError, match="a tensor saved by 'mul' was written to in place"):
        loss.backward()
    (w * w).sum().backward()


def test_data_of_any_shape_dtype_and_history():
    w = parameter()
    for value in (
        tg.zeros(2, 2),
        tg.zeros(3, dtype="float64"),
        tg.zeros(3, requires_grad=True) * 2,
        nn.Parameter(tg.zeros(1)),
        np.zeros(4, np.float32),
    ):
        w.data = value
        assert_sound(w)
        assert w.shape == value.shape and w.dtype == value.dtype and w.requires_grad and w.is_leaf
    x = tg.zeros(2)
    x.data = tg.tensor([1, 2])
    assert x.dtype == np.int64
    x.data = np.arange(2, dtype=">f4")  # as a tensor holds it
    assert x.dtype == np.dtype("float32") and x.data.dtype.isnative and x.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.0, TypeError, "data: expected a tensor or an array; got float"),
        (None, TypeError, "data: expected a tensor or an array; got NoneType"),
        ([1.0, 2.0], TypeError, "data: expected a tensor or an array; got list"),
        (torch.zeros(3), TypeError, "data: expected a tensor or an array; got Tensor"),
        (np.zeros(3, complex), TypeError, "data: the array is complex128; expected one of"),
        (np.array([{}]), TypeError, "data: the array is object; expected one of"),
        (tg.tensor([1, 2, 3]), RuntimeError, "data: got int64 for a tensor that requires grad"),
    ],
    ids=str,
)
def test_what_cannot_be_data_is_an_error_at_the_assignment(value, error, text):
    w = parameter()
    before = w.data
    with pytest.raises(error, match=re.escape(text)):
        w.data = value
    assert w.data is before and w._version == 0
    with pytest.raises(AttributeError):
        del w.data


def test_a_view_that_got_other_memory_no_longer_stands_in_the_way():
    x = tg.zeros(4)
    view = x[:2]
    view.data = np.ones(2, np.float32)
    x.mul_(tg.ones(4, requires_grad=True))  # must be differentiated, which living views forbid
    assert x.requires_grad and view.tolist() == [1.0, 1.0]


def test_a_module_on_other_memory():
    layer = nn.Linear(2, 3)
    optimizer = optim.SGD(layer.parameters(), lr=0.5)
    layer.weight.data = tg.zeros(3, 2)
    layer.bias.data = np.ones(3, np.float32)
    assert dict(layer.named_parameters()).keys() == {"weight", "bias"}
    layer(tg.ones(1, 2)).sum().backward()
    optimizer.step()
    assert layer.weight.tolist() == [[-0.5, -0.5]] * 3 and layer.bias.tolist() == [0.5] * 3


@pytest.mark.parametrize("make", ["tensor", "parameter", "as_tensor", "list", "Parameter", "from_numpy", "from_dlpack"])
def test_making_tensors_from_tensors(make):
    x = parameter()
    act = {
        "tensor": lambda: tg.tensor(x),
        "parameter": lambda: Tensor(x),
        "as_tensor": lambda: tg.as_tensor([x, x]),
        "list": lambda: tg.tensor([[x, x.detach()], [x, x]]),
        "Parameter": lambda: nn.Parameter(x),
        "from_numpy": lambda: tg.from_numpy(x.detach().numpy()),
        "from_dlpack": lambda: tg.from_dlpack(x.detach()),
    }[make]
    assert_sound(act())
    assert_same(act().detach().numpy().ravel()[:3], x.detach().numpy())
    with pytest.raises(TypeError, match="from_numpy: expected a NumPy array; got Parameter"):
        tg.from_numpy(x)


@pytest.mark.parametrize("make", [Tensor, nn.Parameter])
def test_a_tensor_made_of_another_shares_its_memory_and_its_version(make):
    x = tg.ones(3)
    y = make(x)
    y.requires_grad_()
    loss = (y * y).sum()
    x.fill_(2.0)
    assert y.tolist() == [2.0] * 3 and y._version == 1
    with pytest.raises(RuntimeError, match="a tensor saved by 'mul' was written to in place"):
        loss.backward()


# --- the array itself, in init


FILLS = {
    "uniform_": (),
    "normal_": (0.0, 0.1),
    "trunc_normal_": (),
    "constant_": (3.0,),
    "ones_": (),
    "zeros_": (),
    "eye_": (),
    "orthogonal_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
}


@pytest.mark.parametrize("name", FILLS)
def test_init_of_an_array(name):
    fill, args = getattr(init, name), FILLS[name]
    w, want = nn.Parameter(tg.full((3, 4), 9.0)), tg.full((3, 4), 9.0)
    tg.manual_seed(0)
    fill(want, *args)
    tg.manual_seed(0)
    assert fill(w.data, *args) is w.data
    assert_same(w.detach().numpy(), want.numpy())
    foreign = np.full((3, 4), 9.0, ">f4")
    tg.manual_seed(0)
    assert_same(fill(foreign, *args).astype(np.float32), want.numpy())
    with pytest.raises(TypeError, match=f"{name}: got a list; expected a tensor, or an array"):
        fill([[1.0]], *args)


def test_in_place_methods_are_the_tensors_not_the_arrays():
    w = parameter()
    for name in ("fill_", "copy_", "zero_", "clamp_", "normal_", "add_"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(w.data, name)
    with tg.no_grad():
        w.fill_(2.0)
        w.clamp_(0.0, 1.0)
        w -= 0.5 * tg.ones(3)
        w.copy_(w + tg.ones(3))
    assert w.tolist() == [1.5] * 3 and w.requires_grad and w.is_leaf


# --- grad


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.0, TypeError, "grad: got a float; expected a Tensor or None"),
        (np.zeros(3, np.float32), TypeError, "grad: got a ndarray; expected a Tensor or None"),
        (tg.zeros(4), ValueError, "grad: the gradient is (4,) but the tensor (3,); expected one shape"),
        (tg.zeros(1, 3), ValueError, "grad: the gradient is (1, 3) but the tensor (3,)"),
        (tg.tensor(0.0), ValueError, "grad: the gradient is () but the tensor (3,)"),
        (tg.zeros(3, dtype="float64"), TypeError, "grad: the gradient is float64 but the tensor float32"),
    ],
    ids=str,
)
def test_what_cannot_be_the_gradient_is_an_error_at_the_assignment(value, error, text):
    w = parameter()
    w.grad = before = tg.ones(3)
    with pytest.raises(error, match=re.escape(text)):
        w.grad = value
    with pytest.raises(ValueError, match="grad: got the tensor itself"):
        w.grad = w
    assert w.grad is before


def test_what_can_be_the_gradient():
    w = parameter()
    for value in (None, parameter(), tg.ones(3, requires_grad=True) * 2, tg.ones(3)):
        w.grad = value
        assert w.grad is value
    w.grad -= tg.ones(3)
    w.grad = w.grad * 2
    del w.grad
    assert w.grad is None
    x = tg.zeros(2, dtype="int64")
    x.grad = tg.ones(2, dtype="int64")
    assert x.grad.tolist() == [1, 1]
