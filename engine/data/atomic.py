"""Writing a file so that its name only ever shows all of the bytes, or what was there before."""

import os
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], *chunks: bytes | memoryview) -> None:
    """Write the chunks, one after the other, to `path`.

    They go to a temporary name in the same folder (a rename is atomic only inside one file system), reach the
    disk, and are renamed. Whatever fails on the way, `path` is as it was and the temporary file is gone. Two
    writers at once are safe: each has its own temporary name, and the last rename wins whole.

    Raises OSError where the folder does not exist or cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with open(partial, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())  # before the rename: else a power cut can leave the new name on no bytes
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
