"""Writing a file so that its name only ever shows the whole text, or what was there before."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write the text beside the path and rename it. If anything fails on the way, also by Ctrl-C, all is as it was.

    Raises OSError where the folder does not exist or cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
