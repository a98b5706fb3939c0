"""The report on a training: its figures as report.json, and pictures of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tilegrad.kernels.system.files import write_whole
from training import pictures
from training.images import Images
from training.progress import Progress

MISTAKES = 40  # shown at most


def write_report(folder: Path, progress: Progress, probabilities: np.ndarray, test_set: Images) -> None:
    """Write report.json, curves.png, confusion.png and mistakes.png.

    probabilities   (N, 10) of the test images, by the net
    """
    labels, classes = test_set.labels.cpu().numpy(), test_set.dataset.classes
    found = figures(probabilities, labels, classes)
    training = {"losses": progress.losses, "epochs": progress.epochs}
    write_whole(folder / "report.json", json.dumps({"training": training, "test": found}, indent=1))
    pictures.curves(folder / "curves.png", progress.losses, progress.epochs, found["accuracy"])
    pictures.confusion(folder / "confusion.png", np.array(found["confusion_matrix"]), classes)
    pictures.mistakes(folder / "mistakes.png", found["mistakes"], test_set.images.cpu().numpy()[:, 0])


def write_text_report(
    folder: Path,
    progress: Progress,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    texts: Sequence[str],
) -> dict[str, Any]:
    """Write report.json, whose test figures are returned, and curves.png.

    probabilities   (N, C) of the test texts, by the net
    """
    found = figures(probabilities, labels, classes, "text")
    for mistake in found["mistakes"]:
        mistake["says"] = texts[mistake["text"]]
    found["confused"] = confused(np.array(found["confusion_matrix"]), classes)
    training = {"losses": progress.losses, "epochs": progress.epochs}
    write_whole(folder / "report.json", json.dumps({"training": training, "test": found}, indent=1))
    pictures.curves(folder / "curves.png", progress.losses, progress.epochs, found["accuracy"])
    return found


def confused(matrix: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """What was taken for what, and how often: the pairs of classes that were, the most frequent first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    pairs = np.argwhere(wrong)
    order = np.argsort(-wrong[tuple(pairs.T)], kind="stable")[:MISTAKES]
    return [{"is": classes[i], "predicted": classes[j], "count": int(wrong[i, j])} for i, j in pairs[order].tolist()]


def figures(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], one: str = "image"
) -> dict[str, Any]:
    """What can be said of probabilities (N, C) for images, or texts, with these labels (N,).

    confusion_matrix   rows are the labels, columns what was predicted
    classes            precision, recall, F1 and the number of images of each
    mistakes           the most confident ones first: the image's number, what it is, what was predicted, how surely
    """
    predicted, numbers = probabilities.argmax(1), range(len(classes))
    of_none: dict[str, Any] = {"zero_division": 0}  # to a type checker it is a str: its default is "warn"
    columns = np.array(precision_recall_fscore_support(labels, predicted, labels=numbers, **of_none))
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return {
        "accuracy": float((predicted == labels).mean()),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=numbers).tolist(),
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f1), f"{one}s": int(n)}
            for name, (p, r, f1, n) in zip(classes, columns.T)
        },
        "mistakes": [
            {
                one: int(i),
                "is": classes[int(labels[i])],
                "predicted": classes[int(predicted[i])],
                "probability": float(confidence[i]),
            }
            for i in wrong[:MISTAKES]
        ],
    }
