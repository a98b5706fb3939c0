"""examples/bench_my_kernel.py: a user's kernel in the table."""

from __future__ import annotations

import json
import subprocess
import sys

from tilegrad.bench.readme import ROOT


def test_the_example_puts_its_kernel_into_the_table(tmp_path):
    arguments = ["--shapes", "8,16", "--quick", "--device", "cpu", "--providers", "reference,mine"]
    command = [sys.executable, str(ROOT / "examples" / "bench_my_kernel.py"), *arguments, "--json", "a.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    mine = [row for row in found["rows"] if row["provider"] == "mine"]
    assert [(row["variant"], row["status"]) for row in mine] == [("softmax", "ok"), ("log_softmax", "skipped")]
    assert mine[0]["ms"] > 0 and mine[0]["of_ceiling"] > 0
