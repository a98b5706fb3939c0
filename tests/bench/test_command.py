"""python -m tilegrad.bench: its results, its errors, its exit status."""

from __future__ import annotations

import csv
import json
import stat

import numpy as np
import pytest

from tests.bench.conftest import SOFTMAX
from tilegrad import bench, kernels
from tilegrad.bench import providers, results, rows
from tilegrad.bench.results import Row


def test_the_json_has_all_there_is_to_know(command, tmp_path):
    status, found, told = command(*SOFTMAX, "reference,cpu,torch,triton", "--csv", str(tmp_path / "rows.csv"))
    assert status == 0
    assert found["schema"] == 1 and found["complete"] and not found["simulated"] and found["device"] == "cpu"
    assert found["arguments"] == [*SOFTMAX, "reference,cpu,torch,triton"], "without the paths"
    assert {"date", "commit", "cpu", "cores", "threads", "python", "packages"} <= found["provenance"].keys()
    assert found["providers"] == {
        "triton": "runs on device cuda", "cpu": None, "reference": None, "torch": None
    }  # fmt: skip
    assert "skipped: triton: runs on device cuda" in told
    assert [(r["variant"], r["provider"], r["status"]) for r in found["rows"]] == [
        (variant, provider, "ok")
        for variant in ("softmax", "log_softmax")
        for provider in ("cpu", "reference", "torch")
    ]
    for row in found["rows"]:
        assert row.keys() == Row.__dataclass_fields__.keys()
        assert row["bytes"] == 2 * 4 * 8 * 4 and row["shape"] == [4, 8] and row["dtype"] == "float32"
        assert 0 < row["p20"] <= row["ms"] <= row["p80"] and row["samples"] >= 1
        assert row["unit"] == "GB/s" and row["rate"] == pytest.approx(256 / row["ms"] / 1e6, rel=1e-3)
        assert row["of_ceiling"] == pytest.approx(row["rate"] / 10, rel=1e-3)
    reference, torch = found["rows"][1:3]
    assert reference["times_rival"] == pytest.approx(torch["ms"] / reference["ms"], rel=1e-3)
    assert reference["best_rival"] == "torch" and torch["rival"] and torch["times_rival"] == 1
    with (tmp_path / "rows.csv").open() as f:
        table = list(csv.DictReader(f))
    assert len(table) == 6 and table[1]["shape"] == "4x8" and float(table[1]["ms"]) == reference["ms"]


def test_a_backend_that_has_no_kernel_of_its_own_is_skipped(command, monkeypatch):
    monkeypatch.setattr(kernels.load("cpu"), "tanh", kernels.load("reference").tanh)
    _, found, _ = command("activations", "--device", "cpu", "--shapes", "100", "--providers", "reference,cpu")
    rows = {(row["variant"], row["provider"]): row for row in found["rows"] if row["mode"] == "forward"}
    assert rows["relu", "cpu"]["status"] == rows["tanh", "reference"]["status"] == "ok"
    skipped = rows["tanh", "cpu"]
    assert (skipped["status"], skipped["reason"]) == ("skipped", "the same code as reference")
    assert skipped["ms"] is None


def test_arithmetic_is_held_against_the_product(command):
    _, found, told = command("matmul", "--device", "cpu", "--shapes", "64,64,64", "--providers", "reference")
    row = found["rows"][0]
    assert row["unit"] == "GFLOP/s" and row["ceiling"] == 100 and "2 * 64" not in told
    assert row["rate"] == pytest.approx(2 * 64**3 / row["ms"] / 1e6, rel=1e-3)


def test_results_are_read_as_they_were_written(command, tmp_path):
    command(*SOFTMAX, "reference")
    read = results.read(tmp_path / "new.json")
    assert read.to_json() == (tmp_path / "new.json").read_text()


def test_a_wrong_provider_is_wrong_not_timed_and_the_status_is_1(command):
    @bench.provider("off", op="softmax")
    def off(x):
        y = np.exp(x - x.max(-1, keepdims=True))
        return 1.01 * y / y.sum(-1, keepdims=True)

    status, found, told = command(*SOFTMAX, "reference,off")
    assert status == 1
    row = next(r for r in found["rows"] if r["provider"] == "off")
    assert row["status"] == "wrong" and row["ms"] is None and "allowed" in row["reason"]
    assert "  off                  WRONG: output 0: 2-norm of the error" in told
    skipped = [r for r in found["rows"] if r["provider"] == "off"][1]
    assert skipped["reason"] == "no function is registered for log_softmax, forward"


def test_a_provider_that_raises_fails_its_row_alone(command):
    @bench.provider("broken", op="softmax")
    def broken(x):
        raise RuntimeError("no such luck")

    status, found, told = command(*SOFTMAX, "reference,broken")
    assert status == 1 and "FAILED: RuntimeError: no such luck" in told
    assert {r["status"] for r in found["rows"] if r["provider"] == "reference"} == {"ok"}


def test_a_users_backward_gets_gradient_inputs_and_outputs(command):
    @bench.provider("mine", op="softmax", mode="backward")
    def mine(dy, x, y):
        return y * (dy - (dy * y).sum(-1, keepdims=True))

    @bench.provider("mine", op="softmax")
    def forward(x):
        y = np.exp(x - x.max(-1, keepdims=True))
        return y / y.sum(-1, keepdims=True)

    arguments = ("softmax", "--device", "cpu", "--shapes", "4,8", "--providers", "mine")
    status, found, _ = command(*arguments)
    assert status == 0
    assert [(r["variant"], r["mode"], r["status"]) for r in found["rows"]] == [
        ("softmax", "forward", "ok"), ("softmax", "backward", "ok"),
        ("log_softmax", "forward", "skipped"), ("log_softmax", "backward", "skipped"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"op": "softmacks"}, "op is 'softmacks'; expected one of matmul, matmul + bias + gelu, matmul"),
        ({"op": "adam_step", "mode": "backward"}, "mode is 'backward'; adam_step has forward"),
        ({"op": "softmax", "device": "tpu"}, "device is 'tpu'; expected cpu or cuda"),
    ],
)
def test_a_provider_of_what_there_is_not_is_an_error(arguments, text):
    with pytest.raises(ValueError, match=text.replace("+", r"\+")):
        bench.provider("mine", **arguments)
    with pytest.raises(ValueError, match="the name 'torch' is taken"):
        bench.provider("torch", op="softmax")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["matmull"],
            "OP: got 'matmull'; expected some of matmul, activations, softmax, softmax_xent, attention, layer_norm",
        ),
        (["adam", "--dtype", "int8"], "--dtype: got 'int8'; expected some of float32, float16, float64, bfloat16"),
        (["adam", "--dtype", "float16"], "--dtype: adam got float16; expected some of float32, float64"),
        (["matmul", "--providers", "jax"], "--providers: got 'jax'; expected some of triton, numba, cpu, reference"),
        (["matmul", "--mode", "sideways"], "--mode: got 'sideways'; expected some of forward, backward, both"),
        (["matmul", "--shapes", "1,2"], "--shapes: got '1,2'; expected M,N,K of matmul, such as 1024,1024,1024; 512,"),
        (["matmul", "--shapes", "1,2,x"], "--shapes: got '1,2,x'; expected M,N,K"),
        (["matmul", "--shapes", "1,0,3"], "--shapes: got '1,0,3'; expected M,N,K"),
        (["conv", "--shapes", "1,1,2,1,3,0"], "--shapes: got '1,1,2,1,3,0'; expected KERNEL <= SIDE + 2 PADDING"),
        (["pool", "--shapes", "1,1,1,5"], "--shapes: got '1,1,1,5'; expected H and W of at least 2"),
        (["matmul", "adam", "--shapes", "1"], "--shapes: got 2 ops; expected one"),
        (["overhead", "--shapes", "1"], "--shapes: overhead has no shapes"),
        (["matmul", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["matmul", "--fail-above", "5"], "--fail-above: got no --compare"),
        (["matmul", "--minutes", "-1"], "--minutes: got -1.0; expected a number of at least 0"),
        (["matmul", "--plot", "a.jpeg"], "--plot: got a.jpeg; expected a name that ends in .png, .svg, .pdf"),
        (["matmul", "--compare", "nowhere.json"], "--compare: [Errno 2] No such file or directory: 'nowhere.json'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(monkeypatch, tmp_path, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "measured", None)
    with pytest.raises(SystemExit) as refused:
        bench.main(arguments)
    assert refused.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--json", "--csv", "--plot"])
def test_what_cannot_be_written_fails_before_the_measuring(tmp_path, capsys, flag):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below.png", tmp_path):
        with pytest.raises(SystemExit) as refused:
            bench.main([*SOFTMAX, "reference", flag, str(path)])
        told = capsys.readouterr()
        assert refused.value.code == 2 and f"{flag}: {path} cannot be written: " in told.err and told.out == ""


def test_a_write_protected_file_is_refused(tmp_path):
    path = tmp_path / "old.json"
    path.touch()
    path.chmod(stat.S_IRUSR)
    if not results.os.access(path, results.os.W_OK):  # root may write everything
        assert results.writable(path) == "is write-protected"
    assert results.writable(tmp_path / "new" / "folder" / "a.json") is None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(results.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        results.write(path, "new")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_ctrl_c_keeps_what_was_measured(command, monkeypatch):
    from tilegrad.bench import run

    calls = []

    def second_is_interrupted(case, session):
        calls.append(case)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rows.measured(case, session)

    monkeypatch.setattr(run, "measured", second_is_interrupted)
    status, found, told = command(*SOFTMAX, "reference")
    assert status == 130 and not found["complete"]
    assert [(r["variant"], r["status"]) for r in found["rows"]] == [("softmax", "ok")]
    assert "interrupted: 1 rows were measured and are kept" in told and "written: " in told


def test_what_the_minutes_do_not_reach_is_named(command):
    status, found, told = command("adam", "softmax", "--device", "cpu", "--providers", "reference", "--minutes", "0")
    assert status == 0 and found["rows"] == []
    expected = ["softmax: 12 cases left out: the share of --minutes was over"]
    assert found["notes"] == [*expected, "adam: 2 cases left out: the share of --minutes was over"]
    assert all(note.partition(": ")[2] in told for note in found["notes"])


def test_what_an_op_has_not_is_named(command):
    arguments = ("--device", "cpu", "--providers", "reference", "--minutes", "0", "--mode", "backward")
    _, found, told = command("adam", "pool", "--dtype", "float16", *arguments)
    assert "adam: no float16; there is float32, float64" in found["notes"]
    assert "adam: no backward; there is forward" in found["notes"] and "no backward; there is forward" in told


def test_a_missing_package_is_named_with_its_install_line(command, monkeypatch):
    found_by = providers.importlib.util.find_spec
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: None if name == "torch" else found_by(name))
    _, found, told = command(*SOFTMAX, "reference,torch")
    assert found["providers"]["torch"] == "torch is not installed: pip install torch"
    assert "skipped: torch: torch is not installed: pip install torch" in told
    assert {r["provider"] for r in found["rows"]} == {"reference"}


def test_the_list_has_every_op_provider_and_shape(capsys):
    assert bench.main(["--list"]) == 0
    told = capsys.readouterr().out
    for text in (*bench.providers.PROVIDERS, "matmul(a, b)", "--shapes N,C,SIDE,O,KERNEL,PADDING", "train", "bfloat16"):
        assert text in told


def test_modes_and_dtypes_have_rows_of_their_own(command):
    arguments = ("matmul", "--device", "cpu", "--shapes", "8,16,8", "--providers", "reference,cpu")
    _, found, _ = command(*arguments, "--mode", "forward,both", "--dtype", "float64,bfloat16")
    kinds = [(r["variant"], r["dtype"], r["mode"]) for r in found["rows"] if r["provider"] == "reference"]
    assert kinds == [
        ("matmul", "float64", "forward"), ("matmul", "float64", "both"),
        ("matmul", "bfloat16", "forward"), ("matmul", "bfloat16", "both"),
        ("matmul + bias + gelu", "float64", "forward"), ("matmul + bias + gelu", "bfloat16", "forward"),
        ("matmul + bias + gelu, both kept", "float64", "forward"),
        ("matmul + bias + gelu, both kept", "bfloat16", "forward"),
    ]  # fmt: skip
    assert json.dumps(found)


def test_torch_compile_gets_what_there_is_to_fuse(command, monkeypatch):
    compiled = []

    def compile(function, dynamic):
        compiled.append(dynamic)
        return function

    monkeypatch.setattr(providers.importlib.import_module("torch"), "compile", compile)
    providers._compiled.cache_clear()
    arguments = ("matmul", "--device", "cpu", "--shapes", "8,16,8", "--mode", "forward", "--providers", "torch-compile")
    _, found, _ = command(*arguments)
    assert [(row["variant"], row["status"], row["reason"]) for row in found["rows"]] == [
        ("matmul", "skipped", "one library call: nothing to fuse"), ("matmul + bias + gelu", "ok", None),
        ("matmul + bias + gelu, both kept", "ok", None),
    ]  # fmt: skip
    _, found, _ = command("softmax", *arguments[1:4], "8,16", "--mode", "both", "--providers", "torch-compile")
    assert [row["status"] for row in found["rows"]] == ["ok", "ok"]
    assert compiled == [False] * 4, "one function for all copies of the inputs"
    providers._compiled.cache_clear()


def test_a_failure_while_timing_fails_the_case_alone(command):
    calls = []

    @bench.provider("tired", op="softmax")
    def tired(x):
        calls.append(x)
        if len(calls) > 1:
            raise MemoryError("used up")
        y = np.exp(x - x.max(-1, keepdims=True))
        return y / y.sum(-1, keepdims=True)

    status, found, _ = command(*SOFTMAX, "reference,tired")
    assert status == 1 and len(found["rows"]) == 4
    assert [(r["status"], r["reason"]) for r in found["rows"][:2]] == [("failed", "MemoryError: used up")] * 2
    assert found["rows"][2]["status"] == "ok"
