"""What the READMEs say of speed is what bench/results give; and how it is made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.conftest import SOFTMAX
from tilegrad import bench
from tilegrad.bench import readme
from tilegrad.bench.results import Results, Row

RESULTS = readme.ROOT / "bench" / "results"


@pytest.mark.parametrize(("path", "made"), [("README.md", readme.steps), ("bench/README.md", readme.section)])
def test_the_section_is_not_stale(path, made):
    text = (readme.ROOT / path).read_text()
    assert text == readme.rewritten(text, made(RESULTS)), "stale: run python -m tilegrad.bench --readme"


def test_the_picture_is_not_stale():
    pictures = 0
    for found, path in readme._machines(RESULTS):
        picture = path.with_suffix(".svg")
        if picture.exists():
            pictures += 1
            assert f"commit {found.provenance['commit']}" in picture.read_text(), "stale: run it with --readme"
            assert f"bench/results/{picture.name}" in (readme.ROOT / "README.md").read_text()
    assert pictures


def test_the_results_that_are_kept_were_measured_whole():
    paths = readme.kept(RESULTS)
    assert paths
    for path in paths:
        found = readme.results.read(path)
        assert not found.simulated and found.provenance["commit"] != "unknown"
        assert found.complete or found.device == "cuda"  # there a part that takes too long is stopped
        assert not [row for row in found.rows if row.status in ("wrong", "failed")]
        others = found.provenance["others"]
        assert others is None or others < 0.1, "measured on a machine that did other things too"


@pytest.mark.parametrize("text", ["", readme.BEGIN, f"{readme.BEGIN}{readme.BEGIN}{readme.END}"])
def test_markers_must_be_there_once(text):
    with pytest.raises(ValueError, match="expected once"):
        readme.rewritten(text, "new")


def test_only_what_is_between_the_markers_changes():
    text = f"head\n{readme.BEGIN}\nold\n{readme.END}\ntail"
    assert readme.rewritten(text, "new\n") == f"head\n{readme.BEGIN}\nnew\n{readme.END}\ntail"


def row(op, variant, mode, shape, provider, ms, **more):
    rival = provider.startswith("torch")
    return Row(op, variant, mode, shape, "float32", "ieee", provider, rival, ms=ms, p20=ms, p80=ms, **more)


def section(tmp_path, *rows, **more):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    machine = {"cpu": "a CPU", "cores": 2, "date": "today", "commit": "abc", "packages": {"torch": "2.13"}}
    (folder / "a.json").write_text(Results("cpu", False, machine, rows=[*rows], **more).to_json())
    return readme.section(folder)


def test_tables(tmp_path):
    text = section(
        tmp_path,
        row("matmul", "matmul", "forward", [1024, 1024, 1024], "cpu", 2.0, rate=500.0, unit="GFLOP/s",
            of_ceiling=0.5, times_rival=0.75, best_rival="torch"),
        row("matmul", "matmul", "forward", [1024, 1024, 1024], "reference", 4.0, rate=250.0, unit="GFLOP/s"),
        row("matmul", "matmul", "forward", [1024, 1024, 1024], "torch", 1.5),
        row("matmul", "matmul", "forward", [7, 7, 7], "cpu", 1.0, rate=1.0, unit="GFLOP/s"),
        row("train", "CNN", "step", [32], "cpu", 10.0, times_rival=1.5),
        row("train", "CNN", "step", [32], "torch", 15.0),
        row("train", "CNN's conv 1 to 32", "both", [128], "cpu", 0.5, times_rival=2.0),
        row("train", "CNN's conv 1 to 32", "both", [128], "torch", 1.0),
        row("overhead", "1000 scalar additions", "forward", [1000], "engine", 5.0, rate=5.0, unit="us an op"),
    )  # fmt: skip
    assert text.startswith("a CPU, 2 cores, today, commit abc, torch 2.13\n([all rows](results/a.json)).\n")
    for line in (
        "| matmul | 1024 x 1024 x 1024 | float32 | cpu | 2 ms | 500 GFLOP/s | 50 % | torch | 0.75 |",
        "| training step | batch | torch | tilegrad | times torch's speed |",
        "| CNN | 32 | 15 ms | 10 ms | 1.50 |",
        "| conv 1 to 32 | and backward | 500 us | 1 ms | 2.00 |",
        "| 1000 scalar additions, forward | 5 us an op |  |",
    ):
        assert line in text.splitlines()
    assert "7 x 7" not in text, "only the shapes of --quick"


def test_the_first_readme_has_the_steps_alone(tmp_path):
    section(
        tmp_path,
        row("train", "CNN", "step", [32], "cpu", 10.0, times_rival=1.5),
        row("train", "CNN's conv 1 to 32", "both", [128], "cpu", 0.5, times_rival=2.0),
    )
    text = readme.steps(tmp_path / "bench" / "results")
    assert "([all rows](bench/results/a.json))" in text and "| CNN | 32 |" in text and "conv" not in text


def test_the_captured_step_has_a_column_where_there_is_one(tmp_path):
    text = section(
        tmp_path,
        row("train", "MLP", "step", [32], "cpu", 10.0, times_rival=1.5),
        row("train", "MLP", "step", [32], "cpu captured", 5.0, times_rival=3.0),
        row("train", "MLP", "step", [32], "torch", 15.0),
    )
    assert "| MLP | 32 | 15 ms | 10 ms | 1.50 | 5 ms | 3.00 |" in text.splitlines()


def test_a_captured_step_that_ran_plainly_is_told_apart(tmp_path):
    text = section(
        tmp_path,
        row("train", "transformer", "step", [16, 64], "cpu", 10.0, times_rival=1.5),
        row(
            "train", "transformer", "step", [16, 64], "cpu captured", 9.0, times_rival=1.67, reason="runs plainly: min"
        ),
        row("train", "transformer", "step", [16, 64], "torch", 15.0),
    )
    assert "| transformer | 16 x 64 | 15 ms | 10 ms | 1.50 | 9 ms, plainly | 1.67 |" in text.splitlines()


def test_memory_has_a_table_where_it_was_counted(tmp_path):
    def counted(provider, mode, mib):
        found = row("memory", "MLP", mode, [512], provider, None, rate=mib, unit="MiB")
        return replace(found, p20=None, p80=None)

    text = section(
        tmp_path,
        row("train", "MLP", "step", [512], "torch", 15.0),
        *(counted(p, "process", mib) for p, mib in (("cpu", 150.2), ("cpu captured", 160.6), ("torch", 450.0))),
        *(counted(p, "beyond batch 1", mib) for p, mib in (("cpu", 4.0), ("torch", 5.0))),
    )
    for line in (
        "| peak memory of training | batch | of | torch | tilegrad | captured |",
        "| MLP | 512 | process | 450 MiB | 150 MiB | 161 MiB |",
        "| MLP | 512 | beyond batch 1 | 5 MiB | 4 MiB |  |",
    ):
        assert line in text.splitlines()


def test_one_command_measures_and_writes_the_readmes(command, monkeypatch):
    """--readme with --json; not after a row that is wrong."""
    written = []
    monkeypatch.setattr(readme, "main", lambda: written.append(True) or 0)
    status, found, _ = command(*SOFTMAX, "reference", "--readme")
    assert status == 0 and found["rows"] and written == [True]
    assert found["arguments"] == [*SOFTMAX, "reference"]

    @bench.provider("off", op="softmax")
    def off(x):
        return x

    status, _, _ = command(*SOFTMAX, "off", "--readme")
    assert status == 1 and written == [True]


def test_what_was_simulated_is_not_shown(tmp_path):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    simulated = Results("cuda", True, {}, rows=[Row("matmul", "matmul", "forward", [1], "float32", "ieee", "triton")])
    (folder / "a.json").write_text(simulated.to_json())
    (folder / "b.json").write_text('{"another": "benchmark"}')
    assert readme.section(folder) == ""
