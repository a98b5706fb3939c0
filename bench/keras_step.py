"""A step of Keras' on tilegrad, with loss and accuracy, beside the engine's own captured step of the same net.

Part of keras_fit.py, in a process of its own. Both begin with arrays of NumPy's, and take turns. The engine's step is
what users of the engine write: forward, cross-entropy, backward, Adam; it has no metric.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.bench import nets
from tilegrad.bench.keras_epochs import CASES, compiled, drawn
from tilegrad.bench.measure import Effort, interleaved
from tilegrad.nn import functional as F

TURNS, LEAST = Effort(10, 0.3, 10), Effort(2, 0.0, 2)
NETS = {"MLP": lambda nn: nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)), "CNN": nets.cnn}


def engine_step(net: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    """The engine's own captured step."""
    model = NETS[net](nn)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    @tg.capture
    def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return lambda x, y: step(tg.from_numpy(x), tg.from_numpy(y))


def main(least: bool) -> None:
    """Print the times of both as a line of JSON. least: a few steps, which say nothing of speed."""
    importlib.import_module("tilegrad.keras")
    keras = importlib.import_module("keras")
    rows = []
    for net, batch, _ in CASES:
        x, y = drawn(net, batch)
        image = x if x.ndim == 2 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        function, own = compiled(keras, net).make_train_function(), engine_step(net)
        for _ in range(3):  # plain calls, then the capture
            function([(x, y)])
            own(image, y)
        calls = {"keras": [lambda: function([(x, y)])], "engine": [lambda: own(image, y)]}  # noqa: B023 - called here
        times = interleaved(calls, LEAST if least else TURNS)
        rows.append({"net": net, "batch": batch} | {name: each.median for name, each in times.items()})
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main("--least" in sys.argv[1:])
