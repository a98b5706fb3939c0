"""The pictures of a report: curves, the confusion matrix, a sheet of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which looks for a screen
from matplotlib.ticker import MaxNLocator

from tilegrad.files.atomic import replacing

COLUMNS, ROWS = 8, 5  # of the sheet


def curves(path: Path, losses: list[float], epochs: list[dict[str, float]], test_accuracy: float) -> None:
    """Loss and accuracy over the epochs: of training while it went on, of validation after each epoch."""
    figure = Figure((11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = np.arange(1, len(epochs) + 1)
    left.plot(np.arange(1, len(losses) + 1) * len(epochs) / len(losses), losses, color="0.8", lw=0.6, label="of a step")
    _line(left, numbers, epochs, "loss", "training")
    _line(left, numbers, epochs, "validation_loss", "validation")
    left.set(yscale="log", ylabel="cross-entropy")
    _line(right, numbers, epochs, "accuracy", "training")
    _line(right, numbers, epochs, "validation_accuracy", "validation")
    right.axhline(100 * test_accuracy, color="0.4", ls=":", label=f"test, at the end: {100 * test_accuracy:.2f} %")
    right.set(ylabel="accuracy, %")
    for axes in left, right:
        axes.set(xlabel="epoch", xlim=(0, len(epochs) + 0.3))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    _write(figure, path)


def _line(axes: Any, numbers: np.ndarray, epochs: list[dict[str, float]], name: str, label: str) -> None:
    if name in epochs[0]:
        values = np.array([figures[name] for figures in epochs])
        axes.plot(numbers, 100 * values if "accuracy" in name else values, marker="o", ms=4, label=label)


def confusion(path: Path, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
    """How many images of each class were taken for which. Colours are of the mistakes alone."""
    figure = Figure((7, 6.2), layout="constrained")
    axes = figure.subplots()
    mistakes = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    axes.imshow(mistakes, cmap="Reds", vmax=max(1, mistakes.max()) * 1.3)
    for (row, column), count in np.ndenumerate(matrix):
        weight = "bold" if row == column else "normal"
        axes.text(column, row, count or "", ha="center", va="center", fontsize=9, weight=weight)
    long = max(map(len, classes)) > 1
    axes.set_xticks(range(len(classes)), classes, rotation=45 if long else 0)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="is", title="Test images")
    _write(figure, path)


def mistakes(path: Path, found: list[dict[str, Any]], images: np.ndarray) -> None:
    """The most confident mistakes, with what they are and what they were taken for."""
    figure = Figure((COLUMNS * 1.35, ROWS * 1.7), layout="constrained")
    figure.suptitle("The most confident mistakes" if found else "No mistakes")
    for axes in figure.subplots(ROWS, COLUMNS).flat:
        axes.axis("off")
    for axes, mistake in zip(figure.axes, found):
        axes.imshow(images[mistake["image"]], cmap="gray_r", vmin=0, vmax=255)
        text = f"{mistake['is']}, not {mistake['predicted']}\n{100 * mistake['probability']:.1f} %"
        axes.set_title(text, fontsize=8)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
