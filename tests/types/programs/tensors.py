"""What one does with tensors: creation, operators, methods, gradients, and the way to NumPy and back."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np

import tilegrad as tg
from tilegrad import Tensor, kernels, nn
from tilegrad.nn import functional as F


def creation(generator: tg.Generator) -> list[Tensor]:
    return [
        tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
        tg.tensor(3),
        tg.zeros(2, 3, dtype=tg.float64),
        tg.zeros((2, 3)),
        tg.ones([2, 3], device="cpu"),
        tg.full((2,), 7.0),
        tg.empty(0),
        tg.eye(3),
        tg.arange(10),
        tg.arange(0, 1, 0.1, dtype="float32"),
        tg.linspace(0, 1, steps=5),
        tg.rand(2, generator=generator),
        tg.randn(2, 3, requires_grad=True),
        tg.randint(0, 10, (3,)),
        tg.randperm(5),
        tg.zeros_like(tg.ones(2)),
        tg.from_dlpack(np.zeros(3, np.float32)),
        Tensor(np.zeros(3, np.float32)),
    ]


def operators(a: Tensor, b: Tensor) -> Tensor:
    c = a + b - 1 + 2 * a / b // 3 % 5 - (-a) ** 2 + 2**a + 1 / a + (3 - a)
    c = c @ b.T + a.mT @ b + abs(a)
    c += 1
    c -= b
    c *= 2.0
    c /= a
    c **= 2
    mask: Tensor = (a < b) & ~(a == b) | (a != 0) ^ (b >= 1)
    where: Tensor = a > 0
    c[mask] = 0.0
    c[0, 1:, None, ...] = b[0]
    c[..., -1] += 1
    if a.sum() > 0 and bool(where.all()) or (a.min() < 0).item():
        return c[mask]
    return c[where.nonzero()[:, 0]][[0, 1], tg.arange(2)]


def methods(x: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    n, c = x.shape[0], x.size(-1)
    values, places = x.max(dim=1)
    low: Tensor = x.min()
    top, at = x.topk(3)
    ordered, order = x.sort(descending=True)
    parts = x.split(2) + x.chunk(2, dim=1) + x.unbind(0)
    rows, columns = x.nonzero(as_tuple=True)
    y = x.reshape(n, -1).view(c, n).permute(1, 0).transpose(0, 1).contiguous().squeeze().unsqueeze(0).expand(2, -1, -1)
    y = y.sum(dim=(0, 1), keepdim=True).mean().exp().log().sqrt().clamp(min=0).pow(2).relu().sigmoid().tanh()
    y = y.float().double().half().long().int().bool().to(tg.float32).to("cpu").type_as(x).clone().detach()
    y.add_(1).mul_(2.0).clamp_(0, 1).zero_().fill_(1.0).copy_(x[0, 0]).uniform_(0, 1).normal_()
    z = x.gather(1, index).scatter_add(1, index, x).masked_fill(x > 0, -math.inf).softmax(dim=-1).log_softmax(-1)
    z = tg.cat([x, x], dim=0) if bool(x.isfinite().all()) else tg.stack((x, x)).flatten(0, 1)
    z = tg.where(z > 0, z, 0.0) + tg.einsum("ij,ij->i", x, x).std() + tg.maximum(x, x).var(unbiased=False)
    return (values, places, low, top, at, ordered, order, *parts, rows, columns, y, z)


def gradients(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    assert x.is_leaf and x.grad is None and x.grad_fn is None
    handle = x.register_hook(lambda g: g * 2)
    (x**3).sum().backward(create_graph=True)
    handle.remove()
    grad = x.grad
    assert grad is not None
    (second,) = tg.grad(grad.sum(), x)
    assert second is not None
    with tg.no_grad():
        x -= 0.1 * grad
        x.grad = None
    with tg.set_grad_enabled(True):
        assert tg.is_grad_enabled()
    assert tg.gradcheck(lambda a: a.exp(), (tg.randn(2, dtype=tg.float64, requires_grad=True),))
    return second


@tg.no_grad
def bare(x: Tensor) -> Tensor:
    return x + 1


@tg.enable_grad()
def both(x: Tensor) -> Tensor:
    return bare(x)


def numbers(x: Tensor) -> tuple[float, int, bool]:
    return x.item(), x.long().item(), (x > 0).item()


def share(x: Tensor) -> float:
    return x.float().mean().item()


def outside(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.numpy()
    array = np.asarray(x) + x.detach().cpu().numpy().sum()
    np.testing.assert_allclose(x, array)
    x.data = array
    x.data[0] = 1
    print(f"{x.item():.3f}", repr(x), len(x), list(x), float(x), int(x), [1, 2][x], x.tolist()[0], math.sqrt(x.item()))
    again: Tensor = pickle.loads(pickle.dumps(copy.deepcopy(x)))
    if tg.equal(x, again) and tg.allclose(x, again, atol=1e-6) and x in (x, again):
        return x.data
    return np.from_dlpack(x)


def layers(x: Tensor, tokens: Tensor) -> Tensor:
    embedding = nn.Embedding(100, 16, padding_idx=0)
    norm = nn.LayerNorm(16)
    h: Tensor = norm(embedding(tokens))
    h = F.scaled_dot_product_attention(h, h, h, is_causal=True)
    h = F.gelu(h, approximate="tanh") + F.dropout(h, 0.1, training=norm.training) + F.layer_norm(h, (16,))
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    y = F.avg_pool2d(F.conv2d(x, tg.randn(4, 1, 3, 3), bias=None, stride=(1, 1), padding="same"), 2)
    y = F.adaptive_avg_pool2d(F.pad(y, (1, 1)), 1).flatten(1) + F.mse_loss(pooled, pooled, reduction="sum") + places
    return F.nll_loss(F.log_softmax(y, dim=1), tokens) + F.one_hot(tokens).sum() + h.mean()


def through(body: nn.Sequential, pool: nn.MaxPool2d, skip: nn.Identity, layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return skip(pool(x)) if x.ndim == 4 else body(x)


def hooks(model: nn.Module) -> None:
    seen: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    handle = model.register_forward_hook(look)
    handle.remove()

    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5)).mul_(0.5)
            nn.init.normal_(module.weight.data, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    model.apply(start).float().cpu()
    weight = nn.Parameter(tg.zeros(3))
    assert weight.grad is None and weight.shape == (3,)


def chosen() -> None:
    tg.set_num_threads(max(1, tg.get_num_threads() // 2))
    kernels.use("reference")
    with kernels.use("auto"):
        print(kernels.name("cpu"))
    if tg.cuda.is_available():
        tg.cuda.synchronize()
        print(tg.cuda.memory_summary(), tg.cuda.memory_allocated() / 2**20, tg.__version__)
    try:
        tg.zeros(3, device="cuda")
    except (RuntimeError, tg.cuda.OutOfMemoryError, tg.CaptureError) as error:
        print(error)
