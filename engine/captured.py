"""The captured step: a function of tensors recorded as one CUDA graph, and launched again instead of called.

A small net's step is dozens of launches, each of which costs the host more time than the work costs the GPU. As a
graph it is one launch (CUDA C++ Programming Guide, "CUDA Graphs"). On the CPU it is the same with the kernels of the
CPU and a program of their calls (kernels/program.py).
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

import engine
import kernels
from engine import device as devices
from engine import recording
from engine.autograd import is_grad_enabled
from engine.recording import CaptureError, Recording, recorded_in
from engine.tensor import Tensor, wrap
from kernels import gpu, graph, threads
from kernels.memory import amount
from kernels.planned import PlannedError

MOST = 16  # graphs of one function, and signatures: the one unused for longest makes room


def capture(
    fn: Callable[..., Any] | None = None, *, warmup: int = 2, steps: int = 1
) -> CapturedStep | Callable[[Callable[..., Any]], CapturedStep]:
    """fn, recorded and launched as a whole: on a GPU as one CUDA graph, on the CPU as a program. Also a decorator.

        @engine.capture
        def step(images, labels):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        for images, labels in batches:
            losses.append(step(images, labels))

    fn      any function of tensors (also in tuples, lists and dicts), and of other hashable values, each of which is
            captured apart. Nothing in it may wait for the GPU or bring anything to it from the CPU
    warmup  calls of each new shape that run fn plainly before one is captured: kernels are compiled, optimizers begin
            to remember. They are steps like any other
    steps   calls of fn in one graph: every tensor argument has them along a new first dimension, every result too

    Arguments are copied to memory of the graph, results from it: they are the caller's, without a graph of gradients,
    and nothing waits until they are read. What changes on the host from step to step is taken along: the learning rate
    and schedules, also one that is stepped in fn, the counts of optimizers, the place in the random stream of dropout.
    A shape that is new, a module between train() and eval(), other parameters or options are captured anew, beside
    what there is; 16 graphs are kept. Python code in fn runs when it is captured, and not again. Tensors of the host
    program that fn reads must keep their memory: write to them in place.

    On the CPU fn runs plainly wherever it does what a program cannot have: reads a value, draws random numbers, writes
    in place, or uses an op that is computed by NumPy alone. `summary` says which; it costs nothing but the attempt, in
    which fn's Python code runs once more. NumPy that fn itself calls on a tensor's `data` is such code too: that it
    writes to a parameter which fn has read by then is noticed, and undone, but not everything is.

    Raises TypeError for an argument whose dtype or device is not that of earlier calls, and for a function without any
    tensor among its arguments and results (after its first call); ValueError for an argument that requires grad;
    CaptureError naming the op and the line for what a graph cannot have; and whatever fn raises. After an exception
    while fn is captured the program is where it was before the call.
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

    eager    how many calls are still to be plain
    refused  why all are: on the CPU, what a program cannot have
    """

    def __init__(self, eager: int) -> None:
        self.recordings: list[Recording] = []
        self.eager = eager
        self.refused: str | None = None


class CapturedStep:
    """A function that `capture` was given; called like it."""

    def __init__(self, fn: Callable[..., Any], warmup: int, steps: int) -> None:
        if not callable(fn):
            raise TypeError(f"capture: got a {type(fn).__name__}; expected a function")
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._name = getattr(fn, "__name__", type(fn).__name__)
        self._warmup = warmup
        self._steps = steps
        self._shapes: dict[Any, _Shape] = {}  # by signature, the least recently used first
        self._kinds: dict[Any, list[tuple[np.dtype, str]]] = {}  # by structure: dtype and device of each tensor
        self._results_on: str | None = None
        self._warned = False
        self._lock = threading.RLock()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: one function for all instances, each of which is captured apart."""
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recording.current() is not None:  # within a larger step: part of it
            return self._plain(args, kwargs)
        with self._lock:
            tensors: list[Tensor] = []
            if not kwargs and all([type(x) is Tensor for x in args]):
                tensors += args
                structure: Any = len(args)  # costs a call less than it would otherwise
            else:
                structure = _structure((args, kwargs), tensors)
            specs = [(t.data.shape, t.data.dtype, type(t.data), t._requires_grad) for t in tensors]
            signature = (structure, is_grad_enabled(), *specs)
            shape = self._shapes.get(signature)
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
            for recorded in shape.recordings:
                if recorded.is_valid():
                    is_warm = True
                    if recorded.finds_gradients():
                        break
            else:
                if shape.refused is not None:
                    return self._plain(args, kwargs)
                if shape.eager > 0 and not is_warm:
                    shape.eager -= 1
                    return self._plain(args, kwargs)
                try:
                    recorded = self._captured(args, kwargs, tensors)
                except Exception as error:
                    if self._device(tensors) == "cuda":
                        raise
                    shape.refused = str(error)
                    return self._plain(args, kwargs)
                shape.recordings.append(recorded)
                shape.eager = self._warmup
                self._make_room()
                return self._launched(recorded, tensors, again=False)
            if len(self._shapes) > 1:
                self._shapes[signature] = self._shapes.pop(signature)  # now the most recently used
            return self._launched(recorded, tensors)

    def summary(self) -> str:
        """What was captured, as a text: for each graph its arguments, nodes, bytes, and kernels by name."""
        lines = []
        for (_, _, *specs), shape in self._shapes.items():
            arguments = ", ".join(f"{dtype}{list(dims)}" for dims, dtype, *_ in specs) or "no tensors"
            if shape.refused is not None:
                lines.append(f"{self._name}({arguments}) runs plainly: {shape.refused}")
            for recorded in shape.recordings:
                nodes = recorded.graph.nodes()
                kernels = sum(n for name, n in nodes.items() if name.endswith("_kernel"))
                memory = sum(x.nbytes for x in recorded.inputs) + recorded.graph.nbytes
                simulated = recorded.device == "cuda" and gpu.is_simulated()
                known = "of arguments (simulated)" if simulated else "of its own"
                lines.append(
                    f"{self._name}({arguments}): {nodes.total()} nodes, {kernels} kernels of tilegrad's, "
                    f"{amount(memory)} {known}"
                )
                lines += [f"    {n:>4}  {name}" for name, n in nodes.most_common()]
        return "\n".join(lines) if lines else f"{self._name}: no graph was captured"

    # --- inside

    def _plain(self, args: Any, kwargs: Any) -> Any:
        """fn, called."""
        if self._steps == 1:
            results = _map(self._fn(*args, **kwargs), Tensor.detach)
        else:
            calls = [_map((args, kwargs), lambda t, k=k: t[k]) for k in range(self._steps)]
            results = _stacked([_map(self._fn(*a, **k), Tensor.detach) for a, k in calls])
        self._results_on = next((t.device for t in _tensors(results)), None)
        return results

    def _captured(self, args: Any, kwargs: Any, tensors: list[Tensor]) -> Recording:
        """fn as a graph, not launched yet."""
        entered = {key: grad for s in self._shapes.values() for r in s.recordings for key, grad in r.leaves().items()}
        on_cpu = self._device(tensors) == "cpu"
        xp = np if on_cpu else gpu.xp()
        inputs = [xp.empty(t.data.shape, t.data.dtype) for t in tensors]
        recorded, backend, n = None, kernels.of() if on_cpu else None, threads.num_threads()
        try:
            with graph.capture_cpu() if on_cpu else graph.capture() as captured:
                recorded = Recording(captured, entered)
                recorded.inputs = inputs
                with recorded_in(recorded):
                    if on_cpu:
                        for buffer, tensor in zip(inputs, tensors):
                            buffer[...] = tensor.data  # a primitive that is tried now may look at labels
                        inputs = captured.program.inputs(inputs)
                        recorded.holds(lambda: kernels.of() is backend and threads.num_threads() == n)
                    buffers = iter([wrap(x) for x in inputs])
                    args, kwargs = _map((args, kwargs), lambda _: next(buffers))
                    recorded.outputs = self._plain(args, kwargs)
                    if on_cpu:
                        recorded.settle(_tensors(recorded.outputs))
        except BaseException as error:
            if recorded is not None:
                recorded.roll_back()
            if isinstance(error, (CaptureError, PlannedError)) or _is_of_capture(error):
                raise CaptureError(f"{self._name}: {_told(error)}") from error
            raise
        recorded.close()
        return recorded

    def _launched(self, recorded: Recording, tensors: list[Tensor], again: bool = True) -> Any:
        if recorded.device == "cpu":
            recorded.graph.program.take([tensor.data for tensor in tensors])
        else:
            for buffer, tensor in zip(recorded.inputs, tensors):
                buffer[...] = tensor.data
        recorded.launch(again)
        return _map(recorded.outputs, _copied)

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
        while sum([max(1, len(shape.recordings)) for shape in self._shapes.values()]) > MOST:
            oldest = next(iter(self._shapes))
            recordings = self._shapes[oldest].recordings
            if len(recordings) > 1:
                recordings.pop(0)
            else:
                del self._shapes[oldest]
                self._kinds.pop(oldest[0], None)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self._name}: more than {MOST} graphs, and the oldest is forgotten: each shape, and each value "
                    "of an argument that is no tensor, has its own. A number that changes at every call should be a "
                    "tensor",
                    RuntimeWarning,
                    stacklevel=3,
                )


# --- nested arguments and results


def _structure(x: Any, tensors: list[Tensor]) -> Any:
    """x with None for each tensor, hashable; the tensors are appended to the list."""
    if isinstance(x, Tensor):
        tensors.append(x)
        return None
    if type(x) in (tuple, list):
        return (type(x), *[_structure(item, tensors) for item in x])
    if type(x) is dict:
        return (dict, *[(key, _structure(item, tensors)) for key, item in x.items()])
    try:
        hash(x)
    except TypeError:
        raise TypeError(f"capture: an argument is a {type(x).__name__}; expected tensors and hashable values") from None
    return type(x), x


def _map(x: Any, function: Callable[[Tensor], Any]) -> Any:
    """x with function(tensor) in place of each tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if type(x) in (tuple, list):
        return type(x)([_map(item, function) for item in x])
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*[_map(item, function) for item in x])
    if type(x) is dict:
        return {key: _map(item, function) for key, item in x.items()}
    return x


def _tensors(x: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(x, lambda t: found.append(t))
    return found


def _stacked(results: list[Any]) -> Any:
    """The results of several calls as one, whose tensors have the calls along a new first dimension."""
    columns = zip(*map(_tensors, results))
    stacked = iter([engine.stack(list(column)) for column in columns])
    return _map(results[0], lambda _: next(stacked))


def _copied(x: Tensor) -> Tensor:
    return wrap(x.data.copy())


# --- errors


def _is_of_capture(error: BaseException) -> bool:
    """Whether this is CUDA's refusal of what a captured stream cannot do, or the simulated device's."""
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("StreamCapture", "stream is capturing")
    )


def _told(error: BaseException) -> str:
    """The error with the op that raised it and the program's line that called the op."""
    root = engine.__path__[0], gpu.__file__.rpartition("gpu.py")[0]
    libraries = "cupy", "cupy_backends", "numpy"  # whose frames, compiled ones too, may lie below an op
    op, place = "a captured step", "?"
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in libraries:
            pass
        elif not name.startswith(root):
            op, place = "", f"{name}:{line}"
        elif not op:
            op = trace.tb_frame.f_code.co_name.strip("_")
        trace = trace.tb_next
    what = str(error) if isinstance(error, (CaptureError, PlannedError)) else devices.WAITS
    if isinstance(error, PlannedError) and error.op:
        op, place = error.op, error.place
    return f"{op or 'it'} {what} ({place})"
