"""Every file that we write appears whole or not at all: an interrupt at any line leaves no half and no temporary."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys

import numpy as np
import pytest

from tilegrad.bench import results
from tilegrad.data import idx
from tilegrad.files import atomic
from tilegrad.kernels.launch import tuning_cache
from tilegrad.kernels.system import files


class Interrupt:
    """Raises an error at the n-th line that is run in some modules, within a `with` block."""

    def __init__(self, n, error, *modules):
        self.left, self.error = n, error
        self.files = {module.__file__ for module in modules}

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def trace(self, frame, event, _):
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise self.error
        return self.trace


def store(path):
    tuning_cache.store("new", {"BLOCK": 2})


WRITERS = {
    "write_atomically": ("file", lambda path: atomic.write_atomically(path, b"ne", b"w"), atomic),
    "write_idx": ("file", lambda path: idx.write_idx(path, np.zeros(3, np.uint8)), atomic),
    "write_whole": ("file", lambda path: files.write_whole(path, "new"), files),
    "results of the bench": ("file", lambda path: results.write(path, "new"), results),
    "the tuning cache": ("autotune.json", store, tuning_cache),
}
OLD = json.dumps({"version": tuning_cache.VERSION, "entries": {"old": {"config": {"BLOCK": 1}}}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path))
    return tmp_path


def left(folder):
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


# An interrupt between the last line of a `with` and its end leaves a file to be closed later.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("writer", WRITERS)
def test_an_interrupt_at_any_line(writer, error, there, folder):
    name, write, module = WRITERS[writer]
    path = folder / name
    if there:
        path.write_text(OLD)
    write(path)
    new, tried, whole = path.read_bytes(), 0, False
    while not whole:
        tried += 1
        path.unlink(missing_ok=True)
        if there:
            path.write_text(OLD)
        with Interrupt(tried, error, module, files, pathlib) as interrupt:
            with contextlib.suppress(error):
                write(path)
            whole = interrupt.left > 0
        assert left(folder) <= {name}, f"line {tried}"
        if path.exists():
            assert path.read_bytes() in (new, OLD.encode() if there else new), f"line {tried}"
        else:
            assert not there, f"line {tried}"
    assert tried > 5
