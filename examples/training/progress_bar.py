"""A bar with loss and images/s, where somebody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from tilegrad import Tensor
from training.progress import Progress

Batch = tuple[Tensor, ...]  # the numbers of its images first
SECONDS_SHOWN = 0.5  # that a loss stays on the bar


def shown(batches: Sequence[Batch], title: str, images: int, progress: Progress) -> Iterator[Batch]:
    """The last batches of an epoch of so many images, under a bar; just the batches where nobody watches."""
    if not sys.stderr.isatty():
        yield from batches
        return
    from tqdm import tqdm

    done = images - sum(len(index) for index, *_ in batches)
    with tqdm(total=images, initial=done, desc=title, unit=" images", leave=False) as bar:
        last = time.perf_counter()
        for batch in batches:
            yield batch
            bar.update(len(batch[0]))
            if time.perf_counter() - last > SECONDS_SHOWN:  # reading the loss waits for the GPU
                bar.set_postfix(loss=f"{progress.latest_loss():.4f}")
                last = time.perf_counter()
