"""Launching as on a GPU: kernels are compiled for sm_90 and handed to a driver that notes what it is given.

Run by test_compile.py in a process of its own, because Triton's interpreter, which the other tests use, replaces the
compiler. Nothing of torch may be needed: importing it fails there.
"""

from __future__ import annotations

import ctypes
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import triton.language as tl

from tilegrad.bench import launch as host
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import addresses, gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.launch.triton_kernel import kernel


class Driver:
    """What the launcher uses of cupy.cuda; `launches` has (grid, threads, shared, stream, values) of each launch."""

    def __init__(self) -> None:
        self.launches: list[Any] = []
        self.modules: list[bytes] = []
        self.attributes: list[tuple[int, int, int]] = []
        self.types: list[Any] = []
        self.pause = 0.0
        self.device_id = 0
        self.function = SimpleNamespace(
            Module=lambda: SimpleNamespace(load=self.modules.append),
            Function=lambda module, name: SimpleNamespace(ptr=7),
        )
        self.driver = SimpleNamespace(launchKernel=self.launch, funcSetAttribute=lambda *a: self.attributes.append(a))
        self.device = SimpleNamespace(get_device_id=lambda: self.device_id)
        self.bound: list[int] = []  # threads that have the device's context
        self.Device = lambda: SimpleNamespace(use=lambda: self.bound.append(threading.get_ident()))
        self.get_current_stream = lambda: SimpleNamespace(ptr=99)

    def launch(self, function, x, y, z, tx, ty, tz, shared, stream, parameters, extra) -> None:
        assert (function, extra) == (7, 0)
        addresses = (ctypes.c_void_p * len(self.types)).from_address(parameters)
        values = [t.from_address(a).value for t, a in zip(self.types, addresses, strict=True)]
        time.sleep(self.pause)
        assert values == [t.from_address(a).value for t, a in zip(self.types, addresses, strict=True)], "overwritten"
        self.launches.append(((x, y, z), (tx, ty, tz), shared, stream, values))


@pytest.fixture
def driver(monkeypatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(gpu, "xp", lambda: SimpleNamespace(cuda=driver))
    monkeypatch.setattr(gpu, "capability", lambda: 90)
    return driver


def array(address: int, dtype: Any = np.float32) -> Any:
    return SimpleNamespace(data=SimpleNamespace(ptr=address), dtype=np.dtype(dtype))


def make_kernel() -> launch.Kernel:
    """A new one each time: nothing loaded."""

    @kernel
    def _mixed_kernel(x_ptr, bias_ptr, y_ptr, n, scale, stride, BLOCK: tl.constexpr, ADD: tl.constexpr):
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i * stride, mask=i < n) * scale
        if bias_ptr is not None:
            x += tl.load(bias_ptr)
        if ADD:
            x += 1.0
        tl.store(y_ptr + i, x, mask=i < n)

    return _mixed_kernel


def test_the_driver_gets_every_parameter_at_its_place(driver):
    P, i, q, f = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float
    mixed = make_kernel()
    driver.types = [P, P, i, f, i, P, P]
    mixed((3, 2), array(4096), None, array(8192), 1000, 0.5, 3, BLOCK=256, ADD=True, num_warps=8)
    driver.types = [P, P, P, q, f, P, P]
    mixed((5,), array(4096), array(0x7F0000000010), array(8192), 2**40 + 1, -2.0, 1, BLOCK=256, ADD=False, num_warps=4)
    assert driver.launches == [
        ((3, 2, 1), (256, 1, 1), 0, 99, [4096, 8192, 1000, 0.5, 3, None, None]),
        ((5, 1, 1), (128, 1, 1), 0, 99, [4096, 0x7F0000000010, 8192, 2**40 + 1, -2.0, None, None]),
    ]
    assert len(driver.modules) == 2 and all(cubin.startswith(b"\x7fELF") for cubin in driver.modules)


def test_an_int_that_is_annotated_is_another_number_at_each_launch(driver):
    P, i, q = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    driver.types = [P, i, q, P, P]

    @kernel
    def _from_kernel(x_ptr, n, first: tl.int64, BLOCK: tl.constexpr):
        i = first + tl.arange(0, BLOCK)
        tl.store(x_ptr + i, 1.0, mask=i < n)

    for first in (1, 0, 16, 7, 2**40):
        _from_kernel((1,), array(4096), 1000, first, BLOCK=32)
    assert [values[2] for *_, values in driver.launches] == [1, 0, 16, 7, 2**40]
    assert len(driver.modules) == 1 and len(_from_kernel._launches) == 1
    _from_kernel((1,), array(4096), 1024, 3, BLOCK=32)
    assert len(driver.modules) == 2


def test_what_is_specialised_on_is_loaded_once(driver):
    P, i, f = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
    driver.types = [P, P, i, f, i, P, P]
    mixed = make_kernel()

    def go(x=4096, n=1000, scale=0.5, stride=3, dtype=np.float32, warps=4, **constexprs):  # and num_stages
        constexprs = {"BLOCK": 256, "ADD": True} | constexprs
        mixed((1,), array(x, dtype), None, array(8192, dtype), n, scale, stride, num_warps=warps, **constexprs)
        return len(driver.modules)

    assert go() == 1
    assert go(x=2**40, n=1001, scale=7.0, stride=5) == 1  # other addresses and numbers of the same kinds
    assert go(x=4100) == 2  # not aligned
    assert go(n=1024) == 3  # 16 divides it
    assert go(dtype=bfloat16) == 4
    assert go(warps=8) == 5
    assert go(num_stages=2) == 6
    assert go(ADD=False) == 7
    assert go(BLOCK=128) == 8
    driver.device_id = 1
    assert go() == 9  # a module belongs to one GPU
    driver.device_id = 0
    assert go() == 9


def test_numbers_that_no_specialisation_depends_on_are_passed_as_they_are(driver):
    """0.0 and -0.0 are equal, and a learning rate is another number at every step."""
    P, i, f = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
    driver.types = [P, P, i, f, i, P, P]
    mixed = make_kernel()
    scales = [0.0, -0.0, *(0.1 * k for k in range(50))]
    for scale in scales:
        mixed((1,), array(4096), None, array(8192), 1000, scale, 3, BLOCK=256, ADD=True)
    passed = [launched[4][3] for launched in driver.launches]
    assert np.array_equal(np.signbit(passed), np.signbit(scales)) and np.allclose(passed, scales)
    assert len(driver.modules) == 1 and len(mixed._launches) == 1


@pytest.mark.parametrize("times", [host.relu_times, host.replay_times])
def test_the_hosts_share_is_measured(times, monkeypatch):
    """A few calls: that the stand-ins for the driver have all that the path asks for."""
    monkeypatch.setattr(host, "LAUNCHES", 3)
    found = times()
    assert 0 < found.p20 <= found.median <= found.p80 and found.samples == host.ROUNDS


def test_options_reach_the_compiler():
    with gpu.simulate(), launch.collecting() as specs:
        x = array(4096)
        make_kernel()((1,), x, None, x, 1000, 0.5, 3, BLOCK=256, ADD=True, num_warps=8, num_stages=2)
    metadata = specs[0].compile(90).metadata
    assert (metadata.num_warps, metadata.num_stages) == (8, 2)


MOST = 2**31 - addresses.TILE - 1  # that 32 bits hold, with a tile beyond


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (2, "i32"),
        (-1, "i32"),
        (MOST, "i32"),
        (MOST + 1, "i64/16"),
        (2**31 - 1, "i64"),
        (2**31, "i64/16"),
        (2**32 - 1, "i64"),
        (-MOST, "i32"),
        (-MOST - 2, "i64"),
        (-(2**31), "i64/16"),
        (-(2**31) - 1, "i64"),
    ],
)
def test_a_number_is_as_wide_as_it_needs_to_be(driver, number, kind):
    mixed, x = make_kernel(), array(4096)
    with gpu.simulate(), launch.collecting() as specs:
        mixed((1,), x, None, x, number, 0.5, 3, BLOCK=256, ADD=True)
    assert specs[0].key[3:] == (kind, "fp32", "i32")


@pytest.mark.parametrize("number", [-(2**31) - 1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**63 - 1])
def test_the_driver_gets_numbers_beyond_32_bits_whole(driver, number):
    P, q, f, i = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int32
    driver.types = [P, P, q, f, i, P, P]
    make_kernel()((1,), array(4096), None, array(8192), number, 0.5, 3, BLOCK=256, ADD=True)
    assert driver.launches[0][-1][2] == number


@pytest.mark.parametrize(
    "grid", [(2**31,), (1, 65536), (1, 1, 65536), (2**31, 1, 1)], ids=lambda grid: "x".join(map(str, grid))
)
def test_a_grid_that_no_gpu_takes(driver, grid):
    mixed, x = make_kernel(), array(4096)
    with pytest.raises(ValueError, match=r"^_mixed_kernel: a grid of .*; expected at most \d+ along axis [012]$"):
        mixed(grid, x, None, x, 1000, 0.5, 3, BLOCK=256, ADD=True)
    assert driver.modules == []


def test_the_largest_grid(driver):
    driver.types = [ctypes.c_void_p] * 2 + [ctypes.c_int32, ctypes.c_float, ctypes.c_int32] + [ctypes.c_void_p] * 2
    x = array(4096)
    make_kernel()((2**31 - 1, 65535, 65535), x, None, x, 1000, 0.5, 3, BLOCK=256, ADD=True)
    assert driver.launches[0][0] == (2**31 - 1, 65535, 65535)


def test_an_aligned_pointer_is_what_makes_loads_wide():
    with gpu.simulate(), launch.collecting() as specs:
        for address in (4096, 4100):
            x = array(address)
            make_kernel()((1,), x, None, x, 1024, 1.0, 1, BLOCK=1024, ADD=False)
    wide, narrow = (spec.compile(90).asm["ptx"] for spec in specs)
    assert "ld.global.v4" in wide and "ld.global.v4" not in narrow


def test_kernels_compile_with_offsets_of_64_bits(monkeypatch):
    """Where the interpreter takes any mixture of widths: what a branch or a loop changes must keep its type."""
    from tilegrad.kernels.backends import triton as triton_backend

    monkeypatch.setattr(addresses, "NARROW", 64)
    with gpu.simulate(), launch.collecting() as specs:
        for x, w in (((2, 16, 5, 5), (16, 16, 3, 3)), ((2, 2, 5, 5), (3, 2, 3, 3))):
            x, w = (gpu.xp().empty(shape, np.float16) for shape in (x, w))
            y = triton_backend.conv2d(x, w, stride=(2, 2))
            triton_backend.conv2d_grad_input(y, w, x.shape, (2, 2), (0, 0), (1, 1), 1)
    wide = [spec for spec in specs if spec.default and dict(spec.constexprs)["WIDE"]]
    assert len(wide) == 4
    for spec in wide:
        assert spec.compile(90).asm["cubin"]


def test_more_than_48_kb_of_shared_memory_is_asked_for(driver):
    @kernel
    def _dot_kernel(a_ptr, b_ptr, c_ptr, k, N: tl.constexpr):
        i = tl.arange(0, N)
        total = tl.zeros((N, N), tl.float32)
        for start in range(0, k, N):
            a = tl.load(a_ptr + i[:, None] * k + (start + i)[None, :])
            b = tl.load(b_ptr + (start + i)[:, None] * N + i[None, :])
            total = tl.dot(a, b, total, input_precision="ieee")
        tl.store(c_ptr + i[:, None] * N + i[None, :], total)

    driver.types = [ctypes.c_void_p] * 3 + [ctypes.c_int32] + [ctypes.c_void_p] * 2
    x = array(4096, np.float16)
    _dot_kernel((1,), x, x, array(4096), 512, N=128, num_warps=8, num_stages=3)
    (attributes,) = driver.attributes
    assert attributes[:2] == (7, 8) and attributes[2] > 48 << 10
    assert driver.launches[0][2] == attributes[2]


def test_threads_do_not_overwrite_each_others_parameters(driver):
    driver.types = [ctypes.c_void_p] * 2 + [ctypes.c_int32, ctypes.c_float, ctypes.c_int32] + [ctypes.c_void_p] * 2
    mixed = make_kernel()

    def go(n):
        mixed((1,), array(4096), None, array(8192), n, 0.5, 3, BLOCK=256, ADD=True)

    go(999)
    driver.pause = 0.002
    threads = [threading.Thread(target=go, args=(n,)) for n in (1001, 1003, 1005, 1007)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(values[2] for *_, values in driver.launches) == [999, 1001, 1003, 1005, 1007]


def test_a_grid_with_a_zero_launches_nothing(driver):
    make_kernel()((0,), array(4096), None, array(8192), 0, 0.5, 3, BLOCK=256, ADD=True)
    assert driver.launches == driver.modules == []


def test_an_int_and_the_float_of_its_value_are_told_apart(driver):
    driver.types = [ctypes.c_void_p] * 2 + [ctypes.c_int32, ctypes.c_float, ctypes.c_int32] + [ctypes.c_void_p] * 2
    mixed = make_kernel()
    mixed((1,), array(4096), None, array(8192), 4, 2.0, 3, BLOCK=256, ADD=True)
    with pytest.raises(
        TypeError, match=r"_mixed_kernel: numbers are \['int', 'int', 'int'\]; expected \['int', 'float'"
    ):
        mixed((1,), array(4096), None, array(8192), 4, 3, 3, BLOCK=256, ADD=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((array(4096), None, array(8192), 4), "got 4 arguments; expected x_ptr, bias_ptr, y_ptr, n, scale, stride"),
        ((array(4096, np.int16), None, array(0), 4, 1.0, 3), "an array is int16; expected one of float16, bfloat16"),
        ((array(4096), None, array(0), True, 1.0, 3), "n is a bool; expected an int or a float"),
        ((array(4096), None, array(0), np.int64(4), 1.0, 3), "n is a int64; expected an int or a float"),
    ],
)
def test_wrong_arguments(driver, arguments, message):
    with pytest.raises(TypeError, match=f"^_mixed_kernel: {message}"):
        make_kernel()((1,), *arguments, BLOCK=256, ADD=True)
    assert driver.modules == []


def test_pointers_come_first():
    with pytest.raises(AssertionError, match="_bad_kernel: expected all pointers"):

        @kernel
        def _bad_kernel(n, x_ptr, BLOCK: tl.constexpr):
            pass


def test_torch_was_not_imported():
    with pytest.raises(ImportError, match="torch is blocked"):
        import torch  # noqa: F401


def test_a_thread_binds_the_device_before_its_first_launch(driver):
    """The driver launches into the context of the calling thread, and a new thread has none."""
    P, i, f = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
    driver.types = [P, P, i, f, i, P, P]
    mixed, bound = make_kernel(), []

    def launch_twice():
        for _ in range(2):
            mixed((1,), array(4096), None, array(8192), 1000, 0.5, 3, BLOCK=256, ADD=True)
            bound.append(driver.bound.count(threading.get_ident()))

    launch_twice()
    thread = threading.Thread(target=launch_twice)
    driver.bound.clear()
    thread.start()
    thread.join()
    assert bound[2:] == [1, 1] and len(driver.launches) == 4
