"""8x8 matrices come from the rows that the lanes name, and go to the registers of the manual's figures."""

from __future__ import annotations

import numpy as np
import pytest

from tilegrad.kernels.simulate.ptx.tensor_cores.faults import SharedFault
from tilegrad.kernels.simulate.ptx.tensor_cores.ldmatrix import Form, ldmatrix, read, row_addresses, stmatrix

BYTES = 4096
forms = pytest.mark.parametrize("trans", [False, True], ids=["", "trans"])
counts = pytest.mark.parametrize("count", [1, 2, 4])


def numbered(blocks: int) -> np.ndarray:
    """Shared memory in which every 16-bit element is unique."""
    return np.arange(blocks * BYTES // 2, dtype=np.uint16).view(np.uint8).reshape(blocks, BYTES)


def some_rows(warps: int, seed: int = 0) -> np.ndarray:
    """Addresses (warps, 32) of rows, all different within a warp."""
    rng = np.random.default_rng(seed)
    return np.stack([16 * rng.permutation(BYTES // 16)[:32] for _ in range(warps)]).astype(np.uint32)


def element(shared: np.ndarray, block: int, address: int) -> int:
    return int(shared[block, address]) | int(shared[block, address + 1]) << 8


@forms
@counts
def test_every_lane_has_its_two_elements(count, trans):
    """Thread 0 has the first fragment of the first row, and four threads have a row (a column with .trans)."""
    shared, block, addresses = numbered(2), np.array([1, 0, 1]), some_rows(3)
    got = ldmatrix(Form("ldmatrix", count, trans), shared, block, addresses)
    assert len(got) == count
    for i in range(count):
        assert got[i].shape == (3, 32)
        for warp in range(3):
            for lane in range(32):
                major, minor = lane // 4, 2 * (lane % 4)
                places = [(minor + half, major) if trans else (major, minor + half) for half in (0, 1)]
                rows = (int(addresses[warp, 8 * i + row]) + 2 * column for row, column in places)
                low, high = (element(shared, block[warp], address) for address in rows)
                assert got[i][warp, lane] == low | high << 16


@forms
@counts
def test_stmatrix_writes_what_ldmatrix_reads(count, trans):
    block, addresses = np.array([1, 0]), some_rows(2, seed=1)
    rng = np.random.default_rng(2)
    registers = list(rng.integers(0, 2**32, (count, 2, 32), np.uint64).astype(np.uint32))
    shared = numbered(2)
    before = shared.copy()
    stmatrix(Form("stmatrix", count, trans), shared, block, addresses, registers)
    again = ldmatrix(Form("ldmatrix", count, trans), shared, block, addresses)
    assert np.array_equal(again, registers)
    written = np.zeros(shared.shape, bool)
    for warp in range(2):
        for address in addresses[warp, : 8 * count]:
            written[block[warp], address : address + 16] = True
    assert np.array_equal(shared[~written], before[~written])


def test_memory_may_end_within_a_row():
    """What is left of the last row is nobody's; all before it is read and written in place."""
    shared = np.zeros((2, 136), np.uint8)
    addresses = np.tile(np.arange(8, dtype=np.uint32) * 16, 4)[None]
    ones = [np.full((1, 32), 0x00010001, np.uint32)]
    stmatrix(Form("stmatrix", 1, False), shared, np.array([1]), addresses, ones)
    assert (shared[1, :128].view(np.uint16) == 1).all()
    assert not shared[0].any() and not shared[1, 128:].any()
    addresses[0, 3] = 128
    with pytest.raises(SharedFault, match="out of bounds"):
        ldmatrix(Form("ldmatrix", 1, False), shared, np.array([1]), addresses)


@pytest.mark.parametrize("name", ["ldmatrix", "stmatrix"])
@pytest.mark.parametrize(
    ("address", "what"),
    [(8, "misaligned"), (BYTES, "out of bounds; the block has 4096 bytes"), (2**32 - 16, "out of bounds")],
)
def test_a_wrong_row_is_an_error_that_says_where(name, address, what):
    addresses = some_rows(3)
    addresses[2, 13] = address
    form = Form(name, 2, False)
    extra = ([np.zeros((3, 32), np.uint32)] * 2,) if name == "stmatrix" else ()
    with pytest.raises(SharedFault, match=f"{name}: {what}") as caught:
        globals()[name](form, numbered(1), np.zeros(3, int), addresses, *extra)
    assert (caught.value.warp, caught.value.lane, caught.value.address) == (2, 13, address)


@pytest.mark.parametrize("count", [1, 2])
def test_addresses_of_lanes_without_a_row_do_not_count(count):
    form, addresses = Form("ldmatrix", count, False), some_rows(1)
    expected = ldmatrix(form, numbered(1), np.zeros(1, int), addresses)
    addresses[0, 8 * count :] = 7
    assert np.array_equal(ldmatrix(form, numbered(1), np.zeros(1, int), addresses), expected)
    assert np.array_equal(row_addresses(form, addresses), addresses[:, : 8 * count])


def test_two_lanes_that_write_different_values_to_one_row_are_an_error():
    addresses = some_rows(2)
    addresses[1, 20] = addresses[1, 3]
    registers = [np.zeros((2, 32), np.uint32) for _ in range(4)]
    stmatrix(Form("stmatrix", 4, False), numbered(1), np.zeros(2, int), addresses, registers)  # all are zeros
    registers[0][1, 14] = 1  # in row 3 of the first matrix
    with pytest.raises(SharedFault, match="another lane writes another value to this row") as caught:
        stmatrix(Form("stmatrix", 4, False), numbered(1), np.zeros(2, int), addresses, registers)
    assert (caught.value.warp, caught.value.lane, caught.value.address) == (1, 3, int(addresses[1, 3]))


def test_opcodes_are_read():
    assert read("ldmatrix.sync.aligned.m8n8.x1.shared.b16") == Form("ldmatrix", 1, False)
    assert read("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16") == Form("ldmatrix", 2, True)
    assert read("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16") == Form("stmatrix", 4, True)
    for wrong in (
        "ldmatrix.sync.aligned.m8n8.x3.shared.b16",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8",
        "ldmatrix.sync.aligned.m8n8.x4.b16",
    ):
        with pytest.raises(ValueError, match="not a known form"):
            read(wrong)
