"""Early stopping: the best epoch's weights, and how long ago that epoch was."""

from __future__ import annotations

from typing import Any

from tilegrad import nn


class Best:
    """Keeps the weights of the epoch with the highest validation accuracy: the first of equals."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.accuracy, self.epochs_ago = -1.0, 0
        self.weights: dict[str, Any] | None = None

    def see(self, accuracy: float) -> None:
        """Compare the epoch that has ended with the best one so far."""
        self.epochs_ago += 1
        if accuracy > self.accuracy:
            self.accuracy, self.epochs_ago = accuracy, 0
            self.weights = {name: x.detach().clone() for name, x in self.model.state_dict().items()}

    def bring_back(self) -> None:
        """Give the model the best epoch's weights."""
        if self.weights is not None:
            self.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"accuracy": self.accuracy, "epochs_ago": self.epochs_ago, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.accuracy, self.epochs_ago, self.weights = state["accuracy"], state["epochs_ago"], state["weights"]
