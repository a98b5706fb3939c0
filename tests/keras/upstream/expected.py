"""The list of Keras' tests that fail, with reasons, and what differs from it."""

import tomllib
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).with_name("failures.toml")


class Expected(NamedTuple):
    """Tests that fail for one reason: their names, or what names begin with, followed by `*`."""

    reason: str
    tests: tuple[str, ...]


def read(path: Path = PATH) -> list[Expected]:
    """What the file lists, in its order. Every entry has a reason and tests; no test is listed twice."""
    entries = [Expected(entry["reason"], tuple(entry["tests"])) for entry in tomllib.loads(path.read_text())["failing"]]
    names = [name for entry in entries for name in entry.tests]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(entry.reason.strip() and entry.tests for entry in entries):
        raise ValueError(f"{path.name}: expected reasons with tests, none of them twice; got {twice or 'an empty one'}")
    return entries


def differences(outcomes: dict[str, str], entries: list[Expected]) -> list[str]:
    """A line for each test that fails and is not listed, and for each name of the list that none that fails has."""
    listed = [name for entry in entries for name in entry.tests]
    lines = [
        f"fails, and is not listed: {name}"
        for name, outcome in sorted(outcomes.items())
        if outcome == "failed" and not any(_names(each, name) for each in listed)
    ]
    for each in listed:
        named = [outcome for name, outcome in outcomes.items() if _names(each, name)]
        if named and "failed" not in named:
            lines.append(f"is listed, and no longer fails: {each}")
    return lines


def _names(listed: str, name: str) -> bool:
    return name.startswith(listed[:-1]) if listed.endswith("*") else name == listed
