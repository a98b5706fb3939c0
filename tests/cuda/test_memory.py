"""The device's memory: what tilegrad.cuda tells of it, and what happens when an allocation fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import cuda
from tilegrad.kernels.device import gpu, memory
from tilegrad.kernels.simulate import arrays as simulated

# --- tilegrad.cuda ---------------------------------------------------------------------------------------------------


def test_the_device():
    assert cuda.is_available() is gpu.is_available()
    assert cuda.is_simulated() is not gpu.is_available()
    assert cuda.device_count() >= 1
    assert cuda.synchronize() is None


def test_memory_allocated():
    before = cuda.memory_allocated()
    x = tg.zeros(1 << 16, device="cuda")
    view = x.reshape(256, 256).T
    assert cuda.memory_allocated() == before + (1 << 18), "a view takes no memory"
    del x
    assert cuda.memory_allocated() == before + (1 << 18), "a view keeps it"
    del view
    assert cuda.memory_allocated() == before
    assert cuda.memory_reserved() >= before
    cuda.empty_cache()


def test_memory_summary():
    x = tg.zeros(1000, 1024, device="cuda")
    y = x[1:]  # of one allocation the largest array is told
    lines = cuda.memory_summary().splitlines()
    assert lines[0].startswith("allocated ") and lines[1].startswith("reserved ")
    assert [line for line in lines if line.endswith("float32 (1000, 1024)")] == ["      3.91 MiB  float32 (1000, 1024)"]
    assert not any(line.endswith("(999, 1024)") for line in lines) and y.shape == (999, 1024)


def test_amounts():
    amounts = [memory.amount(n) for n in (0, 1023, 1 << 10, 3 << 19, 5 << 30)]
    assert amounts == ["0 B", "1023 B", "1.00 KiB", "1.50 MiB", "5.00 GiB"]


# --- out of memory: CuPy by a fake -----------------------------------------------------------------------------------


class Full(MemoryError):
    """What CuPy raises."""


class FakePool:
    """Memory of `limit` bytes, of which `idle` are kept for later."""

    def __init__(self, limit, used=0, idle=0):
        self.limit, self.used, self.idle, self.calls = limit, used, idle, []

    def malloc(self, size):
        self.calls.append(("malloc", size))
        if self.used + self.idle + size > self.limit:
            raise Full
        self.used += size
        return size

    def free_all_blocks(self):
        self.calls.append("free")
        self.idle = 0

    def get_limit(self):
        return 0

    def used_bytes(self):
        return self.used


def install(pool):
    """The allocator that CuPy then has."""
    installed = []
    fake = SimpleNamespace(
        ndarray=simulated.ndarray,
        get_default_memory_pool=lambda: pool,
        cuda=SimpleNamespace(
            get_allocator=lambda: pool.malloc,
            set_allocator=installed.append,
            memory=SimpleNamespace(OutOfMemoryError=Full),
            runtime=SimpleNamespace(memGetInfo=lambda: (0, pool.limit)),
        ),
    )
    memory.install(fake)
    (allocate,) = installed
    return allocate


def test_an_allocation_that_succeeds_is_passed_on():
    pool = FakePool(100)
    assert install(pool)(60) == 60
    assert pool.calls == [("malloc", 60)]


def test_unused_memory_is_freed_and_the_allocation_tried_once_more():
    pool = FakePool(100, used=30, idle=50)
    assert install(pool)(60) == 60
    assert pool.calls == [("malloc", 60), "free", ("malloc", 60)]


def test_garbage_is_collected_first():
    class Cycle:
        def __init__(self, pool):
            self.itself, self.pool = self, pool

        def __del__(self):
            self.pool.used -= 40

    pool = FakePool(100, used=70)
    Cycle(pool)
    assert install(pool)(60) == 60


def test_the_error_says_what_is_used_of_what_and_by_which_arrays():
    x = simulated.zeros((300, 1024), np.float16)
    pool = FakePool(8 << 20, used=7 << 20)
    with pytest.raises(cuda.OutOfMemoryError) as error:
        install(pool)(3 << 20)
    first, *arrays = str(error.value).splitlines()
    found = "3.00 MiB wanted, 7.00 MiB of 8.00 MiB used"
    assert first == f'device "cuda": out of memory: {found}; the largest arrays alive:'
    assert f"{'600.00 KiB':>14}  float16 (300, 1024)" in arrays and len(arrays) <= memory.LISTED
    assert isinstance(error.value, RuntimeError) and error.value.__cause__ is None
    assert pool.calls == [("malloc", 3 << 20), "free", ("malloc", 3 << 20)] and x.shape == (300, 1024)


def test_an_array_that_is_being_made_holds_nothing():
    """As the one that an allocation fails for: CuPy sets its size first."""

    class Array:
        nbytes, data = 8, None

    array = Array()
    assert memory.held(Array) == [] and array.data is None


def test_other_errors_are_left_alone():
    def broken(size):
        raise ValueError("no such size")

    with pytest.raises(ValueError, match="no such size"):
        memory.retrying(broken, pytest.fail, Full, str)(1)
