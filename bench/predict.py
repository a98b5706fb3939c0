"""What a captured step of a seed net should take on an H200, node by node. A prediction: nothing is measured, or run.

    TRITON_INTERPRET=1 python -m tilegrad.bench.predict [--net cnn|mlp] [--batch-size 64]

The step is captured on the simulated device without running a kernel. Of each node of its graph are told the bytes of
the arrays that it is given, each once, and the FLOP of its product. The time is the longest of

    bytes       over 4.3 TB/s: a copy, as it was read on an H200
    FLOP        over half of the float32 peak of as many of the 132 multiprocessors as there are programs:
                128 lanes x 2 x 1.98 GHz each; half, for shared memory feeds the lanes (kernels/conv2d/gpu_triton.py)
    1.5 us      for a kernel that does next to nothing: its start, a few trips to memory one after another, its end

and 1 us for the way from one node of the graph to the next. Data that is still in the L2 cache is counted as if it came
from memory; what waits for memory at each step of a sum, with too few programs beside it to hide that, is not counted.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, NamedTuple

import numpy as np

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.bench.nets import NETS
from tilegrad.data import image_batch
from tilegrad.kernels.profile.cards import CARDS
from tilegrad.kernels.system.modes import Block
from tilegrad.nn import functional as F

GOAL = 5 * 60_000  # images a second, of the CNN: five epochs of MNIST; 213 us a step of 64
CARD = CARDS["H200"]
BYTES = 4.3e12  # a second
FLOP = 0.5 * CARD.fp32 / CARD.multiprocessors  # a second and multiprocessor
LEAST, GAP = 1.5e-6, 1e-6  # seconds
ADAM_BYTES = 28  # a parameter: the kernel is given a table of addresses, not the arrays


class Node(NamedTuple):
    """One node of the graph: the kernel, its programs, and what it moves and computes."""

    name: str
    programs: int
    bytes: int
    flop: int

    @property
    def seconds(self) -> float:
        """The predicted time, with the way to the node."""
        busy = min(self.programs, CARD.multiprocessors)
        return max(self.bytes / BYTES, self.flop / (FLOP * busy), LEAST) + GAP


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tilegrad.bench.predict", description=str(__doc__).splitlines()[0])
    parser.add_argument("--net", choices=[name.lower() for name in NETS], default="cnn")
    parser.add_argument("--batch-size", type=int, default=64)
    flags = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("expected TRITON_INTERPRET=1: the step is captured on the simulated device")
    nodes = predict(flags.net.upper(), flags.batch_size)
    print(f"{'node':<30} {'programs':>8} {'KB':>8} {'MFLOP':>8} {'us':>6}")
    for node in nodes:
        kilobytes, mflop, us = node.bytes / 1e3, node.flop / 1e6, node.seconds * 1e6
        print(f"{node.name:<30} {node.programs:>8} {kilobytes:>8.1f} {mflop:>8.1f} {us:>6.1f}")
    sums = sum(n.bytes for n in nodes) / 1e3, sum(n.flop for n in nodes) / 1e6, sum(n.seconds for n in nodes) * 1e6
    goal = f"; the goal is {1e6 * flags.batch_size / GOAL:.0f}" if flags.net == "cnn" else ""
    print(f"{len(nodes):<30} {'':>8} {sums[0]:>8.1f} {sums[1]:>8.1f} {sums[2]:>6.1f}   predicted{goal}")
    return 0


def predict(net: str, batch: int) -> list[Node]:
    """The nodes of one training step: images from bytes, loss, gradients, Adam."""
    model = NETS[net](nn).to("cuda")
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    images = tg.zeros(2 * batch, 1, 28, 28, dtype=tg.uint8, device="cuda")
    labels = tg.zeros(2 * batch, dtype=tg.int64, device="cuda")

    @tg.capture(warmup=1)
    def step(index: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(model(image_batch(images, index, 0.13, 0.31)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    index = tg.arange(batch, device="cuda")
    with _noted() as nodes:
        step(index)
        step(index)
    parameters = sum(p.data.size for p in model.parameters())
    return [n._replace(bytes=ADAM_BYTES * parameters) if n.name == "_adam_kernel" else n for n in nodes]


def _noted() -> Block:
    """A block that gives the nodes of what is captured within it; no kernel and no graph runs there."""
    from tilegrad.kernels.simulate import tape, triton_interpreter

    nodes: list[Node] = []

    def run(name: str, kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constexprs: dict[str, Any]) -> None:
        onto = tape.collecting()
        if onto is None:
            return
        given = dict(zip([n for n in kernel.arg_names if n not in constexprs], args, strict=True)) | constexprs
        arrays = {id(a): a for a in args if hasattr(a, "nbytes")}
        moved = sum(a.nbytes for a in arrays.values())
        if name == "_rows_kernel":  # of the table, no more than the rows that are asked for
            moved = given["y_ptr"].nbytes + given["y_ptr"].size * given["x_ptr"].itemsize + given["index_ptr"].nbytes
        nodes.append(Node(name, int(np.prod(grid)), moved, _flop(name, given)))
        onto.add(name, lambda: None)

    def add(self: Any, name: str, action: Any) -> None:
        if not name.endswith("_kernel"):
            nodes.append(Node(name, 1, 0, 0))

    return Block(
        (triton_interpreter, "run", run),
        (tape.Tape, "add", add),
        (tape.Tape, "launch", lambda self: None),
        gives=nodes,
    )


def _flop(name: str, given: dict[str, Any]) -> int:
    """Of the products; of all else memory is the limit."""
    if name == "_matmul_kernel":
        return 2 * given["M"] * given["N"] * given["K"]
    if name in ("_conv2d_kernel", "_conv2d_few_kernel"):
        w = given["w_ptr"]
        return 2 * given["y_ptr"].size * w.size // given["bias_ptr"].size
    if name == "_conv2d_grad_input_kernel":  # a term for each tap and output channel, though it lie outside
        return 2 * given["dx_ptr"].size * given["w_ptr"].size // given["in_channels"]
    if name == "_conv2d_grad_weight_kernel":
        return 2 * given["dy_ptr"].size * given["in_channels"] * given["KERNEL_H"] * given["KERNEL_W"]
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
