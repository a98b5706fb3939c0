"""Choosing configurations: defaults, timing on a stand-in clock, the cache on disk and what may be wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.launch import tuning, tuning_cache

CONFIGS = {
    80: [{"BLOCK": 32, "num_warps": 4}, {"BLOCK": 64, "num_warps": 4}],
    90: [{"BLOCK": 64, "num_warps": 4}, {"BLOCK": 128, "num_warps": 8}, {"BLOCK": 256, "num_warps": 8}],
}
FLOAT32 = np.dtype(np.float32)


class Card:
    """A GPU whose clock only moves when a configuration runs: by `cost` milliseconds, None being refused."""

    def __init__(self, cost: dict[int, float | None]) -> None:
        self.cost, self.now, self.runs, self.capturing, self.name = cost, 0.0, [], False, b"Card"
        card = self

        class Event:
            def record(self) -> None:
                self.at = card.now

            def synchronize(self) -> None:
                pass

        self.Event = Event
        self.get_elapsed_time = lambda start, stop: stop.at - start.at
        self.get_current_stream = lambda: SimpleNamespace(is_capturing=lambda: self.capturing)
        self.runtime = SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceProperties=lambda device: {"name": self.name},
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
        )

    def run(self, config) -> None:
        self.runs.append(config["BLOCK"])
        cost = self.cost[config["BLOCK"]]
        if cost is None:
            raise RuntimeError("out of resources")
        self.now += cost


@pytest.fixture
def card(monkeypatch, tmp_path) -> Card:
    card = Card({64: 3.0, 128: 1.0, 256: 2.0})
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)
    monkeypatch.setattr(gpu, "capability", lambda: 90)
    monkeypatch.setattr(gpu, "xp", lambda: SimpleNamespace(cuda=card))
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path))
    monkeypatch.delenv("TILEGRAD_AUTOTUNE", raising=False)
    tuning_cache._machine.cache_clear()
    yield card
    tuning_cache._machine.cache_clear()


def tuned() -> tuning.Tuned:
    """A new one each time, as in a new process: nothing remembered. The default is the last."""
    return tuning.Tuned("scale", CONFIGS, lambda arch, bucket: len(CONFIGS[arch]) - 1)


def blocks_here() -> list[int]:
    """Of the configurations for this device: simulated an sm_90, executed what its PTX is compiled for."""
    return [config["BLOCK"] for config in tuned().of(launch.architecture())]


def test_the_fastest_is_chosen_and_kept(card):
    first = tuned()
    assert first.choose((1024,), FLOAT32, card.run)["BLOCK"] == 128
    assert set(card.runs) == {64, 128, 256}
    timed = len(card.runs)
    assert first.choose((1024,), FLOAT32, card.run)["BLOCK"] == 128  # from memory
    assert tuned().choose((1024,), FLOAT32, card.run)["BLOCK"] == 128  # from disk
    assert len(card.runs) == timed


def test_another_bucket_dtype_or_card_is_measured_anew(card):
    tuned().choose((1024,), FLOAT32, card.run)
    for bucket, dtype, name in (
        ((2048,), FLOAT32, b"Card"),
        ((1024,), np.dtype("f2"), b"Card"),
        ((1024,), FLOAT32, b"B"),
    ):
        card.name, timed = name, len(card.runs)
        tuning_cache._machine.cache_clear()
        tuned().choose(bucket, dtype, card.run)
        assert len(card.runs) > timed
    entries = json.loads(tuning_cache.path().read_text())["entries"]
    assert len(entries) == 4


@pytest.mark.parametrize("costs", [
    (1.9, 0.3, 0.5),  # as many calls as fit into 2 ms: 1, 7, 4, which take 1.9, 2.1, 2.0
    (0.3, 1.9, 0.5), (0.5, 0.45, 0.7), (0.9, 1.1, 1.3), (5.0, 4.0, 3.0),
    (0.011, 0.01, 0.012),  # more than 100 calls are not made
    (1e-5, 2e-5, 3e-5),  # beyond the clock's resolution
])  # fmt: skip
def test_the_fastest_is_the_least_time_of_a_call_however_many_are_timed(card, costs):
    card.cost = dict(zip((64, 128, 256), costs, strict=True))
    want = min(card.cost, key=card.cost.get)
    assert tuned().choose((1,), FLOAT32, card.run)["BLOCK"] == want
    for block, cost in card.cost.items():
        in_a_round = max(1, min(100, round(2 / cost)))
        assert card.runs.count(block) == 2 + 5 * in_a_round  # one compiles, one tells how long a call takes


def test_a_round_that_something_else_slowed_down_does_not_decide(card):
    """The median of five: two slow rounds of the fastest, and two quick ones of the slowest, are none of its speed."""
    card.cost = {64: 3.0, 128: 2.0, 256: 4.0}
    spikes = {128: iter([0, 0, 9, 0, 9, 0, 0]), 256: iter([0, 0, -3.5, 0, 0, -3.5, 0]), 64: iter([0] * 7)}
    plain = card.run

    def run(config):
        plain(config)
        card.now += next(spikes[config["BLOCK"]])

    assert tuned().choose((1,), FLOAT32, run)["BLOCK"] == 128


def test_a_configuration_that_the_card_refuses_is_left_out(card):
    card.cost[128] = None
    assert tuned().choose((1,), FLOAT32, card.run)["BLOCK"] == 256


def test_all_refused_is_an_error(card):
    card.cost = dict.fromkeys(card.cost)
    with pytest.raises(RuntimeError, match="out of resources"):
        tuned().choose((1,), FLOAT32, card.run)
    assert not tuning_cache.path().exists()


def test_the_default_is_taken_when_switched_off(card, monkeypatch):
    monkeypatch.setenv("TILEGRAD_AUTOTUNE", "0")
    assert tuned().choose((1,), FLOAT32, card.run)["BLOCK"] == 256
    assert card.runs == []


def test_the_default_is_taken_during_capture_and_not_kept(card):
    each, card.capturing = tuned(), True
    assert each.choose((1,), FLOAT32, card.run)["BLOCK"] == 256
    assert card.runs == []
    card.capturing = False
    assert each.choose((1,), FLOAT32, card.run)["BLOCK"] == 128


def test_the_default_is_taken_on_the_simulated_device():
    if not gpu.is_simulated():
        pytest.skip("a real GPU is in use")
    assert tuned().choose((1,), FLOAT32, lambda config: pytest.fail("ran"))["BLOCK"] == blocks_here()[-1]


@pytest.mark.parametrize(
    ("arch", "blocks"), [(80, [32, 64]), (86, [32, 64]), (90, [64, 128, 256]), (120, [64, 128, 256])]
)
def test_an_architecture_is_served_by_the_nearest_below(arch, blocks):
    assert [config["BLOCK"] for config in tuned().of(arch)] == blocks


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 99, "entries": {}}',
        b'{"version": 1}',
        b'{"version": 1, "entries": []}',
        b'{"version": 1, "entries": {"KEY": 5}}',
        b'{"version": 1, "entries": {"KEY": {"config": "BLOCK"}}}',
        b'{"version": 1, "entries": {"KEY": {"config": {"BLOCK": 7}}}}',
    ],
)
def test_a_corrupt_or_foreign_cache_is_measured_over(card, content):
    key = tuning_cache.key("scale", (), (1,), FLOAT32)
    tuning_cache.path().write_bytes(content.replace(b"KEY", key.encode()))
    assert tuned().choose((1,), FLOAT32, card.run)["BLOCK"] == 128
    assert tuning_cache.load(key) == {"BLOCK": 128, "num_warps": 8}


def test_a_folder_that_cannot_be_written_is_no_error(card, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path / "file"))
    assert tuned().choose((1,), FLOAT32, card.run)["BLOCK"] == 128


def test_processes_do_not_lose_each_others_entries(tmp_path):
    code = """
import sys
from tilegrad.kernels.launch import tuning_cache
for i in range(20):
    tuning_cache.store(f"{sys.argv[1]} {i}", {"BLOCK": i})
"""

    env = os.environ | {"TILEGRAD_CACHE": str(tmp_path)}
    writers = [subprocess.Popen([sys.executable, "-c", code, str(n)], env=env) for n in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert len(json.loads((tmp_path / "autotune.json").read_text())["entries"]) == 60
    assert not [f for f in tmp_path.iterdir() if f.suffix == ".part"]


def test_forced_takes_each_in_turn():
    each = tuned()
    seen = []
    for i in range(4):
        with tuning.forced(i):
            seen.append(each.choose((1,), FLOAT32, lambda config: None)["BLOCK"])
    assert seen == (blocks_here() * 2)[:4]


def test_every_configuration_is_collected_and_which_is_the_default():
    tried = []
    with gpu.simulate(), launch.collecting(80) as specs:
        chosen = tuned().choose((1,), FLOAT32, lambda config: tried.append(config["BLOCK"]))
    assert (tried, chosen["BLOCK"], specs) == ([32], 64, [])


def test_a_collection_ends_with_its_architecture():
    with gpu.simulate():
        before = launch.architecture()
        with launch.collecting(100):
            with launch.collecting(120):
                assert launch.architecture() == 120
            assert launch.architecture() == 100 and launch.is_collecting()
        assert launch.architecture() == before != 100 and not launch.is_collecting()


def test_what_one_thread_collects_is_no_other_ones_affair():
    found = []

    def look():
        found.append((launch.is_collecting(), launch.architecture(), tuned().choose((1,), FLOAT32, None)["BLOCK"]))

    here = launch.architecture(), blocks_here()[-1]
    with gpu.simulate(), tuning.forced(0), launch.collecting(100):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found == [(False, *here)]


def test_more_than_eight_are_too_many():
    with pytest.raises(AssertionError, match="scale: more than 8 configurations"):
        tuning.Tuned("scale", {80: [{"BLOCK": 2**i} for i in range(9)]}, lambda arch, bucket: 0)
