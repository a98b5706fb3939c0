"""The table of counters, from rows that are written by hand; the command's refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tilegrad.bench import ptx_counters


def row(kernel: str = "_sum_kernel", language: str = "triton", **given: Any) -> dict[str, Any]:
    banks = {"accesses": 1, "transactions": 4, "least": 4}
    counters = {"shared_loads": banks, "shared_stores": banks, "branches": 10, "divergent": 0}
    return {
        "language": language, "dtype": "float32", "family": "sum", "kernel": kernel, "counters": counters,
        "coalescing": {"loads": 1.0, "stores": None}, "registers": 32, "occupancy": 0.5, "lanes_at_work": 1.0,
        "bound_seconds": {"memory": 2e-6, "issue": 1e-6}, "commit": "abc1234",
    } | given  # fmt: skip


def lines(tmp_path, *rows: dict[str, Any], arch: int = 80) -> list[str]:
    (tmp_path / f"ptx-counters-sm{arch}.json").write_text(json.dumps({"rows": rows}))
    return list(ptx_counters.table(tmp_path))


def test_the_worst_of_a_kernel_s_compilations_is_shown(tmp_path):
    worse: dict[str, Any] = row()["counters"] | {"divergent": 5}
    worse["shared_stores"] = {"accesses": 1, "transactions": 6, "least": 4}
    second = row(
        counters=worse, coalescing={"loads": 0.25, "stores": 0.125}, registers=64, occupancy=0.75, lanes_at_work=0.9,
        bound_seconds={"issue": 1e-6, "memory": 5e-7}, commit="def5678",
    )  # fmt: skip
    first, provenance, _, _, head, rule, line, end = lines(tmp_path, row(), second)
    assert first.startswith("What 2 shipped defaults do on sm_80") and "abc1234, def5678" in provenance
    assert line == "| sum | triton | float32 | 2 | 25 % | 12 % | 1.50 | 50 % | 90 % | 64 | 50 % | memory, issue |"
    assert head.count("|") == rule.count("|") == line.count("|") and end == ""


def test_languages_and_kernels_have_lines_of_their_own_and_what_is_not_used_is_blank(tmp_path):
    none = {"accesses": 0, "transactions": 0, "least": 0}
    counters = row()["counters"] | {"shared_loads": none, "shared_stores": none, "branches": 0}
    found = lines(tmp_path, row("_a_kernel"), row("_a_kernel", "numba"), row("_b_kernel", counters=counters))
    assert [line.split(" | ")[:2] for line in found[6:-1]] == [["| a", "triton"], ["| a", "numba"], ["| b", "triton"]]
    assert found[8] == "| b | triton | float32 | 1 | 100 % |  |  | 0 % | 100 % | 32 | 50 % | memory |"


def test_each_architecture_has_a_table_and_wgmma_s_says_what_is_missing(tmp_path):
    of_80 = lines(tmp_path, row())
    both = lines(tmp_path, row("_matmul_kernel"), arch=90)
    of_90 = both[len(of_80) :]
    assert both[: len(of_80)] == of_80 and not any("wgmma" in line for line in of_80)
    assert "on sm_90" in of_90[0] and "results/ptx-counters-sm90.json" in of_90[1] and "wgmma" in of_90[3]
    assert of_90[-2].startswith("| matmul | triton |")


def test_no_counters_no_table(tmp_path):
    assert list(ptx_counters.table(tmp_path)) == []


def test_an_architecture_that_is_not_executed(capsys):
    with pytest.raises(SystemExit):
        ptx_counters.main(["--arch", "70"])
    assert "the PTX of sm_70 is not executed; expected 80, 90" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--family", "nothing"], ["--kernels", "cuda"]])
def test_an_unknown_name(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        ptx_counters.main(flags)
    assert stop.value.code == 2 and f"{flags[1]}: expected of triton, numba and of " in capsys.readouterr().err
