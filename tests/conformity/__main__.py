"""Count the samples that agree: python -m tests.conformity [--exhaustive] [op ...]"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.conformity.differences import entries, held_against, verdicts_of
from tests.conformity.opinfos import op_infos, our_function


def main() -> int:
    """Print every difference, what is wrong with the list of them, and the counts; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformity", description=__doc__)
    parser.add_argument("ops", nargs="*", help="torch's names; default: all that we have")
    parser.add_argument("--exhaustive", action="store_true", help="all of torch's samples and reference inputs")
    options = parser.parse_args()
    total: Counter = Counter()
    wrong: list[str] = []
    for name in options.ops or [name for name in op_infos() if our_function(name)]:
        verdicts = verdicts_of(name, exhaustive=options.exhaustive)
        total += Counter(v.kind for _, _, v in verdicts)
        for form, sample, verdict in verdicts:
            if verdict.kind not in ("agrees", "not taken"):
                print(" | ".join([form, sample.dtype, sample.text, verdict.kind, verdict.why]).replace("\n", " "))
        mine = [e for e in entries() if e.op.removesuffix("_") == name or e.op == name]
        wrong += held_against(mine, verdicts, options.exhaustive)
    print(*wrong, sep="\n")
    taken = total.total() - total["not taken"]
    share = f"{100 * total['agrees'] / max(taken, 1):.2f} %"
    print(
        f"{total.total()} samples, {taken} with arguments that we take, {total['agrees']} agree: {share}; {dict(total)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
