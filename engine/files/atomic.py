"""Writing a file so that its name only ever shows all of the bytes, or what was there before."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_STALE_SECONDS = 3600  # without a write: where there are no locks, such a file counts as left behind


def write_atomically(path: str | os.PathLike[str], *chunks: bytes | memoryview) -> None:
    """Write the chunks, one after the other, to `path`, as `replacing` does.

    Raises OSError where the folder does not exist or cannot be written.
    """
    with replacing(Path(path)) as partial, open(partial, "wb") as file:
        for chunk in chunks:
            file.write(chunk)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; when the block ends, the file has the name `path`.

    It lies in the same folder (a rename is atomic only inside one file system), reaches the disk, and is renamed.
    Whatever fails on the way, `path` is as it was and the temporary file is gone; only a killed process leaves one
    behind, which `sweep` removes. Two writers at once are safe: each has its own temporary name, and the file is the
    one that was renamed last.
    """
    with _partial(path) as (partial, file):
        yield partial
        os.fsync(file.fileno())  # before the rename: else a power cut can leave the new name without its bytes
        if fcntl is None:
            file.close()  # Windows renames no open file
        os.replace(partial, path)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    if fcntl is None:
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems of networks sync no folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in the folder. Those of writers at work stay."""
    with contextlib.suppress(OSError):
        for partial in folder.glob(".*.part"):
            with contextlib.suppress(OSError):  # it is being written, or gone
                if fcntl is None:
                    if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                        partial.unlink()
                    continue
                with open(partial, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    partial.unlink()


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside the path, locked as long as it is written, so that `sweep` tells it from one left behind."""
    while True:
        partial = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
        try:
            with open(partial, "xb") as file:
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # a file system without locks: there `sweep` goes by age
                        fcntl.flock(file, fcntl.LOCK_EX)
                if not partial.exists():
                    continue  # swept before it was locked
                yield partial, file
                return
        finally:
            partial.unlink(missing_ok=True)
