"""The captured step: a function of tensors captured as one CUDA graph, and launched again instead of called.

The step of a small net is dozens of launches, and a launch costs the host more time than its kernel takes on the GPU.
As a graph the step is one launch (CUDA C++ Programming Guide, "CUDA Graphs"). On the CPU a program of kernels' calls
does the same (kernels/capture/program.py).
"""

from __future__ import annotations

import functools
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import numpy as np

from tilegrad import capture_hooks, kernels
from tilegrad.autograd import anomaly
from tilegrad.autograd.grad_mode import is_grad_enabled, set_grad_enabled
from tilegrad.capture_hooks import CaptureError, NotYet, captured_in, watched
from tilegrad.captured.account import Account
from tilegrad.captured.errors import is_of_capture, told
from tilegrad.captured.nested import mapped, stacked, structure_of, tensors_in
from tilegrad.kernels import dispatch
from tilegrad.kernels.capture import graph
from tilegrad.kernels.capture.planned import PlannedError
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.memory import amount
from tilegrad.kernels.dispatch import chosen_for_cpu
from tilegrad.kernels.system import forks
from tilegrad.tensor import Tensor, wrap

_TRIES = 2  # with constants that differ from those of the call before
MOST = 16  # graphs of one function, and signatures: the one unused for longest makes room


# Parameters and result of the function that is captured.
P = ParamSpec("P")
Q = ParamSpec("Q")  # without `self`
R = TypeVar("R")


@overload
def capture(fn: Callable[P, R], *, warmup: int = 2, steps: int = 1) -> CapturedStep[P, R]: ...
@overload
def capture(fn: None = None, *, warmup: int = 2, steps: int = 1) -> Callable[[Callable[P, R]], CapturedStep[P, R]]: ...
def capture(
    fn: Callable[..., Any] | None = None, *, warmup: int = 2, steps: int = 1
) -> CapturedStep | Callable[[Callable[..., Any]], CapturedStep]:
    """fn, captured and launched as a whole: on a GPU as one CUDA graph, on the CPU as a program. Also a decorator.

        @tilegrad.capture
        def step(images, labels):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        for images, labels in batches:
            losses.append(step(images, labels))

    fn      any function of tensors (also in tuples, lists and dicts) and of other hashable values. Each of these values
            is captured apart. Nothing in fn may wait for the GPU, or copy from the CPU to it
    warmup  calls of each new shape that run fn plainly before it is captured: they compile kernels, and optimizers make
            their state. They are steps like any other
    steps   calls of fn in one graph. Every tensor argument, and every result, has them along a new first dimension

    Arguments. On a GPU they are copied to memory of the graph. On the CPU they are read and written where they lie.

    Results. They are copies, and the caller's own. They have no graph of gradients, and nothing waits until they are
    read. Gradients that fn leaves in `.grad` are the caller's as well.

    What is read at each launch: learning rates and schedules, also a schedule that is stepped in fn; the step counts of
    optimizers; the place in the random stream; gradients that fn finds, so an update may be captured alone.

    What is captured anew, beside what there is: a new shape, a module between train() and eval(), other parameters or
    options, and whatever fn finds changed of what it reads around it. That is what modules have (hyperparameters,
    members, hooks), hooks of tensors and whether they require grad, and what the names in fn's code stand for: numbers,
    strings, tensors, functions, and objects with their attributes (engine/captured/closure.py says what is found). 16
    graphs are kept. A tensor that keeps its memory may be written to in place.

    What cannot be captured. Python code in fn runs when it is captured, and not again. So fn must not change what it
    reads (such as a count of its calls), take the next item of an iterator or the next number of Python's or NumPy's
    random streams, or set a seed. If fn stores a tensor in a variable, an attribute or an item from around it, without
    reading what was there, each launch stores a copy.

    On the CPU fn runs plainly if it does any of these, reads a value (`item()`, `if`, a mask that takes elements), or
    calls a function of NumPy's that a program does not know. A RuntimeWarning says so once, and `summary` for each
    signature, with the op and the line. The attempt costs one more run of fn's Python code. Part of the step are
    in-place writes, random numbers, checks of values (indices, labels), functions of NumPy's whose results have a shape
    that no value decides, and tensors that fn makes from numbers, if these are the same as at the call before. NumPy
    that fn calls on the `data` of tensors from around it is Python code like any other. If it writes to a parameter
    that fn has read, that is noticed and undone; other writes are not.

    As a method of a class each instance has a captured step of its own, which goes when the instance does.

    Raises TypeError for an argument whose dtype or device is not that of earlier calls, and for a function without any
    tensor among its arguments and results (after its first call); ValueError for an argument that requires grad;
    CaptureError naming the op and the line for what a graph cannot have; and whatever fn raises. If fn raises while
    it is captured, a program on a GPU is where it was before the call; on the CPU it is where fn has left it. A launch
    that raises on the CPU leaves what fn would leave. On a GPU the error comes when the program next waits, as fn's own
    does.
    """
    if not isinstance(warmup, int) or isinstance(warmup, bool) or warmup < 1:
        raise ValueError(f"capture: warmup is {warmup!r}; expected an int >= 1, for what a first step makes is no step")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"capture: steps is {steps!r}; expected an int >= 1")
    if fn is None:
        return lambda function: CapturedStep(function, warmup, steps)
    return CapturedStep(fn, warmup, steps)


class _Shape:
    """What was captured of the calls with one signature.

    eager      how many calls are still to be plain
    begun      how many since the last capture were, because an optimizer began to remember a parameter in them
    refused    why all are: on the CPU, what a program cannot have
    constants  on the CPU, what the call before, a plain one, made of numbers of the host's
    unlike     how often that was not what an attempt to capture made
    """

    def __init__(self, eager: int) -> None:
        self.accounts: list[Account] = []
        self.eager = eager
        self.begun = 0
        self.refused: str | None = None
        self.constants: list[Any] | None = None
        self.unlike = 0


class _OfInstance:
    """The step of one instance. Copied or pickled with it, it is nobody's: the copy captures its own."""

    def __init__(self, of: CapturedStep | None = None, instance: Any = None) -> None:
        self.of = of
        self.step = of and CapturedStep(types.MethodType(of._fn, instance), of._warmup, of._steps)

    def __reduce__(self) -> Any:
        return _OfInstance, ()


class CapturedStep(Generic[P, R]):
    """A function that `capture` was given; called like it."""

    _lock: threading.RLock

    def __init__(self, fn: Callable[..., Any], warmup: int, steps: int) -> None:
        if not callable(fn):
            raise TypeError(f"capture: got a {type(fn).__name__}; expected a function")
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._name = getattr(fn, "__name__", type(fn).__name__)
        self._warmup = warmup
        self._steps = steps
        self._shapes: dict[Any, _Shape] = {}  # by signature, the least recently used first
        self._recent: tuple[Any, _Shape] | None = None  # the last of these, if all arguments are tensors
        self._kinds: dict[Any, list[tuple[np.dtype, str]]] = {}  # by structure: dtype and device of each tensor
        self._results_on: str | None = None
        self._warned: set[str] = set()
        forks.give_lock(self)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> CapturedStep[P, R]: ...
    @overload
    def __get__(
        self: CapturedStep[Concatenate[Any, Q], R], instance: Any, owner: type | None = None
    ) -> CapturedStep[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: a captured step for each instance, in its __dict__, so that it goes when the instance does.

        An instance without a __dict__ is an argument like any other.
        """
        if instance is None:
            return self
        if not hasattr(instance, "__dict__"):
            return functools.partial(self, instance)
        key = f"captured {getattr(self._fn, '__qualname__', self._name)}"
        held = instance.__dict__.get(key)
        if held is None or held.of is not self or held.step._fn.__self__ is not instance:  # of what this is a copy of
            held = instance.__dict__[key] = _OfInstance(self, instance)
        return held.step

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if capture_hooks.current() is not None or capture_hooks.is_watched():  # within a larger step: part of it
            return self._plain(args, kwargs)
        with self._lock:
            tensors: list[Any] = []  # of tensors, which a checker does not take args for
            recent = self._recent
            if recent is not None and not kwargs and _are_like(args, recent[0]):
                tensors += args
                signature, shape = recent
                structure: Any = signature[0]
            else:
                if not kwargs and all([type(x) is Tensor for x in args]):
                    tensors += args
                    structure = len(args)
                else:
                    structure = structure_of((args, kwargs), tensors)
                signature = (structure, is_grad_enabled(), *map(_spec, tensors))
                shape, recent = self._shapes.get(signature), None
            if shape is None:
                self._check(structure, tensors)
                if self._device(tensors) is None:
                    results = self._plain(args, kwargs)
                    if self._results_on is None:
                        raise TypeError(
                            f"{self._name}: there is no tensor among its arguments or results, which would say on what "
                            "device it runs; expected one, such as the loss as result"
                        )
                    return results
                shape = self._shapes[signature] = _Shape(self._warmup)
                self._make_room()
            is_warm = False
            for account in shape.accounts:
                if account.is_valid():
                    is_warm = True
                    if account.finds_gradients():
                        break
            else:
                if shape.refused is not None:
                    return self._plain(args, kwargs)
                if shape.eager > 0 and not is_warm:
                    shape.eager -= 1
                    return self._watched(shape, args, kwargs)
                try:
                    account = self._captured(shape, args, kwargs, tensors)
                except Exception as error:
                    account = refused = None
                    if isinstance(error, NotYet) and shape.begun < MOST:
                        shape.begun += 1
                    elif self._device(tensors) == "cuda":
                        raise
                    elif (
                        isinstance(error, _Unlike) and shape.unlike < _TRIES
                    ):  # there may have been a first step between
                        shape.unlike += 1
                    else:
                        is_told = isinstance(error, (CaptureError, _Unlike))
                        refused = str(error) if is_told else f"{self._name}: {told(error)}"
                if account is None:  # the exception is gone, and with it all that its frames held
                    if refused is None:
                        return self._watched(shape, args, kwargs)
                    results = self._plain(args, kwargs)  # may raise as well, which is no reason to give up
                    shape.refused = refused
                    self._warn("plain", f"{refused}; it runs plainly, as summary() says too")
                    return results
                shape.accounts.append(account)
                shape.eager, shape.begun = self._warmup, 0
                shape.constants, shape.unlike = None, 0
                self._make_room()
                return self._launched(account, args, kwargs, tensors)
            if recent is None:
                self._shapes[signature] = self._shapes.pop(signature)  # now the most recently used
                self._recent = (signature, shape) if type(structure) is int else None
            return self._launched(account, args, kwargs, tensors)

    def summary(self) -> str:
        """What was captured, as a text: for each graph its arguments, nodes, bytes, and kernels by name."""
        lines = []
        for (_, _, *specs), shape in self._shapes.items():
            arguments = ", ".join(f"{dtype}{list(dims)}" for dims, dtype, *_ in specs) or "no tensors"
            if shape.refused is not None:
                lines.append(f"{self._name}({arguments}) runs plainly: {shape.refused}")
            for account in shape.accounts:
                nodes = account.graph.nodes()
                kernels = sum(n for name, n in nodes.items() if name.endswith("_kernel"))
                memory = account.graph.nbytes
                simulated = account.device == "cuda" and gpu.is_simulated()
                known = "of arguments (simulated)" if simulated else "of its own"
                lines.append(
                    f"{self._name}({arguments}): {nodes.total()} nodes, {kernels} kernels of tilegrad's, "
                    f"{amount(memory)} {known}"
                )
                lines += [f"    {n:>4}  {name}" for name, n in nodes.most_common()]
        return "\n".join(lines) if lines else f"{self._name}: no graph was captured"

    def _repr_html_(self) -> str:
        """For notebooks: `summary` as tables."""
        from tilegrad import html  # for notebooks alone

        parts = [html.text(f"captured step {self._name}: {sum(len(s.accounts) for s in self._shapes.values())} graphs")]
        for (_, _, *specs), shape in self._shapes.items():
            arguments = ", ".join(f"{dtype}{list(dims)}" for dims, dtype, *_ in specs) or "no tensors"
            if shape.refused is not None:
                parts.append(html.text(f"({arguments}) runs plainly: {shape.refused}"))
            for account in shape.accounts:
                nodes = account.graph.nodes()
                lines = [(name, str(n)) for name, n in nodes.most_common()]
                parts.append(html.text(f"({arguments}): {nodes.total()} nodes") + html.table(("node", "times"), lines))
        return "".join(parts)

    # --- inside

    def _plain(self, args: Any, kwargs: Any) -> Any:
        """fn, called."""
        if self._steps == 1:
            results = mapped(self._fn(*args, **kwargs), Tensor.detach)
        else:
            calls = [mapped((args, kwargs), lambda t, k=k: t[k]) for k in range(self._steps)]
            results = stacked([mapped(self._fn(*a, **k), Tensor.detach) for a, k in calls])
        self._results_on = next((t.device for t in tensors_in(results)), None)
        return results

    def _watched(self, shape: _Shape, args: Any, kwargs: Any) -> Any:
        """fn, called; what it makes of numbers is noted."""
        with watched() as shape.constants:
            return self._plain(args, kwargs)

    def _captured(self, shape: _Shape, args: Any, kwargs: Any, tensors: list[Tensor]) -> Account:
        """fn as a graph, not launched yet."""
        on_cpu = self._device(tensors) == "cpu"
        if on_cpu and not kernels.can_compile():
            raise CaptureError(f"{self._name}: a program is played by compiled code, which needs Numba")
        arrays = [t.data for t in tensors]
        account, modes, backend = None, _modes(on_cpu), dispatch.of() if on_cpu else None
        try:
            captured = graph.new("cpu" if on_cpu else "cuda")
            inputs = captured.inputs(arrays)
            with captured.capturing():
                account = Account(captured)
                with captured_in(account):
                    account.holds(functools.partial(_serves, on_cpu, modes, backend))
                    account.enter(self._fn, args, kwargs)
                    with watched() as constants:
                        account.outputs = self._of_inputs(inputs, args, kwargs)
                    if _modes(on_cpu) != modes:
                        raise CaptureError("leaves another grad mode, backend, or number of threads")
                    if on_cpu:
                        _require_same_constants(shape.constants, constants)
                    account.settle(tensors_in(account.outputs))
            if not captured.take(arrays):
                raise CaptureError("has a copy of an argument that shares memory with what is written")
        except BaseException as error:
            if account is not None:
                account.roll_back()
                account.guard.restore()
            _set_modes(on_cpu, modes)
            if isinstance(error, _Unlike):
                raise _Unlike(f"{self._name}: it {error}") from None
            if isinstance(error, (CaptureError, PlannedError)) or is_of_capture(error):
                kind = NotYet if isinstance(error, NotYet) else CaptureError
                raise kind(f"{self._name}: {told(error)}") from error
            raise
        account.close()
        return account

    def _of_inputs(self, inputs: list[Any], args: Any, kwargs: Any) -> Any:
        """fn, called with these arrays for the tensors among its arguments. Nothing here keeps them."""
        stand_ins = iter([wrap(x) for x in inputs])
        return self._plain(*mapped((args, kwargs), lambda _: next(stand_ins)))

    def _launched(self, account: Account, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        captured = account.graph
        if not captured.take([tensor.data for tensor in tensors]):
            return self._plain(args, kwargs)
        for i in captured.written_inputs:
            tensors[i]._storage.version += 1
        account.launch()
        return mapped(account.outputs, _copied)

    def _device(self, tensors: list[Tensor]) -> str | None:
        """Where it runs, as far as is known."""
        return tensors[0].device if tensors else self._results_on

    def _check(self, structure: Any, tensors: list[Tensor]) -> None:
        """Raise for arguments that no graph, or none of this function's, can take."""
        for i, t in enumerate(tensors):
            if t.requires_grad:
                raise ValueError(f"{self._name}: tensor {i} of the arguments requires grad; expected detach()")
            if t.device != tensors[0].device:
                found = f"tensor {i} of the arguments is on {t.device}, tensor 0 on {tensors[0].device}"
                raise TypeError(f"{self._name}: {found}; expected one device")
            if self._steps > 1 and (t.ndim == 0 or t.shape[0] != self._steps):
                found = f"tensor {i} of the arguments is {t.shape}"
                raise ValueError(f"{self._name}: {found}; expected ({self._steps}, ...), one entry a step")
        kinds = [(t.dtype, t.device) for t in tensors]
        before = self._kinds.setdefault(structure, kinds)
        while len(self._kinds) > 2 * MOST:
            del self._kinds[next(iter(self._kinds))]
        for i, (kind, expected) in enumerate(zip(kinds, before)):
            if kind != expected:
                found, wanted = (f"{dtype} on {device}" for dtype, device in (kind, expected))
                raise TypeError(f"{self._name}: tensor {i} of the arguments is {found}; expected {wanted} as before")

    def _make_room(self) -> None:
        """Let go of what was unused for longest, beyond MOST graphs or signatures."""
        while sum([max(1, len(shape.accounts)) for shape in self._shapes.values()]) > MOST:
            oldest = next(iter(self._shapes))
            accounts = self._shapes[oldest].accounts
            if len(accounts) > 1:
                accounts.pop(0)
            else:
                del self._shapes[oldest]
                self._recent = None
                self._kinds.pop(oldest[0], None)
            self._warn(
                "room",
                f"{self._name}: more than {MOST} graphs, and the oldest is forgotten: each shape, and each value of an "
                "argument that is no tensor or of what fn reads around it, has its own. A number that changes at every "
                "call should be a tensor",
                4,
            )

    def _warn(self, kind: str, text: str, stacklevel: int = 3) -> None:
        """Warn the caller, once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, RuntimeWarning, stacklevel=stacklevel)


def _spec(tensor: Tensor) -> tuple[Any, ...]:
    """What a graph of a function with this argument is made for."""
    array = tensor._data
    layout = (array.strides, array.flags.behaved) if type(array) is np.ndarray else None
    return array.shape, array.dtype, type(array), tensor._requires_grad, layout


def _are_like(args: tuple[Any, ...], signature: Any) -> bool:
    """Whether these are tensors with the specs of a signature; False also where only hashing it would tell."""
    if len(args) != signature[0] or is_grad_enabled() is not signature[1]:
        return False
    for i, tensor in enumerate(args, 2):
        if type(tensor) is not Tensor:
            return False
        array = tensor._data
        dims, dtype, kind, wanting, layout = signature[i]
        if type(array) is not kind or array.dtype is not dtype or tensor._requires_grad is not wanting:
            return False
        if array.shape != dims or layout and (array.strides != layout[0] or array.flags.behaved is not layout[1]):
            return False
    return True


def _copied(x: Tensor) -> Tensor:
    return wrap(x.data.copy())


def _modes(on_cpu: bool) -> tuple[bool, str, int]:
    """What a program may set for all that follows."""
    return is_grad_enabled(), kernels.name("cpu" if on_cpu else "cuda"), threads.num_threads()


def _serves(on_cpu: bool, modes: tuple[bool, str, int], backend: Any) -> bool:
    """Whether kernels come from the backend, and on the CPU in the pieces, that they did."""
    if on_cpu:
        return (chosen_for_cpu() or dispatch.of()) is backend and threads.num_threads() == modes[2]
    return kernels.name("cuda") == modes[1]


def _set_modes(on_cpu: bool, modes: tuple[bool, str, int]) -> None:
    is_recording, backend, number_of_threads = modes
    now = _modes(on_cpu)
    if is_recording != now[0]:
        set_grad_enabled(is_recording)
    if backend != now[1]:
        kernels.use(backend)
    if number_of_threads != now[2]:
        threads.set_num_threads(number_of_threads)


def _looked_at(call: Callable[..., Any], step: CapturedStep, *args: Any, **kwargs: Any) -> Any:
    """A call within detect_anomaly: plain, for a graph looks at no values."""
    step._warn(
        "anomaly", f"{step._name}: within detect_anomaly a captured step runs plainly, and its gradients are seen", 4
    )
    return step._plain(args, kwargs)


anomaly.places.append((CapturedStep, "__call__", _looked_at))


class _Unlike(Exception):
    """What fn makes of numbers is not what the call before made, as far as is known."""


def _require_same_constants(before: list[Any] | None, now: list[Any]) -> None:
    """Raise unless what is made of numbers now was made by the call before too, in this order.

    That may have made more: it is where optimizers begin to remember.
    """
    rest = iter(before or ())
    if not all(any(constant == each for each in rest) for constant in now):
        raise _Unlike("makes a tensor of other numbers at each call")
