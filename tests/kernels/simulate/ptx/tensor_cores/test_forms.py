"""Every form of a matrix instruction that Triton makes of the package's kernels is taken, with its number of registers.

The list is that of all specialisations compiled ahead of time for sm_80 and sm_90 (Triton 3.9).
"""

from __future__ import annotations

import pytest

from tilegrad.kernels.simulate.ptx.tensor_cores import ldmatrix, mma, wgmma

WARP_PRODUCTS = {  # registers of A, B and C
    "m16n8k16.row.col.f32.f16.f16.f32": (4, 2, 4),
    "m16n8k16.row.col.f32.bf16.bf16.f32": (4, 2, 4),
    "m16n8k8.row.col.f32.tf32.tf32.f32": (4, 2, 4),
}
ROWS = [
    ldmatrix.Form("ldmatrix", 1, False),
    ldmatrix.Form("ldmatrix", 4, False),
    ldmatrix.Form("ldmatrix", 4, True),
    ldmatrix.Form("stmatrix", 1, False),
    ldmatrix.Form("stmatrix", 4, False),
    ldmatrix.Form("stmatrix", 4, True),
]
GROUP_PRODUCTS = [
    (n, k, dtype) for n in (16, 32, 64, 128, 256) for k, dtype in ((16, "f16"), (16, "bf16"), (8, "tf32"))
]


@pytest.mark.parametrize("form", WARP_PRODUCTS)
def test_mma(form):
    assert mma.read(f"mma.sync.aligned.{form}").registers == WARP_PRODUCTS[form]


@pytest.mark.parametrize("form", ROWS, ids=str)
def test_ldmatrix_and_stmatrix(form):
    trans = ".trans" if form.trans else ""
    assert ldmatrix.read(f"{form.name}.sync.aligned.m8n8.x{form.count}{trans}.shared.b16") == form


@pytest.mark.parametrize(("n", "k", "dtype"), GROUP_PRODUCTS)
def test_wgmma(n, k, dtype):
    """Half floats with either operand transposed, or with A in registers; tf32 with A in either place."""
    form = wgmma.read(f"wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{dtype}.{dtype}")
    assert form == (n, k, dtype)
    if dtype == "tf32":
        assert wgmma.read_options(form, (1, 1), False) == wgmma.read_options(form, (1, 1), True) == wgmma.Options()
        return
    for trans_a in (0, 1):
        for trans_b in (0, 1):
            assert wgmma.read_options(form, (1, 1, trans_a, trans_b), False) == wgmma.Options(1, 1, trans_a, trans_b)
    assert wgmma.read_options(form, (1, 1, 1), True) == wgmma.Options(1, 1, 0, 1)
