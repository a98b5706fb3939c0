"""Downloads: the order of sources, what may enter the cache, and the two kinds of source, without a
network."""

import gzip
import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from tilegrad.data import fetch
from tilegrad.data.idx import encode_idx
from tilegrad.files import atomic

GOOD = {name: encode_idx(np.arange(n, dtype=np.uint8)) for name, n in (("a", 5), ("b", 6), ("c", 7))}
SHA256 = {name: hashlib.sha256(raw).hexdigest() for name, raw in GOOD.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the collection "letters" in a cache of this test's own."""
    monkeypatch.setattr(fetch, "_cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "letters"


class Fake:
    """A source that counts: it yields what `files` holds of the names asked for (and `extra`), then fails if
    told."""

    def __init__(self, name, files, error=None, extra=()):
        self.asked = []
        self.source = fetch.Source(name, self.fetch)
        self.files, self.error, self.extra = files, error, extra

    def fetch(self, names):
        self.asked.append(list(names))
        for name in [*names, *self.extra]:
            if name in self.files:
                yield name, self.files[name]
        if self.error is not None:
            raise self.error


def cached(wanted, *fakes):
    files = fetch.cached("letters", wanted, SHA256, [fake.source for fake in fakes])
    return {name: bytes(raw) for name, raw in files.items()}


def only(*names):
    return {name: GOOD[name] for name in names}


# --- the order of sources


def test_the_first_source_that_has_the_files_is_the_last_one_asked(folder):
    down = Fake("down", {}, OSError("no route"))
    up, spare = Fake("up", GOOD), Fake("spare", GOOD)
    assert cached(["a", "b"], down, up, spare) == only("a", "b")
    assert (down.asked, up.asked, spare.asked) == ([["a", "b"]], [["a", "b"]], [])
    assert sorted(os.listdir(folder)) == ["a", "b"]


def test_a_cached_file_is_not_asked_for_again():
    source = Fake("up", GOOD)
    cached(["a"], source)
    assert cached(["a", "b"], source) == only("a", "b")
    assert cached(["a", "b"], source) == only("a", "b")
    assert source.asked == [["a"], ["b"]]


def test_what_one_source_gave_is_kept_when_another_gives_the_rest():
    half, rest = Fake("half", only("a"), OSError("connection lost")), Fake("rest", GOOD)
    assert cached(["a", "b"], half, rest) == only("a", "b")
    assert rest.asked == [["b"]]


def test_files_that_come_along_are_kept_for_later():
    source = Fake("wheel", GOOD, extra=["c"])
    assert cached(["a"], source) == only("a")
    assert cached(["c"]) == only("c")


@pytest.mark.parametrize("error", [OSError("x"), ValueError("x"), ImportError("x"), RuntimeError("x")])
def test_a_source_that_fails_is_reported_and_the_next_one_asked(error, capsys):
    assert cached(["a"], Fake("down", {}, error), Fake("up", GOOD)) == only("a")
    assert capsys.readouterr().err == f"tilegrad: down failed: {type(error).__name__}: x\n"


def test_when_all_fail_every_source_is_named_with_its_reason(folder):
    with pytest.raises(RuntimeError) as raised:
        cached(["a"], Fake("first", {}, OSError("no\nroute")), Fake("second", {"a": b"page"}), Fake("third", {}))
    lines = str(raised.value).splitlines()
    assert lines[0] == "no source has the files; tried, in this order:"
    assert lines[1].startswith("  cache: ")
    assert str(folder / "a") in lines[1]
    assert lines[2] == "  first: OSError: no route"
    assert lines[3].startswith(f"  second: ValueError: a: expected sha256 {SHA256['a']}, found ")
    assert lines[4] == "  third: FileNotFoundError: it lacks a"
    assert os.listdir(folder) == []


def test_a_mistake_in_a_source_is_not_taken_for_a_network_that_is_down():
    with pytest.raises(ZeroDivisionError):
        cached(["a"], Fake("broken", {}, ZeroDivisionError()), Fake("up", GOOD))


# --- what may enter the cache, and leave it


@pytest.mark.parametrize(
    "bad",
    [b"", b"x", GOOD["a"][:-1], GOOD["a"] + b"\0", GOOD["b"]],
    ids=["empty", "x", "short", "long", "other"],
)
def test_bytes_with_another_sha256_never_enter_the_cache(bad, folder):
    with pytest.raises(RuntimeError, match="a: expected sha256"):
        cached(["a"], Fake("bad", {"a": bad}))
    assert os.listdir(folder) == []
    assert cached(["a"], Fake("bad", {"a": bad}), Fake("good", GOOD)) == only("a")


@pytest.mark.parametrize(
    "bad",
    [b"", b"x", GOOD["a"][:-1], GOOD["a"] + b"\0", GOOD["b"]],
    ids=["empty", "x", "short", "long", "other"],
)
def test_a_damaged_file_in_the_cache_is_replaced_or_refused_and_never_served(bad, folder):
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(bad)
    with pytest.raises(RuntimeError, match=r"cache: .*a: expected sha256"):
        cached(["a"], Fake("down", {}, OSError("no route")))
    assert cached(["a"], Fake("up", GOOD)) == only("a")
    assert (folder / "a").read_bytes() == GOOD["a"]


def test_a_good_file_that_comes_along_again_is_left_in_place(folder):
    """Where a file is mapped, some systems refuse to rename another over it."""
    source = Fake("wheel", GOOD, extra=["c"])
    cached(["c"], source)
    before = (folder / "c").stat().st_ino
    cached(["a"], source)
    assert (folder / "c").stat().st_ino == before


def test_a_damaged_file_that_was_not_asked_for_waits_until_it_is(folder):
    folder.mkdir(parents=True)
    (folder / "c").write_bytes(b"damaged")
    source = Fake("wheel", GOOD, extra=["c"])
    assert cached(["a"], source) == only("a")
    assert cached(["c"], source) == only("c")


def test_a_download_that_breaks_off_leaves_no_file(folder, monkeypatch):
    def fail(*names):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RuntimeError, match="up: OSError: no space left"):
        cached(["a"], Fake("up", GOOD))
    assert os.listdir(folder) == []


def test_what_is_served_is_read_only_and_outlives_the_cache(folder):
    files = fetch.cached("letters", ["a"], SHA256, [Fake("up", GOOD).source])
    assert files["a"].readonly
    os.unlink(folder / "a")
    assert bytes(files["a"]) == GOOD["a"]


def test_two_at_once_both_get_whole_files(folder):
    results = []
    both = threading.Barrier(2)

    class Slow(Fake):
        def fetch(self, names):
            both.wait(10)  # both have found the cache empty
            return super().fetch(names)

    threads = [threading.Thread(target=lambda: results.append(cached(["a", "b"], Slow("up", GOOD)))) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [only("a", "b")] * 2
    assert sorted(os.listdir(folder)) == ["a", "b"]


@pytest.mark.skipif(importlib.util.find_spec("fcntl") is None, reason="there are no locks to tell by")
def test_what_killed_downloads_left_is_removed_and_what_others_are_writing_is_not(folder):
    folder.mkdir(parents=True)
    code = """
import os, sys, time
from tilegrad.files import atomic
def stop(number):
    print(flush=True)
    time.sleep(60)
os.fsync = stop
atomic.write_atomically(sys.argv[1], b"all but the rename")
"""
    command = [sys.executable, "-c", code, str(folder / "b")]
    killed, writing = (subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2))
    try:
        for process in (killed, writing):
            process.stdout.readline()
        assert len(os.listdir(folder)) == 2
        killed.kill()
        killed.wait()
        (folder / "mine.part").touch()
        assert cached(["a"], Fake("up", GOOD)) == only("a")
        left = sorted(os.listdir(folder))
        assert len(left) == 3 and f".b.{writing.pid}-" in left[0] and left[1:] == ["a", "mine.part"]
    finally:
        for process in (killed, writing):
            process.kill()
            process.communicate()
    assert cached(["a"], Fake("up", GOOD)) == only("a")  # from the cache, which is tidied too
    assert sorted(os.listdir(folder)) == ["a", "mine.part"]


def test_without_locks_only_what_is_old_is_removed(folder, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    folder.mkdir(parents=True)
    for name in (".a.1-00000000.part", ".b.2-00000000.part"):
        (folder / name).touch()
    os.utime(folder / ".a.1-00000000.part", (1, 1))
    assert cached(["a"], Fake("up", GOOD)) == only("a")
    assert sorted(os.listdir(folder)) == [".b.2-00000000.part", "a"]


def test_a_temporary_that_was_swept_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    """Between the making of the file and its lock another process may take it for one that was left behind."""
    made = []

    def locked(file, how):
        if not made:
            atomic.os.unlink(file.name)
        made.append(file.name)

    monkeypatch.setattr(atomic.fcntl, "flock", locked)
    atomic.write_atomically(tmp_path / "file", b"whole")
    assert len(set(made)) == 2
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"whole"


def test_a_cache_that_cannot_be_made_is_said_before_anything_is_downloaded(folder):
    folder.parent.write_text("a file where the folder should be")
    source = Fake("up", GOOD)
    with pytest.raises(RuntimeError, match="the cache folder cannot be made: .*letters"):
        cached(["a"], source)
    assert source.asked == []


# --- a mirror


def test_mirror(server, capsys):
    url, files, requests = server
    files.update({f"/data/{name}.gz": gzip.compress(GOOD[name]) for name in "ab"})
    got = {name: bytes(raw) for name, raw in fetch.mirror(f"{url}/data").fetch(["a", "b"])}
    assert got == only("a", "b")
    assert requests == ["HEAD /data/a.gz", "GET /data/a.gz", "GET /data/b.gz"]
    assert capsys.readouterr().err.splitlines() == [
        "tilegrad: downloading a.gz from 127.0.0.1",
        "tilegrad: downloading b.gz from 127.0.0.1",
    ]


@pytest.mark.parametrize(
    "body, reason",
    [
        (None, "ConnectionError: 404"),
        (b"<html>Log in to this network</html>", "ValueError: a: expected sha256"),
        (gzip.compress(GOOD["a"])[:-9], "ValueError: read_idx: http.*/a.gz: expected a whole gzip stream"),
        (gzip.compress(GOOD["b"]), "ValueError: a: expected sha256"),
    ],
    ids=["missing", "captive portal", "truncated", "another file"],
)
def test_mirror_with_bad_files(body, reason, server, folder):
    url, files, _ = server
    if body is not None:
        files["/a.gz"] = body
    with pytest.raises(RuntimeError, match=f"  127.0.0.1: {reason}"):
        fetch.cached("letters", ["a"], SHA256, [fetch.mirror(url)])
    assert os.listdir(folder) == []


def test_mirror_that_refuses(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed_again:
        port = closed_again.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"^\[Errno \d+\] Connection refused$"):
        list(fetch.mirror(f"http://127.0.0.1:{port}").fetch(["a"]))


def test_mirror_that_never_answers(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "_ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(OSError, match="no answer within 0.1 s|timed out"):
            list(fetch.mirror(f"http://127.0.0.1:{port}").fetch(["a"]))


def test_mirror_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="the package pooch is not installed"):
        list(fetch.mirror("https://mirror.invalid").fetch(["a"]))


# --- a wheel


MEMBER = b"member" * 100
MEMBER_SHA256 = hashlib.sha256(MEMBER).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all that pip may look at, with one wheel in it: letters 1.0."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "letters-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("letters/data.bin", MEMBER)
        wheel.writestr("letters-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            "letters-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: letters\nVersion: 1.0\nRequires-Dist: not-to-be-found-anywhere\n",
        )
        wheel.writestr("letters-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_wheel_member_through_pip(index):
    assert fetch.wheel_member("letters==1.0", "letters/data.bin", MEMBER_SHA256, len(MEMBER)) == MEMBER


def test_wheel_that_pip_cannot_find(index):
    with pytest.raises(RuntimeError, match="ERROR: No matching distribution found for letters==2.0"):
        fetch.wheel_member("letters==2.0", "letters/data.bin", MEMBER_SHA256, len(MEMBER))


@pytest.fixture
def no_pip(index, monkeypatch):
    """pip replaced by a copy of the one wheel: what follows is about the wheel, and pip takes a second."""

    def copy(command, **options):
        destination = command[command.index("--dest") + 1]
        for wheel in index.iterdir():
            (type(wheel)(destination) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", copy)


@pytest.mark.parametrize(
    "member, sha256, size, message",
    [
        (
            "letters/none.bin",
            MEMBER_SHA256,
            len(MEMBER),
            "expected a zip file with a member letters/none.bin",
        ),
        ("letters/data.bin", MEMBER_SHA256, 601, "expected letters/data.bin to hold 601 bytes, found 600"),
        ("letters/data.bin", "0" * 64, len(MEMBER), f"expected sha256 0{{64}}, found {MEMBER_SHA256}"),
    ],
    ids=["missing", "size", "sha256"],
)
def test_wheel_with_another_member(member, sha256, size, message, no_pip):
    with pytest.raises(ValueError, match=message):
        fetch.wheel_member("letters==1.0", member, sha256, size)


def test_wheel_that_is_no_zip_file(index, no_pip):
    (index / "letters-1.0-py3-none-any.whl").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="letters-1.0-py3-none-any.whl: expected a zip file"):
        fetch.wheel_member("letters==1.0", "letters/data.bin", MEMBER_SHA256, len(MEMBER))


def test_wheel_without_pip(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip is not installed in this environment"):
        fetch.wheel_member("letters==1.0", "letters/data.bin", MEMBER_SHA256, len(MEMBER))


def test_pip_that_does_not_end(monkeypatch):
    def hang(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(TimeoutError, match="pip download took more than 300 s"):
        fetch.wheel_member("letters==1.0", "letters/data.bin", MEMBER_SHA256, len(MEMBER))
