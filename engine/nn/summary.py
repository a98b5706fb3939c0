"""What a model is made of, and what it costs: layers, shapes, parameters, operations, bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.nn.module import Module
from tilegrad.random import default_generator
from tilegrad.tensor import Tensor, wrap

Shape = tuple[int, ...]


@dataclass
class Layer:
    """A module of the model.

    name        dotted; "" is the model itself
    kind        the name of its class
    shapes      of the tensors that its first call gave; empty if it was not called
    calls       how often it was called
    trainable   elements of its own parameters that require grad, each parameter counted where it comes first
    frozen      elements of those that do not
    flop, bytes what the primitives of its calls compute and move, without those of modules within it
    """

    name: str
    kind: str
    depth: int
    shapes: list[Shape] = field(default_factory=list)
    calls: int = 0
    trainable: int = 0
    frozen: int = 0
    flop: int = 0
    bytes: int = 0


class Summary:
    """What `summary` gives: `layers` with their numbers, the totals, and as a text the table."""

    def __init__(self, layers: list[Layer], parameter_bytes: int) -> None:
        self.layers = layers
        self.parameter_bytes = parameter_bytes

    @property
    def trainable(self) -> int:
        """Elements of all parameters that require grad."""
        return sum(layer.trainable for layer in self.layers)

    @property
    def frozen(self) -> int:
        """Elements of the others."""
        return sum(layer.frozen for layer in self.layers)

    @property
    def parameters(self) -> int:
        return self.trainable + self.frozen

    @property
    def flop(self) -> int:
        """Of a forward. A multiply-add is two."""
        return sum(layer.flop for layer in self.layers)

    @property
    def bytes(self) -> int:
        """That the primitives of a forward read and write, at least."""
        return sum(layer.bytes for layer in self.layers)

    def __str__(self) -> str:
        lines = [("layer", "type", "output", "parameters", "FLOP", "bytes")]
        for layer in self.layers:
            name = "  " * layer.depth + (layer.name.rpartition(".")[2] or layer.kind)
            output = " ".join("x".join(map(str, shape)) or "()" for shape in layer.shapes)
            of_it = layer.trainable + layer.frozen
            held = f"{of_it:,}{' frozen' * bool(layer.frozen and not layer.trainable)}" if of_it else ""
            spent = (f"{layer.flop:,}" if layer.flop else "", f"{layer.bytes:,}" if layer.bytes else "")
            often = f" ({layer.calls} calls)" if layer.calls > 1 else " (not called)" if not layer.calls else ""
            lines.append((name, layer.kind + often, output, held, *spent))
        lines.append(("all", "", "", f"{self.parameters:,}", f"{self.flop:,}", f"{self.bytes:,}"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        end = f"{self.trainable:,} trainable, {self.frozen:,} frozen parameters: {self.parameter_bytes:,} bytes"
        return "\n".join(
            [text[0].rstrip(), rule, *(line.rstrip() for line in text[1:-1]), rule, text[-1].rstrip(), end]
        )

    __repr__ = __str__


def summary(model: Module, input: Tensor | Sequence[Any]) -> Summary:
    """The layers of a model in one forward: output shapes, parameters, FLOP, bytes. print() shows the table.

        print(nn.summary(model, (64, 1, 28, 28)))

    model  any Module
    input  what it is called with: a tensor; a tuple of arguments; or the shape of one tensor, of zeros in the dtype
           and on the device of the model's first floating-point parameter

    The forward runs in eval mode without gradients. Afterwards modes, buffers, hooks and the random stream are as they
    were. FLOP and bytes are those of primitives (kernels/timing/work.py) and of large elementwise functions; what NumPy
    does on small arrays is not counted.

    Raises TypeError for what is no Module or no input, and whatever the forward raises.
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: model is a {type(model).__name__}; expected a Module")
    arguments = _arguments(model, input)
    layers = {id(module): layer for module, layer in _layers(model)}
    modules = list(model.modules())
    modes = [module.__dict__.get("training", True) for module in modules]
    buffers = [(buffer, buffer.data, buffer.data.copy()) for buffer in model.buffers()]
    stream = default_generator.get_state()
    seen = _Seen(layers)
    handles = []
    try:
        for module in modules:
            module.__dict__["training"] = False
            handles.append(module.register_forward_pre_hook(seen.enter))
            handles.append(module.register_forward_hook(seen.leave))
        with no_grad(), seen.watched():
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in zip(modules, modes, strict=True):
            module.__dict__["training"] = mode
        for buffer, array, values in buffers:
            if buffer.data is not array:
                buffer.data = array
            array[...] = values
        default_generator.set_state(stream)
    return Summary(list(layers.values()), sum(p.data.nbytes for p in model.parameters()))


def _arguments(model: Module, input: Any) -> tuple[Any, ...]:
    if isinstance(input, Tensor):
        return (input,)
    if not isinstance(input, (tuple, list)):
        raise TypeError(f"summary: input is a {type(input).__name__}; expected a tensor, a tuple of them, or a shape")
    if input and all(isinstance(n, (int, np.integer)) for n in input):
        like = next((p for p in model.parameters() if p.is_floating_point()), None)
        zeros = np.zeros(tuple(map(int, input)), np.float32 if like is None else like.data.dtype)
        return (wrap(zeros) if like is None else wrap(zeros).to(like.device),)
    return tuple(input)


def _layers(model: Module) -> Iterator[tuple[Module, Layer]]:
    counted: set[int] = set()
    for name, module in model.named_modules():
        layer = Layer(name, type(module).__name__, len(name.split(".")) if name else 0)
        for parameter in module.parameters(recurse=False):
            if id(parameter) in counted:
                continue
            counted.add(id(parameter))
            if parameter.requires_grad:
                layer.trainable += parameter.data.size
            else:
                layer.frozen += parameter.data.size
        yield module, layer


class _Seen:
    """Fills in the layers while the model runs."""

    def __init__(self, layers: dict[int, Layer]) -> None:
        self._layers = layers
        self._within: list[Layer] = []

    def enter(self, module: Module, args: Any) -> None:
        self._within.append(self._layers[id(module)])

    def leave(self, module: Module, args: Any, output: Any) -> None:
        layer = self._within.pop()
        layer.calls += 1
        if layer.calls == 1:
            layer.shapes = list(_shapes(output))

    def watched(self) -> Any:
        """The block within which calls of primitives are counted."""
        from tilegrad.kernels.described import Call  # the clocks are for few programs
        from tilegrad.kernels.timing.watch import Listening, Told
        from tilegrad.kernels.timing.work import work

        within = self._within

        class Counting(Listening):
            def told(self, what: Any) -> None:
                if isinstance(what, Told) and within:
                    done = work(Call.of(what.op, what.args, what.kwargs, what.results))
                    within[-1].flop += done.flop
                    within[-1].bytes += done.nbytes

        return Counting()


def _shapes(output: Any) -> Iterator[Shape]:
    if isinstance(output, Tensor):
        yield tuple(output.shape)
    elif isinstance(output, (tuple, list, dict)):
        for item in output.values() if isinstance(output, dict) else output:
            yield from _shapes(item)
