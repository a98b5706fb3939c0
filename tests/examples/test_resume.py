"""--save, --resume, --checkpoint-every, Ctrl-C: a training that was broken off gives what an unbroken one gives."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from itertools import pairwise

import mnist_training
import numpy as np
import pytest

import tilegrad as tg
from tests.examples.programs import EXAMPLES, run, tiny, train
from tilegrad import nn

SMALL = ("--epochs", 3, "--batch-size", 64, "--limit", 300)  # 5 steps an epoch, the last one of 44 images
KINDS = {
    "plain": (),
    "augmented": ("--augment",),
    "early stopping": ("--validation", 0.2, "--patience", 1, "--lr", 0.02),  # 4 steps an epoch
    "AdamW": ("--weight-decay", 0.1, "--validation", 0.1),
}


def ctrl_c_in(step, monkeypatch):
    """Ctrl-C while this step is computed."""

    def shown(batches, title, images, progress):
        for batch in batches:
            if progress.steps == step - 1:
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(mnist_training, "shown", shown)


def break_off(*flags, net=tiny):
    with pytest.raises(SystemExit) as ended:
        train(*flags, net=net)
    assert ended.value.code == 130


def weights(folder):
    return {name: x.numpy() for name, x in tg.load(folder / "model.safetensors").items()}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True)


def without_times(figures):
    return {name: value for name, value in figures.items() if "second" not in name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [(1,), (4, 7), (5, 10, 11)])  # in an epoch, at its end, more than once
def test_a_broken_off_training_ends_as_an_unbroken_one(kind, steps, digits, tmp_path, monkeypatch, capsys):
    flags = ("--data", digits, *SMALL, *KINDS[kind])
    whole = train(*flags, "--save", tmp_path / "whole")
    there = ("--save", tmp_path / "parts")
    for step, resume in zip(steps, [(), ("--resume",), ("--resume",)]):
        with monkeypatch.context() as patch:
            ctrl_c_in(step, patch)
            break_off(*flags, *there, *resume)
        assert f"has all up to step {step}. To go on:\n" in capsys.readouterr().err
    parts = train(*flags, *there, "--resume")
    assert f"going on after step {steps[-1]}, from " in capsys.readouterr().out
    assert without_times(parts) == without_times(whole)
    assert_same_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_device_cuda_goes_on_too(tmp_path, monkeypatch, capsys):
    """On a GPU, or a simulated one, with images of 6 x 6."""
    for part, n in (("train", 14), ("t10k", 3)):
        images = np.random.default_rng(n).integers(0, 256, (n, 6, 6)).astype(np.uint8)
        tg.data.write_idx(tmp_path / f"{part}-images-idx3-ubyte", images)
        tg.data.write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)

    def net():
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(36, 10))

    flags = ("--data", tmp_path, "--epochs", 1, "--batch-size", 2, "--augment", "--validation", 0.1, "--patience", 1)
    flags = (*flags, "--device", "cuda")
    whole = train(*flags, "--save", tmp_path / "whole", net=net)
    with monkeypatch.context() as patch:
        ctrl_c_in(2, patch)
        break_off(*flags, "--save", tmp_path / "parts", net=net)
    parts = train(*flags, "--save", tmp_path / "parts", "--resume", "--report", tmp_path / "report", net=net)
    assert (tmp_path / "report" / "report.json").is_file()
    assert re.search(r"step\(int64\[2\], float32\[2, 3\]\): \d+ nodes, ", capsys.readouterr().out)  # captured
    assert parts["losses"] == whole["losses"]
    assert_same_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_saving_changes_nothing(digits, tmp_path):
    flags = ("--data", digits, *SMALL)
    plain = train(*flags)
    saved = train(*flags, "--save", tmp_path, "--checkpoint-every", 2)
    assert without_times(saved) == without_times(plain)


def test_a_finished_run_gives_its_result_again(digits, tmp_path):
    flags = ("--data", digits, *SMALL, "--validation", 0.2, "--patience", 1, "--lr", 0.02, "--save", tmp_path)
    first = train(*flags)
    before = weights(tmp_path)
    assert without_times(train(*flags, "--resume")) == without_times(first)
    assert_same_weights(weights(tmp_path), before)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(digits, tmp_path):
    flags = ("--data", digits, *SMALL, "--save", tmp_path)
    first = train(*flags)
    for path in (*tmp_path.glob("step-*"), tmp_path / "model.safetensors"):
        path.unlink()
    assert without_times(train(*flags, "--resume")) == without_times(first)


@pytest.mark.parametrize("every", [(), (3,)])
def test_how_often_a_checkpoint_is_written(every, digits, tmp_path, monkeypatch):
    written = []
    save = mnist_training.RunFolder.save

    def noted(folder):
        written.append(folder.progress.steps)
        save(folder)

    monkeypatch.setattr(mnist_training.RunFolder, "save", noted)
    train("--data", digits, *SMALL, "--save", tmp_path, *(("--checkpoint-every", *every) if every else ()))
    assert written == [0, *((3, 6, 9, 12, 15) if every else (5, 10, 15)), 15]
    assert len(list(tmp_path.glob("step-*"))) == 3


def test_the_saved_model_is_the_trained_one(digits, tmp_path):
    models = []

    def net():
        models.append(tiny())
        return models[-1]

    train("--data", digits, *SMALL, "--save", tmp_path, net=net)
    assert_same_weights(weights(tmp_path), {name: x.numpy() for name, x in models[0].state_dict().items()})


def test_ctrl_c_without_a_folder_says_that_nothing_is_saved(digits, monkeypatch, capsys):
    ctrl_c_in(7, monkeypatch)
    break_off("--data", digits, *SMALL)
    assert capsys.readouterr().err == "interrupted: nothing was saved (--save DIR keeps what is needed to go on)\n"


def test_a_second_ctrl_c_does_not_wait_for_the_step(digits, tmp_path, monkeypatch, capsys):
    def shown(batches, title, images, progress):
        yield batches[0]
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield batches[1]

    monkeypatch.setattr(mnist_training, "shown", shown)
    break_off("--data", digits, *SMALL, "--save", tmp_path)
    assert "has all up to step 0. To go on:" in capsys.readouterr().err


def test_ctrl_c_as_a_user_presses_it(digits, tmp_path):
    """A process gets the signal, ends with 130, and says a command that goes on where it was."""
    flags = ("--data", digits, "--epochs", "60", "--augment", "--save")
    whole = run("mnist_mlp.py", *flags, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, EXAMPLES / "mnist_mlp.py", *flags, tmp_path / "a run"]  # a name that needs quotes
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout and process.stdout.readline().startswith("first step done")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    found = re.fullmatch(r"interrupted: (.*) has all up to step (\d+). To go on:\n    (.*)\n", said)
    assert found and 0 < int(found[2]) < 600, said
    going_on = subprocess.run(shlex.split(found[3]), capture_output=True, text=True, timeout=100)
    assert going_on.returncode == 0, going_on.stderr
    assert f"going on after step {found[2]}, from {tmp_path / 'a run'}" in going_on.stdout
    assert_same_weights(weights(tmp_path / "a run"), weights(tmp_path / "whole"))


# --- a folder that is another run's


def wider():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 17), nn.ReLU(), nn.Linear(17, 10))


OTHERS = {
    "seed": (("--seed", 1), tiny, "the run has --seed 0, here it is 1"),
    "epochs": (("--epochs", 4), tiny, "the run has --epochs 3, here it is 4"),
    "augment": (("--augment",), tiny, "the run has --augment False, here it is True"),
    "weight decay": (("--weight-decay", 0.5), tiny, "the run has --weight-decay None, here it is 0.5"),
    "net": ((), wider, r"the run's net has 1.weight \(16, 784\), .*; this one has 1.weight \(17, 784\)"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_does_not_go_on_here(other, digits, tmp_path, monkeypatch):
    flags = ("--data", digits, *SMALL, "--save", tmp_path)
    train(*flags)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(mnist_training, "train", None)  # nothing is computed
    more, net, message = OTHERS[other]
    with pytest.raises(SystemExit, match=f"^--resume: .*run.json: {message}"):
        train(*flags, *more, "--resume", net=net)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_data_do_not_go_on(digits, tmp_path):
    small = tmp_path / "data"
    small.mkdir()
    for file in digits.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    tg.data.write_idx(small / "train-images-idx3-ubyte", np.zeros((99, 28, 28), np.uint8))
    tg.data.write_idx(small / "train-labels-idx1-ubyte", np.zeros(99, np.uint8))
    train("--data", digits, "--epochs", 1, "--save", tmp_path)
    with pytest.raises(SystemExit, match="the run is of 640 images; here are 99"):
        train("--data", small, "--epochs", 1, "--save", tmp_path, "--resume")


def test_a_new_run_does_not_begin_in_the_folder_of_another(digits, tmp_path):
    flags = ("--data", digits, *SMALL, "--save", tmp_path)
    train(*flags)
    with pytest.raises(SystemExit, match="has a run; expected --resume, to go on with it, or another folder"):
        train(*flags)


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"flags": {}, "net": {}, "images": 3}'])
def test_a_run_that_is_no_run(text, digits, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SystemExit, match=r"^--resume: .*run.json: "):
        train("--data", digits, *SMALL, "--save", tmp_path, "--resume")


def test_a_damaged_checkpoint_is_one_clear_line(digits, tmp_path):
    flags = ("--data", digits, *SMALL, "--save", tmp_path)
    train(*flags)
    last = max(tmp_path.glob("step-*"))
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(SystemExit, match=f"^--save: .*{last.name} cannot be read"):
        train(*flags, "--resume")


def test_two_at_once_do_not_write_to_one_folder(digits, tmp_path):
    flags = ("--data", digits, *SMALL, "--save", tmp_path)
    train(*flags)
    holder = tg.checkpoint.Checkpoint(state={})
    holder.save(tmp_path, 100)
    (tmp_path / "step-0000000100.safetensors").unlink()
    with pytest.raises(SystemExit, match="another training writes to"):
        train(*flags, "--resume")


def test_early_stopping_takes_the_best_epoch(digits, tmp_path, monkeypatch):
    """The accuracies after the epochs, the weights after each: those of the best one come back."""
    measured, after = iter([0.5, 0.7, 0.7, 0.6, 0.9]), []
    evaluation = mnist_training.Evaluation
    figures = evaluation.figures

    def fake(self, logits):
        if len(self.data) == 60:  # those held out
            after.append({name: x.numpy().copy() for name, x in self.model.state_dict().items()})
            return {"loss": 1.0, "accuracy": next(measured)}
        return figures(self, logits)

    monkeypatch.setattr(evaluation, "figures", fake)
    flags = ("--data", digits, *SMALL, "--epochs", 5, "--validation", 0.2, "--patience", 2, "--save", tmp_path)
    assert train(*flags)["epochs"] == 4
    assert_same_weights(weights(tmp_path), after[1])
    assert all((a["1.weight"] != b["1.weight"]).any() for a, b in pairwise(after))
