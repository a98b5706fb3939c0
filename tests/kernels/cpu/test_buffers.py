"""Lent memory: reused when nobody can see it, never before."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.kernels.cpu import buffers
from tilegrad.nn import functional as F

SHAPE = (300, 200)  # 240 kB


@pytest.fixture(autouse=True)
def _no_idle_blocks():
    buffers.free()
    gc.disable()  # lending must not depend on the cycle collector
    yield
    gc.enable()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_array_dies():
    first = buffers.empty(SHAPE, np.float32)
    place = address(first)
    del first
    assert address(buffers.empty(SHAPE, np.float32)) == place


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[10:20, ::3],
        lambda a: a.T,
        lambda a: a.reshape(-1)[5:],
        lambda a: a.view(np.int32),
        lambda a: np.broadcast_to(a[0], (7, 200)),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
        lambda a: np.from_dlpack(a),
        lambda a: memoryview(a),
        lambda a: np.asarray(memoryview(a))[1:],
    ],
)
def test_any_view_keeps_the_memory(view):
    array = buffers.empty(SHAPE, np.float32)
    array[:] = 1
    kept = view(array)
    before = np.array(kept)
    del array
    others = [buffers.empty(SHAPE, np.float32) for _ in range(3)]
    for other in others:
        other[:] = 2
    assert np.array_equal(np.array(kept), before)


def test_arrays_begin_on_a_cache_line_and_are_ordinary():
    array = buffers.empty((3, 5, 7000), np.float64)
    assert address(array) % buffers.LINE == 0
    assert type(array) is np.ndarray
    assert array.shape == (3, 5, 7000)
    assert array.dtype == np.float64
    assert array.flags.c_contiguous and array.flags.writeable


def test_small_and_empty_arrays_are_numpys_own():
    assert buffers.empty((10,), np.float32).base is None
    assert buffers.empty((0, 1000), np.float32).shape == (0, 1000)


def test_idle_memory_is_bounded():
    pool = buffers.Pool(kept=1 << 20)
    with buffers.taken_from(pool):
        arrays = [buffers.empty((1 << 18,), np.uint8) for _ in range(10)]
    arrays.clear()
    assert 0 < pool.idle_bytes <= 1 << 20
    pool.free()
    assert pool.idle_bytes == 0


def test_a_pool_of_ones_own():
    pool = buffers.Pool()
    with buffers.taken_from(pool):
        array = buffers.empty(SHAPE, np.float32)
    assert buffers.pool_of(array[3:].T) is pool
    assert buffers.pool_of(buffers.empty(SHAPE, np.float32)) not in (pool, None)
    assert buffers.pool_of(np.empty(3)) is None
    del array
    assert pool.idle_bytes == pool.nbytes >= 240_000
    assert buffers.idle_bytes() >= 240_000


def test_the_smallest_idle_block_that_is_large_enough_is_lent():
    """One of the same size first; else a larger one, up to twice as large."""
    pool = buffers.Pool()
    sizes = [1 << 20, 3 << 19, 3 << 18, 1 << 18]
    with buffers.taken_from(pool):
        arrays = {size: buffers.empty((size,), np.uint8) for size in sizes}
        places = {size: address(array) for size, array in arrays.items()}
        arrays.clear()

        def taken(size):
            return buffers.empty((size,), np.uint8)

        kept = [taken(size) for size in sizes]
        assert [address(array) for array in kept] == list(places.values())
        kept.clear()
        first = taken((3 << 18) - 5000)
        assert address(first) == places[3 << 18]
        second = taken((3 << 18) - 5000)
        assert address(second) == places[1 << 20]
        third = taken((3 << 18) - 5000)
        assert address(third) == places[3 << 19]
        assert pool.idle_bytes == 1 << 18
        fourth = taken((1 << 17) - 9000)  # less than half
        assert address(fourth) not in places.values()
        del first, second, third, fourth
    assert pool.idle_bytes == pool.nbytes == sum(sizes) + (15 << 13)


_FREED = """
import numpy as np
from tilegrad.kernels.cpu import buffers


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20


del (large := [np.empty(30 << 20, np.uint8)])[:]  # from then on glibc takes what is smaller from its heap
before, arrays, between = resident(), [], []
for _ in range(48):
    arrays.append(buffers.empty((1 << 20,), np.uint8))
    arrays[-1].fill(1)
    between.append(np.ones(5000, np.uint8))
arrays.clear()
idle = resident()
buffers.free()
print(idle - before, resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system tells resident memory elsewhere")
def test_what_is_freed_goes_to_the_system():
    """Also where other arrays lie between the blocks."""
    told = subprocess.run([sys.executable, "-c", _FREED], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    idle, freed = map(int, told.stdout.split())
    assert idle >= 48
    assert freed < 8


def test_many_threads_never_share_a_block():
    wrong = []

    def work(i):
        for k in range(200):
            array = buffers.empty((1 << 15,), np.float32)
            array[:] = 1000 * i + k
            if not (array == 1000 * i + k).all():
                wrong.append((i, k))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_held_outputs_survive_training():
    """Outputs of every step of a small CNN, held while the training goes on, keep their values."""
    tg.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.Flatten())
    head = nn.Linear(32 * 11 * 11, 10)
    optimizer = optim.Adam([*model.parameters(), *head.parameters()])
    held = []
    for _ in range(12):
        x, t = tg.randn(8, 1, 28, 28), tg.randint(10, (8,))
        features = model(x)
        logits = head(features)
        loss = F.cross_entropy(logits, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        held += [(a, a.copy()) for a in (features.data, logits.data, model[0].weight.grad.data)]
    for array, copy in held:
        assert np.array_equal(array, copy)
