"""What the engine tells a step while it is captured.

Ops, tensors and optimizers say here what they do, and ask here for what they must not take from the host. The account
of the step that this thread captures (engine/captured/account.py) listens. Nearly always there is none, and everything
here does what its first line says.

`capturing` is not empty while any thread captures: what is asked of every op looks there first.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.modes import Block

if TYPE_CHECKING:
    from tilegrad.captured.account import Account
    from tilegrad.tensor import Tensor


READS = "reads values, which are not there yet while a step is captured"


class CaptureError(RuntimeError):
    """Something in a captured function that a graph cannot have: mostly that the host waits for the GPU."""


class NotYet(CaptureError):
    """This call has to be a plain one: it makes what later ones change."""


@final
class Left:
    """A leaf's gradient in a graph's memory. No tensor of it is anywhere: reading `leaf.grad` makes one, a copy."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array


class _Local(threading.local):
    account: Account | None = None
    constants: list[Any] | None = None  # that were made, in order, while that is asked for
    may_check: bool = True


_local = _Local()
moves = 0  # how often a tensor that there was got other memory, another `requires_grad`, or its first hook
capturing: list[Block] = []  # in which functions are being captured, or watched before, in any thread


def current() -> Account | None:
    """The account of the function that this thread captures."""
    return _local.account


def on_device(array: Any) -> Account | None:
    """The account of the function that this thread captures, if the array is of the device that it captures on."""
    account = _local.account
    if account is None:
        return None
    device = "cpu" if isinstance(array, np.ndarray) else "cuda" if gpu.is_array(array) else None
    return account if account.device == device else None


def captured_in(account: Account | None) -> Block:
    """A block in which `current()` is that account. None: what the block makes is no part of the function either."""
    among = None if account is None else capturing
    return Block((_local, "account", account), (_local, "constants", None), among=among)


# --- tensors


def born(tensor: Tensor) -> None:
    """A tensor has come to be; said while anything is `capturing`."""
    if _local.account is not None:
        _local.account.born(tensor)


def moved() -> None:
    """A tensor that there was has got other memory, another `requires_grad`, or its first hook."""
    global moves
    moves += 1


def reads(*tensors: Tensor | None) -> None:
    """The function that this thread captures, if it does, reads these (None is passed over)."""
    account = _local.account
    if account is not None:
        account.reads(*[tensor for tensor in tensors if tensor is not None])


def runs(*functions: Callable[..., Any] | None) -> None:
    """The function that this thread captures, if it does, calls these of the program's (None is passed over)."""
    account = _local.account
    if account is not None:
        account.runs(*[function for function in functions if function is not None])


def gradient(leaf: Tensor) -> Any:
    """The gradient that the leaf has, a tensor or a `Left`; asked while anything is `capturing`."""
    account = _local.account
    return leaf._grad if account is None else account.gradients.read(leaf)


def set_gradient(leaf: Tensor, grad: Tensor | None) -> None:
    """leaf.grad = grad; said while anything is `capturing`."""
    if _local.account is None:
        leaf._grad = grad
    else:
        _local.account.set_gradient(leaf, grad)


def operand(tensor: Tensor) -> Tensor:
    """The tensor, or what stands for it where NumPy computes with it; said while anything is `capturing`."""
    account = on_device(tensor.data)
    return tensor if account is None else account.operand(tensor)


def originals(*tensors: Tensor) -> Sequence[Tensor]:
    """The tensors that these stand for: those are what autograd knows."""
    account = _local.account
    return tensors if account is None else [account.original(tensor) for tensor in tensors]


def values(tensor: Tensor) -> Any:
    """The tensor's array, to look at its values. Raises CaptureError while this thread captures on the CPU, but for a
    constant.
    """
    account = on_device(tensor.data)
    if account is None:
        return tensor.data
    array = account.graph.values(tensor.data)
    if array is None:
        raise CaptureError(READS)
    return array


def check(test: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:
    """test(the tensor's array, *arguments), which raises for values that an op does not take.

    While this thread captures on the CPU, each launch does so at this place.
    """
    account = _local.account
    if account is None:
        test(tensor._data, *arguments)
    elif not _local.may_check:
        raise CaptureError("checks values on a side of a branch, which may not be taken")
    else:
        account.reads(tensor)
        account.graph.check(test, tensor._data, *arguments)


def without_checks() -> Block:
    """A block in which a captured function must not check values: CaptureError."""
    return Block((_local, "may_check", False))


def assign(tensor: Tensor, index: Any, value: Any, part: Any = None) -> None:
    """tensor.data[index] = value, an array or a number; part of the step that this thread captures, if it does.

    part   a view of tensor.data to index instead
    """
    array = tensor._data if part is None else part
    account = on_device(array)
    if account is None:
        array[index] = value
    else:
        account.assign(tensor, index, value, array)


# --- arrays of the host


def constant(tensor: Tensor, *, has_values: bool = True) -> Tensor:
    """The tensor, which was made from numbers of the host's; said while anything is `capturing`.

    It is a part of the program that this thread captures, if it does, with the values that it has now.
    """
    if type(tensor.data) is np.ndarray:
        if has_values:
            _note(tensor.data)
        if _local.account is not None:
            tensor._data = _local.account.graph.constant(tensor._data, has_values)
    return tensor


def existing(array: Any) -> Any:
    """An array of the host's as ops use it; said while anything is `capturing`.

    The program that this thread captures, if it does, reads it at each launch.
    """
    if not isinstance(array, np.ndarray):
        return array
    if type(array) is np.ndarray:
        _note(array)
    return array if _local.account is None else _local.account.existing(array)


def planned(array: Any) -> Any:
    """The array; while this thread captures on the CPU one of the program's, so that all that is done with it is a part
    of that.
    """
    account = on_device(array)
    return array if account is None else account.graph.planned(array)


def watched() -> Block:
    """A block in which the constants are noted, in order, that this thread's program makes on the CPU."""
    constants: list[Any] = []
    return Block((_local, "constants", constants), among=capturing, gives=constants)


def is_watched() -> bool:
    """Whether this thread's constants are noted."""
    return _local.constants is not None


def _note(array: np.ndarray) -> None:
    if _local.constants is not None:
        memory = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        _local.constants.append((array.shape, array.dtype, hashlib.blake2b(memory.data).digest()))


class _NumPy:
    """NumPy, for ops that make arrays of their own while this thread's step is watched or captured: constants."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if name not in _MAKING:
            return found

        def make(*args: Any, **kwargs: Any) -> Any:
            if name == "asarray" and isinstance(args[0], np.ndarray) and type(args[0]) is not np.ndarray:
                return args[0]  # of the program already
            return _own(found(*args, **kwargs), name in _OF_NUMBERS)

        return make


_OF_NUMBERS = frozenset(("asarray", "full"))
_MAKING = _OF_NUMBERS.union("arange eye ones ones_like tri zeros zeros_like".split())  # the others have shapes alone
_numpy: Any = _NumPy()


def is_numpy(xp: Any) -> bool:
    """Whether xp is NumPy, whatever ops use it for."""
    return xp is np or xp is _numpy


def numpy() -> Any:
    """NumPy, as ops of this thread use it; asked while anything is `capturing`."""
    return np if _local.account is None and _local.constants is None else _numpy


def _own(array: np.ndarray, is_noted: bool) -> Any:
    if type(array) is not np.ndarray:  # as above
        return array
    if is_noted:
        _note(array)
    return array if _local.account is None else _local.account.graph.constant(array)


# --- what no graph can have


def refuse(what: str) -> None:
    """Raise CaptureError if this thread is capturing: `what` cannot be part of a graph."""
    if _local.account is not None:
        raise CaptureError(what)


def refuse_on_cpu(what: str) -> None:
    """Raise CaptureError if this thread is capturing what the CPU does: `what` cannot be part of a program."""
    if _local.account is not None and _local.account.device == "cpu":
        raise CaptureError(what)


def refuse_of_host(tensor: Tensor) -> None:
    """Raise CaptureError if this thread is capturing what a GPU does: a launch would not write to this tensor again."""
    account = _local.account
    if account is not None and account.device == "cuda" and not (tensor.is_cuda or account.is_young(tensor)):
        raise CaptureError("writes to a tensor of the host, once and for all; expected it on the GPU")
