"""The two benchmarks of programs, not of a kernel: training steps, and what one eager op costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tilegrad.bench import overhead, train
from tilegrad.bench.ops.op import Shape, Sizes
from tilegrad.bench.results import Row
from tilegrad.bench.session import Session


@dataclass(frozen=True)
class Program:
    """Like an Op, but it makes its rows itself: `rows` yields functions, each of which measures one case."""

    name: str
    axes: tuple[str, ...]
    cpu: tuple[Sizes, ...]
    cuda: tuple[Sizes, ...]
    toy: Shape
    rows: Callable[[Session, list[Shape]], Iterator[Callable[[], list[Row]]]]


_BATCHES = (
    Sizes((32,), "Keras' default batch", quick=True),
    Sizes((128,), "the batch that examples on MNIST use most", quick=True),
    Sizes((512,), "large: arithmetic outweighs the calls"),
)

PROGRAMS: dict[str, Program] = {
    "train": Program("train", ("BATCH",), _BATCHES, _BATCHES, (2,), train.rows),
    "overhead": Program("overhead", (), (Sizes((), "", quick=True),), (Sizes((), "", quick=True),), (), overhead.rows),
}
