"""The simulated device behaves as CuPy's arrays do, and sees what a kernel does wrong."""

from __future__ import annotations

import numpy as np
import pytest
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_kernel import INTERPRETED, kernel
from tilegrad.kernels.simulate import arrays as simulated
from tilegrad.kernels.simulate import tape

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels are not interpreted: they are compiled")


@kernel
def _fill_kernel(x_ptr, first, count, BLOCK: tl.constexpr):
    """Writes 7 to elements first .. first + count - 1 of x."""
    i = first + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, 7.0, mask=i < first + count)


def test_fresh_memory_is_nan_or_minus_one():
    assert np.isnan(simulated.empty((3, 4), np.float32).get()).all()
    assert (simulated.empty(5, np.int32).get() == -1).all()


def test_a_kernel_writes_its_array():
    x = simulated.zeros(100, np.float32)
    _fill_kernel((1,), x, 10, 80, BLOCK=128)
    assert (x.get() == np.where((np.arange(100) >= 10) & (np.arange(100) < 90), 7, 0)).all()


@pytest.mark.parametrize(("first", "count", "side"), [(-1, 50, "before"), (50, 51, "behind"), (100, 1, "behind")])
def test_a_write_beyond_the_array_is_seen(first, count, side):
    x = simulated.empty(100, np.float32)
    with pytest.raises(AssertionError, match=rf"_fill_kernel: wrote {side} array 0 of shape \(100,\)"):
        _fill_kernel((1,), x, first, count, BLOCK=128)


def test_a_view_is_guarded_by_its_allocation():
    x = simulated.zeros((10, 10), np.float32)
    _fill_kernel((1,), x[5], 0, 10, BLOCK=16)
    assert x.get()[5].sum() == 70 == x.get().sum()
    with pytest.raises(AssertionError, match="wrote behind"):
        _fill_kernel((1,), x[5], 0, 51, BLOCK=64)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_aligned_as_cupys(order):
    for shape in ((), (3,), (5, 7), (0, 4)):
        x = simulated.empty(shape, np.float16, order)
        assert x.shape == shape and (x.size == 0 or x.data.ptr % 256 == 0)
        assert getattr(x.flags, f"{order.lower()}_contiguous")


def test_host_arrays_do_not_mix_with_it():
    x, host = simulated.ones(3, np.float32), np.ones(3, np.float32)
    for mixed in (lambda: x + host, lambda: host + x, lambda: np.add(host, x), lambda: simulated.where(host > 0, x, x)):
        with pytest.raises(TypeError, match="Unsupported type.*beside arrays of device cuda"):
            mixed()
    with pytest.raises(TypeError):
        x[0] = host[:1]
    with pytest.raises(TypeError, match=r"expected x.get\(\)"):
        np.asarray(x)


def test_results_are_arrays_of_the_device_even_0d():
    x = simulated.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    for y in (x.sum(), x[1, 2], x.T, -x, 2 * x, x > 1, np.exp(x), x.reshape(-1), simulated.where(x > 1, x, 0)):
        assert type(y) is simulated.ndarray
    assert float(x[1, 2]) == 5 and x.sum().item() == 15 and bool(x.any())
    assert x.sum().shape == ()


def test_views_share_memory_and_know_their_base():
    x = simulated.zeros((4, 4), np.float32)
    assert x.base is None
    y = x[1:3].T
    y[...] = 1
    assert x.get().sum() == 8 and y.base is not None
    assert y.data.ptr == x.data.ptr + 16


def test_empty_like_keeps_the_memory_order():
    host = np.empty((2, 3, 4, 5), np.float32).transpose(0, 2, 3, 1)
    x = simulated.asarray(host)
    assert x.strides == host.strides
    assert simulated.empty_like(x).strides == host.strides


def test_a_simulated_gpu_does_not_count_as_one():
    assert gpu.is_simulated() and not gpu.is_available()
    assert gpu.xp() is simulated
    assert gpu.is_array(simulated.zeros(1)) and not gpu.is_array(np.zeros(1))


@kernel
def _fill_through_kernel(table_ptr, count, BLOCK: tl.constexpr):
    """Writes 7 to the first `count` elements of the array whose address is in the table."""
    x_ptr = tl.load(table_ptr).to(tl.pointer_type(tl.float32))
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, 7.0, mask=i < count)


def test_a_write_beyond_an_array_that_a_table_points_to_is_seen():
    x = simulated.zeros((3, 20), np.float32)
    table = simulated.asarray(np.array([x[1].data.ptr, 5, 2**63 - 1]))
    _fill_through_kernel((1,), table, 40, BLOCK=64)
    assert (x.get() == [[0], [7], [7]]).all()
    with pytest.raises(AssertionError, match="wrote behind an array of 240 bytes that array 0 points to"):
        _fill_through_kernel((1,), table, 41, BLOCK=64)


@pytest.mark.parametrize("collected", [False, True])
def test_a_table_may_point_to_what_a_function_of_the_library_made(collected):
    """Also to what it will make at each launch of a graph."""
    x = gpu.xp().ones(3, np.float32)
    with tape.collected_on(tape.Tape() if collected else None):
        y = x + 1
    pointed = list(simulated.pointed_at(gpu.xp().asarray(np.array([0, y.data.ptr + 4], np.int64))))
    assert [memory.__array_interface__["data"][0] for memory in pointed] == [y.data.ptr]
