"""Graphs: the tape of the simulated device, and the calls that a real one would get."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad import cuda
from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.capture.slots import Slots
from tilegrad.kernels.device import gpu, memory
from tilegrad.kernels.simulate import arrays as simulated
from tilegrad.kernels.simulate import tape


def array(*values):
    return simulated.asarray(np.array(values, np.float32))


def test_nothing_is_done_until_the_launch_and_all_of_it_at_each():
    x, total = array(1, 2, 3), simulated.zeros(3, np.float32)
    with cuda_graph.capture() as captured:
        y = x * 2 + 1
        total += y
        total[0] = total[0] + 10
        view = y[1:].reshape(2, 1)
        filled = simulated.full(2, 5, np.float32)
    assert_same(total.get(), np.zeros(3, np.float32))
    assert np.isnan(y.get()).all() and np.isnan(filled.get()).all()
    captured.launch()
    assert_same(total.get(), np.array([13, 5, 7], np.float32))
    assert_same(view.get(), np.array([[5], [7]], np.float32))
    assert_same(filled.get(), np.full(2, 5, np.float32))
    x[...] = array(0, 0, 1)  # the same memory, other values
    captured.launch()
    assert_same(total.get(), np.array([24, 6, 10], np.float32))
    assert_same(y.get(), np.array([1, 1, 3], np.float32))
    assert captured.nodes() == {"multiply": 1, "add": 3, "setitem": 2}


def test_numbers_of_the_host_stay_as_they_were_and_slots_do_not():
    x, host = array(1), [2.0]
    slots = Slots()
    with cuda_graph.capture() as captured:
        device, sent = slots.take(np.float32)
        y = x * host[0] + device
    for number, want in ((3.0, 5.0), (7.0, 9.0)):
        host[0] = sent[...] = number
        slots.send()
        captured.launch()
        assert y.item() == want


def test_many_slots_are_apart_and_aligned():
    slots = Slots()
    taken = [slots.take(dtype, shape) for _ in range(300) for dtype, shape in ((np.uint64, ()), (np.float32, (3,)))]
    for i, (_, host) in enumerate(taken):
        host[...] = i
    slots.send()
    assert [device.get().reshape(-1)[0] for device, _ in taken] == list(range(600))
    assert all(device.data.ptr % 16 == taken[0][0].data.ptr % 16 for device, _ in taken)
    assert {(d.shape, d.dtype.name) for d, _ in taken} == {((), "uint64"), ((3,), "float32")}


WAITING = {
    "get": lambda x: x.get(),
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0]),
    "float": lambda x: float(x[0]),
    "nonzero": lambda x: simulated.nonzero(x),
    "an index of booleans": lambda x: x[x > 1],
    "set": lambda x: x.set(np.zeros(3, np.float32)),
    "asarray": lambda x: simulated.asarray(np.zeros(3)),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_a_captured_stream_refuses(name):
    x = array(1, 2, 3)
    with pytest.raises(RuntimeError, match=f"^{name}.*not permitted when stream is capturing"), cuda_graph.capture():
        WAITING[name](x)
    WAITING[name](x)


def test_what_is_done_aside_is_done_at_once_and_is_no_part_of_the_graph():
    x = array(1)
    with cuda_graph.capture() as captured:
        with cuda_graph.aside():
            x += 1
            assert x.item() == 2
        x *= 3
    assert x.item() == 2
    captured.launch()
    captured.launch()
    assert x.item() == 18
    with cuda_graph.aside():  # also where nothing is captured
        assert x.item() == 18


def test_an_exception_ends_the_capture():
    x = array(1)
    with pytest.raises(ZeroDivisionError), cuda_graph.capture() as captured:
        x += 1
        raise ZeroDivisionError
    assert cuda_graph.capturing() is tape.collecting() is None
    assert x.item() == 1
    with pytest.raises(AssertionError, match="the capture has not ended"):
        captured.launch()


class Full(MemoryError):
    """What CuPy raises."""


class Driver:
    """CuPy's part in a capture, which notes what it is asked for."""

    def __init__(self):
        self.calls = []
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking: self.stream(),
            MemoryPool=self.pool,
            using_allocator=self.allocator,
            memory=SimpleNamespace(OutOfMemoryError=Full),
            runtime=SimpleNamespace(memGetInfo=lambda: (0, 1024)),
        )
        self.ndarray = simulated.ndarray
        self.room = 0  # bytes that the pool can give

    def pool(self):
        return SimpleNamespace(malloc=self.malloc, total_bytes=lambda: 512, used_bytes=lambda: 256)

    def malloc(self, size):
        if size > self.room:
            raise Full
        return size

    def free(self):
        self.calls.append("free")
        self.room += 100

    def get_default_memory_pool(self):
        return SimpleNamespace(
            total_bytes=lambda: 64, used_bytes=lambda: 32, get_limit=lambda: 0, free_all_blocks=self.free
        )

    @contextlib.contextmanager
    def allocator(self, malloc):
        self.malloc_now = malloc
        self.calls.append("allocate by the pool")
        yield
        self.calls.append("allocate as before")

    def stream(self):
        driver = self

        class Stream:
            def __enter__(self):
                driver.calls.append("stream")

            def __exit__(self, *exc):
                driver.calls.append("stream as before")

            def begin_capture(self):
                driver.calls.append("begin")

            def end_capture(self):
                driver.calls.append("end")
                return SimpleNamespace(launch=lambda: driver.calls.append("launch"), debug_dot_str=lambda: DOT)

            def synchronize(self):
                driver.calls.append("synchronize")

        return Stream()


DOT = r"""digraph dot {
subgraph cluster_1 {
label="graph_1" graph[style="dashed"];
"graph_1_node_0"[style="solid" shape="rectangle" label="0
MEMSET
(0x7f,0,1,4)
"];
"graph_1_node_1"[style="bold" shape="octagon" label="1
_matmul_kernel\<\<\<4,128,0\>\>\>
"];
"graph_1_node_2"[style="bold" shape="octagon" label="2
_matmul_kernel\<\<\<8,128,0\>\>\>
"];
"graph_1_node_0" -> "graph_1_node_1"[headlabel=0];
}
}"""


@pytest.fixture
def driver(monkeypatch):
    found = Driver()
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)
    monkeypatch.setattr(gpu, "xp", lambda: found)
    return found


def test_on_a_gpu_a_stream_is_captured_with_memory_of_its_own(driver):
    with cuda_graph.capture() as captured:
        driver.calls.append("work")
        with cuda_graph.aside():
            driver.calls.append("aside")
    inside = ["work", "stream", "aside", "stream as before", "synchronize"]
    before, after = ["stream", "allocate by the pool", "begin"], ["end", "allocate as before", "stream as before"]
    assert driver.calls == [*before, *inside, *after]
    captured.launch()
    assert driver.calls[-1] == "launch"
    assert captured.nbytes == 512
    assert captured.nodes() == {"_matmul_kernel": 2, "MEMSET": 1}


def test_on_a_gpu_an_exception_ends_the_capture_and_gives_everything_back(driver):
    with pytest.raises(KeyError), cuda_graph.capture():
        raise KeyError
    # contextlib's stand-in gives the allocator back only where no exception passes; CuPy's does always
    assert driver.calls == ["stream", "allocate by the pool", "begin", "end", "stream as before"]
    assert cuda_graph.capturing() is None


def test_on_a_gpu_memory_for_a_capture_is_made_where_there_is_none(driver):
    with cuda_graph.capture():
        assert driver.malloc_now(100) == 100
        assert driver.calls[-1] == "free"
        with pytest.raises(memory.OutOfMemoryError, match="300 B wanted, 32 B of 1.00 KiB used"):
            driver.malloc_now(300)


def test_on_a_gpu_the_graphs_memory_counts(driver):
    with cuda_graph.capture() as captured:
        pass
    others = cuda.memory_allocated() - 256, cuda.memory_reserved() - 512
    assert others == (32, 64)
    del captured
    assert (cuda.memory_allocated(), cuda.memory_reserved()) == others
