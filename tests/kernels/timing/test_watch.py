"""Calls are told while somebody listens, and everything is as it was before and afterwards."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tilegrad import kernels
from tilegrad.kernels.capture import graph
from tilegrad.kernels.capture.cuda_graph import CudaGraph
from tilegrad.kernels.capture.program import Program
from tilegrad.kernels.cpu import effects, threads
from tilegrad.kernels.device import gpu
from tilegrad.kernels.simulate import tape
from tilegrad.kernels.timing import clocks
from tilegrad.kernels.timing.watch import Launch, Listening, Told


class _List(Listening):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Told | Launch] = []

    def told(self, what: Told | Launch) -> None:
        self.found.append(what)

    @property
    def ops(self) -> list[str]:
        return [each.op for each in self.found if isinstance(each, Told)]


def _functions() -> list[Any]:
    from tilegrad.kernels.launch import numba_kernel, triton_kernel
    from tilegrad.kernels.matmul import cpu

    owners = (Program, CudaGraph, tape.Tape)
    languages = (numba_kernel.Kernel.__call__, triton_kernel.Kernel.__call__)
    return [kernels.of, threads.share, effects.do, effects.whole, cpu.whole, *(o.launch for o in owners), *languages]


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_nothing_is_replaced_before_and_after_a_block_also_where_it_raises():
    before = _functions()
    with pytest.raises(ZeroDivisionError), _List():
        assert all(a is not b for a, b in zip(before, _functions(), strict=True))
        raise ZeroDivisionError
    assert _functions() == before
    assert type(kernels.of(_x(1))) is ModuleType


def test_a_call_is_told_with_its_kernels_one_after_the_other():
    x, w, y = _x(64, 32), _x(16, 32), _x(64, 16)
    with kernels.use("cpu"):
        want = kernels.of(x).linear_grad(y, y, x, w, True)
        with _List() as listening:
            got = kernels.of(x).linear_grad(y, y, x, w, True)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    (told,) = listening.found
    assert isinstance(told, Told)
    assert (told.op, told.backend, told.captured) == ("linear_grad", "cpu", False)
    assert len(told.parts) >= 3  # the product with w, that with x, the sum
    times = [told.begin, *(t for part in told.parts for t in (part.begin, part.end)), told.end]
    assert times == sorted(times)


def test_what_a_blas_computes_is_a_part_too():
    a, b = _x(300, 5000), _x(5000, 70)
    with kernels.use("cpu"), _List() as listening:
        kernels.of(a).matmul(a, b, activation="relu")
    (told,) = listening.found
    assert isinstance(told, Told)
    assert "by_blas" in [part.kernel for part in told.parts]


def test_large_functions_of_numpys_are_told_by_their_names():
    import tilegrad as tg

    x = tg.tensor(_x(1024, 1024))
    with kernels.use("cpu"), _List() as listening:
        tg.exp(x)
        tg.amax(x, 1)
        tg.exp(x[:2, :2])  # NumPy's own
    assert listening.ops == ["exp", "maximum"]


def test_other_threads_are_passed_over_and_may_not_be_watched_meanwhile():
    x = _x(4, 4)
    errors: list[BaseException] = []

    def work() -> None:
        kernels.of(x).relu(x)
        try:
            with _List():
                pass
        except RuntimeError as error:
            errors.append(error)

    with _List() as listening:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert listening.found == []
    assert [str(e) for e in errors] == ["profile: another thread is profiled; expected one thread at a time"]


def test_several_may_listen():
    x = _x(4, 4)
    with _List() as outer:
        kernels.of(x).relu(x)
        with _List() as inner:
            kernels.of(x).tanh(x)
        kernels.of(x).sigmoid(x)
    assert (outer.ops, inner.ops) == (["relu", "tanh", "sigmoid"], ["tanh"])


def test_a_call_that_raises_is_not_told():
    with _List() as listening:
        with pytest.raises(ValueError, match="matmul"):
            kernels.of(_x(2, 3)).matmul(_x(2, 3), _x(2, 3))
        kernels.of(_x(1)).relu(_x(1))
    assert listening.ops == ["relu"]


# --- captured


def _program() -> tuple[Program, np.ndarray]:
    """Two products and NumPy's sum of them."""
    x, w = _x(64, 128), _x(128, 128)
    program = graph.new("cpu")
    assert isinstance(program, Program)
    for array in (x, w):
        program.know(array)
    with kernels.use("cpu"), program.capturing():
        x, w = program.planned(x), program.planned(w)
        backend = kernels.of(x)
        y = backend.matmul(x, w) + backend.matmul(x, w, activation="relu")
        result = program.leave(y)
        program.settle()
    return program, result


def test_the_nodes_of_a_program_are_told_with_their_ops_and_compute_the_same():
    program, result = _program()
    program.launch()
    want = result.copy()
    result.fill(0)
    with _List() as listening:
        program.launch()
    assert np.array_equal(result, want)
    told = [each for each in listening.found if isinstance(each, Told)]
    (launch,) = (each for each in listening.found if isinstance(each, Launch))
    assert [each.op for each in told] == ["matmul", "matmul", "add"]
    assert all(each.captured for each in told)
    assert [x.shape for x in told[0].args[:2]] == [(64, 128), (128, 128)]
    assert sum(len(each.parts) for each in told) == launch.nodes == program.nodes().total()
    times = [launch.begin, *(t for each in told for t in (each.begin, each.end)), launch.end]
    assert times == sorted(times)


def test_without_a_clock_in_compiled_code_python_looks_at_one(monkeypatch):
    from tilegrad.kernels.capture import calls

    monkeypatch.setattr(calls, "IS_POSIX", False)
    program, result = _program()
    program.launch()
    want = result.copy()
    result.fill(0)
    with _List() as listening:
        program.launch()
    assert np.array_equal(result, want)
    assert listening.ops == ["matmul", "matmul", "add"]


def test_a_launch_that_is_timed_stops_where_a_plain_one_does():
    import tilegrad as tg
    from tilegrad.nn import functional as F

    step = tg.capture(lambda z, t: F.cross_entropy(z, t))
    z = tg.tensor(_x(8, 10))
    for _ in range(3):
        step(z, tg.zeros(8, dtype=tg.int64))
    with pytest.raises(ValueError, match="softmax_xent") as plain:
        step(z, tg.full((8,), 10))
    with pytest.raises(ValueError) as timed, _List():
        step(z, tg.full((8,), 10))
    assert str(timed.value) == str(plain.value)


# --- a GPU


def test_the_nodes_of_a_simulated_graph_are_told():
    if not gpu.is_simulated():
        pytest.skip("the driver of a GPU does not tell when each node ran")
    x = gpu.xp().asarray(_x(8, 8))
    captured = graph.new("cuda")
    with captured.capturing():
        kernels.of(x).relu(x)
    with _List() as listening:
        captured.launch()
    launch = listening.found[-1]
    assert isinstance(launch, Launch)
    assert (listening.ops, launch.nodes) == (["activation"], 1)  # by the name of its kernel


class _Driver:
    """In the place of CuPy's events: the GPU's clock goes on by 1 ms at each of them."""

    def __init__(self) -> None:
        self.time = 0.0
        self.waits = 0
        driver = self

        class Event:
            def record(self) -> None:
                driver.time += 1.0
                self.at = driver.time

        class Device:
            def synchronize(self) -> None:
                driver.waits += 1

        self.Event, self.Device = Event, Device

    def get_elapsed_time(self, first: Any, last: Any) -> float:
        return last.at - first.at


def test_events_of_a_gpu_have_the_hosts_times(monkeypatch):
    driver = _Driver()
    monkeypatch.setattr(clocks.gpu, "xp", lambda: type("CuPy", (), {"cuda": driver}))
    events = clocks.Events()
    before = clocks.now()
    begin, end = events.times(events.mark(), events.mark())
    assert end - begin == 10**6
    assert before - 10**9 < begin < before + 10**9
    waits = driver.waits
    events.settle()
    assert driver.waits == waits + 1
