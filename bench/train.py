"""A training step of each net (forward, cross-entropy, backward, Adam), and the seed CNN's layers one by one.

One process, the same initial weights and the same data for all; torch runs with fused Adam, images in both of its
memory formats. A captured step that runs plainly says so, and why. Before anything is timed, the losses of five steps
are compared with those of the reference backend, and a layer's output and gradients with float64.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import tilegrad as tg
from tilegrad import kernels, nn, optim
from tilegrad.bench.check import complaint
from tilegrad.bench.nets import LAYERS, LAYERS_BATCH, TRAINED, Net
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


class Contestant(NamedTuple):
    """A step of one provider.

    enter    what is called before its turn
    summary  what became of a step that was captured
    """

    step: Step
    enter: Callable[[], Any] = lambda: None
    summary: Callable[[], str] = lambda: ""

    def first_losses(self) -> list[float]:
        self.enter()
        with warnings.catch_warnings():  # of a step that runs plainly; its row says so
            warnings.filterwarnings("ignore", ".*runs plainly", RuntimeWarning)
            return [round(self.step(), 6) for _ in range(FIRST_STEPS)]

    def plainly(self) -> str | None:
        """ "runs plainly: " and why, of what was to be captured; files without their folders."""
        _, found, why = self.summary().partition("runs plainly: ")
        return found + re.sub(r"[^\s(]*/", "", why.splitlines()[0]) if found else None


def rows(session: Session, shapes: list[Shape], asked: bool) -> Iterator[MakeRows]:
    """A case for each net and batch size, then one for each layer and mode.

    Where no batch sizes are asked for, those of `shapes` are measured that are the net's own.
    """
    if session.simulated:
        yield from _simulated_rows(session, shapes)
        return
    for name, net in TRAINED.items():
        for (batch,) in shapes:
            if asked or batch in net.batches:
                yield partial(net_rows, session, name, batch)
    batch = shapes[len(shapes) // 2][0] if asked else LAYERS_BATCH
    for layer in range(len(LAYERS)):
        for mode in ("forward", "both"):
            yield partial(layer_rows, session, layer, mode, batch)


def _simulated_rows(session: Session, shapes: list[Shape]) -> Iterator[MakeRows]:
    """The MLP on interpreted Triton kernels: all that a simulated device gets through in seconds."""
    own = {name: p for name, p in session.providers.items() if name == "triton"}
    for (batch,) in shapes:
        nets = [name for name in TRAINED if name != "MLP"]
        left_out = [_row("train", net, "step", [batch], name) for net in nets for name in session.providers]
        left_out += [_row("train", "MLP", "step", [batch], name) for name in session.providers if name not in own]
        for row in left_out:
            row.status, row.reason = "skipped", "takes minutes on the simulated device"
        yield partial(list, left_out)
        if own:
            yield partial(net_rows, replace(session, providers=own), "MLP", batch)


@_backends_restored()
def net_rows(session: Session, name: str, batch: int) -> list[Row]:
    """One row per provider: milliseconds of a step, images/s or tokens/s."""
    net = TRAINED[name]
    x, t = net.draw(np.random.default_rng(0), batch)
    weights = initial_weights(net)
    rows: list[Row] = []
    ready: dict[str, Contestant] = {}
    want = engine_step("cpu", "reference", net, weights, x, t).first_losses()
    for provider, make in _contestants(session, net):
        row = _row("train", name, "step", [*t.shape], provider)
        rows.append(row)
        if make is None:
            row.status, row.reason = "skipped", "a step takes seconds; the first losses are held against its"
            continue
        try:
            ready[provider] = make(weights, x, t)
            found = ready[provider].first_losses()
        except Exception as e:  # such as of a GPU's step that cannot be captured: ends its row, not the run
            row.status, row.reason = "failed", f"{type(e).__name__}: {e}".splitlines()[0]
            continue
        if not np.allclose(found, want, rtol=LOSS_TOLERANCE):
            row.status, row.reason = "wrong", f"losses {found}; the reference's are {want}"
    calls = {provider: c.step for provider, c in ready.items()}
    enter = {provider: c.enter for provider, c in ready.items()}
    _timed(session, rows, calls, enter, t.size, net.counted)
    for row in rows:
        if row.status == "ok":
            row.reason = ready[row.provider].plainly()
    return rows


def _contestants(session: Session, net: Net) -> Iterator[tuple[str, Callable[..., Contestant] | None]]:
    """(name, what makes it of weights, input and classes; None if it is not timed)."""
    for own in _own(session):
        if own == "reference" and not net.is_seed:
            yield own, None
            continue
        yield own, partial(engine_step, session.device, own, net)
        if own != "reference":  # the step as one CUDA graph, or as a program of the CPU's kernels
            yield f"{own} captured", partial(engine_step, session.device, own, net, captured=True)
    if "torch" in session.providers:
        yield "torch", partial(torch_step, session.device, net)
        if net.has_formats:
            yield "torch channels_last", partial(torch_step, session.device, net, channels_last=True)


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
        if own == "reference" and "cpu" in session.providers:
            continue  # a third of a second for some; bench/ops has its times
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
    return _timed(session, rows, calls, enter, batch, "images")


def _timed(session: Session, rows: list[Row], calls: dict, enter: dict, count: int, counted: str) -> list[Row]:
    right = {row.provider: calls[row.provider] for row in rows if row.status == "ok"}
    for provider, found in session.programs(right, enter).items():
        row = filled(next(row for row in rows if row.provider == provider), found)
        if row.ms:
            row.rate, row.unit = count / row.ms * 1e3, f"{counted}/s"
    return compared(rows)


def _own(session: Session) -> list[str]:
    return [name for name, p in session.providers.items() if isinstance(p, Kernels)]


def _row(op: str, variant: str, mode: str, shape: list[int], provider: str) -> Row:
    return Row(op, variant, mode, shape, "float32", "ieee", provider, rival=provider.startswith("torch"))


def initial_weights(net: Net) -> Arrays:
    """The same for all: state by name."""
    tg.manual_seed(0)
    return {k: v.numpy().copy() for k, v in net.make(nn).state_dict().items()}


def engine_step(
    device: str, backend: str, net: Net, weights: Arrays, x: np.ndarray, t: np.ndarray, captured: bool = False
) -> Contestant:
    """One training step of the engine; captured: by tilegrad.capture, after the plain calls that it begins with."""
    kernels.use(backend)
    model = net.make(nn)
    model.load_state_dict(weights)
    model = model.to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    given, classes = tg.tensor(x).to(device), tg.tensor(t.reshape(-1)).to(device)

    def step(given: tg.Tensor, classes: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(model(given), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def enter() -> None:
        kernels.use(backend)

    if not captured:
        return Contestant(lambda: step(given, classes).item(), enter)
    call = tg.capture(step)
    return Contestant(lambda: call(given, classes).item(), enter, call.summary)


def torch_step(
    device: str, net: Net, weights: Arrays, x: np.ndarray, t: np.ndarray, channels_last: bool = False
) -> Contestant:
    """The same step of torch."""
    torch = importlib.import_module("torch")
    model = net.make(torch.nn)
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=form)
    given, classes = torch.tensor(x).to(device, memory_format=form), torch.tensor(t.reshape(-1)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(given), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Contestant(step)


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
