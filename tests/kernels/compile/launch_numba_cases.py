"""Launching Numba kernels as on a GPU: compiled to PTX for sm_90 and handed to a driver that notes what it is given.

Run by test_compile.py in a process of its own, because Numba's simulator, which the other tests use, replaces the
compiler.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from tests.kernels.compile.launch_cases import Driver
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_kernel import collecting, kernel
from tilegrad.kernels.launch.numba_target import cuda


@pytest.fixture
def driver(monkeypatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(gpu, "xp", lambda: SimpleNamespace(cuda=driver, ndarray=SimpleNamespace))
    monkeypatch.setattr(gpu, "capability", lambda: 90)
    return driver


def array(address, like):
    """What a launch reads of a CuPy array: this one has the shape and strides of `like`."""
    names = ("dtype", "shape", "strides", "size", "itemsize", "ndim", "flags")
    return SimpleNamespace(data=SimpleNamespace(ptr=address), **{name: getattr(like, name) for name in names})


def make_kernel():
    """A new one each time: nothing loaded."""

    @kernel
    def _scale_kernel(x, y, n, factor):
        i = cuda.grid(1)
        if i < n:
            y[i] = x[i, 0] * factor

    return _scale_kernel


def test_the_driver_gets_every_word_of_an_array(driver):
    """meminfo, parent, elements, itemsize, address, shape, strides: Numba's layout of an array argument."""
    q = ctypes.c_int64
    driver.types = [q] * 9 + [q] * 7 + [q, ctypes.c_float]
    x, y = np.zeros((6, 4), np.float32)[::2, ::-1], np.zeros(3, np.float32)
    make_kernel()((2, 3), (32, 2), array(4096, x), array(8192, y), 3, 0.5)
    ((grid, threads, shared, stream, values),) = driver.launches
    assert (grid, threads, shared, stream) == ((2, 3, 1), (32, 2, 1), 0, 99)
    assert values == [0, 0, 12, 4, 4096, 3, 4, 32, -4, 0, 0, 3, 4, 8192, 3, 4, 3, 0.5]
    (code,) = driver.modules
    assert b".visible .entry" in code and b".target sm_90" in code


def test_the_parameters_are_those_of_the_compiled_kernel(driver):
    """As many as the PTX declares, of the same widths."""
    x = np.zeros((6, 4), np.float16)
    with gpu.simulate(), collecting() as specs:
        make_kernel()((1,), (32,), array(4096, x), array(8192, x[0]), 3, 0.5)
    ptx, entry = specs[0].compile(90)
    declared = [line.split()[1] for line in ptx.splitlines() if line.strip().startswith(".param .")]
    assert declared == [".u64"] * 17 + [".f32"]


def test_dtype_axes_and_contiguity_are_compiled_for_and_nothing_else(driver):
    kernel = make_kernel()
    q = ctypes.c_int64
    driver.types = [q] * 9 + [q] * 7 + [q, ctypes.c_float]

    def go(x, n=3, factor=0.5):
        kernel((1,), (32,), array(4096, x), array(8192, np.zeros(3, x.dtype)), n, factor)
        return len(driver.modules)

    assert go(np.zeros((3, 4), np.float32)) == 1
    assert go(np.zeros((5, 9), np.float32), n=7, factor=2.0) == 1
    assert go(np.zeros((3, 4), np.float32).T) == 2
    assert go(np.zeros((3, 4), np.float16)) == 3


def test_what_is_loaded_belongs_to_its_gpu(driver):
    kernel = make_kernel()
    q = ctypes.c_int64
    driver.types = [q] * 9 + [q] * 7 + [q, ctypes.c_float]
    x, y = array(4096, np.zeros((3, 4), np.float32)), array(8192, np.zeros(3, np.float32))
    for device, loaded in ((0, 1), (1, 2), (0, 2), (1, 2)):
        driver.device_id = device
        kernel((1,), (32,), x, y, 3, 0.5)
        assert len(driver.modules) == loaded


def test_a_grid_with_a_zero_launches_nothing(driver):
    make_kernel()((0,), (32,), array(4096, np.zeros((0, 1))), array(8192, np.zeros(0)), 0, 0.5)
    assert driver.launches == driver.modules == []


def test_wrong_arguments(driver):
    with pytest.raises(TypeError, match="_scale_kernel: an argument is a str; expected an array, an int or a float"):
        make_kernel()((1,), (32,), "x", array(8192, np.zeros(3)), 3, 0.5)
