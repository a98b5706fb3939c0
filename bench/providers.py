"""Who is measured. A provider takes host arrays, makes them its own, and gives calls that compute a case with them.

    triton, numba     this project's kernels on a GPU            reference, cpu    and on the CPU
    torch             eager, on either                           torch-compile     where there is something to fuse
    cupy              composed of CuPy's own operations

Your own is a function (examples/bench_my_kernel.py):

    @bench.provider("mine", op="softmax")
    def softmax(x): ...

It gets the arrays that `python -m tilegrad.bench --list` names, NumPy's or, with device="cuda", CuPy's, and returns the
output. With mode="backward" it gets the incoming gradient, the inputs of the forward, and its outputs (by the
reference); it returns the gradients of the inputs. An op that is not in the list is added first (bench/own.py).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from tilegrad import kernels
from tilegrad.bench import clock
from tilegrad.bench.ops.op import Case, Inputs, Variant
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.contract import DTYPES
from tilegrad.kernels.device import gpu

Call = Callable[[], Any]
SAME_AS_REFERENCE = "the same code as reference"


class Provider:
    """What a provider says and does.

    name    as in --providers
    rival   whether it is another library: the others are compared with the best rival
    """

    name: str
    rival = False

    def missing(self, device: str) -> str | None:
        """Why it cannot be measured on this device, with the remedy; None if it can."""
        raise NotImplementedError

    def cannot(self, case: Case, device: str) -> str | None:
        """Why it cannot compute this case; None if it can."""
        raise NotImplementedError

    def own(self, array: np.ndarray, device: str) -> Any:
        """A copy of a host array as this provider takes it, in the same memory order."""
        if device == "cpu":
            return array.copy(order="K")
        # CuPy keeps only the orders C and F, so the array is copied in memory order
        axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
        return gpu.xp().asarray(np.ascontiguousarray(array.transpose(axes))).transpose(np.argsort(axes).tolist())

    def host(self, array: Any) -> np.ndarray:
        """The array as NumPy's."""
        return array if isinstance(array, np.ndarray) else gpu.xp().asnumpy(array)

    def call(self, case: Case, inputs: Inputs) -> Call:
        """What is timed: computes the case and returns its outputs."""
        raise NotImplementedError

    def capture(self, calls: Sequence[Call]) -> tuple[Call, Any]:
        """A CUDA graph of the calls: what replays it, and what must live with it. Raises if one cannot be captured."""
        return clock.capture(gpu.xp(), calls)


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """The outputs as a tuple, also if there is only one."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def in_mode(mode: str, forward: Callable[[], Any], backward: Callable[[tuple[Any, ...]], Any]) -> Call:
    """A call of forward; of backward, with the outputs of one forward before; or of both in turn."""
    if mode == "forward":
        return forward
    if mode == "backward":
        outputs = as_tuple(forward())
        return lambda: backward(outputs)
    return lambda: backward(as_tuple(forward()))


class Kernels(Provider):
    """A backend of the kernels' contract."""

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device

    def missing(self, device: str) -> str | None:
        if device != self.device:
            return f"runs on device {self.device}"
        try:
            kernels.load(self.name)
        except (ImportError, RuntimeError) as e:
            return str(e)
        return None

    def cannot(self, case: Case, device: str) -> str | None:
        if not case.primitives() and self.name != "reference":
            return f"{case.variant.name} is no primitive of the contract"
        if case.dtype not in DTYPES[self.name]:
            return f"it does not serve {case.dtype}"
        if self.device == "cpu" and case.precision != "ieee":
            return f"NumPy has no {case.precision}"
        if self.name == "numba" and case.precision != "ieee":
            return f"it uses no tensor cores: no {case.precision}"
        if self.name == "cpu":
            own, reference = kernels.load("cpu"), kernels.load("reference")
            if all(getattr(own, p, None) is getattr(reference, p, None) for p in case.primitives()):
                return SAME_AS_REFERENCE
        return None

    def call(self, case: Case, inputs: Inputs) -> Call:
        k, v = kernels.load(self.name), case.variant
        return in_mode(case.mode, lambda: v.forward(k, inputs), lambda outputs: v.gradients(k, inputs, outputs))


class Torch(Provider):
    """torch, eager or compiled. Its backward is its autograd's."""

    rival = True

    def __init__(self, name: str, compiled: bool) -> None:
        self.name, self.compiled = name, compiled

    def missing(self, device: str) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed: pip install torch"
        if device == "cuda":
            if gpu.is_simulated():
                return "torch has no simulated device"
            if not importlib.import_module("torch").cuda.is_available():
                return "this torch cannot use the GPU: a build with CUDA is needed"
        return None

    def cannot(self, case: Case, device: str) -> str | None:
        if case.variant.torch is None:
            return f"no function of torch's was given for {case.variant.name}"
        if device == "cpu" and case.precision != "ieee":
            return f"no {case.precision} on the CPU"
        if case.precision == "tf32x3":
            return "torch has no tf32x3"
        if self.compiled and not case.variant.fusible:
            return "one library call: nothing to fuse"
        return None

    def own(self, array: np.ndarray, device: str) -> Any:
        torch = importlib.import_module("torch")
        copy = array.copy(order="K")
        if copy.dtype == bfloat16:
            tensor = torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(copy)
        return tensor.to(device)

    def host(self, array: Any) -> np.ndarray:
        torch = importlib.import_module("torch")
        array = array.detach().cpu()
        if array.dtype == torch.bfloat16:
            return array.view(torch.int16).numpy().view(bfloat16)
        return array.numpy()

    def call(self, case: Case, inputs: Inputs) -> Call:
        torch, v = importlib.import_module("torch"), case.variant
        if inputs.device == "cuda":  # these switch the whole process, but all calls of a row have the same precision
            allow = case.precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow
            torch.backends.cudnn.benchmark = True
        function = _compiled(v) if self.compiled else v.torch
        assert function is not None, "`cannot` says so first"

        def forward() -> Any:
            return function(torch, inputs)

        if case.mode == "forward":
            return torch.no_grad()(forward)

        leaves = [getattr(inputs, name).requires_grad_() for name in v.wrt]
        first = forward()
        dy = getattr(inputs, v.incoming).reshape(first.shape).to(first.dtype)
        keep = case.mode == "backward"

        def backward(outputs: tuple[Any, ...]) -> Any:
            return torch.autograd.grad(outputs[0], leaves, dy, retain_graph=keep)

        return in_mode(case.mode, forward, backward)

    def capture(self, calls: Sequence[Call]) -> tuple[Call, Any]:
        torch = importlib.import_module("torch")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):  # warmed up beside the default stream, as torch asks for
            for call in calls:
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [call() for call in calls]
        return graph.replay, (graph, kept)


@cache
def _compiled(variant: Variant) -> Callable[..., Any]:
    """The variant's torch function under torch.compile: one for all copies of the inputs, compiled once per shape."""
    torch = importlib.import_module("torch")
    function = variant.torch
    assert function is not None, "`cannot` says so first"
    compiled = torch.compile(lambda arrays: function(torch, SimpleNamespace(**arrays)), dynamic=False)
    return lambda _, inputs: compiled({k: x for k, x in vars(inputs).items() if hasattr(x, "dtype")})


class CuPy(Provider):
    """What a CuPy user writes without any kernel of their own."""

    name = "cupy"
    rival = True

    def missing(self, device: str) -> str | None:
        if device != "cuda":
            return "runs on device cuda"
        if importlib.util.find_spec("cupy") is None:
            return 'CuPy is not installed: pip install "tilegrad[cuda13]"'
        return "CuPy has no simulated device" if gpu.is_simulated() else None

    def cannot(self, case: Case, device: str) -> str | None:
        if case.mode != "forward":
            return "CuPy has no gradients"
        if case.variant.cupy is None:
            return f"CuPy has no {case.variant.name}"
        if case.precision != "ieee":
            return f"CuPy's choice of {case.precision} is one of the process, by an environment variable"
        return "not every operation of CuPy takes bfloat16" if case.dtype == "bfloat16" else None

    def call(self, case: Case, inputs: Inputs) -> Call:
        cupy, function = gpu.xp(), case.variant.cupy
        assert function is not None, "`cannot` says so first"
        return lambda: function(cupy, inputs)


class Users(Provider):
    """Functions that a user registered, by (variant, mode)."""

    def __init__(self, name: str, device: str, rival: bool) -> None:
        self.name, self.device, self.rival = name, device, rival
        self.functions: dict[tuple[str, str], Callable[..., Any]] = {}

    def missing(self, device: str) -> str | None:
        return None if device == self.device else f"runs on device {self.device}"

    def cannot(self, case: Case, device: str) -> str | None:
        if (case.variant.name, case.mode) not in self.functions:
            return f"no function is registered for {case.variant.name}, {case.mode}"
        return None

    def call(self, case: Case, inputs: Inputs) -> Call:
        v, function = case.variant, self.functions[case.variant.name, case.mode]
        arguments = [getattr(inputs, name) for name in v.names]
        if case.mode != "forward":
            arguments = [getattr(inputs, v.incoming), *arguments]
        if case.mode == "backward":
            reference = kernels.load("reference")
            host = SimpleNamespace(**{k: self.host(x) for k, x in vars(inputs).items() if hasattr(x, "dtype")})
            host.precision = "ieee"
            arguments += [self.own(np.asarray(y), self.device) for y in as_tuple(v.forward(reference, host))]
        return lambda: function(*arguments)


PROVIDERS: dict[str, Provider] = {
    p.name: p
    for p in (
        Kernels("triton", "cuda"),
        Kernels("numba", "cuda"),
        Kernels("cpu", "cpu"),
        Kernels("reference", "cpu"),
        CuPy(),
        Torch("torch", compiled=False),
        Torch("torch-compile", compiled=True),
    )
}
# torch.compile takes seconds per row on the CPU: there it is measured only on request.
DEFAULTS = {
    "cpu": ("cpu", "reference", "torch"),
    "cuda": ("triton", "numba", "cupy", "torch", "torch-compile"),
}


def provider(
    name: str, op: str, mode: str = "forward", device: str = "cpu", rival: bool = False
) -> Callable[[Callable], Callable]:
    """Register the decorated function as a provider of an op's function (softmax, gelu, conv2d + bias, ...).

    rival  whether it is another library's, with which the others are compared

    Raises ValueError for a name that is taken, and for an unknown op, mode or device.
    """
    from tilegrad.bench.ops import OPS

    variants = {v.name: v for each in OPS.values() for v in each.variants}
    known = PROVIDERS.get(name)
    if known is not None and not (isinstance(known, Users) and (known.device, known.rival) == (device, rival)):
        raise ValueError(f"provider: the name {name!r} is taken; expected another than {', '.join(PROVIDERS)}")
    if op not in variants:
        raise ValueError(f"provider: op is {op!r}; expected one of {', '.join(variants)}")
    if mode not in variants[op].modes:
        raise ValueError(f"provider: mode is {mode!r}; {op} has {', '.join(variants[op].modes)}")
    if device not in DEFAULTS:
        raise ValueError(f"provider: device is {device!r}; expected cpu or cuda")

    def register(function: Callable) -> Callable:
        users = PROVIDERS.setdefault(name, Users(name, device, rival))
        assert isinstance(users, Users)
        users.functions[op, mode] = function
        return function

    return register
