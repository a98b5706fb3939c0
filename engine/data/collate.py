"""Making one batch of many samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilegrad.dtypes import is_number
from tilegrad.ops.shape import stack
from tilegrad.tensor import Tensor


def default_collate(samples: Sequence[Any]) -> Any:
    """A batch of a list of samples that are alike, with a new first dimension.

    Tensors, NumPy arrays and NumPy numbers are stacked; Python's bools, ints and floats become a bool, int64
    or float64 tensor; str and bytes stay a list; mappings become dicts, tuples and lists become lists (named
    tuples stay what they are), collated entry by entry.

    Raises ValueError for an empty list and for shapes, lengths or keys that differ; TypeError for samples of
    differing or other types.
    """
    if len(samples) == 0:
        raise ValueError("default_collate: got no samples; expected at least one")
    first = samples[0]
    for kind, collate in _COLLATE.items():
        if isinstance(first, kind):
            stray = next((sample for sample in samples if not isinstance(sample, kind)), first)
            if stray is not first:
                raise TypeError(
                    f"default_collate: one sample is {type(first).__name__}, another {type(stray).__name__}; "
                    "expected one type"
                )
            return collate(samples)
    raise TypeError(
        f"default_collate: a sample is {type(first).__name__}; expected tensors, arrays, numbers, strings, "
        "or tuples, lists and mappings of them"
    )


def _collate_arrays(samples: Sequence[np.ndarray | np.generic]) -> Tensor:
    found = {np.asarray(sample).dtype for sample in samples}
    shapes = {np.shape(sample) for sample in samples}
    if not all(map(is_number, found)):
        raise TypeError(f"default_collate: arrays are {_listed(found)}; expected numbers")
    if len(shapes) > 1:
        raise ValueError(f"default_collate: arrays are {_listed(shapes)}; expected one shape")
    return Tensor(np.stack(samples))


def _collate_mappings(samples: Sequence[Mapping]) -> dict:
    keys = samples[0].keys()
    for sample in samples:
        if sample.keys() != keys:
            raise ValueError(f"default_collate: keys are {list(keys)} and {list(sample)}; expected the same")
    return {key: default_collate([sample[key] for sample in samples]) for key in keys}


def _collate_sequences(samples: Sequence[tuple | list]) -> Any:
    lengths = {len(sample) for sample in samples}
    if len(lengths) > 1:
        raise ValueError(f"default_collate: samples have lengths {_listed(lengths)}; expected one length")
    columns = [default_collate(column) for column in zip(*samples)]
    return type(samples[0])(*columns) if hasattr(samples[0], "_fields") else columns


def _listed(things: set) -> str:
    return ", ".join(sorted(map(str, things)))


# In this order: np.str_ is a str, np.float64 a float, and True an int.
_COLLATE: dict[Any, Callable[[Sequence[Any]], Any]] = {
    str | bytes: list,
    Tensor: stack,
    np.ndarray | np.generic: _collate_arrays,
    bool: lambda samples: Tensor(np.array(samples, np.bool_)),
    int: lambda samples: Tensor(np.array(samples, np.int64)),
    float: lambda samples: Tensor(np.array(samples, np.float64)),
    Mapping: _collate_mappings,
    tuple | list: _collate_sequences,
}
