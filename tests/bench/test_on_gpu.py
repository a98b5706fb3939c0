"""The command for the day that there is a GPU: tried whole on the simulated one, and what it does when a part fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from tilegrad.bench import on_gpu, results
from tilegrad.bench.on_gpu import FIRST, GRACE, MORE, ROOT, Part
from tilegrad.bench.results import Results, Row
from tilegrad.data import write_idx


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte", np.arange(40 * 28 * 28).reshape(40, 28, 28).astype(np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(40, dtype=np.uint8) % 10)
    return folder


@pytest.mark.parametrize("rounds", [[], ["--more"]], ids=["first", "more"])
def test_every_part_runs_and_leaves_its_results(rounds, digits, tmp_path):
    """On a machine without network, and without what is for downloads only."""
    for name in ("pooch", "platformdirs"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not installed here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TILEGRAD_DATA": str(digits), "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tilegrad.bench.on_gpu", "run", "--toy", "--out", str(out), *rounds]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    logs = {path.stem: path.read_text()[-2000:] for path in out.glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    parts = MORE if rounds else FIRST
    summary = json.loads((out / "summary.json").read_text())
    assert [(name, found["status"]) for name, found in summary.items()] == [(part.name, "passed") for part in parts]
    for part in parts:
        kind = "xml" if part.command[0] == "pytest" else "json"
        assert (out / f"{part.name}.{kind}").stat().st_size > 0, part.name
    with pytest.raises(SystemExit):
        on_gpu.main(["report", str(out)])  # nothing was measured


def test_the_first_round_fits_ten_minutes():
    assert sum(part.seconds for part in FIRST) + GRACE <= 600
    assert len({part.name for part in (*FIRST, *MORE)}) == len(FIRST) + len(MORE)


SLOW = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("OUT.pid", "w").write(str(child.pid))
try:
    time.sleep(600)
except KeyboardInterrupt:
    open("OUT.json", "w").write("what there was")
    time.sleep(STAYS)
"""


@pytest.mark.parametrize("stays", [0, 600])
def test_a_part_that_takes_too_long_is_stopped_with_all_it_started(stays, tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "GRACE", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    (tmp_path / "works.py").write_text("print('done')")
    (tmp_path / "slow.py").write_text(SLOW.replace("OUT", str(tmp_path / "slow")).replace("STAYS", str(stays)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = [Part(name, seconds, (), (name,)) for name, seconds in (("fails", 60), ("slow", 10), ("works", 60))]
    assert on_gpu.run(parts, tmp_path, toy=True) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [found["status"] for found in summary.values()] == ["failed", "stopped", "passed"]
    assert (tmp_path / "slow.json").read_text() == "what there was"
    assert (tmp_path / "works.log").read_text() == "done\n"
    child = int((tmp_path / "slow.pid").read_text())
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_of_tritons_cache_what_a_launch_needs_is_carried(tmp_path):
    cache, archive = tmp_path / "cache", tmp_path / "carry" / "triton.tar.xz"
    for name in ("a/k.cubin", "a/k.json", "a/k.ptx", "a/k.ttir", "b/__grp__k.json"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(name)
    assert on_gpu.pack(cache, archive) == on_gpu.unpack(archive, tmp_path / "there") == 3
    there = sorted(str(p.relative_to(tmp_path / "there")) for p in (tmp_path / "there").rglob("*.*"))
    assert there == ["a/k.cubin", "a/k.json", "b/__grp__k.json"]
    assert list(archive.parent.iterdir()) == [archive]


def test_an_archive_writes_nothing_elsewhere(tmp_path):
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as packed:
        packed.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(tarfile.OutsideDestinationError):
        on_gpu.unpack(tmp_path / "bad.tar.xz", tmp_path / "inside" / "deep")
    assert not (tmp_path / "inside" / "outside").exists()


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """A checkout's README and results, and what a GPU left in `back`."""
    (tmp_path / "bench" / "results").mkdir(parents=True)
    for readme in (tmp_path / "README.md", tmp_path / "bench" / "README.md"):
        readme.write_text(f"# x\n{on_gpu.readme.BEGIN}\nold\n{on_gpu.readme.END}\nrest\n")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "summary.json").write_text("{}")
    return tmp_path


def came_back(root, name, *rows, **facts):
    """A file as a run of the benchmarks leaves it."""
    machine = {"card": "NVIDIA H200", "cores": 16, "date": "today", "commit": "abc", "packages": {"numpy": "2"}} | facts
    results.write(root / "back" / name, Results("cuda", False, machine, rows=[*rows]).to_json())


def row(mode, **more):
    return Row("matmul", "matmul", mode, [4096, 4096, 4096], "bfloat16", "ieee", "triton", **more)


def test_what_came_back_becomes_results_and_tables(root):
    came_back(root, "matmul.json", row("forward", ms=0.25, rate=550.0, unit="TFLOP/s"))
    came_back(root, "backward.json", row("backward", ms=1.0), row("both", status="wrong", reason="off by one"))
    (root / "back" / "mnist-cnn.json").write_text('{"contestants": {}}')
    assert on_gpu.report(root / "back", root) == 0
    folder = root / "bench" / "results"
    names = ["gpu-nvidia-h200-mnist-cnn.json", "gpu-nvidia-h200-summary.json", "gpu-nvidia-h200.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    joined = results.read(folder / "gpu-nvidia-h200.json")
    assert {row.mode for row in joined.rows} == {"forward", "backward"}
    assert joined.notes == ["wrong: matmul matmul both 4096 x 4096 x 4096 bfloat16 triton: off by one"]
    text = (root / "bench" / "README.md").read_text()
    assert "NVIDIA H200" in text and "old" not in text and text.endswith("rest\n")


@pytest.mark.parametrize(
    "facts", [{"card": "NVIDIA A100"}, {"commit": "1234567"}, {"packages": {"numpy": "1"}}], ids=str
)
def test_runs_of_two_kinds_are_no_one_measurement(root, facts):
    came_back(root, "a.json"), came_back(root, "b.json", **facts)
    with pytest.raises(ValueError, match=f"report: {next(iter(facts))} is .* beside .*; expected one measurement"):
        on_gpu.report(root / "back", root)
    assert list((root / "bench" / "results").iterdir()) == []


def test_a_folder_without_results_is_refused(root):
    with pytest.raises(ValueError, match="has no results"):
        on_gpu.report(root / "back", root)


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        on_gpu.main(["run", "--only", "matmul,sums"])
    assert "--only: got sums; expected some of tests-cuda, matmul" in capsys.readouterr().err
