"""What nn.summary says of a model, and that the model stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import nn


def _model() -> nn.Sequential:
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Linear(72, 10))


def _by_name(found: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in found.layers}


def test_shapes_parameters_flop_and_bytes_by_layer():
    model = _model()
    model[6].requires_grad_(False)
    found = nn.summary(model, (4, 3, 8, 8))
    layers = _by_name(found)
    assert list(layers) == ["", "0", "1", "2", "3", "4", "5", "6"]
    assert [layer.kind for layer in found.layers[1:3]] == ["Conv2d", "BatchNorm2d"]
    assert layers["0"].shapes == [(4, 8, 6, 6)] and layers["3"].shapes == [(4, 8, 3, 3)]
    assert layers[""].shapes == layers["6"].shapes == [(4, 10)]
    conv = 4 * 8 * 6 * 6
    assert layers["0"].flop == conv * (2 * 27 + 1)
    assert layers["0"].bytes == 4 * (4 * 3 * 64 + 8 * 27 + 8 + conv)
    assert layers["6"].flop == 4 * 10 * (2 * 72 + 1)
    assert (layers["0"].trainable, layers["6"].trainable, layers["6"].frozen) == (8 * 28, 0, 730)
    assert (found.trainable, found.frozen, found.parameters) == (8 * 28 + 16, 730, 8 * 28 + 16 + 730)
    assert found.flop == sum(layer.flop for layer in found.layers) and found.bytes > 0
    assert found.parameter_bytes == 4 * found.parameters


def test_the_text_has_a_line_a_layer_and_the_totals():
    text = str(nn.summary(_model(), (4, 3, 8, 8)))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters", "FLOP", "bytes"]
    assert lines[3].split()[:4] == ["0", "Conv2d", "4x8x6x6", "224"]
    assert lines[-2].split()[:2] == ["all", "970"]
    assert lines[-1] == "970 trainable, 0 frozen parameters: 3,880 bytes"


def test_the_model_and_the_random_stream_are_as_they_were():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", tg.zeros(1))

        def forward(self, x: Any) -> Any:
            self.seen += 1
            return x + tg.rand(*x.shape)

    model = nn.Sequential(_model(), Noisy())
    model.train()
    model[0][1].eval()
    state = {name: value.data.copy() for name, value in model.state_dict().items()}
    memory = [x.data for x in (*model.parameters(), *model.buffers())]
    modes = [module.training for module in model.modules()]
    stream = tg.random.default_generator.get_state()
    nn.summary(model, tg.ones(4, 3, 8, 8))
    for name, value in model.state_dict().items():
        assert np.array_equal(value.data, state[name]), name
    assert all(a is x.data for a, x in zip(memory, (*model.parameters(), *model.buffers()), strict=True))
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert tg.random.default_generator.get_state() == stream


def test_it_is_as_it_was_also_where_the_forward_raises():
    model = _model()
    with pytest.raises(ValueError):
        nn.summary(model, (4, 2, 8, 8))
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_captured_step_of_the_model_stays_captured():
    model = _model().eval()
    step = tg.capture(lambda x: model(x))
    x = tg.ones(2, 3, 8, 8)
    for _ in range(3):
        step(x)
    before = step.summary()
    nn.summary(model, x)
    step(x)
    assert step.summary() == before


def test_shared_modules_and_parameters_count_once_and_calls_are_counted():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.unused = nn.Linear(4, 4, bias=False), nn.Linear(2, 2)
            self.tied = nn.Linear(4, 4, bias=False)
            self.tied.weight = self.fc.weight

        def forward(self, x: Any, more: Any) -> Any:
            return {"y": self.tied(self.fc(self.fc(x))), "more": (more, more.sum())}

    found = nn.summary(Twice(), (tg.ones(3, 4), tg.ones(2)))
    layers = _by_name(found)
    assert (layers["fc"].calls, layers["tied"].calls, layers["unused"].calls) == (2, 1, 0)
    assert layers["fc"].flop == 2 * layers["tied"].flop == 2 * (2 * 3 * 4 * 4)
    assert (layers["fc"].trainable, layers["tied"].trainable, found.parameters) == (16, 0, 16 + 6)
    assert layers[""].shapes == [(3, 4), (2,), ()]
    assert layers[""].flop == 2  # its own sum
    assert "(2 calls)" in str(found) and "(not called)" in str(found)


def test_indices_and_dtypes_of_the_model():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    assert _by_name(nn.summary(model, tg.tensor([1, 2, 3])))["1"].shapes == [(3, 2)]
    assert nn.summary(nn.Linear(4, 2).double(), (5, 4)).bytes == 8 * (20 + 8 + 2 + 10)


def test_what_is_no_model_or_input():
    with pytest.raises(TypeError, match="model is a function; expected a Module"):
        nn.summary(lambda x: x, (1,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="input is a int"):
        nn.summary(_model(), 3)  # type: ignore[arg-type]
