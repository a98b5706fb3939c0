"""Checkpoints: a training goes on as if it had not stopped, and no moment of a kill loses the last good one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.checkpoint import Checkpoint
from tilegrad.data import DataLoader, TensorDataset
from tilegrad.nn import functional as F


class Training:
    """A net with all that makes a training hard to go on with: dropout, BatchNorm, a schedule, shuffles, momentum."""

    def __init__(self, captured, keep=3, best=None):
        tg.manual_seed(3)
        rng = np.random.default_rng(0)
        images, labels = rng.standard_normal((37, 6), dtype=np.float32), rng.integers(0, 3, 37)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.optimizer = optim.AdamW(self.model.parameters(), lr=0.05)
        self.schedule = optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 30)
        self.loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True, drop_last=True)
        self.progress = {"epoch": 0, "losses": []}
        self.checkpoint = Checkpoint(
            model=self.model, optimizer=self.optimizer, schedule=self.schedule, loader=self.loader,
            progress=self.progress, keep=keep, best=best,
        )  # fmt: skip
        self.step = tg.capture(self.plain_step) if captured else self.plain_step

    def plain_step(self, x, y):
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss

    def run(self, epochs, until=None, after=lambda step: None):
        losses = self.progress["losses"]
        while self.progress["epoch"] < epochs:
            for x, y in self.loader:
                losses.append(self.step(x, y).item())
                after(len(losses))
                if len(losses) == until:
                    return losses
            self.progress["epoch"] += 1
        return losses


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])  # in the first epoch, at its end, later, at a later end
def test_a_resumed_training_has_the_losses_of_one_that_did_not_stop(captured, stop, tmp_path):
    whole = Training(captured).run(epochs=3)
    assert len(whole) == 12
    first = Training(captured)
    first.run(epochs=3, until=stop)
    first.checkpoint.save(tmp_path, stop)
    first.checkpoint.close()
    tg.manual_seed(99)
    second = Training(captured)
    tg.rand(5)
    assert second.checkpoint.restore(tmp_path) == stop
    assert second.run(epochs=3) == whole


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert Training(False).checkpoint.restore(tmp_path / "none") is None


def steps(folder):
    return sorted(int(path.name[5:15]) for path in folder.glob("step-*.safetensors"))


def test_the_last_ones_and_the_best_stay(tmp_path):
    checkpoint = Checkpoint(state={"x": tg.ones(1)}, keep=2, best="accuracy")
    for step, accuracy in enumerate([0.1, 0.9, 0.9, float("nan"), 0.3, 0.2], 1):
        checkpoint.save(tmp_path, step, accuracy=accuracy, loss=1.0)
    assert steps(tmp_path) == [2, 5, 6]
    assert checkpoint.restore(tmp_path) == 6
    assert checkpoint.restore(tmp_path, best=True) == 2


def test_the_smallest_may_be_the_best(tmp_path):
    checkpoint = Checkpoint(state={}, keep=1, best="-loss")
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        checkpoint.save(tmp_path, step, loss=loss)
    assert steps(tmp_path) == [1, 2]
    assert checkpoint.restore(tmp_path, best=True) == 1


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "step-notes.txt").write_text("mine")
    checkpoint = Checkpoint(state={}, keep=1)
    for step in range(3):
        checkpoint.save(tmp_path, step)
    assert (tmp_path / "step-notes.txt").read_text() == "mine"
    assert steps(tmp_path) == [2]


def test_temporaries_of_killed_writers_are_swept(tmp_path):
    stale = tmp_path / ".step-0000000001.safetensors.1-abcd.part"
    stale.write_bytes(b"half")
    Checkpoint(state={}).save(tmp_path, 1)
    assert not stale.exists()


# --- bad input


def test_a_part_without_a_state():
    with pytest.raises(TypeError, match="model is Tensor; expected what has state_dict and load_state_dict"):
        Checkpoint(model=tg.ones(2))


def test_keeping_none():
    with pytest.raises(ValueError, match="keep is 0; expected at least 1"):
        Checkpoint(keep=0)


def test_the_metric_that_decides_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"got metrics \['loss'\]; expected accuracy among them"):
        Checkpoint(best="accuracy").save(tmp_path, 1, loss=1)
    assert os.listdir(tmp_path) == []


def test_the_best_of_no_metric(tmp_path):
    Checkpoint(state={}).save(tmp_path, 1)
    with pytest.raises(ValueError, match="the best of which metric"):
        Checkpoint(state={}).restore(tmp_path, best=True)


def test_another_training_begins_in_a_folder_that_has_later_steps(tmp_path):
    checkpoint = Checkpoint(state={})
    checkpoint.save(tmp_path, 100)
    checkpoint.save(tmp_path, 100)
    with pytest.raises(ValueError, match="got step 10, and .* has step 100; expected a later step"):
        checkpoint.save(tmp_path, 10)
    assert steps(tmp_path) == [100]


def test_other_parts(tmp_path):
    Checkpoint(state={}).save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"has \['state'\]; expected \['model'\]"):
        Checkpoint(model=nn.Linear(2, 2)).restore(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = Checkpoint(state={"x": tg.ones(3)}).save(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="step-0000000001.safetensors cannot be read"):
        Checkpoint(state={}).restore(tmp_path)


def test_two_writers_of_a_folder(tmp_path):
    first, second = Checkpoint(state={}), Checkpoint(state={})
    first.save(tmp_path, 1)
    with pytest.raises(RuntimeError, match="another training writes to .*; expected a folder for each"):
        second.save(tmp_path, 2)
    assert steps(tmp_path) == [1]
    first.close()
    second.save(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


def test_a_loader_refuses_another_state():
    with pytest.raises(ValueError, match="load_state_dict: got {'epoch': 1}; expected a dict with"):
        DataLoader([1, 2]).load_state_dict({"epoch": 1})


def test_a_sampler_goes_on_after_its_first_batches():
    def loader():
        return DataLoader(range(7), batch_size=2, sampler=[6, 5, 4, 3, 2, 1, 0])

    first = loader()
    batches = iter(first)
    next(batches)
    second = loader()
    second.load_state_dict(first.state_dict())
    assert [batch.tolist() for batch in second] == [batch.tolist() for batch in batches] == [[4, 3], [2, 1], [0]]
    assert len(list(second)) == 4


# --- killed

TRAIN = """
import os, sys, time
import tilegrad as tg
from tests.files.test_checkpoint import Training

folder = sys.argv[1]
for line in sys.stdin:  # for each, a training in a process of its own, which says what is saved
    child = os.fork()
    if child == 0:
        training = Training(captured=False)
        training.checkpoint.restore(folder)
        def after(step):
            training.checkpoint.save(folder, step)
            os.write(1, f"{step}\\n".encode())
        training.run(epochs=10_000, after=after)
    os.write(1, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_killed_at_any_moment(tmp_path):
    """Fifty times: the training goes on for some saves, and is killed at a random moment of the next ones."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "TILEGRAD_KERNELS": "reference"}
    command = [sys.executable, "-c", TRAIN, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        rng = np.random.default_rng(0)
        saved = 0
        for _ in range(50):
            print(file=process.stdin, flush=True)
            pid = int(process.stdout.readline().removeprefix("pid "))
            before = saved
            saved = int(process.stdout.readline())
            assert saved == before + 1, "it went on where the last whole checkpoint was"
            until = saved + rng.integers(0, 3)
            while saved < until:
                saved = int(process.stdout.readline())
            spin = rng.integers(0, 30_000)
            while spin:
                spin -= 1
            os.kill(pid, 9)
            for line in iter(process.stdout.readline, "dead\n"):  # what it said before it died
                saved = int(line)
            found = max(steps(tmp_path))
            assert found in (saved, saved + 1)  # written, and killed before it said so
            saved = Checkpoint(**Training(captured=False).checkpoint.parts).restore(tmp_path)
            assert saved == found
        process.stdin.close()
        assert process.wait() == 0
