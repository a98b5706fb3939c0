"""A warpgroup's product is that of the matrices that its descriptors name, in every layout of the manual."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.tensor_cores.helpers import BITS, a_registers, d_registers, encoded, random_values, same
from tilegrad.kernels.simulate.ptx.tensor_cores.descriptors import decode, piece_addresses
from tilegrad.kernels.simulate.ptx.tensor_cores.faults import SharedFault
from tilegrad.kernels.simulate.ptx.tensor_cores.wgmma import Form, Options, read, read_options, wgmma

SWIZZLES = {0: 0, 32: 3, 64: 2, 128: 1}  # bytes: number in the descriptor
KS = {"f16": 16, "bf16": 16, "tf32": 8}
LAYOUTS = [(dtype, swizzle, False) for dtype in KS for swizzle in SWIZZLES]
LAYOUTS += [(dtype, swizzle, True) for dtype in ("f16", "bf16") for swizzle in SWIZZLES]  # m or n major
layouts = pytest.mark.parametrize(
    ("dtype", "swizzle", "mn_major"),
    LAYOUTS,
    ids=[f"{dtype}-{swizzle}B-{'mn' if mn else 'k'}" for dtype, swizzle, mn in LAYOUTS],
)


def descriptor(start: int, leading: int, stride: int, swizzle: int, base: int = 0) -> int:
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | base << 49 | SWIZZLES[swizzle] << 62


def swizzled(address: int, swizzle: int) -> int:
    """CuTe's Swizzle<B, 4, 3> of the address in bytes, B being 0, 1, 2, 3: a bit at a time."""
    for bit in range({0: 0, 32: 1, 64: 2, 128: 3}[swizzle]):
        address ^= (address >> 7 + bit & 1) << 4 + bit
    return address


def canonical(mn: int, k: int, dtype: str, swizzle: int, mn_major: bool, leading: int, stride: int) -> int:
    """The offset in bytes of element (mn, k): the table "Canonical Layouts" of 9.7.15.5.1.2.1.3, in elements.

    CuTe's ((a, b, c), (d, e)):((i, j, l), (m, n)) puts the element at i (mn % a) + j (mn // a % b) + ...
    """
    size = BITS[dtype] // 8
    t, lbo, sbo = 16 // size, leading // size, stride // size
    width = max(1, swizzle // 16)
    if mn_major and not swizzle:  # ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
        offset = mn % t + mn // t * sbo + k % 8 * t + k // 8 * lbo
    elif mn_major:  # ((T,W,m),(8,k)):((1,T,LBO),(W T,SBO))
        offset = mn % t + mn // t % width * t + mn // (t * width) * lbo + k % 8 * width * t + k // 8 * sbo
    elif not swizzle:  # ((8,m),(T,2k)):((1T,SBO),(1,LBO))
        offset = mn % 8 * t + mn // 8 * sbo + k % t + k // t * lbo
    else:  # ((8,m),(T,2k)):((W T,SBO),(1,T))
        offset = mn % 8 * width * t + mn // 8 * sbo + k % t + k // t * t
    return offset * size


def strides(rows: int, depth: int, dtype: str, swizzle: int, mn_major: bool) -> tuple[int, int, int]:
    """(leading, stride, bytes) of a packed matrix of rows times depth elements, with a gap that is no one's."""
    size, pattern = BITS[dtype] // 8, 8 * max(16, swizzle)
    if mn_major and not swizzle:
        stride = 128 * -(-depth // 8) + 128
        return 128, stride, stride * (rows * size // 16)
    if mn_major:
        leading = pattern * -(-depth // 8) + 1024
        return leading, pattern, leading * -(-rows * size // swizzle)
    if not swizzle:
        leading = 128 * (rows // 8) + 128
        return leading, 128, leading * (depth * size // 16)
    return 0, pattern, pattern * (rows // 8)


class Memory:
    """Shared memory of some blocks, filled from the bottom with matrices; elsewhere NaN."""

    def __init__(self, blocks: int, size: int = 200 << 10) -> None:
        self.bytes = np.full((blocks, size), 0xFF, np.uint8)
        self.free = 1024

    def place(self, block: int, matrix: np.ndarray, dtype: str, swizzle: int, mn_major: bool, first_k: int = 0) -> int:
        """Write (mn, depth) and return the descriptor of its part from first_k on."""
        rows, depth = matrix.shape
        leading, stride, size = strides(rows, depth, dtype, swizzle, mn_major)
        bits = encoded(matrix, dtype)
        for mn in range(rows):
            for k in range(depth):
                address = swizzled(self.free + canonical(mn, k, dtype, swizzle, mn_major, leading, stride), swizzle)
                width = BITS[dtype] // 8
                self.bytes[block, address : address + width] = bits[mn, k : k + 1].view(np.uint8)
        start = self.free + canonical(0, first_k, dtype, swizzle, mn_major, leading, stride)
        self.free += -(-size // 1024) * 1024 + 1024
        return descriptor(start, leading, stride, swizzle)


def for_lanes(*of_groups: int | bool) -> np.ndarray:
    """Registers (warps, 32): a value for every warpgroup."""
    dtype = bool if isinstance(of_groups[0], bool) else np.uint64
    return np.repeat(np.array(of_groups, dtype), 128).reshape(-1, 32)


def result(d: np.ndarray) -> list[np.ndarray]:
    """The registers of D (warpgroups, 64, n)."""
    return d_registers(d.reshape(-1, 16, d.shape[2]))


@layouts
@pytest.mark.parametrize("n", [8, 16, 64, 136])
def test_b_in_every_layout(dtype, swizzle, mn_major, n):
    if mn_major and n * 2 % max(swizzle, 16):
        n = swizzle // 2  # a whole row of the pattern
    rng = np.random.default_rng(n)
    form, memory = Form(n, KS[dtype], dtype), Memory(2, 64 << 10)
    a, c = random_values(rng, (2, 64, form.k)), rng.standard_normal((2, 64, n)).astype(np.float32)
    b = random_values(rng, (2, n, form.k))
    at = [memory.place(1 - group, b[group], dtype, swizzle, mn_major) for group in range(2)]
    registers = a_registers(a.reshape(-1, 16, form.k), dtype)
    block = np.repeat([1, 0], 4)
    options = Options(trans_b=int(mn_major))
    got = wgmma(form, options, memory.bytes, block, result(c), registers, for_lanes(*at), for_lanes(True, True))
    exact = a.astype(np.float64) @ b.astype(np.float64).swapaxes(1, 2) + c
    assert same(got, result(exact))


@layouts
def test_a_in_every_layout(dtype, swizzle, mn_major):
    """Against columns of B that pick one column of A each, so that every element is seen in its own place."""
    form, memory = Form(16, KS[dtype], dtype), Memory(1, 64 << 10)
    a = (np.arange(64 * form.k).reshape(64, form.k) * 7 % 509 % 251).astype(np.float32)
    b = np.zeros((16, form.k))
    b[np.arange(16), np.arange(16) % form.k] = 1
    at_a = memory.place(0, a, dtype, swizzle, mn_major)
    at_b = memory.place(0, b, dtype, 0, False)
    zero = result(np.zeros((1, 64, 16)))
    options = Options(trans_a=int(mn_major))
    block, no = np.zeros(4, int), for_lanes(False)
    got = wgmma(form, options, memory.bytes, block, zero, for_lanes(at_a), for_lanes(at_b), no)
    assert same(got, result(a[None, :, np.arange(16) % form.k]))


@layouts
def test_a_descriptor_may_start_within_a_pattern(dtype, swizzle, mn_major):
    """As compilers step along k: the start moves on, the swizzle stays that of the whole matrix."""
    form, memory = Form(64, KS[dtype], dtype), Memory(1, 64 << 10)
    depth = 4 * form.k if mn_major or not swizzle else swizzle // (BITS[dtype] // 8)
    rng = np.random.default_rng(3)
    b = random_values(rng, (64, depth))
    a = random_values(rng, (1, 64, form.k))
    registers = a_registers(a.reshape(-1, 16, form.k), dtype)
    for first_k in range(0, depth, form.k):
        memory.free = 1024
        at = memory.place(0, b, dtype, swizzle, mn_major, first_k)
        zero, no = result(np.zeros((1, 64, 64))), for_lanes(False)
        options = Options(trans_b=int(mn_major))
        got = wgmma(form, options, memory.bytes, np.zeros(4, int), zero, registers, for_lanes(at), no)
        exact = a.astype(np.float64) @ b[:, first_k : first_k + form.k].T.astype(np.float64)
        assert same(got, result(exact)), first_k


EXAMPLES = {  # figures 166 to 170 of the manual: dtype, swizzle, mn major, LBO, SBO in elements, and the exact layout
    "k, none, tf32": ("tf32", 0, False, 64, 32, ((8, 2), (4, 4)), ((4, 32), (1, 64))),
    "k, 32 B, tf32": ("tf32", 32, False, 0, 64, ((8, 2), (4, 4)), ((8, 64), (1, 4))),
    "mn, none, bf16": ("bf16", 0, True, 128, 64, ((8, 1, 2), (8, 2)), ((1, 8, 64), (8, 128))),
    "mn, 32 B, bf16": ("bf16", 32, True, 128, 256, ((8, 2, 2), (8, 2)), ((1, 8, 128), (16, 256))),
    "mn, 64 B, bf16": ("bf16", 64, True, 256, 512, ((8, 4, 2), (8, 2)), ((1, 8, 256), (32, 512))),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_manuals_worked_examples(example):
    dtype, swizzle, mn_major, leading, stride, shape, steps = EXAMPLES[example]
    size, rows = BITS[dtype] // 8, int(np.prod(shape[0]))
    fields = decode(np.array([descriptor(2048, leading * size, stride * size, swizzle)], np.uint64))
    at = piece_addresses(fields, rows, dtype, mn_major)[0]
    elements = 16 // size
    for mn in range(rows):
        for k in range(KS[dtype]):
            offset = 0
            for place, extents, strides_ in ((mn, shape[0], steps[0]), (k, shape[1], steps[1])):
                for extent, step in zip(extents, strides_, strict=True):
                    offset, place = offset + place % extent * step, place // extent
            piece, within = (
                (at[mn // elements, k], mn % elements) if mn_major else (at[mn, k // elements], k % elements)
            )
            assert piece + within * size == swizzled(2048 + offset * size, swizzle), (mn, k)


def test_a_base_offset_moves_the_patterns_first_row():
    """A pattern of 128 bytes that starts at 1024 i + 384 has its first, unswizzled row there."""
    fields = decode(np.array([descriptor(1024 + 384, 0, 1024, 128, base=3), descriptor(1024, 0, 1024, 128)], np.uint64))
    moved, plain = piece_addresses(fields, 64, "bf16", False)
    assert np.array_equal(moved - 384, plain)


@pytest.mark.parametrize("dtype", KS)
@pytest.mark.parametrize("n", [8, 24, 256])
def test_every_element_of_d_has_its_place(dtype, n):
    """Unique numbers go through D unchanged where A is zero, and are dropped where scale-d is false."""
    form, memory = Form(n, KS[dtype], dtype), Memory(1, 64 << 10)
    b = memory.place(0, np.ones((n, form.k)), dtype, 128, False)
    c = np.arange(2 * 64 * n, dtype=np.float32).reshape(2, 64, n)
    nothing = [np.zeros((8, 32), np.uint32)] * 4
    block = np.zeros(8, int)
    got = wgmma(form, Options(), memory.bytes, block, result(c), nothing, for_lanes(b, b), for_lanes(True, False))
    c[1] = 0
    assert same(got, result(c))


def test_a_nan_in_d_is_dropped_with_it():
    form, memory = Form(8, 16, "f16"), Memory(1, 8192)
    b = memory.place(0, np.ones((8, 16)), "f16", 0, False)
    nothing = [np.zeros((4, 32), np.uint32)] * 4
    nan, block = result(np.full((1, 64, 8), np.nan)), np.zeros(4, int)
    got = wgmma(form, Options(), memory.bytes, block, nan, nothing, for_lanes(b), for_lanes(False))
    assert same(got, result(np.zeros((1, 64, 8))))
    got = wgmma(form, Options(), memory.bytes, block, nan, nothing, for_lanes(b), for_lanes(True))
    assert all((register == 0x7FFFFFFF).all() for register in got)


@pytest.mark.parametrize(("scale_a", "scale_b"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_scales_negate(scale_a, scale_b):
    form, memory, rng = Form(16, 16, "bf16"), Memory(1, 16384), np.random.default_rng(4)
    a, b, c = random_values(rng, (64, 16)), random_values(rng, (16, 16)), rng.standard_normal((1, 64, 16))
    at_a, at_b = memory.place(0, a, "bf16", 32, True), memory.place(0, b, "bf16", 32, True)
    c = c.astype(np.float32)
    options, block = Options(scale_a, scale_b, 1, 1), np.zeros(4, int)
    got = wgmma(form, options, memory.bytes, block, result(c), for_lanes(at_a), for_lanes(at_b), for_lanes(True))
    exact = scale_a * scale_b * (a.astype(np.float64) @ b.astype(np.float64).T) + c
    assert same(got, result(exact))


def test_infinity_and_subnormals():
    form, memory = Form(8, 8, "tf32"), Memory(1, 16384)
    a, b = np.zeros((64, 8)), np.ones((8, 8))
    a[0, 0], a[1, 0], a[2, :2], a[3, 7] = np.inf, 2.0**-136, (np.inf, -np.inf), np.nan
    b[5, 0] = 0
    at_a, at_b = memory.place(0, a, "tf32", 64, False), memory.place(0, b, "tf32", 128, False)
    zero, block = result(np.zeros((1, 64, 8))), np.zeros(4, int)
    got = wgmma(form, Options(), memory.bytes, block, zero, for_lanes(at_a), for_lanes(at_b), for_lanes(False))
    expected = np.zeros((1, 64, 8), np.float32)
    expected[0, 0], expected[0, 1], expected[0, 2], expected[0, 3] = np.inf, 2.0**-136, np.nan, np.nan
    expected[0, 0, 5], expected[0, 1, 5] = np.nan, 0
    expected.view(np.uint32)[np.isnan(expected)] = 0x7FFFFFFF
    assert same(got, result(expected))


def test_a_matrix_past_the_end_of_shared_memory_is_an_error_that_says_where():
    form, shared = Form(8, 16, "f16"), np.zeros((1, 4096), np.uint8)
    zero, nothing = result(np.zeros((2, 64, 8))), [np.zeros((8, 32), np.uint32)] * 4
    inside, outside = descriptor(4096 - 256, 128, 128, 0), descriptor(4096 - 240, 128, 128, 0)
    block, yes = np.zeros(8, int), for_lanes(True, True)
    wgmma(form, Options(), shared, block, zero, nothing, for_lanes(inside, inside), yes)
    with pytest.raises(SharedFault, match="wgmma: B: out of bounds; the block has 4096 bytes") as caught:
        wgmma(form, Options(), shared, block, zero, nothing, for_lanes(inside, outside), yes)
    assert (caught.value.warp, caught.value.lane, caught.value.address) == (4, None, 4096)


def test_a_warpgroup_has_one_descriptor_one_block_and_one_scale_d():
    form, shared = Form(8, 16, "f16"), np.zeros((2, 4096), np.uint8)
    zero, nothing = result(np.zeros((1, 64, 8))), [np.zeros((4, 32), np.uint32)] * 4
    b, block, yes = for_lanes(descriptor(0, 128, 128, 0)), np.zeros(4, int), for_lanes(True)
    other, some = b.copy(), yes.copy()
    other[2, 5] += np.uint64(1)
    some[3, 31] = False
    with pytest.raises(ValueError, match="B differs among the lanes of warpgroup 0"):
        wgmma(form, Options(), shared, block, zero, nothing, other, yes)
    with pytest.raises(ValueError, match="scale-d differs"):
        wgmma(form, Options(), shared, block, zero, nothing, b, some)
    with pytest.raises(ValueError, match="four neighbours of one block"):
        wgmma(form, Options(), shared, np.array([0, 0, 1, 1]), zero, nothing, b, yes)
    with pytest.raises(ValueError, match="got 3 registers for A; expected 4"):
        wgmma(form, Options(), shared, block, zero, nothing[:3], b, yes)
    with pytest.raises(ValueError, match="got 3 registers for D; expected 4"):
        wgmma(form, Options(), shared, block, zero[:3], nothing, b, yes)


@pytest.mark.parametrize("bit", [14, 15, 30, 31, 46, 47, 48, 52, 61])
def test_a_descriptor_with_bits_that_mean_nothing_is_refused(bit):
    with pytest.raises(ValueError, match="bits 14-15, 30-31, 46-48 and 52-61 must be 0"):
        decode(np.array([1 << bit], np.uint64))


def test_a_base_offset_without_swizzle_is_refused():
    with pytest.raises(ValueError, match="a base offset needs a swizzle"):
        decode(np.array([descriptor(0, 128, 128, 0, base=1)], np.uint64))


def test_opcodes_and_immediates_are_read():
    half, single = (
        "wgmma.mma_async.sync.aligned.m64n136k16.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32",
    )
    assert read(half) == Form(136, 16, "bf16")
    assert read(single) == Form(8, 8, "tf32")
    assert read_options(read(half), (1, -1, 0, 1), a_in_registers=False) == Options(1, -1, 0, 1)
    assert read_options(read(half), (-1, 1, 1), a_in_registers=True) == Options(-1, 1, 0, 1)
    assert read_options(read(single), (1, 1), a_in_registers=False) == Options()
    for form, immediates, registers in (
        (single, (1, 1, 0, 0), False),  # tf32 has no transposition
        (half, (1, 1, 0, 0), True),  # nor has A in registers
        (half, (1, 2, 0, 0), False),
        (half, (1, 1, 0, -1), False),
        (half, (1, 1), False),
    ):
        with pytest.raises(ValueError, match="wgmma: got"):
            read_options(read(form), immediates, registers)


@pytest.mark.parametrize(
    "wrong",
    [
        "m64n12k16.f32.f16.f16",
        "m64n264k16.f32.f16.f16",
        "m64n8k8.f32.f16.f16",
        "m64n8k16.f16.f16.f16",
        "m64n8k32.s32.s8.s8",
    ],
)
def test_an_unknown_opcode_is_refused(wrong):
    with pytest.raises(ValueError, match="not a known form"):
        read(f"wgmma.mma_async.sync.aligned.{wrong}")
