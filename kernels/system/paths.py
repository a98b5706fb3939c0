"""Paths as users give them, in flags and in environment variables."""

import os
from pathlib import Path


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path with `~` replaced by the home: no shell does that in `--flag=~/x`, in a Makefile or in a unit file."""
    return Path(os.path.expanduser(given))
