"""Tensors between devices: every spelling of PyTorch's, and the gradient's way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import Tensor

VALUES = np.array([[1.5, -2.0, 0.0], [np.inf, 3.25, 7.0]], np.float32)


def there(**options):
    return tg.tensor(VALUES, device="cuda", **options)


TO_CUDA = {
    "to a name": lambda x: x.to("cuda"),
    "to a numbered name": lambda x: x.to("cuda:0"),
    "to a number": lambda x: x.to(0),
    "to torch's device": lambda x: x.to(torch.device("cuda", 0)),
    "to a tensor": lambda x: x.to(tg.zeros(1, device="cuda")),
    "to, by keyword": lambda x: x.to(device="cuda", non_blocking=True),
    "cuda": lambda x: x.cuda(),
    "cuda of a number": lambda x: x.cuda(0),
    "type_as": lambda x: x.type_as(tg.zeros(1, device="cuda")),
    "as_tensor": lambda x: tg.as_tensor(x, device="cuda"),
    "tensor": lambda x: tg.tensor(x.detach(), device="cuda"),
    "copy_": lambda x: tg.empty(2, 3, device="cuda").copy_(x),
}


@pytest.mark.parametrize("move", TO_CUDA.values(), ids=TO_CUDA.keys())
def test_to_the_device(move):
    y = move(tg.tensor(VALUES))
    assert (y.device, y.is_cuda, y.dtype, y.shape) == ("cuda", True, np.float32, (2, 3))
    assert not isinstance(y.data, np.ndarray)
    assert_same(y.cpu().numpy(), VALUES)


@pytest.mark.parametrize("move", [lambda x: x.cpu(), lambda x: x.to("cpu"), lambda x: x.to(torch.device("cpu"))])
def test_to_the_host(move):
    y = move(there())
    assert (y.device, y.is_cuda) == ("cpu", False)
    assert_same(y.numpy(), VALUES)


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 1)])
@pytest.mark.parametrize("dtype", [tg.bool, tg.uint8, tg.int64, tg.float16, tg.bfloat16])
def test_every_shape_and_dtype(shape, dtype):
    x = (10 * tg.rand(*shape)).to(dtype)
    y = x.cuda()
    assert (y.shape, y.dtype) == (shape, dtype)
    assert_same(y.cpu().numpy(), x.numpy())


def test_views_are_moved_by_their_elements():
    x = tg.arange(24).reshape(2, 3, 4)
    for view in (x.permute(2, 0, 1), x[:, ::2], x.flip(1), x[:1].expand(5, 3, 4)):
        assert_same(view.cuda().cpu().numpy(), np.array(view.numpy()))
        assert_same(x.cuda().permute(2, 0, 1).cpu().numpy(), np.array(x.permute(2, 0, 1).numpy()))


def test_dtype_and_device_at_once():
    for y in (
        there().to("cpu", tg.float64),
        there().to(tg.zeros(1, dtype="float64")),
        there().to(dtype="float64", device="cpu"),
    ):
        assert (y.device, y.dtype) == ("cpu", np.float64)
        assert_same(y.numpy(), VALUES.astype(np.float64))
    y = tg.tensor(VALUES).to("cuda", tg.float16)
    assert (y.device, y.dtype) == ("cuda", np.float16)
    assert there().to(tg.float64).device == there().half().device == "cuda"


def test_nothing_to_do_is_the_tensor_itself_unless_a_copy_is_asked_for():
    for x in (there(), tg.tensor(VALUES)):
        assert x.to(x.device) is x and x.to(x) is x and x.to() is x and x.to(None) is x
        y = x.to(x.device, copy=True)
        y.zero_()
        assert y is not x and x[0, 0].item() == 1.5
    assert there().cuda().is_cuda and tg.tensor(VALUES).cpu().numpy() is not VALUES


def test_a_moved_tensor_has_memory_of_its_own():
    x = tg.tensor(VALUES)
    y = x.cuda()
    y.zero_()
    assert x[0, 0].item() == 1.5
    z = there()
    z.cpu().zero_()
    assert z[0, 0].item() == 1.5


# --- gradients -------------------------------------------------------------------------------------------------------


def test_the_gradient_comes_back():
    x = tg.ones(2, 3, requires_grad=True)
    y = x.cuda()
    assert y.requires_grad and not y.is_leaf
    (y * tg.tensor(VALUES, device="cuda")).cpu().sum().backward()
    assert x.grad.device == "cpu"
    assert_same(x.grad.numpy(), VALUES)


def test_the_gradient_comes_back_through_a_change_of_dtype():
    x = tg.tensor(VALUES, dtype="float64", requires_grad=True)
    y = x.to("cuda", tg.float16)
    (3 * y).sum().backward()
    assert (x.grad.device, x.grad.dtype) == ("cpu", np.float64)
    assert_same(x.grad.numpy(), np.full((2, 3), 3.0))


def test_a_gradient_has_a_gradient():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (slope,) = tg.grad((x.cuda() ** 3).sum(), x, create_graph=True)
    (curvature,) = tg.grad(slope.cuda().sum(), x)
    assert (slope.device, curvature.device) == ("cpu", "cpu")
    np.testing.assert_allclose(curvature.numpy(), [6.0, 12.0], rtol=1e-6)


def test_leaves_of_two_devices_get_gradients_on_their_own():
    a, b = tg.ones(3, requires_grad=True), tg.ones(3, device="cuda", requires_grad=True)
    (a.cuda() * b * 2).sum().backward()
    assert (a.grad.device, b.grad.device) == ("cpu", "cuda")
    assert a.grad.tolist() == b.grad.tolist() == [2.0, 2.0, 2.0]


def test_copy_passes_the_gradient_across():
    x = tg.ones(3, requires_grad=True)
    y = tg.zeros(3, device="cuda")
    y.copy_(x)
    (y * 5).sum().backward()
    assert (x.grad.device, x.grad.tolist()) == ("cpu", [5.0, 5.0, 5.0])


def test_gradients_accumulate_and_hooks_see_them_there():
    x, seen = there(requires_grad=True), []
    x.register_hook(lambda g: seen.append(g.device))
    for _ in range(2):
        x.sum().backward()
    assert seen == ["cuda", "cuda"]
    assert_same(x.grad.cpu().numpy(), np.full((2, 3), 2, np.float32))


def test_the_incoming_gradient_is_on_the_tensors_device():
    x = tg.ones(2, device="cuda", requires_grad=True)
    (x * 2).backward(tg.tensor([1.0, 3.0], device="cuda"))
    assert x.grad.tolist() == [2.0, 6.0]
    (x * 2).backward([1.0, 1.0])  # numbers have no device
    assert x.grad.tolist() == [4.0, 8.0]
    with pytest.raises(TypeError, match="backward: expected all tensors on one device; the gradient is on cpu, the te"):
        (x * 2).backward(tg.ones(2))


def test_gradcheck():
    x = tg.randn(2, 3, dtype="float64", device="cuda", requires_grad=True)
    assert tg.gradcheck(lambda x: (x * x).sin().sum(0), x)
    assert tg.gradgradcheck(lambda x: x**3, x)


# --- what no device is called ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", 'expected "cpu", "cuda" or "auto"; got \'tpu\''),
        ("cuda:1", 'got "cuda:1"; expected "cuda" or "cuda:0"'),
        (1, 'got "cuda:1"'),
        ("cuda:x", "got 'cuda:x'"),
        ("cpu:1", "got 'cpu:1'"),
    ],
)
def test_unknown_devices(device, message):
    with pytest.raises(ValueError, match=message):
        tg.zeros(1, device=device)


def test_what_is_neither_device_nor_dtype():
    with pytest.raises(TypeError, match="dtype: expected one of"):
        there().to("tpu")


def test_a_tensor_is_made_from_a_device_array_as_it_is():
    x = there()
    assert Tensor(x.data).data is x.data
    assert tg.as_tensor(x.data).data is x.data
    assert tg.tensor(x.data).data is not x.data and tg.tensor(x.data).is_cuda
    assert tg.tensor([there()[0, 0], 2.0]).tolist() == [1.5, 2.0]
