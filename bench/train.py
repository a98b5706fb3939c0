"""A training step of the seed nets (forward, cross-entropy, backward, Adam), and the CNN's layers one by one.

One process, the same initial weights and the same data for all; torch runs with fused Adam, for the CNN in both of its
memory formats. Before anything is timed, the losses of five steps are compared with those of the reference backend, and
a layer's output and gradients with float64.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import kernels, nn, optim
from tilegrad.bench.check import complaint
from tilegrad.bench.nets import LAYERS, NETS
from tilegrad.bench.ops.op import Shape
from tilegrad.bench.providers import Kernels
from tilegrad.bench.results import Row
from tilegrad.bench.session import Session, compared, filled
from tilegrad.nn import functional as F

Step = Callable[[], float]
MakeRows = Callable[[], list[Row]]
Arrays = dict[str, np.ndarray]
FIRST_STEPS = 5
LOSS_TOLERANCE = 1e-3  # rounding grows as weights drift apart, by far less than this in five steps


@contextlib.contextmanager
def _backends_restored() -> Iterator[None]:
    """A block after which the choice of backends is the one before it."""
    with kernels.use(kernels.name("cpu")):
        yield


def rows(session: Session, shapes: list[Shape]) -> Iterator[MakeRows]:
    """A case for each net and batch size, then one for each layer and mode at the middle batch size."""
    if session.simulated:
        yield from _simulated_rows(session, shapes)
        return
    for name in NETS:
        for (batch,) in shapes:
            yield partial(net_rows, session, name, batch)
    (batch,) = shapes[len(shapes) // 2]
    for layer in range(len(LAYERS)):
        for mode in ("forward", "both"):
            yield partial(layer_rows, session, layer, mode, batch)


def _simulated_rows(session: Session, shapes: list[Shape]) -> Iterator[MakeRows]:
    """The MLP on interpreted Triton kernels: all that a simulated device gets through in seconds."""
    own = {name: p for name, p in session.providers.items() if name == "triton"}
    for (batch,) in shapes:
        left_out = [_row("train", "CNN", "step", [batch], name) for name in session.providers]
        left_out += [_row("train", "MLP", "step", [batch], name) for name in session.providers if name not in own]
        for row in left_out:
            row.status, row.reason = "skipped", "takes minutes on the simulated device"
        yield partial(list, left_out)
        if own:
            yield partial(net_rows, replace(session, providers=own), "MLP", batch)


@_backends_restored()
def net_rows(session: Session, name: str, batch: int) -> list[Row]:
    """One row per provider: milliseconds of a step, images/s."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 1, 28, 28), dtype=np.float32)
    t = rng.integers(0, 10, batch)
    tg.manual_seed(0)
    weights = {k: v.numpy().copy() for k, v in NETS[name](nn).state_dict().items()}

    steps: dict[str, Step] = {}
    enter: dict[str, Callable] = {}
    for own in _own(session):
        steps[own] = _engine_step(session.device, own, name, weights, x, t)
        enter[own] = lambda own=own: kernels.use(own)
        if own != "reference":  # the step as one CUDA graph, or as a program of the CPU's kernels
            steps[f"{own} captured"] = _engine_step(session.device, own, name, weights, x, t, captured=True)
            enter[f"{own} captured"] = enter[own]
    if "torch" in session.providers:
        steps["torch"] = _torch_step(session.device, name, weights, x, t, channels_last=False)
        if name == "CNN":
            steps["torch channels_last"] = _torch_step(session.device, name, weights, x, t, channels_last=True)
    want = _first_losses(_engine_step("cpu", "reference", name, weights, x, t))
    found = {}
    for provider, step in steps.items():
        enter.get(provider, lambda: None)()
        found[provider] = _first_losses(step)
    rows = [_row("train", name, "step", [batch], provider) for provider in steps]
    for row in rows:
        if not np.allclose(found[row.provider], want, rtol=LOSS_TOLERANCE):
            row.status, row.reason = "wrong", f"losses {found[row.provider]}; the reference's are {want}"
    return _timed(session, rows, steps, enter, batch)


@_backends_restored()
def layer_rows(session: Session, index: int, mode: str, batch: int) -> list[Row]:
    """One row per provider: a layer alone, forward (with what its backward needs) or forward and backward."""
    name, make, image = LAYERS[index]
    rng = np.random.default_rng(index)
    x = rng.standard_normal((batch, *image), dtype=np.float32)
    tg.manual_seed(0)
    layer = make(nn)
    weights = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    dy = rng.standard_normal(layer(tg.tensor(x)).shape, dtype=np.float32)
    x, dy = _as_in_a_net(x), _as_in_a_net(dy)

    calls: dict[str, Callable[[], Any]] = {}
    enter: dict[str, Callable] = {}
    want, baseline = (_reference_layer(make, weights, x, dy, dtype, mode) for dtype in (np.float64, np.float32))
    for own in _own(session):
        kernels.use(own)
        calls[own] = _engine_layer(session.device, make, weights, x, dy, mode)
        enter[own] = lambda own=own: kernels.use(own)
    if "torch" in session.providers:
        for provider, last in (("torch", False), ("torch channels_last", True)):
            if not last or len(image) == 3:  # dense layers have one order
                calls[provider] = _torch_layer(session.device, make, weights, x, dy, mode, last)
    terms = batch * int(np.prod(dy.shape[2:])) + int(np.prod(image))  # of the longest sum, over places or over a window
    rows = [_row("train", f"CNN's {name}", mode, [batch], provider) for provider in calls]
    for row in rows:
        enter.get(row.provider, lambda: None)()
        for got, right, base in zip(calls[row.provider](), want, baseline, strict=True):
            row.reason = row.reason or complaint(_host(got), right, base, terms)
        row.status = "wrong" if row.reason else "ok"
    return _timed(session, rows, calls, enter, batch)


def _timed(session: Session, rows: list[Row], calls: dict, enter: dict, batch: int) -> list[Row]:
    right = {row.provider: calls[row.provider] for row in rows if row.status == "ok"}
    for provider, found in session.programs(right, enter).items():
        row = filled(next(row for row in rows if row.provider == provider), found)
        if row.ms:
            row.rate, row.unit = batch / row.ms * 1e3, "images/s"
    return compared(rows)


def _own(session: Session) -> list[str]:
    return [name for name, p in session.providers.items() if isinstance(p, Kernels)]


def _row(op: str, variant: str, mode: str, shape: list[int], provider: str) -> Row:
    return Row(op, variant, mode, shape, "float32", "ieee", provider, rival=provider.startswith("torch"))


def _first_losses(step: Step) -> list[float]:
    return [round(step(), 6) for _ in range(FIRST_STEPS)]


def _engine_step(
    device: str, backend: str, net: str, weights: Arrays, x: np.ndarray, t: np.ndarray, captured: bool = False
) -> Step:
    """One training step of the engine; captured: by tilegrad.capture, after the plain calls that it begins with."""
    kernels.use(backend)
    model = NETS[net](nn)
    model.load_state_dict(weights)
    model = model.to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    images, labels = tg.tensor(x).to(device), tg.tensor(t).to(device)

    def step(images: tg.Tensor, labels: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    call = tg.capture(step) if captured else step
    return lambda: call(images, labels).item()


def _torch_step(device: str, net: str, weights: Arrays, x: np.ndarray, t: np.ndarray, channels_last: bool) -> Step:
    """The same step of torch."""
    torch = importlib.import_module("torch")
    model = NETS[net](torch.nn)
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=form)
    images, labels = torch.tensor(x).to(device, memory_format=form), torch.tensor(t).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _as_in_a_net(x: np.ndarray) -> np.ndarray:
    """Images in channels-last memory: what the engine's layers hand to one another."""
    if x.ndim != 4:
        return x
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _reference_layer(make: Callable, weights: Arrays, x: np.ndarray, dy: np.ndarray, dtype: Any, mode: str) -> list:
    kernels.use("reference")
    wide = {k: v.astype(dtype) for k, v in weights.items()}
    call = _engine_layer("cpu", make, wide, x.astype(dtype), dy.astype(dtype), mode)
    return [np.array(_host(each)) for each in call()]


def _engine_layer(device: str, make: Callable, weights: Arrays, x: np.ndarray, dy: np.ndarray, mode: str) -> Callable:
    layer = make(nn)
    layer = layer.to(tg.float64) if x.dtype == np.float64 else layer
    layer.load_state_dict(weights)
    layer = layer.to(device)
    image = tg.tensor(x).to(device).requires_grad_()
    gradient = tg.tensor(dy).to(device)
    leaves = [image, *layer.parameters()]

    def call() -> tuple:
        y = layer(image)
        if mode == "forward":
            return (y,)
        return tuple(tg.grad(y, leaves, gradient))

    return _with_synchronisation(call, device)


def _torch_layer(
    device: str, make: Callable, weights: Arrays, x: np.ndarray, dy: np.ndarray, mode: str, channels_last: bool
) -> Callable:
    torch = importlib.import_module("torch")
    form = torch.channels_last if channels_last else torch.contiguous_format
    layer = make(torch.nn)  # x and dy get torch's own memory order, either of the two
    layer.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    layer = layer.to(device, memory_format=form)
    image, gradient = (torch.tensor(a).to(device).contiguous(memory_format=form) for a in (x, dy))
    image.requires_grad_()
    leaves = [image, *layer.parameters()]

    def call() -> tuple:
        y = layer(image)
        return (y,) if mode == "forward" else torch.autograd.grad(y, leaves, gradient)

    return _with_synchronisation(call, device)


def _with_synchronisation(call: Callable, device: str) -> Callable:
    if device == "cpu" or tg.cuda.is_simulated():
        return call

    def synchronised() -> Any:
        result = call()
        tg.cuda.synchronize()
        return result

    return synchronised


def _host(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()
