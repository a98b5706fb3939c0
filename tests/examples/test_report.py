"""--report: its figures against definitions by hand and scikit-learn, its pictures, what is missing said in time."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image as png
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from training.report import figures

from tests.examples.programs import EXAMPLES, train

PICTURES = ("confusion.png", "curves.png", "mistakes.png")
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def guesses():
    """Probabilities and labels of 60 images of three classes out of four; d is neither there nor predicted."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    logits = rng.standard_normal((60, 4)) + 1.5 * np.eye(4)[labels]
    logits[:, 3] = -9
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), labels


def test_figures_by_hand(guesses):
    probabilities, labels = guesses
    predicted = probabilities.argmax(1)
    found = figures(probabilities, labels, NAMES)
    matrix = [[int(((labels == i) & (predicted == j)).sum()) for j in range(4)] for i in range(4)]
    assert found["confusion_matrix"] == matrix
    assert found["accuracy"] == pytest.approx(sum(matrix[i][i] for i in range(4)) / 60)
    for i, name in enumerate(NAMES[:3]):
        precision, recall = matrix[i][i] / sum(row[i] for row in matrix), matrix[i][i] / sum(matrix[i])
        of_class = found["classes"][name]
        assert of_class["precision"] == pytest.approx(precision) and of_class["recall"] == pytest.approx(recall)
        assert of_class["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert of_class["images"] == (labels == i).sum()
    assert found["classes"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "images": 0}


def test_figures_are_those_of_scikit_learn(guesses):
    probabilities, labels = guesses
    predicted, found = probabilities.argmax(1), figures(probabilities, labels, NAMES)
    assert found["accuracy"] == accuracy_score(labels, predicted)
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        want = score(labels, predicted, average=None)
        assert [found["classes"][c][name] for c in "abc"] == want.tolist()


def test_mistakes_are_the_wrong_ones_the_most_confident_first(guesses):
    probabilities, labels = guesses
    found = figures(probabilities, labels, NAMES)["mistakes"]
    wrong = {i for i in range(60) if probabilities[i].argmax() != labels[i]}
    assert 5 < len(wrong) < 40 and {x["image"] for x in found} == wrong
    assert [x["probability"] for x in found] == sorted((probabilities[i].max() for i in wrong), reverse=True)
    for x in found:
        assert x["is"] == NAMES[labels[x["image"]]] and x["predicted"] == NAMES[probabilities[x["image"]].argmax()]


def assert_pictures(folder):
    assert sorted(path.name for path in folder.iterdir()) == [*PICTURES, "report.json"]
    for name in PICTURES:
        pixels = png.imread(folder / name)
        assert min(pixels.shape[:2]) > 300 and pixels.std() > 0.005


@pytest.mark.parametrize("more", [(), ("--validation", 0.2)])
def test_a_training_with_a_report(more, digits, tmp_path, capsys):
    flags = ("--data", digits, "--epochs", 2, "--batch-size", 64, *more)
    folder = tmp_path / "new" / "report"
    run = train(*flags, "--report", folder)
    assert f"wrote {folder}" in capsys.readouterr().out
    assert_pictures(folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["test"]["accuracy"] == run["test_accuracy"]
    assert np.sum(report["test"]["confusion_matrix"]) == 200 and list(report["test"]["classes"]) == list("0123456789")
    assert report["training"]["losses"] == run["losses"] == train(*flags)["losses"]  # it changes nothing
    epochs, steps = report["training"]["epochs"], len(run["losses"]) // 2
    assert [x["loss"] for x in epochs] == pytest.approx(
        [np.mean(run["losses"][:steps]), np.mean(run["losses"][steps:])]
    )
    assert 0 < epochs[0]["accuracy"] < epochs[1]["accuracy"] < 1
    assert [("validation_accuracy" in x, "validation_loss" in x) for x in epochs] == [(bool(more),) * 2] * 2


def test_a_report_without_mistakes(digits, tmp_path):
    train("--data", digits, "--epochs", 30, "--lr", 0.01, "--report", tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["test"]["mistakes"] == []
    assert_pictures(tmp_path)


@pytest.mark.parametrize("missing", ["matplotlib", "sklearn"])
def test_a_missing_package_is_said_before_the_training(missing, digits, tmp_path):
    program = f"""if True:
        import sys
        sys.modules[{missing!r}] = None  # importing it fails
        sys.argv = ["mnist_mlp.py", "--data", {str(digits)!r}, "--report", {str(tmp_path / "r")!r}]
        import mnist_mlp, mnist_training
        mnist_training.Images.read = None  # nothing is read
        mnist_training.main(mnist_mlp.net, "")
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stdout == ""
    assert "mnist_mlp.py: error: --report: import of " + missing in done.stderr
    assert 'pip install ".[report]"' in done.stderr and "Traceback" not in done.stderr


def test_without_the_flag_none_of_its_packages_is_imported(digits):
    program = f"""if True:
        import sys
        sys.argv = ["mnist_mlp.py", "--data", {str(digits)!r}, "--epochs", "1", "--augment", "--validation", "0.1"]
        import mnist_mlp, mnist_training
        mnist_training.main(mnist_mlp.net, "")
        print(sorted({{"matplotlib", "sklearn", "PIL", "pooch"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, text=True, timeout=100)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr
