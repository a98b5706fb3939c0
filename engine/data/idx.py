"""IDX files, MNIST's format: a strict reader and an atomic writer.

    offset        bytes
    0             00 00
    2             the type of an element: 08 uint8, 09 int8, 0b int16, 0c int32, 0d float32, 0e float64
    3             the number of dimensions D, at least 1
    4             D sizes, each a big-endian uint32
    4 + 4 D       the elements, big-endian, the last dimension fastest, up to the end of the file

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", section "The IDX
file format".
"""

import gzip
import io
import math
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from tilegrad.files.atomic import write_atomically

_DTYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_CODES = {dtype.newbyteorder("="): code for code, dtype in _DTYPES.items()}

_GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_HEADER = 4 + 4 * 255
_MOST_DIMENSIONS = 64  # NumPy's own limit
_CHUNK = 1 << 20


def read_idx(source: str | os.PathLike[str] | bytes | bytearray | memoryview, *, name: str | None = None) -> np.ndarray:
    """Read an IDX file, plain or gzipped (recognised by its first bytes, not by its name).

    source  a path, or the file's bytes
    name    what errors call the file; by default the path
    ->      a read-only array in the machine's byte order, of the dtype and shape that the header states.
            Bytes that are uint8 or int8 are viewed, not copied.

    The header is never trusted: nothing is allocated from it, and a file is read only if it holds exactly the
    bytes that its header states.

    Raises ValueError, naming the file, what was expected and what was found, for a file that is empty,
    truncated (in the header, the elements or the gzip stream), of another format or element type, without
    dimensions, corrupt, or longer than it should be; TypeError for a source of another kind; OSError where
    the file cannot be opened.
    """
    if isinstance(source, memoryview) and source.readonly:
        raw, name = source.cast("B"), name or "<bytes>"
    elif isinstance(source, bytes | bytearray | memoryview):
        raw, name = bytes(source), name or "<bytes>"
    elif isinstance(source, str | os.PathLike):
        raw, name = Path(source).read_bytes(), name or os.fspath(source)
    else:
        raise TypeError(f"read_idx: source is {type(source).__name__}; expected a path or bytes")

    raw = decompress(raw, name)
    dtype, shape, start, stop = _parse_header(raw, name)
    if len(raw) != stop:
        what, found = ("truncated", "found") if len(raw) < stop else ("trailing bytes", "found at least")
        raise ValueError(
            f"read_idx: {name}: {what}: expected {stop} bytes for {dtype.name} {shape}, {found} {len(raw)}"
        )
    array = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
        array.flags.writeable = False
    return array


def write_idx(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write `array` to `path` as a plain IDX file, atomically: never a file with half of the bytes.

    array   uint8, int8, int16, int32, float32 or float64, of 1 to 64 dimensions, in any memory order

    Raises TypeError for another dtype or kind of argument, ValueError for a shape that the format cannot
    hold, OSError where the folder cannot be written.
    """
    write_atomically(path, encode_idx(array))


def encode_idx(array: np.ndarray) -> bytes:
    """The bytes of `array` as an IDX file; arguments and errors as for `write_idx`."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"write_idx: array is {type(array).__name__}; expected a NumPy array")
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        known = ", ".join(dtype.name for dtype in _CODES)
        raise TypeError(f"write_idx: array is {array.dtype}; expected one of {known}")
    if array.ndim == 0:
        raise ValueError("write_idx: array has no dimensions; expected at least 1")
    if max(array.shape) >= 1 << 32:
        raise ValueError(f"write_idx: array is {array.shape}; expected every size below 2**32")
    header = struct.pack(f">2xBB{array.ndim}I", code, array.ndim, *array.shape)
    return header + array.astype(_DTYPES[code], copy=False).tobytes()


def decompress(raw: bytes | memoryview, name: str) -> bytes | memoryview:
    """The IDX file inside a gzip stream; bytes that are no gzip stream are returned as they are.

    Stops soon after the size that the IDX header states, so that a small hostile file cannot grow for ever.
    Raises ValueError for a gzip stream that is corrupt or truncated, and for a bad IDX header inside it.
    """
    if raw[:2] != _GZIP_MAGIC:
        return raw
    inside = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            inside += stream.read(_LONGEST_HEADER)
            *_, stop = _parse_header(inside, f"{name} (decompressed)")
            while len(inside) <= stop and (chunk := stream.read(_CHUNK)):
                inside += chunk
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"read_idx: {name}: expected a whole gzip stream, found damage after {len(inside)} decompressed "
            f"bytes of {len(raw)} compressed: {error}"
        ) from error
    return memoryview(inside).toreadonly()


def _parse_header(raw: bytes | bytearray | memoryview, name: str) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """dtype, shape, and the offsets where the elements start and stop."""
    if len(raw) < 4:
        found = f"{len(raw)} bytes" if raw else "an empty file"
        raise ValueError(f"read_idx: {name}: expected an IDX header of at least 8 bytes, found {found}")
    magic = bytes(raw[:4])
    code, dimensions = magic[2:]
    if magic[:2] != b"\0\0":
        raise ValueError(f"read_idx: {name}: expected the magic bytes 00 00 at offset 0, found {magic[:2].hex(' ')}")
    if code not in _DTYPES:
        known = " ".join(f"{code:02x}" for code in _DTYPES)
        raise ValueError(f"read_idx: {name}: expected an element type among {known} at offset 2, found {code:02x}")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(
            f"read_idx: {name}: expected 1 to {_MOST_DIMENSIONS} dimensions at offset 3, found {dimensions}"
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise ValueError(
            f"read_idx: {name}: truncated: expected a header of {start} bytes for {dimensions} dimensions, "
            f"found {len(raw)}"
        )
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    dtype = _DTYPES[code]
    # A size of 0 leaves no bytes, but NumPy must still be able to address what the other sizes span.
    if math.prod(size or 1 for size in shape) * dtype.itemsize > sys.maxsize:
        raise ValueError(f"read_idx: {name}: expected sizes whose product can be addressed, found {shape} at offset 4")
    return dtype, shape, start, start + math.prod(shape) * dtype.itemsize
