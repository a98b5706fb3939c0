"""The unpickler for arrays: it reads what NumPy pickles, and is no way in for anything else."""

import builtins
import io
import os
import pickle
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilegrad.data.unpickle import load_arrays

ARRAYS = {
    "float32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "big-endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "bool": np.array([True, False]),
    "0-dim": np.array(7, np.uint8),
    "empty": np.zeros((0, 28, 28), np.uint8),
}


def load(raw):
    return load_arrays(io.BytesIO(raw))


def python2_body(array):
    """The opcodes with which Python 2 pickled an array: its bytes are a Python 2 str, which Python 3 cannot
    write."""
    sizes = b"".join(b"M" + struct.pack("<H", n) for n in array.shape)
    code, order, raw = array.dtype.str[1:].encode(), array.dtype.str[:1].encode(), array.tobytes()
    dtype = (
        b"cnumpy\ndtype\nU\x02"
        + code
        + b"K\x00K\x01\x87R(K\x03U\x01"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return empty + b"(K\x01(" + sizes + b"t" + dtype + b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"


def python2_pickle(*pairs):
    """((a, b), (c, d), ...) as Python 2 pickled it, protocol 2."""
    bodies = [b"(" + python2_body(a) + python2_body(b) + b"t" for a, b in pairs]
    return b"\x80\x02(" + b"".join(bodies) + b"t."


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_reads_what_numpy_pickles(array, protocol):
    first, (second,) = load(pickle.dumps([array, (array[..., ::-1] if array.ndim else array,)], protocol))
    for got, want in (first, array), (second, array[..., ::-1] if array.ndim else array):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, strict=True)
        assert not got.flags.writeable


def test_reads_what_python_2_pickled():
    images, labels = np.linspace(0, 1, 300, dtype="<f4").reshape(100, 3), np.arange(-50, 50, dtype="<i8")
    (got_images, got_labels), second = load(python2_pickle((images, labels), (labels, images)))
    np.testing.assert_array_equal(got_images, images, strict=True)
    np.testing.assert_array_equal(got_labels, labels, strict=True)
    np.testing.assert_array_equal(second[1], images, strict=True)


# --- what must be refused


class Calls:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker):
    """Pickles that would make the file `marker` if their calls were made."""
    command = f"touch '{marker}'"
    return {
        "os.system": Calls(os.system, command),
        "eval": Calls(builtins.eval, f"__import__('os').system({command!r})"),
        "exec": Calls(builtins.exec, f"open({str(marker)!r}, 'w').close()"),
        "open": Calls(builtins.open, str(marker), "w"),
        "getattr": Calls(builtins.getattr, Calls(__import__, "os"), "system"),
        "subprocess": Calls(subprocess.call, ["touch", str(marker)]),
        "numpy's own file functions": Calls(np.memmap, str(marker), "u1", "w+", 0, (1,)),
        "beside an array": (np.zeros(2), Calls(os.system, command)),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", attacks("x"))
def test_calls_are_refused_and_not_made(name, protocol, tmp_path):
    marker = tmp_path / "marker"
    raw = pickle.dumps(attacks(marker)[name], protocol)
    with pytest.raises(ValueError, match="load_arrays: expected a pickle of NumPy arrays and nothing else: found"):
        load(raw)
    assert not marker.exists()


def test_the_attack_is_a_real_one(tmp_path):
    pickle.loads(pickle.dumps(attacks(tmp_path / "marker")["os.system"]))
    assert (tmp_path / "marker").exists()


# State that numpy.dtype itself accepts, and that makes NumPy take the array's bytes for a pointer to an
# object: a struct with a field of objects, whose flags deny that it has any.
FORGED_STRUCT = (
    b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01(K\x01t"
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8\x89\x88tR(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at"
    b"}X\x01\x00\x00\x00a(cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x3ftbK\x00tsK\x08K\x01K\x00tb\x89C\x08AAAAAAAAtb."
)


@pytest.mark.parametrize(
    "raw",
    [
        FORGED_STRUCT,
        pickle.dumps(np.array([{}, []], dtype=object), 4),
        pickle.dumps(np.array([(1, 2.0)], dtype="i4,f4"), 4),
        pickle.dumps(np.array(["text"]), 4),
        pickle.dumps(np.array([1j]), 4),
        pickle.dumps(np.array(["2000-01-01"], "M8[D]"), 4),
        pickle.dumps(np.ma.masked_array([1, 2]), 4),
        pickle.dumps(np.float32(1), 4),
    ],
    ids=["forged struct", "objects", "struct", "str", "complex", "datetime", "masked", "scalar"],
)
def test_arrays_of_anything_but_plain_numbers_are_refused(raw):
    with pytest.raises(ValueError, match="load_arrays: expected a pickle of NumPy arrays and nothing else: "):
        load(raw)


@pytest.mark.parametrize("thing", [None, 1, "text", b"bytes", {"a": np.zeros(1)}, [np.zeros(1), 2], {1}])
def test_things_that_are_not_arrays_are_refused(thing):
    with pytest.raises(ValueError, match="nothing else: found (NoneType|int|str|bytes|dict|set|builtins.set)"):
        load(pickle.dumps(thing, 3))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04.",
        b"cnumpy\ndtype\n.",  # the class itself
        b"cnumpy\nndarray\n(K\x02tR.",  # called
        b"cnumpy\ndtype\n(N}X\x08\x00\x00\x00to_numpyK\x01stb.",  # attributes set on the class
        b"Psomewhere\n.",  # a persistent id
        b"\x80\x04]\x94h\x00a.",  # a list that contains itself
        b"\x82\x01.",  # an extension code
        b"K\x01r\xf0\xff\xff\xff.",  # a memo index of 4 billion
        b"\x8e" + b"\xff" * 7 + b"\x3f",  # a string of 4 exabytes
    ],
)
def test_forged_pickles_are_refused(raw):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="load_arrays: "):
            load(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(load(pickle.dumps(np.arange(3), 4)), np.arange(3))  # and has changed nothing


@given(st.data())
def test_no_change_of_a_pickle_does_anything_but_raise_value_error_or_load(data):
    raw = bytearray(pickle.dumps((np.arange(3, dtype=np.int16), np.ones((2, 2))), 4))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=5)):
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        load(bytes(raw))
    except ValueError as error:
        assert str(error).startswith("load_arrays: ")


@pytest.mark.parametrize("shape", [(3, 3), (-1, 2), (2, -3), (7,), ("2", 3), None])
def test_shapes_that_do_not_fit_the_bytes_are_refused(shape):
    class Forged:
        def __reduce__(self):
            reconstruct, arguments, state = np.arange(6, dtype=np.uint8).__reduce__()
            return reconstruct, arguments, (state[0], shape, *state[2:])

    with pytest.raises(ValueError, match="load_arrays: "):
        load(pickle.dumps(Forged(), 4))
