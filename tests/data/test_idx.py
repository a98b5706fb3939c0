"""The IDX reader and writer: the format's bytes, and that no damaged file is ever read as something else."""

import gzip
import math
import os
import struct
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype

from tilegrad.data import idx, read_idx, write_idx
from tilegrad.data.idx import encode_idx
from tilegrad.files.atomic import write_atomically

CODES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}

dtypes = st.sampled_from([order + code for code in CODES.values() for order in "<>"]).map(np.dtype)
shapes = array_shapes(max_dims=4, min_side=0, max_side=5)
valid_arrays = dtypes.flatmap(lambda dtype: arrays(dtype, shapes, elements=from_dtype(dtype)))


def slow_read(raw):
    """The format read one element at a time: an array, or None if `raw` is no IDX file."""
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in CODES or not 1 <= raw[3] <= 64:
        return None
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        return None
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    dtype = np.dtype("<" + CODES[raw[2]])
    addressable = math.prod(n for n in shape if n) * dtype.itemsize < 2**63
    if not addressable or len(raw) - start != math.prod(shape) * dtype.itemsize:
        return None
    little_endian = [raw[at : at + dtype.itemsize][::-1] for at in range(start, len(raw), dtype.itemsize)]
    return np.frombuffer(b"".join(little_endian), dtype).reshape(shape)


def assert_reads_as(raw, want):
    """read_idx gives `want`, or, where that is None, a ValueError that names the file."""
    if want is None:
        with pytest.raises(ValueError, match=r"read_idx: some-file\.idx"):
            read_idx(raw, name="some-file.idx")
    else:
        assert_equal_bits(read_idx(raw, name="some-file.idx"), want)


def assert_equal_bits(got, want):
    assert got.dtype == want.dtype.newbyteorder("=")
    assert got.dtype.isnative
    assert got.shape == want.shape
    assert got.tobytes() == want.astype(got.dtype).tobytes()
    assert not got.flags.writeable


# --- the format


@pytest.mark.parametrize(
    "raw, want",
    [
        ("00 00 08 01 00000003 00 7f ff", np.array([0, 127, 255], "u1")),
        ("00 00 09 01 00000003 00 7f ff", np.array([0, 127, -1], "i1")),
        ("00 00 0b 02 00000001 00000002 0102 fffe", np.array([[258, -2]], "i2")),
        ("00 00 0c 01 00000002 00010203 ffffffff", np.array([66051, -1], "i4")),
        ("00 00 0d 01 00000002 3f800000 c0200000", np.array([1, -2.5], "f4")),
        ("00 00 0e 01 00000001 3ff8000000000000", np.array([1.5], "f8")),
        ("00 00 08 03 00000002 00000001 00000002 01 02 03 04", np.array([[[1, 2]], [[3, 4]]], "u1")),
        ("00 00 08 03 00000000 0000001c 0000001c", np.zeros((0, 28, 28), "u1")),  # no images at all
    ],
)
def test_bytes_of_the_format(raw, want, tmp_path):
    raw = bytes.fromhex(raw)
    assert_equal_bits(read_idx(raw), want)
    write_idx(tmp_path / "file", want)
    assert (tmp_path / "file").read_bytes() == raw


@given(valid_arrays)
def test_round_trip(array):
    assert_equal_bits(read_idx(encode_idx(array)), array)


def test_written_in_index_order_whatever_the_memory_order(tmp_path):
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for name, same in (
        ("fortran", np.asfortranarray(array)),
        ("strided", np.repeat(array, 2, axis=2)[..., ::2]),
    ):
        write_idx(tmp_path / name, same)
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda raw: memoryview(bytearray(raw))])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_sources_of_bytes(make, pack):
    array = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    source = make(pack(encode_idx(array)))
    got = read_idx(source)
    assert_equal_bits(got, array)
    if not memoryview(source).readonly:
        source[:] = bytes(len(source))  # the result must not change with a buffer that others may write to
        assert_equal_bits(got, array)


@pytest.mark.parametrize("as_path", [str, lambda path: path], ids=["str", "Path"])
@pytest.mark.parametrize("name", ["x-idx1-ubyte", "x-idx1-ubyte.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_gzip_is_recognised_by_its_bytes_not_its_name(as_path, name, pack, tmp_path):
    path = tmp_path / name
    path.write_bytes(pack(encode_idx(np.arange(5, dtype=np.uint8))))
    np.testing.assert_array_equal(read_idx(as_path(path)), np.arange(5))


def test_unsigned_bytes_in_memory_are_not_copied():
    raw = encode_idx(np.arange(8, dtype=np.uint8))
    assert np.shares_memory(read_idx(raw), np.frombuffer(raw, np.uint8))


# --- damage


@given(valid_arrays, st.data())
def test_truncated(array, data):
    raw = encode_idx(array)
    kept = data.draw(st.integers(0, len(raw) - 1))
    assert_reads_as(raw[:kept], None)


@given(valid_arrays, st.binary(min_size=1, max_size=40))
def test_extended(array, extra):
    assert_reads_as(encode_idx(array) + extra, None)


@given(valid_arrays, st.data())
def test_header_changed(array, data):
    raw = bytearray(encode_idx(array))
    for at in data.draw(st.lists(st.integers(0, 3 + 4 * array.ndim), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    assert_reads_as(bytes(raw), slow_read(raw))


@given(st.binary(max_size=40))
def test_any_bytes(raw):
    assert_reads_as(raw, slow_read(raw))


@given(st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 4), max_size=4), st.binary(max_size=70))
def test_any_bytes_after_a_good_start(code, sizes, body):
    raw = bytes([0, 0, code, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + body
    assert_reads_as(raw, slow_read(raw))


@given(valid_arrays, st.data())
def test_gzip_truncated(array, data):
    raw = gzip.compress(encode_idx(array))
    kept = data.draw(st.integers(0, len(raw) - 1))
    assert_reads_as(raw[:kept], None)


@given(valid_arrays, st.data())
def test_gzip_changed_in_one_place_is_noticed_or_does_not_matter(array, data):
    raw = bytearray(gzip.compress(encode_idx(array), mtime=0))
    at, flip = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    raw[at] ^= flip
    try:
        got = read_idx(bytes(raw), name="some-file.idx")
    except ValueError as error:
        assert "some-file.idx" in str(error)
    else:
        assert_equal_bits(got, array)


@given(valid_arrays, st.binary(min_size=1, max_size=40))
def test_gzip_extended(array, extra):
    assume(extra.strip(b"\0"))  # gzip itself pads with zeros, on tapes
    assert_reads_as(gzip.compress(encode_idx(array)) + extra, None)
    assert_reads_as(gzip.compress(encode_idx(array) + extra), None)


# The reader takes a header's most bytes and then chunks; Python's own buffers are 8 and 128 KiB.
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("begin", [0, idx._LONGEST_HEADER])
@pytest.mark.parametrize("whole", [0, 1 << 13, 1 << 17, idx._CHUNK, 2 * idx._CHUNK])
def test_a_damaged_gzip_trailer_is_found_wherever_the_elements_end(whole, begin, more):
    size = whole + begin + more  # of the IDX file
    if size < 8:
        pytest.skip("no IDX file is as short")
    good = encode_idx(np.zeros(size - 8, np.uint8))
    packed = gzip.compress(good)
    assert len(good) == size and len(read_idx(packed)) == size - 8
    for byte in range(8):  # four of the checksum, four of the length
        bad = bytearray(packed)
        bad[byte - 8] ^= 1
        with pytest.raises(ValueError, match="expected a whole gzip stream, found damage"):
            read_idx(bytes(bad))
        with pytest.raises(ValueError, match="expected a whole gzip stream, found damage"):
            read_idx(packed[: byte - 8])


@pytest.mark.parametrize(
    "raw, message",
    [
        ("", "expected an IDX header of at least 8 bytes, found an empty file"),
        ("00 00 08", "expected an IDX header of at least 8 bytes, found 3 bytes"),
        ("25 50 44 46 2d", "expected the magic bytes 00 00 at offset 0, found 25 50"),
        ("00 00 0a 01 00000001 00", "expected an element type among 08 09 0b 0c 0d 0e at offset 2, found 0a"),
        ("00 00 08 00", "expected 1 to 64 dimensions at offset 3, found 0"),
        ("00 00 08 ff", "expected 1 to 64 dimensions at offset 3, found 255"),
        ("00 00 08 02 00000001", "expected a header of 12 bytes for 2 dimensions, found 8"),
        ("00 00 0b 01 00000003 0102", r"truncated: expected 14 bytes for int16 \(3,\), found 10"),
        (
            "00 00 08 01 00000001 01 02",
            r"trailing bytes: expected 9 bytes for uint8 \(1,\), found at least 10",
        ),
        (
            "1f 8b 08 00",
            "expected a whole gzip stream, found damage after 0 decompressed bytes of 4 compressed",
        ),
    ],
)
def test_errors_name_the_file_what_was_expected_and_what_was_found(raw, message, tmp_path):
    path = tmp_path / "train-labels"
    path.write_bytes(bytes.fromhex(raw))
    with pytest.raises(ValueError, match=f"^read_idx: .*train-labels: .*{message}"):
        read_idx(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "sizes, message",
    [
        ([1 << 20, 1 << 20], "truncated: expected 1099511627788 bytes"),  # 1 TB: more than there is
        ([0xFFFFFFFF] * 64, "whose product can be addressed"),
        ([0, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF], "whose product can be addressed"),
    ],
)
def test_a_header_that_claims_terabytes_allocates_nothing(sizes, message, pack):
    raw = pack(bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + b"few")
    assert peak_bytes_of_failure(raw, message) < 4 << 20


def test_a_small_gzip_file_cannot_fill_the_memory():
    raw = gzip.compress(encode_idx(np.zeros(10, np.uint8)) + bytes(64 << 20))
    assert len(raw) < 100_000
    assert peak_bytes_of_failure(raw, "trailing bytes: expected 18 bytes") < 8 << 20


def peak_bytes_of_failure(raw, message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_idx(raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", [None, 3, [0, 0, 8, 1], np.zeros(3, np.uint8)])
def test_source_of_another_kind(source):
    with pytest.raises(TypeError, match="read_idx: source is .*; expected a path or bytes"):
        read_idx(source)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        read_idx(tmp_path / "no-such-file")


@pytest.mark.parametrize(
    "array, error, message",
    [
        ([1, 2], TypeError, "write_idx: array is list; expected a NumPy array"),
        (np.zeros(2, np.int64), TypeError, "write_idx: array is int64; expected one of uint8, int8, int16"),
        (np.zeros(2, np.bool_), TypeError, "write_idx: array is bool; expected one of"),
        (np.array(1, np.uint8), ValueError, "write_idx: array has no dimensions; expected at least 1"),
        (np.empty((0, 1 << 32), np.uint8), ValueError, r"expected every size below 2\*\*32"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(array, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write_idx(tmp_path / "file", array)
    assert os.listdir(tmp_path) == []


# --- atomicity


@pytest.mark.parametrize("before", [None, b"what was there before"], ids=["new", "replaced"])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_all_as_it_was(before, step, error, tmp_path, monkeypatch):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)

    def fail(*args):
        assert list(tmp_path.glob(".file.*.part"))  # the temporary file is there, in the same folder
        raise error("no space left")

    if step != "write":
        monkeypatch.setattr(os, step, fail)
    chunks = [b"the first half", "no bytes" if step == "write" else b"the second half"]
    with pytest.raises(TypeError if step == "write" else error):
        write_atomically(path, *chunks)
    assert os.listdir(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


def test_many_writers_and_a_reader_see_whole_files_only(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 300_000 for i in range(4)]
    write_atomically(path, contents[0])
    writers = [
        threading.Thread(target=lambda text=text: [write_atomically(path, text) for _ in range(20)])
        for text in contents
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]
