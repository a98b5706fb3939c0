"""What differs from torch, and why: differences.txt, and how it is held against the verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from tests.conformity.judge import Verdict, judge
from tests.conformity.opinfos import op_infos
from tests.conformity.samples import Sample, samples_of

PLACE = Path(__file__).with_name("differences.txt")


@dataclass(frozen=True)
class Entry:
    """An op of a line: its samples in a dtype, with arguments like these, differ in `kind`, for this reason."""

    op: str
    dtype: str
    arguments: str
    kind: str
    reason: str
    exhaustive: bool  # only the exhaustive run has such samples
    some: bool = False  # others like these agree

    def covers(self, name: str, sample: Sample) -> bool:
        return name == self.op and fnmatchcase(sample.dtype, self.dtype) and fnmatchcase(sample.text, self.arguments)


@cache
def entries() -> list[Entry]:
    found, exhaustive = [], False
    for line in PLACE.read_text().splitlines():
        if line.strip() in ("[exhaustive]", "[everyday]"):
            exhaustive = line.strip() == "[exhaustive]"
        elif line.strip() and not line.startswith("#"):
            ops, *rest = (part.strip() for part in line.split("|", 4))
            some = rest[2].startswith("some ")
            rest[2] = rest[2].removeprefix("some ")
            found += [Entry(op, *rest, exhaustive, some) for op in ops.split()]
    return found


def held_against(entries: list[Entry], verdicts: list[tuple[str, Sample, Verdict]], exhaustive: bool) -> list[str]:
    """What is wrong: differences that no entry names, and entries whose samples agree, or of which there are none."""
    wrong, used = [], set()
    for name, sample, verdict in verdicts:
        call = f"{name}({sample.text}) of {sample.dtype}"
        named = [e for e in entries if verdict.kind != "not taken" and e.covers(name, sample)]
        used.update(e for e in named if e.kind == verdict.kind)
        if verdict.kind == "agrees":
            wrong += [f"{call} agrees; {PLACE.name} says that it differs: {e.reason}" for e in named if not e.some]
        elif verdict.kind != "not taken" and not any(e.kind == verdict.kind for e in named):
            wrong.append(f"{call} differs in {verdict.kind}: {verdict.why}")
    unused = [e for e in entries if e not in used and (exhaustive or not e.exhaustive)]
    return wrong + [
        f"no sample differs any more as {PLACE.name} says: {e.op} | {e.arguments} | {e.kind}" for e in unused
    ]


def verdicts_of(name: str, *, exhaustive: bool = False) -> list[tuple[str, Sample, Verdict]]:
    """Every sample of an op with its verdict; in-place forms have the name with an underscore."""
    samples = (s for info in op_infos()[name] for s in samples_of(info, exhaustive=exhaustive))
    return [(name + "_" * s.inplace, s, judge(s)) for s in samples]


def run(name: str, *, exhaustive: bool = False) -> tuple[Counter, list[str]]:
    """How many samples of an op got which verdict, and what is wrong with the list."""
    verdicts = verdicts_of(name, exhaustive=exhaustive)
    mine = [e for e in entries() if e.op.removesuffix("_") == name or e.op == name]
    return Counter(v.kind for _, _, v in verdicts), held_against(mine, verdicts, exhaustive)
