"""The Tensor: an array, whether it wants a gradient, and the op that made it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from engine import recording
from engine.device import READS, as_device, device_of, is_array, move, on_host
from engine.dtypes import DTYPES, FLOATS


class Storage:
    """What tensors that share memory share.

    version  how often it was written to
    kept     whether a gradient rule keeps a tensor on it
    """

    version = 0
    kept = False
    _sharers: dict[int, weakref.ref] | None = None

    def share(self, *tensors: Tensor) -> None:
        """Know these as one another's views for as long as they live."""
        if self._sharers is None:
            self._sharers = {}
        sharers = self._sharers
        for x in tensors:
            key = id(x)
            if key not in sharers:
                sharers[key] = weakref.ref(x, partial(sharers.pop, key))  # in C, where no Ctrl-C is lost

    def viewed_beside(self, x: Tensor) -> bool:
        """Whether x shares this memory with a view, or with what it is a view of, that still lives."""
        return any(key != id(x) for key in self._sharers or ())


class Tensor:
    """An n-dimensional array with a gradient.

    data           the NumPy (on a GPU: CuPy) array itself; writing to it goes unnoticed by autograd
    requires_grad  whether gradients with respect to this tensor are wanted
    grad           for leaves, the gradient that `backward` accumulated; a Tensor or None

    Methods have PyTorch's names and defaults; `engine.methods` binds them, and each is a function of `engine` too.
    """

    __slots__ = ("data", "grad", "_requires_grad", "_node", "_storage", "_hooks", "__weakref__")
    __array_priority__ = 1000  # array + tensor is ours to answer

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            data = data.data
        if not is_array(data):
            raise TypeError(f"Tensor: expected an array; got {type(data).__name__} (engine.tensor takes any numbers)")
        self.data = adopted("Tensor", data)
        self.grad: Tensor | None = None
        self._node = None
        self._storage = Storage()
        self._hooks = None
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True
        if recording.on_cpu:
            recording.born(self)

    # --- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return device_of(self.data)

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return not isinstance(self.data, np.ndarray)

    @property
    def itemsize(self) -> int:
        return self.data.itemsize

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its entry `dim`."""
        if dim is None:
            return self.data.shape
        if not -self.data.ndim <= dim < self.data.ndim:
            raise IndexError(f"size: dim is {dim} but the tensor is {self.data.shape}; expected a dimension of it")
        return self.data.shape[dim]

    def dim(self) -> int:
        """The number of dimensions."""
        return self.data.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.data.size

    def stride(self, dim: int | None = None) -> Any:
        """Steps between neighbours along each dimension, in elements."""
        strides = tuple(s // self.data.itemsize for s in self.data.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return self.data.flags.c_contiguous

    def is_floating_point(self) -> bool:
        """Whether the dtype can carry gradients."""
        return self.data.dtype in FLOATS

    # --- its place in the graph

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if flag and self.data.dtype not in FLOATS:
            raise RuntimeError(f"requires_grad: expected a floating-point tensor; got {self.data.dtype}")
        if not flag and self._node is not None:
            raise RuntimeError("requires_grad: only a leaf's can be turned off; expected detach() on a result")
        self._requires_grad = bool(flag)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set requires_grad; returns the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it."""
        return self._node is None

    @property
    def grad_fn(self) -> Any:
        """The recorded op that made it, or None."""
        return self._node

    @property
    def _version(self) -> int:
        return self._storage.version

    # --- out of the engine

    def numpy(self) -> np.ndarray:
        """The array itself (memory shared). Raises RuntimeError if it requires grad: use detach() first."""
        if self._requires_grad:
            raise RuntimeError("numpy: the tensor requires grad; expected tensor.detach().numpy()")
        if device_of(self.data) != "cpu":
            raise TypeError(f"numpy: the tensor is on {self.device}; expected tensor.cpu().numpy()")
        recording.refuse_on_cpu(READS)
        return self.data

    def item(self) -> Any:
        """The one element as a Python number."""
        if self.data.size != 1:
            raise RuntimeError(f"item: the tensor is {self.data.shape}; expected one element")
        return on_host(self.data).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return on_host(self.data).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"__array__: {array.dtype} as {np.dtype(dtype)} needs a copy; copy=False forbids it")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self._requires_grad:
            raise BufferError("__dlpack__: the tensor requires grad; expected tensor.detach()")
        recording.refuse_on_cpu(READS)
        return self.data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def __len__(self) -> int:
        if self.data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(self.data.shape[0]))  # type: ignore[index]

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise RuntimeError(
                f"bool: the tensor is {self.data.shape}; the truth of more than one element is ambiguous"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.data.dtype.kind not in "iub" or self.data.size != 1:
            raise TypeError(f"index: expected an integer scalar; got {self.data.dtype} of shape {self.data.shape}")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.data.ndim == 0 else object.__format__(self, spec)

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, (Tensor, bool, int, float, np.generic)):
            raise TypeError(f"in: expected a tensor or a number; got {type(element).__name__}")
        return bool((self == element).any())

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        array = on_host(self.data)
        array = array if array.dtype.kind != "V" else array.astype(np.float32)  # NumPy prints all its digits
        text = np.array2string(array, separator=", ", precision=4, prefix="tensor(")
        notes = f", size={self.data.shape}" if not self.data.size and self.data.ndim != 1 else ""
        if self.data.dtype not in (np.float32, np.int64, np.bool_):
            notes += f", dtype={self.data.dtype}"
        if self.is_cuda:
            notes += ", device='cuda'"
        if self._node is not None:
            notes += f", grad_fn={self._node}"
        elif self._requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({text}{notes})"

    def __copy__(self) -> Tensor:
        if self._node is not None:
            raise RuntimeError("copy: the tensor is the result of an op; expected a leaf, or detach() first")
        copy = type(self).__new__(type(self))
        Tensor.__init__(copy, self.data, self._requires_grad)
        copy._storage = self._storage
        return copy

    def __deepcopy__(self, memo: dict) -> Tensor:
        if self._node is not None:
            raise RuntimeError("deepcopy: the tensor is the result of an op; expected a leaf, or detach() first")
        copy = type(self).__new__(type(self))
        Tensor.__init__(copy, self.data.copy(order="K"), self._requires_grad)
        memo[id(self)] = copy
        if self.grad is not None:
            copy.grad = wrap(self.grad.data.copy(order="K"))
        return copy

    def __reduce__(self) -> Any:
        if self._node is not None:
            raise RuntimeError("pickle: the tensor is the result of an op; expected a leaf, or detach() first")
        if self.is_cuda:  # as bytes that any machine can read; whoever has no GPU is told so
            return _from_host, (type(self), on_host(self.data), self.device, self._requires_grad)
        return type(self), (self.data, self._requires_grad)


def _from_host(kind: type[Tensor], host: np.ndarray, device: str, requires_grad: bool) -> Tensor:
    """What a pickled tensor of another device than the CPU is made from."""
    return kind(move(host, as_device(device)), requires_grad)


def adopted(op: str, array: Any) -> Any:
    """The array as tensors hold it: no subclass, in native byte order; itself where it is so already.

    Raises TypeError for a dtype that tensors cannot have.
    """
    if array.dtype.newbyteorder("=") not in DTYPES:
        raise TypeError(f"{op}: the array is {array.dtype}; expected one of {', '.join(map(str, DTYPES))}")
    if isinstance(array, np.ndarray) and type(array) is not np.ndarray:
        array = array.view(np.ndarray)  # a memory map or a matrix would bring its own arithmetic
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def wrap(data: Any) -> Tensor:
    """A tensor around an array or a NumPy scalar, unchecked: what ops make their results with."""
    tensor = Tensor.__new__(Tensor)
    tensor.data = data if not isinstance(data, np.generic) else np.asarray(data)
    tensor.grad = None
    tensor._node = None
    tensor._storage = Storage()
    tensor._hooks = None
    tensor._requires_grad = False
    if recording.on_cpu:
        recording.born(tensor)
    return tensor
