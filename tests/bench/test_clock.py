"""The clocks: turns on the CPU, and the order of what a GPU is told, on a stand-in for CuPy."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from tilegrad.bench import measure
from tilegrad.bench.clock import Events, capture, wall
from tilegrad.bench.measure import Effort, interleaved, on_gpu, summary


class Cuda:
    """Notes what it is told. An event's time is the number of calls made so far, in milliseconds."""

    def __init__(self):
        self.told = []
        self.calls = 0
        self.capturing = False
        cuda = self

        class Event:
            def record(self):
                cuda.told.append("record")
                self.at = cuda.calls

            def synchronize(self):
                cuda.told.append("wait")

        class Stream:
            def __init__(self, non_blocking):
                assert non_blocking

            def __enter__(self):
                cuda.told.append("stream")

            def __exit__(self, *_):
                cuda.told.append("default stream")

            def synchronize(self):
                cuda.told.append("wait")

            def begin_capture(self):
                cuda.told.append("begin")
                cuda.capturing = True

            def end_capture(self):
                cuda.told.append("end")
                cuda.capturing = False
                return SimpleNamespace(launch=lambda: cuda.call("replay", 40))

        class MemoryPool:
            malloc = "its malloc"

        self.Event, self.Stream, self.MemoryPool = Event, Stream, MemoryPool
        self.runtime = SimpleNamespace(
            deviceSynchronize=lambda: self.told.append("synchronize"),
            getDevice=lambda: 0,
            getDeviceProperties=lambda _: {"l2CacheSize": 1000},
        )

    def get_elapsed_time(self, start, stop):
        return float(stop.at - start.at)

    def using_allocator(self, malloc):
        assert malloc == "its malloc"
        return SimpleNamespace(__enter__=lambda: None, __exit__=lambda *_: None) and _nothing()

    def call(self, name, cost=1):
        self.told.append(name)
        self.calls += 0 if self.capturing else cost


class _nothing:  # noqa: N801
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


@pytest.fixture
def cuda():
    return Cuda()


@pytest.fixture
def events(cuda):
    memory = lambda size, dtype: SimpleNamespace(nbytes=size, fill=lambda _: cuda.told.append("flush"))  # noqa: E731
    return Events(SimpleNamespace(cuda=cuda, zeros=memory))


def test_a_kernel_is_timed_between_two_events_with_l2_flushed_before(cuda, events):
    assert events.memory.nbytes == 4000
    assert events.kernel(lambda: cuda.call("kernel", 3)) == 3.0
    assert cuda.told == ["flush", "record", "kernel", "record", "wait"]


def test_a_graph_is_captured_on_a_warm_private_pool_and_its_time_shared_out(cuda, events):
    launch, keep = capture(SimpleNamespace(cuda=cuda), [lambda: cuda.call("a"), lambda: cuda.call("b")])
    assert cuda.told == ["stream", "a", "b", "wait", "begin", "a", "b", "end", "default stream"]
    assert events.replay(launch, 2) == 20.0 and keep


def test_a_capture_that_is_refused_ends(cuda):
    def refuse():
        if cuda.capturing:
            raise NotImplementedError("cuBLAS")

    with pytest.raises(NotImplementedError):
        capture(SimpleNamespace(cuda=cuda), [refuse])
    assert not cuda.capturing and cuda.told[-1] == "default stream"


def test_the_host_is_timed_on_an_idle_stream_and_does_not_wait_within(cuda, events):
    assert 0 < events.host([lambda: cuda.call("launch")] * 3) < 100
    assert cuda.told == ["synchronize", "launch", "launch", "launch", "synchronize"]


def test_the_three_columns_of_a_gpu(cuda, events):
    def refused(_):
        raise NotImplementedError("no cuBLAS under capture")

    rivals = {"ours": [lambda: cuda.call("ours", 2)], "theirs": [lambda: cuda.call("theirs", 5)]}
    graphs = {"ours": lambda calls: capture(SimpleNamespace(cuda=cuda), calls), "theirs": refused}
    found = on_gpu(rivals, Effort(2, 0, 3), events, graphs)
    assert found["ours"].ms.median == 2.0 and found["theirs"].ms.median == 5.0
    assert found["ours"].graph_ms == 40 / measure.GRAPH_CALLS and found["ours"].no_graph is None
    assert found["theirs"].graph_ms is None
    assert found["theirs"].no_graph == "NotImplementedError: no cuBLAS under capture"
    assert found["ours"].host_ms > 0


def test_rivals_take_turns_through_their_copies_and_the_first_calls_do_not_count():
    order = []
    rivals = {name: [lambda name=name, i=i: order.append((name, i)) for i in range(2)] for name in "ab"}
    ticks = itertools.count(1)

    def clock(call):
        call()
        return float(next(ticks))

    entered = []
    times = interleaved(rivals, Effort(2, 0, 3), clock, {"a": lambda: entered.append("a")})
    assert order == [("a", 0), ("a", 1), ("a", 0), ("b", 0), ("b", 1), ("b", 0),
                     ("a", 1), ("a", 0), ("a", 1), ("b", 1), ("b", 0), ("b", 1)]  # fmt: skip
    assert entered == ["a", "a"]
    assert times["a"].samples == 4 and times["a"].median == 5.5  # of 2, 3, 8, 9
    assert times["b"].median == 8.5  # of 5, 6, 11, 12


def test_a_turn_lasts_at_least_as_long_as_was_asked():
    times = interleaved({"a": [lambda: None]}, Effort(1, 0.01, 1))
    assert times["a"].samples > 100


def test_summary_and_wall():
    assert summary([float(i) for i in range(11)]) == (5.0, 2.0, 8.0, 11)
    assert 0 <= wall(lambda: None) < 10


def test_before_a_turn_the_threads_of_others_are_given_time_to_rest(monkeypatch):
    order = []
    monkeypatch.setattr(measure, "SETTLE", 0.5)
    monkeypatch.setattr(measure.time, "sleep", order.append)
    interleaved({"a": [lambda: order.append("a")], "b": [lambda: order.append("b")]}, Effort(1, 0, 2))
    assert order == [0.5, "a", "a", 0.5, "b", "b"]
    order.clear()
    interleaved({"alone": [lambda: order.append("alone")]}, Effort(1, 0, 2))
    assert order == ["alone", "alone"]
