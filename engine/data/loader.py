"""Datasets, and the loader that turns them into batches of tensors: PyTorch's names, in one process.

Source of the names: https://docs.pytorch.org/docs/stable/data.html
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilegrad import random
from tilegrad.data.collate import default_collate
from tilegrad.tensor import Tensor

_START = {"random": None, "batches": 0}  # the place of a loader between two epochs


class Dataset:
    """A collection of samples: `dataset[i]` is sample i, `len(dataset)` their number. Subclasses define both."""

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: a dataset must define __getitem__")

    if TYPE_CHECKING:  # a dataset that is read through a sampler needs no length

        def __len__(self) -> int: ...


class Samples(Protocol):
    """What serves as a dataset: a Dataset, a list, or anything else with these two methods."""

    def __getitem__(self, index: Any, /) -> Any: ...

    def __len__(self) -> int: ...


class TensorDataset(Dataset):
    """Tensors or NumPy arrays of equal length; sample i is the tuple of their rows i.

    Raises ValueError without tensors, for a tensor without dimensions and if the lengths differ; TypeError
    for anything else.
    """

    def __init__(self, *tensors: Tensor | np.ndarray) -> None:
        if not tensors:
            raise ValueError("TensorDataset: expected at least one tensor, got none")
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor | np.ndarray):
                raise TypeError(
                    f"TensorDataset: tensor {i} is {type(tensor).__name__}; expected a Tensor or NumPy array"
                )
            if tensor.ndim == 0:
                raise ValueError(f"TensorDataset: tensor {i} has no dimensions; expected at least 1")
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"TensorDataset: the tensors' lengths are {lengths}; expected them equal")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset):
    """The samples of a dataset at the given indices. Raises IndexError for one out of range."""

    def __init__(self, dataset: Samples, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = _as_indices("Subset", indices)
        outside = (self.indices < 0) | (self.indices >= len(dataset))
        if outside.any():
            found = self.indices[outside][0]
            raise IndexError(f"Subset: found index {found}; expected 0 <= index < len(dataset) == {len(dataset)}")

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Samples, lengths: Sequence[int] | Sequence[float], generator: random.Generator | None = None
) -> list[Subset]:
    """Split a dataset at random into non-overlapping parts.

    lengths    the parts' lengths, with sum len(dataset), or fractions with sum 1: each part then gets the
               floor of its share, and the samples left over go to the first parts, one each
    generator  by default the engine's

    Raises ValueError if the lengths are negative or do not add up.
    """
    n, generator = len(dataset), _as_generator("random_split", generator)
    if len(lengths) == 0 or min(lengths) < 0:
        raise ValueError(f"random_split: lengths are {list(lengths)}; expected at least one, none negative")
    counts = list(lengths)
    if math.isclose(sum(lengths), 1) and not all(isinstance(length, Integral) for length in lengths):
        counts = [math.floor(n * fraction) for fraction in lengths]
        left_over = n - sum(counts)
        counts = [count + (i < left_over) for i, count in enumerate(counts)]
    if sum(counts) != n or not all(isinstance(count, Integral) for count in counts):
        raise ValueError(
            f"random_split: lengths are {list(lengths)}; expected ints with sum len(dataset) == {n}, "
            "or fractions with sum 1"
        )
    return [Subset(dataset, part) for part in np.split(generator.permutation(n), np.cumsum(counts)[:-1])]


class DataLoader:
    """Iterates over a dataset in batches; each pass is an epoch.

    dataset     anything with __getitem__ and, without a sampler, __len__
    batch_size  samples per batch
    shuffle     a new random order each epoch, drawn when the epoch begins
    sampler     an iterable of indices that gives the order instead
    drop_last   leave out the last batch if it is not full
    collate_fn  makes a batch of a list of samples; by default `default_collate`
    generator   where shuffles come from; by default the engine's, so that `tilegrad.manual_seed` fixes them

    A batch of a TensorDataset (or of Subsets of one) is made by one indexing operation per tensor. It is the batch that
    `default_collate` would make of the samples, without a loop over them.

    `state_dict` says where the last iterator is in its epoch: the next one goes on there after `load_state_dict`.

    Raises ValueError for a batch size below 1 and for a sampler together with shuffle, TypeError for
    arguments of another kind.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Iterable[Any] | None = None,
        *,
        drop_last: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        generator: random.Generator | None = None,
    ) -> None:
        needed = ("__getitem__",) if sampler is not None else ("__getitem__", "__len__")
        for method in needed:
            if not hasattr(dataset, method):
                raise TypeError(f"DataLoader: dataset is {type(dataset).__name__}; expected one with {method}")
        if not isinstance(batch_size, Integral) or isinstance(batch_size, bool):
            raise TypeError(f"DataLoader: batch_size is {batch_size!r}; expected an int")
        if batch_size < 1:
            raise ValueError(f"DataLoader: batch_size is {batch_size}; expected at least 1")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: got a sampler and shuffle=True; expected one of them")
        if sampler is not None and not isinstance(sampler, Iterable):
            raise TypeError(f"DataLoader: sampler is {type(sampler).__name__}; expected an iterable of indices")
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(f"DataLoader: collate_fn is {type(collate_fn).__name__}; expected a function")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.sampler = sampler
        self.drop_last = bool(drop_last)
        self.collate_fn = collate_fn or default_collate
        self.generator = _as_generator("DataLoader", generator)
        self._place = _START
        self._resumed = False

    def __len__(self) -> int:
        """The number of batches in an epoch. Raises TypeError for a sampler without a length."""
        order: Any = self.dataset if self.sampler is None else self.sampler
        n = len(order)
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        # Here, not in the generator function below: the order is drawn by iter(), not by the first next().
        begin = self._place if self._resumed else {"random": self.generator.get_state(), "batches": 0}
        self._place, self._resumed = begin, False
        return self._batches(self._order(begin), begin)

    def state_dict(self) -> dict[str, Any]:
        """Where the last iterator's epoch began in the random stream, and how many batches it has given since."""
        return dict(self._place)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iterator go on after the batches that were given, in the order that was drawn for them.

        A sampler gives its order anew, and its first batches are left out. Raises ValueError for another state.
        """
        if not isinstance(state_dict, dict) or state_dict.keys() != _START.keys():
            raise ValueError(f"DataLoader.load_state_dict: got {state_dict!r}; expected a dict with {sorted(_START)}")
        self._place, self._resumed = dict(state_dict), state_dict["random"] is not None

    def _order(self, begin: dict[str, Any]) -> Iterable[Any]:
        if self.sampler is not None:
            return self.sampler
        if not self.shuffle:
            return np.arange(len(self.dataset))
        if begin["batches"] == 0 and begin["random"] == self.generator.get_state():
            return self.generator.permutation(len(self.dataset))
        again = random.Generator()  # the stream itself has gone on since that order was drawn from it
        again.set_state(begin["random"])
        return again.permutation(len(self.dataset))

    def _batches(self, order: Iterable[Any], begin: dict[str, Any]) -> Iterator[Any]:
        for number, indices in enumerate(_chunks(order, self.batch_size)):
            if len(indices) < self.batch_size and self.drop_last:
                break
            if number < begin["batches"]:
                continue
            self._place = {**begin, "batches": number + 1}
            yield self._batch(indices)
        self._place = _START

    def _batch(self, indices: Sequence[Any] | np.ndarray) -> Any:
        rows = _rows(self.dataset, indices) if self.collate_fn is default_collate else None
        if rows is not None:
            return rows
        if isinstance(indices, np.ndarray):
            indices = indices.tolist()  # a dataset gets Python's ints
        return self.collate_fn([self.dataset[index] for index in indices])


def _rows(dataset: Samples, indices: Any) -> list[Tensor] | None:
    """The collated batch by indexing alone; None for classes that may define their samples otherwise."""
    if type(dataset) is Subset:
        return _rows(dataset.dataset, dataset.indices[indices])
    if type(dataset) is not TensorDataset:
        return None
    indices = _as_indices("DataLoader", indices)
    rows = dataset[indices]
    return [row if isinstance(row, Tensor) else Tensor(row) for row in rows]


def _chunks(order: Iterable[Any], size: int) -> Iterator[Any]:
    if isinstance(order, np.ndarray):
        for start in range(0, len(order), size):
            yield order[start : start + size]
    else:
        rest = iter(order)
        while chunk := list(itertools.islice(rest, size)):
            yield chunk


def _as_generator(op: str, generator: random.Generator | None) -> random.Generator:
    if generator is None:
        return random.default_generator
    if not isinstance(generator, random.Generator):
        raise TypeError(f"{op}: generator is {type(generator).__name__}; expected an tilegrad.random.Generator")
    return generator


def _as_indices(op: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """One-dimensional int64, or TypeError: NumPy would read bools as a mask and cut floats."""
    if not isinstance(indices, np.ndarray):
        return np.array([operator.index(index) for index in indices], np.int64)
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise TypeError(f"{op}: indices are {indices.dtype} {indices.shape}; expected integers in one dimension")
    return indices.astype(np.int64, copy=False)
