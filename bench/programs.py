"""The benchmarks of programs, not of a kernel: training steps, the memory they take, and what one eager op costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tilegrad.bench import memory, overhead, train
from tilegrad.bench.ops.op import Shape, Sizes
from tilegrad.bench.results import Row
from tilegrad.bench.session import Session


@dataclass(frozen=True)
class Program:
    """Like an Op, but it makes its rows itself: `rows` yields functions, each of which measures one case.

    It gets the shapes, and whether they were asked for.
    """

    name: str
    axes: tuple[str, ...]
    cpu: tuple[Sizes, ...]
    cuda: tuple[Sizes, ...]
    toy: Shape
    rows: Callable[[Session, list[Shape], bool], Iterator[Callable[[], list[Row]]]]


_BATCHES = (
    Sizes((32,), "the seed nets: Keras' default batch; the LSTM, 64 frames each", quick=True),
    Sizes((128,), "the seed nets: the batch that examples on MNIST use most", quick=True),
    Sizes((512,), "the seed nets: arithmetic outweighs the calls"),
    Sizes((64,), "the CNNs with BatchNorm", quick=True),
    Sizes((256,), "the CNNs with BatchNorm: activations beyond the caches"),
    Sizes((16,), "the transformer, 64 tokens each", quick=True),
    Sizes((8,), "the transformer, 128 tokens each: attention weighs more"),
)

_LARGEST = (
    Sizes((512,), "the seed nets", quick=True),
    Sizes((256,), "the CNNs with BatchNorm", quick=True),
    Sizes((16,), "the transformer, 64 tokens each", quick=True),
)

PROGRAMS: dict[str, Program] = {
    "train": Program("train", ("BATCH",), _BATCHES, _BATCHES, (2,), train.rows),
    "memory": Program("memory", ("BATCH",), _LARGEST, (), (2,), memory.rows),
    "overhead": Program("overhead", (), (Sizes((), "", quick=True),), (Sizes((), "", quick=True),), (), overhead.rows),
}
