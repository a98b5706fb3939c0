"""The loop over blocks of long rows has a block on its way while it reduces one: as PTX shows.

Run by test_compile.py in a process of its own, because Triton's interpreter, which the other tests use, replaces the
compiler.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilegrad.kernels.backends import triton as backend
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch

DTYPES = (np.dtype(np.float32), np.dtype(np.float16), bfloat16)
ARCHITECTURES = (80, 90)
LIMIT = 99 << 10  # bytes of shared memory that a program may have on sm_86, sm_89 and sm_120


def xent(*shape: int, dtype: Any, transposed: bool = False, **options: Any) -> None:
    z = gpu.xp().empty(shape, dtype)
    z = z.T if transposed else z
    backend.softmax_xent(z, gpu.xp().empty(len(z), np.int64), **options)


def compiled(arch: int, name: str, call: Any) -> Any:
    """What becomes of the call's launch of the kernel of that name."""
    with gpu.simulate(), launch.collecting(arch) as specs:
        call()
    (spec,) = (spec for spec in specs if spec.kernel.name == name)
    return spec.compile(arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothed"])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_class_loop_has_a_block_on_its_way_while_it_reduces_one(arch, dtype, options, transposed):
    shape = (32768, 4096) if transposed else (128, 131072)
    code = compiled(arch, "_softmax_xent_kernel", lambda: xent(*shape, dtype=dtype, transposed=transposed, **options))
    before_the_loop, loop = _around_the_loop(code.asm["ptx"])
    assert before_the_loop.count("cp.async.commit_group") == 2  # the first two blocks
    waits = [line.split()[1] for line in loop.splitlines() if "cp.async.wait_group" in line]
    assert waits == ["1;"]  # at the start of the loop for its block, while the next one is still on its way
    assert loop.index("cp.async.wait_group") < loop.index("ex2.approx") < loop.index("cp.async.commit_group")
    assert "ld.global" not in loop
    assert code.metadata.shared <= LIMIT


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((128, 1000), id="one block"),
        pytest.param((128, 50257), id="rows that do not begin at 16 bytes"),
        pytest.param((4096, 32768), id="more programs than run at once"),
    ],
)
def test_where_nothing_is_copied_ahead_no_shared_memory_is_taken_for_it(dtype, shape):
    code = compiled(90, "_softmax_xent_kernel", lambda: xent(*shape, dtype=dtype))
    assert "cp.async" not in code.asm["ptx"]
    assert code.metadata.shared < 1024


def _around_the_loop(ptx: str) -> tuple[str, str]:
    """(what stands before the first loop, that loop): from a label to the branch back to it."""
    lines = ptx.splitlines()
    for end, line in enumerate(lines):
        if "bra" in line:
            label = line.split()[-1].rstrip(";")
            begin = next((i for i in range(end) if lines[i].startswith(f"{label}:")), None)
            if begin is not None:
                return "\n".join(lines[:begin]), "\n".join(lines[begin:end])
    raise AssertionError("no loop")
