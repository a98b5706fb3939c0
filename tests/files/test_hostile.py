"""Damaged and hostile files: an error that names the file, and no memory for what a header claims."""

import json
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tilegrad as tg

STATE = {"weight": tg.arange(24.0).reshape(4, 6), "steps": [1, 2.5, {"name": "é"}], "n": tg.tensor(7)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tg.save(STATE, folder / "a.safetensors")
    torch.save({"weight": torch.arange(24.0).reshape(4, 6), "n": [torch.tensor(7), "text"]}, folder / "a.pt")
    return {name: (folder / name).read_bytes() for name in ("a.safetensors", "a.pt")}


def try_to_load(content, folder):
    """Whatever it holds: it is loaded, or the error names the file."""
    path = folder / "damaged"
    path.write_bytes(content)
    try:
        tg.load(path)
    except ValueError as error:
        assert str(path) in str(error)
        return False
    return True


@given(name=st.sampled_from(["a.safetensors", "a.pt"]), cut=st.floats(0, 1))
def test_a_truncated_file(files, tmp_path_factory, name, cut):
    content = files[name]
    assert not try_to_load(content[: int(cut * (len(content) - 1))], tmp_path_factory.mktemp("cut"))


@given(extra=st.binary(min_size=1, max_size=20))
def test_a_padded_file(files, tmp_path_factory, extra):
    assert not try_to_load(files["a.safetensors"] + extra, tmp_path_factory.mktemp("padded"))


@given(
    name=st.sampled_from(["a.safetensors", "a.pt"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes(files, tmp_path_factory, name, changes):
    content = bytearray(files[name])
    for place, byte in changes:
        content[int(place * (len(content) - 1))] = byte
    try_to_load(bytes(content), tmp_path_factory.mktemp("changed"))


@given(st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, content):
    try_to_load(content, tmp_path_factory.mktemp("any"))


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 99_999_999) + b"{}",
        with_header({"a": F32, "b": F32}, b"\0" * 8),  # they overlap
        with_header({"a": {**F32, "data_offsets": [8, 16]}}, b"\0" * 16),  # a hole
        with_header({"a": {**F32, "shape": [1 << 40, 1 << 40]}}, b"\0" * 8),
        with_header({"a": {**F32, "shape": [3]}}, b"\0" * 8),
        with_header({"a": {**F32, "dtype": "F8_E4M3", "shape": [8]}}, b"\0" * 8),
        with_header(b"[" * 100_000),
        with_header({"__metadata__": {"tilegrad": "not json"}}),
        with_header({"__metadata__": {"tilegrad": json.dumps({"version": 2, "object": None})}}),
        with_header({"__metadata__": {"tilegrad": json.dumps({"version": 1, "object": {"tensor": "a"}})}}),
        with_header({"__metadata__": {"tilegrad": json.dumps({"version": 1, "object": {"dict": [[1, 2, 3]]}})}}),
        with_header({"__metadata__": {"tilegrad": json.dumps({"version": 1, "object": {"dict": [[{}, 1]]}})}}),
        with_header({"__metadata__": {"tilegrad": '{"version":1,"object":' + '{"list":[' * 50_000}}),
        with_header({"__metadata__": {"tilegrad": '{"version":1,"object":' + "[" * 50_000 + "]" * 50_000 + "}"}}),
    ],
)
def test_forged_headers(content, tmp_path):
    assert not try_to_load(content, tmp_path)


def test_a_large_header_takes_no_memory(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(with_header({"a": {**F32, "shape": [1 << 36], "data_offsets": [0, 1 << 38]}}))
    code = """
import resource, sys
import tilegrad as tg
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    tg.load(sys.argv[1])
except ValueError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # kB
