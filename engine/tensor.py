"""The Tensor: an array, whether it wants a gradient, and the op that made it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tilegrad import capture_hooks, copies
from tilegrad.capture_hooks import Left
from tilegrad.device import READS, as_device, device_of, is_array, move, on_host
from tilegrad.dtypes import DTYPES, FLOATS
from tilegrad.kernels.capture.planned import Planned

if TYPE_CHECKING:
    from tilegrad.autograd.record import Node
    from tilegrad.methods import Methods

    # The number that a tensor holds. A bool may stand where an int or a float is expected; Any lets the dtype decide.
    Number = bool | Any
else:
    Methods = object  # tilegrad.methods, which imports this file, binds the methods later


class Storage:
    """What tensors that share memory share.

    version    how often it was written to
    kept       whether a gradient rule keeps a tensor on it
    masked_by  of a gradient, the node of a relu whose mask it had when it was made (engine/autograd/relu_mask.py)
    """

    version = 0
    kept = False
    masked_by: Node | None = None
    _sharers: dict[int, weakref.ref] | None = None

    def share(self, *tensors: Tensor) -> None:
        """Remember that these tensors share memory, as long as they live."""
        if self._sharers is None:
            self._sharers = {}
        sharers = self._sharers
        for x in tensors:
            key = id(x)
            if key not in sharers:
                sharers[key] = weakref.ref(x, partial(sharers.pop, key))  # in C: a Ctrl-C cannot end it halfway

    def leave(self, x: Tensor) -> None:
        """x has other memory from now on. A rule that saved x finds out, as after a write."""
        self.version += 1
        (self._sharers or {}).pop(id(x), None)

    def viewed_beside(self, x: Tensor) -> bool:
        """Whether x shares this memory with another tensor that still lives: a view of x, or what x is a view of."""
        return any(key != id(x) for key in self._sharers or ())


class Tensor(Methods):
    """An n-dimensional array with a gradient.

    data           the NumPy (on a GPU: CuPy) array itself. Autograd does not notice writes to it. A tensor or an array
                   of any shape, dtype and device may be assigned; its memory is shared from then on
    requires_grad  whether gradients with respect to this tensor are wanted
    grad           for leaves, the gradient that `backward` accumulated; a Tensor of this one's shape, dtype and device,
                   or None

    The engine itself reads and writes `_data` and `_grad`, which check nothing, where time counts.
    Methods have PyTorch's names and defaults; `tilegrad.methods` binds them, and each is a function of `tilegrad` too.
    """

    __slots__ = ("_data", "_grad", "_requires_grad", "_node", "_storage", "_hooks", "__weakref__")

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        storage = None
        if isinstance(data, Tensor):
            data, storage = data._data, data._storage
        if not is_array(data):
            raise TypeError(f"Tensor: expected an array; got {type(data).__name__} (tilegrad.tensor takes any numbers)")
        self._data = adopted("Tensor", data)
        self._grad: Tensor | Left | None = None
        self._node: Node | None = None
        self._storage: Storage = storage or Storage()
        self._hooks: dict[int, Any] | None = None
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True
        if capture_hooks.capturing:
            capture_hooks.born(self)

    # --- what it holds

    if TYPE_CHECKING:
        data: np.ndarray | Any
    else:
        data = property(attrgetter("_data"))  # reading it costs no Python call

        @data.setter
        def data(self, value: Any) -> None:
            shared = isinstance(value, Tensor)
            array = value._data if shared else value
            if not is_array(array):
                raise TypeError(f"data: expected a tensor or an array; got {type(value).__name__}")
            array = adopted("data", array)
            if self._requires_grad and array.dtype not in FLOATS:
                raise RuntimeError(f"data: got {array.dtype} for a tensor that requires grad; expected floating-point")
            if array is self._data:  # `x.data += ...` ends with this assignment, and its write is counted here
                self._storage.version += 1
                return
            capture_hooks.refuse(
                "gives a tensor other memory; expected a write to the memory that it has, such as copy_()"
            )
            self._storage.leave(self)
            self._storage = value._storage if shared and array is value._data else Storage()
            self._data = array
            capture_hooks.moved()

    @property
    def grad(self) -> Tensor | None:
        if capture_hooks.capturing:
            return materialized(self, capture_hooks.gradient(self))
        grad = self._grad
        return materialized(self, grad) if type(grad) is Left else grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            require_gradient(self, value)
        if capture_hooks.capturing:
            capture_hooks.set_gradient(self, value)
        else:
            self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    # --- what it is

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> np.dtype: ...
        @property
        def ndim(self) -> int: ...
    else:
        shape, dtype, ndim = map(property, map(attrgetter, ("_data.shape", "_data.dtype", "_data.ndim")))  # as above

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return device_of(self._data)

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return not isinstance(self._data, np.ndarray)

    @property
    def T(self) -> Tensor:
        """The dimensions in reverse order; a view."""
        return self.transpose(0, 1) if self._data.ndim == 2 else self.permute(tuple(range(self._data.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged; a view."""
        return self.transpose(-2, -1)

    @property
    def itemsize(self) -> int:
        return self._data.itemsize

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    @overload
    def size(self, dim: None = None) -> tuple[int, ...]: ...
    @overload
    def size(self, dim: int) -> int: ...
    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        """The shape, or its entry `dim`."""
        if dim is None:
            return self._data.shape
        if not -self._data.ndim <= dim < self._data.ndim:
            raise IndexError(f"size: dim is {dim} but the tensor is {self._data.shape}; expected a dimension of it")
        return self._data.shape[dim]

    def dim(self) -> int:
        """The number of dimensions."""
        return self._data.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self._data.size

    @overload
    def stride(self, dim: None = None) -> tuple[int, ...]: ...
    @overload
    def stride(self, dim: int) -> int: ...
    def stride(self, dim: int | None = None) -> tuple[int, ...] | int:
        """Steps between neighbours along each dimension, in elements."""
        strides = tuple(s // self._data.itemsize for s in self._data.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return self._data.flags.c_contiguous

    def is_floating_point(self) -> bool:
        """Whether the dtype can carry gradients."""
        return self._data.dtype in FLOATS

    # --- its place in the graph

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if flag and self._data.dtype not in FLOATS:
            raise RuntimeError(f"requires_grad: expected a floating-point tensor; got {self._data.dtype}")
        if not flag and self._node is not None:
            raise RuntimeError("requires_grad: only a leaf's can be turned off; expected detach() on a result")
        self._requires_grad = bool(flag)
        capture_hooks.moved()

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
        if device_of(self._data) != "cpu":
            raise TypeError(f"numpy: the tensor is on {self.device}; expected tensor.cpu().numpy()")
        capture_hooks.refuse_on_cpu(READS)
        return self._data

    def item(self) -> Number:
        """The one element as a Python number."""
        if self._data.size != 1:
            raise RuntimeError(f"item: the tensor is {self._data.shape}; expected one element")
        return on_host(self._data).item()

    def tolist(self) -> list[Any]:
        """Nested lists of Python numbers; of a tensor without dimensions, its number."""
        return on_host(self._data).tolist()

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
        capture_hooks.refuse_on_cpu(READS)
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(self._data.shape[0]))  # type: ignore[index]

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise RuntimeError(
                f"bool: the tensor is {self._data.shape}; the truth of more than one element is ambiguous"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iub" or self._data.size != 1:
            raise TypeError(f"index: expected an integer scalar; got {self._data.dtype} of shape {self._data.shape}")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self._data.ndim == 0 else object.__format__(self, spec)

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, (Tensor, bool, int, float, np.generic)):
            raise TypeError(f"in: expected a tensor or a number; got {type(element).__name__}")
        return bool((self == element).any())

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        array = on_host(self._data)
        array = array if array.dtype.kind != "V" else array.astype(np.float32)  # NumPy prints all its digits
        text = np.array2string(array, separator=", ", precision=4, prefix="tensor(")
        notes = f", size={self._data.shape}" if not self._data.size and self._data.ndim != 1 else ""
        if self._data.dtype not in (np.float32, np.int64, np.bool_):
            notes += f", dtype={self._data.dtype}"
        if self.is_cuda:
            notes += ", device='cuda'"
        if self._node is not None:
            notes += f", grad_fn={self._node}"
        elif self._requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({text}{notes})"

    def _repr_html_(self) -> str:
        """For notebooks: shape, dtype and device, and a corner of the values, if they are there."""
        from tilegrad import html  # for notebooks alone

        notes = f"{type(self).__name__} {self._data.shape}, {self._data.dtype}, {self.device}"
        notes += ", requires grad" * self._requires_grad
        if isinstance(self._data, Planned) or (capture_hooks.capturing and capture_hooks.current() is not None):
            return html.text(f"{notes}; its values are not there while a step is captured")
        if not self._data.size:
            return html.text(notes)
        part, label = html.corner(self._data)
        shown = html.numbers(on_host(part), self._data.shape[-2:])
        return html.text(notes) + (html.text(label) if label else "") + shown

    def __copy__(self) -> Tensor:
        if self._node is not None:
            raise RuntimeError("copy: the tensor is the result of an op; expected a leaf, or detach() first")
        copy = self._like(self._data)
        copy._storage = self._storage
        if hasattr(self, "__dict__"):  # of a subclass with attributes
            vars(copy).update(vars(self))
        return copy

    def __deepcopy__(self, memo: dict) -> Tensor:
        if self._node is not None:
            raise RuntimeError("deepcopy: the tensor is the result of an op; expected a leaf, or detach() first")
        copy = memo[id(self)] = self._like(copies.deep(self._data, memo))
        copy._storage = memo.setdefault(id(self._storage), copy._storage)
        grad = self.grad  # not `_grad`: what a captured step left becomes a tensor by being read
        if grad is not None:
            copy._grad = deepcopy(grad if grad._node is None else grad.detach(), memo)
        if hasattr(self, "__dict__"):
            vars(copy).update(deepcopy(vars(self), memo))
        return copy

    def _like(self, data: Any) -> Tensor:
        """A leaf of the same class around other memory."""
        twin = type(self).__new__(type(self))
        Tensor.__init__(twin, data, self._requires_grad)
        return twin

    def __reduce__(self) -> Any:
        if self._node is not None:
            raise RuntimeError("pickle: the tensor is the result of an op; expected a leaf, or detach() first")
        if self.is_cuda:  # as bytes of the host: a machine without a GPU can read them and say what is missing
            parts = type(self), on_host(self._data), self.device, self._requires_grad
            return _from_host, parts, getattr(self, "__dict__", None)
        return type(self), (self._data, self._requires_grad), getattr(self, "__dict__", None)


def _from_host(kind: type[Tensor], host: np.ndarray, device: str, requires_grad: bool) -> Tensor:
    """What a pickled tensor of another device than the CPU is made from."""
    return kind(move(host, as_device(device)), requires_grad)


def require_gradient(x: Tensor, grad: Any) -> None:
    """Raise TypeError or ValueError unless `grad` can be the gradient of x: a tensor of its shape, dtype and device."""
    if type(grad) is Tensor and grad is not x:  # a short way for what fits
        array, own = grad._data, x._data
        if type(array) is type(own) and array.dtype == own.dtype and array.shape == own.shape:
            return
    if not isinstance(grad, Tensor):
        raise TypeError(f"grad: got a {type(grad).__name__}; expected a Tensor or None")
    if grad is x:
        raise ValueError("grad: got the tensor itself; expected another one")
    if grad.device != x.device:
        raise TypeError(f"grad: the gradient is on {grad.device} but the tensor on {x.device}; expected one device")
    if grad.dtype != x.dtype:
        raise TypeError(f"grad: the gradient is {grad.dtype} but the tensor {x.dtype}; expected one dtype")
    if grad.shape != x.shape:
        raise ValueError(f"grad: the gradient is {grad.shape} but the tensor {x.shape}; expected one shape")


def adopted(op: str, array: Any) -> Any:
    """The array as tensors hold it: no subclass, in native byte order; itself if it is like that already.

    Raises TypeError for a dtype that tensors cannot have.
    """
    if array.dtype.newbyteorder("=") not in DTYPES:
        raise TypeError(f"{op}: the array is {array.dtype}; expected one of {', '.join(map(str, DTYPES))}")
    if isinstance(array, np.ndarray) and type(array) not in (np.ndarray, Planned):
        array = array.view(np.ndarray)  # a memory map or a matrix would bring its own arithmetic
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def materialized(leaf: Tensor, grad: Tensor | Left | None) -> Tensor | None:
    """The leaf's gradient, of which there is a tensor from now on: where a launch left an array, it has a copy."""
    if type(grad) is Left:
        grad = leaf._grad = wrap(grad.array.copy(order="K"))
    return grad


def wrap(data: Any) -> Tensor:
    """A tensor around an array or a NumPy scalar, unchecked. Ops make their results with it."""
    tensor = Tensor.__new__(Tensor)
    tensor._data = data if not isinstance(data, np.generic) else np.asarray(data)
    tensor._grad = None
    tensor._node = None
    tensor._storage = Storage()
    tensor._hooks = None
    tensor._requires_grad = False
    if capture_hooks.capturing:
        capture_hooks.born(tensor)
    return tensor
