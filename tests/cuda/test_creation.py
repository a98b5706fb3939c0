"""Creation on device cuda: the same tensors as on the CPU, random numbers bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn

MAKERS = {
    "tensor of a number": lambda **at: tg.tensor(2.5, **at),
    "tensor of lists": lambda **at: tg.tensor([[1, 2], [3, 4]], **at),
    "tensor of an array": lambda **at: tg.tensor(np.eye(3, dtype=np.float16), **at),
    "as_tensor": lambda **at: tg.as_tensor(np.arange(5), **at),
    "zeros": lambda **at: tg.zeros(2, 3, **at),
    "zeros, bool": lambda **at: tg.zeros(4, dtype=tg.bool, **at),
    "ones": lambda **at: tg.ones((2, 3), dtype=tg.int32, **at),
    "ones, bfloat16": lambda **at: tg.ones(3, dtype=tg.bfloat16, **at),
    "full": lambda **at: tg.full((2, 2), 7, **at),
    "full, float16": lambda **at: tg.full((3,), 1e9, dtype="float16", **at),
    "arange": lambda **at: tg.arange(1, 9, 2, **at),
    "linspace": lambda **at: tg.linspace(0, 1, 7, **at),
    "eye": lambda **at: tg.eye(2, 4, **at),
    "rand": lambda **at: tg.rand(3, 5, **at),
    "rand, float16": lambda **at: tg.rand(17, dtype="float16", **at),
    "rand, float64": lambda **at: tg.rand(9, dtype="float64", **at),
    "randn": lambda **at: tg.randn(3, 5, **at),
    "randn, odd": lambda **at: tg.randn(7, dtype="float64", **at),
    "randint": lambda **at: tg.randint(-3, 100, (11,), **at),
    "randperm": lambda **at: tg.randperm(13, **at),
    "uniform_": lambda **at: tg.empty(9, **at).uniform_(-2.0, 3.0),
    "normal_": lambda **at: tg.empty(9, **at).normal_(1.0, 0.5),
    "normal_, float16": lambda **at: tg.empty(9, dtype="float16", **at).normal_(1.0, 0.5),
    "trunc_normal_": lambda **at: nn.init.trunc_normal_(tg.empty(50, **at), a=-0.5, b=1.0),
    "orthogonal_": lambda **at: nn.init.orthogonal_(tg.empty(4, 6, **at)),
    "eye_": lambda **at: nn.init.eye_(tg.empty(4, 6, **at)),
    "kaiming_normal_": lambda **at: nn.init.kaiming_normal_(tg.empty(4, 6, **at)),
    "Linear": lambda **at: nn.Linear(5, 3, **at).weight,
    "Conv2d": lambda **at: nn.Conv2d(2, 3, 3, **at).bias,
    "BatchNorm2d": lambda **at: nn.BatchNorm2d(3, **at).running_var,
    "Embedding": lambda **at: nn.Embedding(5, 3, **at).weight,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_as_on_the_cpu(make):
    tg.manual_seed(5)
    want = make()
    drawn = tg.random.default_generator.get_state()
    tg.manual_seed(5)
    got = make(device="cuda")
    assert (got.device, got.requires_grad) == ("cuda", want.requires_grad)
    assert_same(got.detach().cpu().numpy(), want.detach().numpy())
    assert tg.random.default_generator.get_state() == drawn


def test_like():
    x = tg.ones(2, 3, dtype="float16", device="cuda")
    makers = tg.zeros_like, tg.ones_like, tg.empty_like, tg.rand_like, tg.randn_like
    for y in (*(make(x) for make in makers), tg.full_like(x, 3)):
        assert (y.device, y.dtype, y.shape) == ("cuda", np.float16, (2, 3))
    assert tg.full_like(x, 3).tolist() == [[3.0] * 3] * 2


def test_without_a_device_it_is_the_cpu():
    assert tg.zeros(1).device == tg.tensor([1.0]).device == tg.randn(1, device=None).device == "cpu"


def test_a_tensor_keeps_its_device_unless_one_is_given():
    x = tg.ones(2, device="cuda")
    assert tg.tensor(x).device == tg.as_tensor(x).device == "cuda"
    assert tg.tensor(x, device="cpu").device == tg.as_tensor(x, device="cpu").device == "cpu"


def test_requires_grad():
    x = tg.zeros(2, device="cuda", requires_grad=True)
    assert x.is_leaf and x.requires_grad
    with pytest.raises(RuntimeError, match="requires_grad: expected a floating-point tensor"):
        tg.zeros(2, dtype="int64", device="cuda", requires_grad=True)


def test_a_number_that_does_not_fit():
    with pytest.raises(ValueError, match="full: 300 does not fit uint8"):
        tg.full((2,), 300, dtype="uint8", device="cuda")


def test_dropout_draws_the_bits_of_the_cpu():
    x = tg.randn(4, 33)
    kept = []
    for device in ("cpu", "cuda"):
        tg.manual_seed(11)
        kept.append(nn.functional.dropout(x.to(device), 0.3).cpu().numpy())
    assert_same(kept[1] == 0, kept[0] == 0)
    np.testing.assert_allclose(kept[1], kept[0], rtol=1e-6)
