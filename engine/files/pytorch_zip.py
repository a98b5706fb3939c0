"""PyTorch's zip files (torch.save since 1.6), read without torch and without trusting them.

    name/data.pkl   a pickle of the object, in which a tensor names its storage, offset, shape and strides
    name/data/0     the bytes of storage 0; and so on
    name/byteorder  "little" or "big" (absent: little)

A pickle is a program that may call any importable function. Here the names that a state dict needs stand for inert
records, all others are refused, and arrays are made from the records afterwards.
https://github.com/pytorch/pytorch/blob/v2.13.0/torch/serialization.py
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tilegrad import dtypes

_LEAVES = str, bool, int, float, type(None)
_STORAGES = {  # by the storage's class; UntypedStorage: the tensor says its dtype
    "BoolStorage": dtypes.bool_,
    "ByteStorage": dtypes.uint8,
    "CharStorage": dtypes.int8,
    "ShortStorage": dtypes.int16,
    "IntStorage": dtypes.int32,
    "LongStorage": dtypes.int64,
    "HalfStorage": dtypes.float16,
    "BFloat16Storage": dtypes.bfloat16,
    "FloatStorage": dtypes.float32,
    "DoubleStorage": dtypes.float64,
}


def read(path: str | os.PathLike[str]) -> Any:
    """The object in the file: dicts, lists and tuples of arrays, numbers and strings. An equal view is one array.

    Raises ValueError for a damaged file and for one that holds or names anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive).read()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"a damaged zip file: {error}") from error


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor:
    """What the pickle says of a tensor."""

    __slots__ = ("storage", "offset", "shape", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


class _Dict(OrderedDict):
    """A state dict, whose attributes (its modules' versions) are let go."""

    def __setstate__(self, state: Any) -> None:
        pass


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _size(*shape: Any) -> Any:
    return tuple(*shape)


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


# In Python, not in C: that one allocates and fills a table as long as any memo index that the pickle claims.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}; expected tensors in dicts, lists and tuples")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str() as key, _, _):
                return _Storage(key, dtype)
        raise pickle.UnpicklingError(f"it names {str(pid)[:80]}; expected a storage")


class _Reader:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self.members if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("a zip file without a data.pkl: torch.save writes one")
        self.folder = pickles[0].removesuffix("data.pkl")
        order = self._bytes("byteorder") if self.folder + "byteorder" in self.members else b"little"
        self.swap = order.decode("ascii", "replace") != sys.byteorder
        self.storages: dict[_Storage, np.ndarray] = {}
        self.arrays: dict[Any, np.ndarray] = {}

    def read(self) -> Any:
        try:
            found = _Unpickler(io.BytesIO(self._bytes("data.pkl"))).load()
        except Exception as error:  # a forged pickle can make the machine inside pickle fail with any of them
            raise ValueError(f"its pickle cannot be read: {error}") from error
        return self._plain(found)

    def _plain(self, x: Any) -> Any:
        if isinstance(x, _Tensor):
            return self._array(x)
        if isinstance(x, dict) and all(isinstance(key, _LEAVES) for key in x):
            return {key: self._plain(value) for key, value in x.items()}
        if type(x) in (list, tuple):
            return type(x)(self._plain(value) for value in x)
        if type(x) in _LEAVES:
            return x
        raise ValueError(
            f"it holds {type(x).__name__}; expected tensors, numbers and strings in dicts, lists and tuples"
        )

    def _array(self, x: _Tensor) -> np.ndarray:
        if not isinstance(x.storage, _Storage) or not all(map(_is_numbers, ((x.offset,), x.shape, x.strides))):
            raise ValueError("a tensor in it has no storage, shape or strides")
        if len(x.shape) != len(x.strides):
            raise ValueError(f"a tensor in it has shape {x.shape} and strides {x.strides}")
        memory = self._storage(x.storage)
        last = x.offset + sum((n - 1) * step for n, step in zip(x.shape, x.strides)) if 0 not in x.shape else -1
        if last >= memory.size or prod(x.shape) > max(memory.size, 1):
            raise ValueError(f"a tensor of shape {x.shape}, strides {x.strides} is not in its {memory.size} elements")
        key = (x.storage, x.offset, x.shape, x.strides)
        if key not in self.arrays:
            strides = [step * memory.itemsize for step in x.strides]
            view = np.lib.stride_tricks.as_strided(memory[min(x.offset, memory.size) :], x.shape, strides)
            self.arrays[key] = view.copy(order="K")  # in memory of its own: the storage may be far larger
        return self.arrays[key]

    def _storage(self, storage: _Storage) -> np.ndarray:
        if storage not in self.storages:
            content = self._bytes(f"data/{storage.key}")
            if len(content) % storage.dtype.itemsize:
                raise ValueError(f"storage {storage.key} has {len(content)} bytes, of {storage.dtype}")
            array = np.frombuffer(content, storage.dtype)
            self.storages[storage] = array.byteswap() if self.swap else array
        return self.storages[storage]

    def _bytes(self, name: str) -> bytes:
        info = self.members.get(self.folder + name)
        if info is None:
            raise ValueError(f"it has no {name}")
        if info.compress_type != zipfile.ZIP_STORED:  # whose size is that of the file, at most
            raise ValueError(f"its {name} is compressed; torch.save compresses nothing")
        return self.archive.read(info)


def _is_numbers(x: Any) -> bool:
    return isinstance(x, tuple) and all(type(n) is int and n >= 0 for n in x)
