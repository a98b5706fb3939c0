"""Every kernel on a GPU against its ceiling and against torch.

    python -m bench.kernels [--smoke] [--only matmul,softmax] [--rounds 30] [--json PATH]

A row: what, shape, dtype, median milliseconds with the 20th and 80th percentile, GB/s or TFLOP/s, the part of the
ceiling, torch's time for the same. Ceilings are measured here, first: a device copy of 1 GiB for what is bound by
memory, cuBLAS (through torch) at the same shape for what is bound by arithmetic. Bytes and operations of each row are
spelt out where the row is made. --smoke takes the smallest size of each.

Without a GPU nothing is measured; --toy runs every row once at toy sizes on the simulated device, to try the code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kernels
from bench.provenance import provenance
from bench.timing import Times, interleaved
from kernels import gpu
from kernels.checks import bfloat16

Call = Callable[[], Any]
FLOAT32, FLOAT16, BFLOAT16 = np.dtype(np.float32), np.dtype(np.float16), bfloat16


class Case(NamedTuple):
    """One row to be measured."""

    name: str
    shape: str
    dtype: np.dtype
    ours: Call
    rivals: dict[str, Call]  # by what they are; without torch there are none
    bytes: float = 0  # moved at the least; what is bound by arithmetic has `operations` instead
    operations: float = 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the smallest size of each row")
    parser.add_argument("--toy", action="store_true", help="toy sizes, once: on the simulated device")
    parser.add_argument("--only", default=",".join(FAMILIES), help=f"some of {', '.join(FAMILIES)}")
    parser.add_argument("--rounds", type=int, default=30, help="how often each call is timed")
    parser.add_argument("--json", type=Path, help="also write the rows, with card, versions and commit, to this file")
    flags = parser.parse_args(arguments)
    unknown = [name for name in flags.only.split(",") if name not in FAMILIES]
    if unknown:
        parser.error(f"--only: got {unknown[0]}; expected some of {', '.join(FAMILIES)}")
    if not flags.toy and not gpu.is_available():
        parser.error(f"there is no GPU here: {_why()}")

    bench = Bench(gpu.xp(), kernels.load("triton"), _torch(), 0 if flags.toy else 1 if flags.smoke else 2)
    copy = bench.copy_bandwidth(1 if flags.toy else flags.rounds)
    print(f"copy: {copy:.0f} GB/s read + written")
    rows = []
    for name in flags.only.split(","):
        for case in FAMILIES[name](bench):
            rows.append(_measured(case, copy, 1 if flags.toy else flags.rounds))
            print(_line(rows[-1]), flush=True)
    if flags.json is not None:
        result = {"provenance": provenance() | _card(), "copy_gb_s": copy, "rows": rows}
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        partial = flags.json.with_name(f".{flags.json.name}.part")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(partial, flags.json)
    return 0


class Bench:
    """What the rows are made with: arrays on the device, our kernels, torch's view of the same arrays.

    level  0 toy, 1 the smallest size, 2 all sizes
    """

    def __init__(self, xp: Any, ours: Any, torch: Any, level: int) -> None:
        self.xp, self.ours, self.torch, self.level = xp, ours, torch, level
        self.rng = np.random.default_rng(0)

    def sizes(self, toy: Any, *real: Any) -> tuple[Any, ...]:
        """The sizes to measure, smallest first."""
        return (toy,) if self.level == 0 else real[:1] if self.level == 1 else real

    def draw(self, *shape: int, dtype: np.dtype = FLOAT32) -> Any:
        """Normal numbers: what the array holds changes how fast tensor cores clock."""
        return self.xp.asarray(self.rng.standard_normal(shape, dtype=np.float32).astype(dtype))

    def view(self, x: Any) -> Any:
        """The same memory as a torch tensor."""
        torch = self.torch
        if x.dtype == bfloat16:
            return torch.from_dlpack(x.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(x)

    def rivals(self, **makers: Callable[[], Call]) -> dict[str, Call]:
        """Each rival's call, made only where torch can run it."""
        return {name: make() for name, make in makers.items()} if self.torch is not None else {}

    def copy_bandwidth(self, rounds: int) -> float:
        """GB/s, read and written, of a copy of 1 GiB."""
        x = self.xp.zeros((1 << 28) if self.level else 1 << 10, np.float32)
        y = self.xp.empty_like(x)

        def copy() -> None:
            y[...] = x

        return 2 * x.nbytes / interleaved({"copy": copy}, rounds)["copy"].median / 1e6


# --- the rows, a function for each family


def activations(b: Bench) -> Iterator[Case]:
    F = b.torch and b.torch.nn.functional
    for n in b.sizes(1 << 10, 1 << 26, 1 << 28):
        for dtype in (FLOAT32, BFLOAT16):
            x, dy = b.draw(n, dtype=dtype), b.draw(n, dtype=dtype)
            for name in ("relu", "gelu"):
                forward, backward = getattr(b.ours, name), getattr(b.ours, f"{name}_grad")
                rivals = b.rivals(torch=lambda name=name, x=x: _bind(getattr(F, name), b.view(x)))
                yield Case(name, f"{n}", dtype, _bind(forward, x), rivals, bytes=2 * x.nbytes)  # read x, write y
                # read dy and x, write dx
                yield Case(f"{name}_grad", f"{n}", dtype, _bind(backward, dy, x), {}, bytes=3 * x.nbytes)


def softmax(b: Bench) -> Iterator[Case]:
    for rows, columns in b.sizes((4, 100), (65536, 1024), (8192, 32768), (1024, 131072)):
        for dtype in (FLOAT32, BFLOAT16):
            x, dy = b.draw(rows, columns, dtype=dtype), b.draw(rows, columns, dtype=dtype)
            shape = f"{rows} x {columns}"
            rivals = b.rivals(torch=lambda x=x: _bind(b.torch.softmax, b.view(x), -1))
            # read x, write y; beyond what registers hold x is read twice, and the row says less than 1
            yield Case("softmax", shape, dtype, _bind(b.ours.softmax, x), rivals, bytes=2 * x.nbytes)
            # read dy and y, write dx
            yield Case("softmax_grad", shape, dtype, _bind(b.ours.softmax_grad, dy, x), {}, bytes=3 * x.nbytes)


def softmax_xent(b: Bench) -> Iterator[Case]:
    for rows, classes in b.sizes((4, 50), (65536, 1024), (8192, 50257), (1024, 256_000)):
        for dtype in (FLOAT32, BFLOAT16):
            z, t = b.draw(rows, classes, dtype=dtype), b.xp.asarray(b.rng.integers(0, classes, rows))
            dloss = b.xp.ones((), np.float32)

            def both(z: Any = z, t: Any = t, dloss: Any = dloss) -> None:
                loss, *saved = b.ours.softmax_xent(z, t)
                b.ours.softmax_xent_grad(dloss, z, t, *saved)

            def torch(z: Any = z, t: Any = t) -> Call:
                leaf, target = b.view(z).requires_grad_(), b.view(t)
                return lambda: b.torch.autograd.grad(b.torch.nn.functional.cross_entropy(leaf, target), leaf)

            # forward reads z; the gradient reads z and writes dz; all else is N numbers
            name, shape = "softmax_xent forward + backward", f"{rows} x {classes}"
            yield Case(name, shape, dtype, both, b.rivals(torch=torch), bytes=3 * z.nbytes)


def adam(b: Bench) -> Iterator[Case]:
    for n in b.sizes(1 << 10, 1 << 24, 1 << 26):
        p, g, m, v = (b.draw(n) for _ in range(4))
        v = abs(v)

        def torch(p: Any = p, g: Any = g) -> Call:
            leaf = b.view(p).clone().requires_grad_()
            leaf.grad = b.view(g)
            optimizer = b.torch.optim.Adam([leaf], lr=1e-6, fused=True)
            return optimizer.step

        # read p, g, m, v; write p, m, v
        step = _bind(b.ours.adam_step, [p], [g], [m], [v], 10, 1e-6)
        yield Case("adam_step", f"{n}", FLOAT32, step, b.rivals(**{"torch fused": torch}), bytes=28 * n)


def matmul(b: Bench) -> Iterator[Case]:
    for n in b.sizes(48, 4096, 8192):
        for dtype, precision in (
            (BFLOAT16, "ieee"),
            (FLOAT16, "ieee"),
            (FLOAT32, "tf32"),
            (FLOAT32, "tf32x3"),
            (FLOAT32, "ieee"),
        ):
            x, y, bias = (b.draw(*shape, dtype=dtype) for shape in ((n, n), (n, n), (n,)))

            def torch(x: Any = x, y: Any = y, precision: str = precision) -> Call:
                def call() -> None:
                    b.torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
                    b.torch.matmul(u, w)

                u, w = b.view(x), b.view(y)
                return call

            def torch_fused(x: Any = x, y: Any = y, bias: Any = bias) -> Call:
                u, w, c = b.view(x), b.view(y), b.view(bias)
                return lambda: b.torch.nn.functional.gelu(b.torch.addmm(c, u, w))

            shape = f"{n} x {n} x {n}"
            name = "matmul" if dtype != FLOAT32 else f"matmul {precision}"
            ours = _bind(b.ours.matmul, x, y, precision=precision)
            yield Case(name, shape, dtype, ours, b.rivals(cuBLAS=torch), operations=2 * n**3)
            if dtype == BFLOAT16:
                ours = _bind(b.ours.matmul, x, y, bias, "gelu")
                rivals = b.rivals(**{"cuBLAS + gelu": torch_fused})
                yield Case("matmul + bias + gelu", shape, dtype, ours, rivals, operations=2 * n**3)
    for m, n, k in b.sizes(
        (8, 16, 24), (128, 128, 784), (512, 128, 784), (784, 128, 512), (16, 4096, 4096)
    ):  # (M, N, K)
        x, y = b.draw(m, k), b.draw(k, n)
        rivals = b.rivals(cuBLAS=lambda x=x, y=y: _bind(b.torch.matmul, b.view(x), b.view(y)))
        yield Case(
            "matmul ieee", f"{m} x {n} x {k}", FLOAT32, _bind(b.ours.matmul, x, y), rivals, operations=2 * m * n * k
        )


def conv2d(b: Bench) -> Iterator[Case]:
    shapes = b.sizes(
        (2, 3, 8, 4, 0),
        (128, 1, 28, 32, 0),
        (128, 32, 13, 64, 0),
        (128, 64, 5, 64, 0),
        (32, 64, 56, 64, 1),
        (32, 256, 14, 256, 1),
    )  # images, channels, side, output channels, padding
    if b.level == 1:
        shapes = ((128, 32, 13, 64, 0), (32, 64, 56, 64, 1))
    for n, c, side, o, padding in shapes:
        for dtype, precision in ((FLOAT32, "ieee"), (FLOAT32, "tf32"), (BFLOAT16, "ieee")):
            x = b.draw(n, side, side, c, dtype=dtype).transpose(0, 3, 1, 2)
            w = b.draw(o, 3, 3, c, dtype=dtype).transpose(0, 3, 1, 2)
            bias = b.draw(o, dtype=dtype)
            geometry = (1, 1), (padding, padding), (1, 1), 1
            out = side + 2 * padding - 2
            dy = b.draw(n, out, out, o, dtype=dtype).transpose(0, 3, 1, 2)

            def allow(precision: str = precision) -> None:
                b.torch.backends.cudnn.allow_tf32 = precision == "tf32"
                b.torch.backends.cudnn.benchmark = True

            def forward(x: Any = x, w: Any = w, bias: Any = bias, padding: int = padding, allow: Call = allow) -> Call:
                u, v, c = b.view(x), b.view(w), b.view(bias)

                def call() -> None:
                    allow()
                    b.torch.relu_(b.torch.nn.functional.conv2d(u, v, c, padding=padding))

                return call

            def backward(
                which: int, x: Any = x, w: Any = w, dy: Any = dy, p: int = padding, allow: Call = allow
            ) -> Call:
                u, v, d = b.view(x), b.view(w), b.view(dy)
                mask = [which == 0, which == 1, False]

                def call() -> None:
                    allow()
                    b.torch.ops.aten.convolution_backward(d, u, v, None, [1, 1], [p, p], [1, 1], False, [0, 0], 1, mask)

                return call

            k = b.ours
            shape, operations = f"{n} x {c} x {side} x {side} -> {o}", 2 * n * out * out * o * c * 9
            tag = f" {precision}" if dtype == FLOAT32 else ""
            ours = _bind(k.conv2d, x, w, bias, *geometry, "relu", precision)
            rivals = b.rivals(**{"cuDNN + relu": forward})
            yield Case(f"conv2d + bias + relu{tag}", shape, dtype, ours, rivals, operations=operations)
            ours = _bind(k.conv2d_grad_input, dy, w, x.shape, *geometry, precision)
            yield Case(
                f"conv2d_grad_input{tag}",
                shape,
                dtype,
                ours,
                b.rivals(cuDNN=lambda f=backward: f(0)),
                operations=operations,
            )
            ours = _bind(k.conv2d_grad_weight, dy, x, w.shape, *geometry, precision)
            yield Case(
                f"conv2d_grad_weight{tag}",
                shape,
                dtype,
                ours,
                b.rivals(cuDNN=lambda f=backward: f(1)),
                operations=operations,
            )


def pooling(b: Bench) -> Iterator[Case]:
    for n, c, side in b.sizes((2, 4, 8), (256, 64, 56), (512, 64, 112)):
        for dtype in (FLOAT32, BFLOAT16):
            x = b.draw(n, side, side, c, dtype=dtype).transpose(0, 3, 1, 2)
            y, tap = b.ours.max_pool2d(x, (2, 2), (2, 2))
            shape = f"{n} x {c} x {side} x {side}"
            # read x; write y and a byte for its tap
            moved = x.nbytes + y.nbytes + tap.nbytes
            rivals = b.rivals(torch=lambda x=x: _bind(b.torch.nn.functional.max_pool2d, b.view(x), 2))
            yield Case(
                "max_pool2d 2 x 2", shape, dtype, _bind(b.ours.max_pool2d, x, (2, 2), (2, 2)), rivals, bytes=moved
            )
            ours = _bind(b.ours.max_pool2d_grad, y, tap, x.shape, (2, 2), (2, 2))
            yield Case("max_pool2d_grad 2 x 2", shape, dtype, ours, {}, bytes=moved)  # the same, the other way


def dropout(b: Bench) -> Iterator[Case]:
    for n in b.sizes(1 << 10, 1 << 26, 1 << 28):
        x = b.draw(n)
        rivals = b.rivals(torch=lambda x=x: _bind(b.torch.nn.functional.dropout, b.view(x), 0.5))
        yield Case("dropout", f"{n}", FLOAT32, _bind(b.ours.dropout, x, 0.5, 1, 0), rivals, bytes=2 * x.nbytes)


def sums(b: Bench) -> Iterator[Case]:
    for rows, columns in b.sizes((50, 20), (65536, 1024), (1 << 20, 256)):
        for axes in ((0,), (1,)):
            x = b.draw(rows, columns)
            rivals = b.rivals(torch=lambda x=x, axes=axes: _bind(b.torch.sum, b.view(x), axes))
            name, ours = f"sum over axis {axes[0]}", _bind(b.ours.sum, x, axes)
            yield Case(name, f"{rows} x {columns}", FLOAT32, ours, rivals, bytes=x.nbytes)


FAMILIES = {
    "matmul": matmul, "conv2d": conv2d, "activations": activations, "softmax": softmax, "softmax_xent": softmax_xent,
    "adam": adam, "pooling": pooling, "dropout": dropout, "sums": sums,
}  # fmt: skip


# --- measuring and showing


def _bind(function: Callable, *args: Any, **kwargs: Any) -> Call:
    return lambda: function(*args, **kwargs)


def _measured(case: Case, copy: float, rounds: int) -> dict[str, Any]:
    times = interleaved({"tilegrad": case.ours, **case.rivals}, rounds)
    ours = times["tilegrad"]
    row: dict[str, Any] = {"name": case.name, "shape": case.shape, "dtype": str(case.dtype)}
    row |= {who: _rounded(each) for who, each in times.items()}
    if case.bytes:
        row["gb_s"] = case.bytes / ours.median / 1e6
        row["of_copy"] = row["gb_s"] / copy
    else:
        row["tflop_s"] = case.operations / ours.median / 1e9
    for who in case.rivals:
        row[f"speedup over {who}"] = times[who].median / ours.median
    return row


def _rounded(times: Times) -> dict[str, float]:
    return {name: round(value, 5) for name, value in times._asdict().items()}


def _line(row: dict[str, Any]) -> str:
    speed = (
        f"{row['gb_s']:8.0f} GB/s = {row['of_copy']:.2f} of copy" if "gb_s" in row else f"{row['tflop_s']:8.1f} TFLOP/s"
    )
    against = "".join(
        f"  {row[key]:.2f}x {key.removeprefix('speedup over ')}" for key in row if key.startswith("speedup")
    )
    return (
        f"{row['name']:32} {row['shape']:28} {row['dtype']:9} {row['tilegrad']['median']:9.4f} ms  {speed:30}{against}"
    )


def _torch() -> Any:
    """torch where it can use this GPU; there are no rivals otherwise, and it says so."""
    if not gpu.is_available():
        return None
    try:
        import torch
    except ImportError:
        print("torch is not installed: no rivals", file=sys.stderr)
        return None
    if not torch.cuda.is_available():
        print("torch cannot use this GPU: no rivals", file=sys.stderr)
        return None
    return torch


def _card() -> dict[str, Any]:
    if not gpu.is_available():
        return {"card": "simulated: no figure here is a GPU's"}
    cuda = gpu.xp().cuda
    properties = cuda.runtime.getDeviceProperties(cuda.runtime.getDevice())
    return {"card": properties["name"].decode(), "driver": cuda.runtime.driverGetVersion()}


def _why() -> str:
    try:
        gpu.xp()
    except RuntimeError as e:
        return str(e)
    return "the device is simulated"


if __name__ == "__main__":
    sys.exit(main())
