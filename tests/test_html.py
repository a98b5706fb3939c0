"""What notebooks show of tensors, modules and captured steps."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Any

import pytest

import tilegrad as tg
from tilegrad import nn


class _Read(HTMLParser):
    """Tags in balance; the rows of tables, the texts, and how deep details are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.deepest = 0
        self.feed(text)
        assert not self.open, text

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.deepest = max(self.deepest, self.open.count("details"))
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        else:
            self.texts.append(data)


def test_a_small_tensor_is_a_table():
    read = _Read(tg.tensor([[1.0, -2.5], [float("nan"), 1e-9]], requires_grad=True)._repr_html_())
    assert read.texts == ["Tensor (2, 2), float32, cpu, requires grad"]
    assert read.rows == [["1", "-2.5"], ["nan", "1e-09"]]
    assert _Read(tg.tensor([True, False])._repr_html_()).rows == [["True", "False"]]
    assert _Read(tg.tensor(7)._repr_html_()).rows == [["7"]]
    assert _Read(nn.Linear(2, 1).weight._repr_html_()).texts == ["Parameter (1, 2), float32, cpu, requires grad"]
    assert _Read(tg.ones(2, dtype=tg.bfloat16)._repr_html_()).rows == [["1", "1"]]
    assert _Read(tg.zeros(0, 3)._repr_html_()).rows == []


def test_a_large_one_is_cut():
    read = _Read(tg.arange(2000).reshape(100, 20)._repr_html_())
    assert len(read.rows) == 9 and [len(row) for row in read.rows] == [9] * 9
    assert read.rows[1][:2] == ["20", "21"] and read.rows[0][-1] == "…" and read.rows[-1] == ["⋮"] * 9
    assert len(tg.zeros(100, 100, 100)._repr_html_()) < 2000


def test_of_more_dimensions_the_first_matrix_is_shown():
    read = _Read(tg.arange(24).reshape(2, 3, 4)._repr_html_())
    assert read.texts[1] == "[0, :, :]"
    assert read.rows == [[str(4 * i + j) for j in range(4)] for i in range(3)]


def test_on_the_device_only_the_corner_travels(monkeypatch):
    tensor = sys.modules["tilegrad.tensor"]
    moved: list[Any] = []
    plain = tensor.on_host
    monkeypatch.setattr(tensor, "on_host", lambda array: moved.append(array.shape) or plain(array))
    read = _Read(tg.ones(300, 300, device="cuda")._repr_html_())
    assert moved == [(8, 8)] and "cuda" in read.texts[0] and read.rows[0][0] == "1"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_while_a_step_is_captured_no_values_are_shown(device):
    shown: list[str] = []

    def fn(x: Any) -> Any:
        y = x * 2
        shown.append(y._repr_html_())
        return y

    step = tg.capture(fn)
    for _ in range(4):
        step(tg.ones(2, device=device))
    assert len(shown) == 3  # two plain calls and the capture
    assert _Read(shown[1]).rows == [["2", "2"]]
    assert _Read(shown[2]).rows == [] and "not there while a step is captured" in shown[2]


def test_a_module_is_a_tree_of_escaped_text():
    class Odd(nn.Module):
        def extra_repr(self) -> str:
            return "<script>alert(1)</script>"

    class Outer(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Odd()

    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), Outer())
    text = model._repr_html_()
    assert "<script>" not in text and text.count("&lt;script&gt;") == 2
    read = _Read(text)
    assert read.deepest == 2
    assert read.texts[0] == "Sequential()  9 parameters"
    assert "(0): Linear(in_features=2, out_features=3, bias=True)  9 parameters" in read.texts


def test_a_captured_step_is_a_table_of_nodes():
    step = tg.capture(lambda x: (x @ x).relu())
    assert _Read(step._repr_html_()).rows == []
    for _ in range(3):
        step(tg.ones(4, 4))
    read = _Read(step._repr_html_())
    assert read.texts[1] == "(float32[4, 4]): 2 nodes"
    assert read.rows[0] == ["node", "times"] and sum(int(n) for _, n in read.rows[1:]) == 2
    plain = tg.capture(lambda x: x.sum().item() * x)
    with pytest.warns(RuntimeWarning):
        for _ in range(3):
            plain(tg.ones(2))
    assert "runs plainly" in plain._repr_html_()
