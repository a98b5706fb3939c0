"""How many of Keras' tests pass, by family: kept in counts.json, and README.md's table of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilegrad.bench.keras_venv import ROOT
from tilegrad.bench.readme import rewritten
from tilegrad.bench.results import write

PATH = Path(__file__).with_name("counts.json")
MARKERS = "<!-- keras-tests:begin (python -m tests.keras.upstream --readme) -->", "<!-- keras-tests:end -->"
NOT_COUNTED = "skipped", "xfailed"
KINDS = "passed", "failed", "skipped"


def counted(outcomes: dict[str, str]) -> dict[str, int]:
    """How many passed, failed, and were skipped."""
    counts = Counter("skipped" if outcome in NOT_COUNTED else outcome for outcome in outcomes.values())
    return {kind: counts[kind] for kind in KINDS}


def share(counts: dict[str, int]) -> float:
    """Per cent of those that were not skipped that passed."""
    return 100 * counts["passed"] / max(1, counts["passed"] + counts["failed"])


def keep(keras: str, found: dict[str, dict[str, Any]]) -> None:
    """Put the families' counts in the place of what was kept of them. Those of another Keras are dropped."""
    kept = json.loads(PATH.read_text()) if PATH.exists() else {}
    families = (kept["families"] if kept.get("keras") == keras else {}) | found
    write(PATH, json.dumps({"keras": keras, "families": families}, indent=1) + "\n")


def write_table(root: Path = ROOT) -> None:
    """Write README.md's section anew."""
    path = root / "README.md"
    write(path, rewritten(path.read_text(), section(), MARKERS))


def section() -> str:
    """The table of what is kept."""
    return "".join(f"{line}\n" for line in _lines(json.loads(PATH.read_text())))


def _lines(kept: dict[str, Any]) -> Iterator[str]:
    families = kept["families"]
    commits = ", ".join(sorted({counts["commit"] for counts in families.values()}))
    yield f"Of Keras {kept['keras']}'s own tests, run on tilegrad ([counts](tests/keras/upstream/counts.json), commit"
    yield f"{commits}), with [every failure listed](tests/keras/upstream/failures.toml) by its reason:"
    yield ""
    total = {kind: sum(counts[kind] for counts in families.values()) for kind in KINDS}
    yield from (f"| family | {' | '.join(KINDS)} | of those not skipped |", "| --- | --- | --- | --- | --- |")
    for name, counts in [*families.items(), ("all", total)]:
        yield f"| {name} | {' | '.join(f'{counts[kind]:,}' for kind in KINDS)} | {share(counts):.2f} % |"
