"""detect_anomaly names the op whose gradient became NaN, and the line of its forward."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest

import tilegrad as tg
from tilegrad import nn
from tilegrad.autograd import backward
from tilegrad.autograd.record import Node
from tilegrad.captured.step import CapturedStep

FUNCTIONS = (Node, "__init__"), (backward, "_apply"), (CapturedStep, "__call__")


@pytest.fixture(autouse=True)
def _as_they_were():
    """Whatever a test does, the first op after it finds plain functions."""
    before = [getattr(*each) for each in FUNCTIONS]
    yield
    tg.ones(1, requires_grad=True).sum().backward()
    assert [getattr(*each) for each in FUNCTIONS] == before


def _loss(x: Any) -> Any:
    y = (x * 0).sqrt()
    return (y * 0).sum()


LINE = f"{__file__}:{_loss.__code__.co_firstlineno + 1}"


def _leaf() -> Any:
    return tg.tensor([0.0, 1.0], requires_grad=True)


def test_it_names_the_op_and_the_line():
    with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError) as error:
        _loss(_leaf()).backward()
    want = "detect_anomaly: the gradient of 'sqrt' with respect to its argument 0 has NaN; its forward: "
    assert str(error.value) == want + LINE
    with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="'sqrt'"):
        x = _leaf()
        tg.grad(_loss(x), x)


def test_as_decorator_and_within_modules_the_line_is_the_programs():
    class Bad(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.Identity()(tg.log(x) * 0)

    @tg.autograd.detect_anomaly()
    def step() -> None:
        Bad()(_leaf()).sum().backward()

    with pytest.raises(RuntimeError, match=rf"'log'.*{__file__}:{Bad.forward.__code__.co_firstlineno + 1}"):
        step()
    with pytest.raises(TypeError, match="generator"):

        @tg.autograd.detect_anomaly()
        def numbers() -> Any:
            yield 1


def test_a_gradient_that_was_nan_before_is_said():
    x = _leaf()
    with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError) as error:
        (x * 2).backward(tg.tensor([float("nan"), 1.0]))
    assert "'mul'" in str(error.value) and "that it was given had NaN already" in str(error.value)


def test_pieces_are_looked_at():
    x = _leaf()
    with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="split|narrow|getitem|unbind"):
        first, _ = x.unbind()
        first.backward(tg.tensor(float("nan")))


def test_infinity_is_no_anomaly_and_nan_only_if_asked_for():
    x = _leaf()
    with tg.autograd.detect_anomaly():
        x.sqrt().sum().backward()
    assert x.grad is not None and x.grad.tolist()[0] == float("inf")
    with tg.autograd.detect_anomaly(check_nan=False):
        _loss(_leaf()).backward()


def test_an_error_of_a_rule_has_the_line_as_a_note():
    x = tg.ones(3, requires_grad=True)
    with tg.autograd.detect_anomaly(check_nan=False):
        y = x.exp()
        loss = (y * y).sum()
        y.detach().zero_()
        with pytest.raises(RuntimeError, match="written to in place") as error:
            loss.backward()
    (note,) = error.value.__notes__
    assert note.startswith("detect_anomaly: raised by the gradient of 'mul'; its forward: " + __file__)


def test_a_forward_before_the_block_has_no_line():
    loss = _loss(_leaf())
    with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="its forward: before the block"):
        loss.backward()


def test_blocks_may_be_nested_and_other_threads_are_not_looked_at():
    def work() -> None:
        _loss(_leaf()).backward()
        done.append(True)

    done: list[bool] = []
    with tg.autograd.detect_anomaly():
        with tg.autograd.detect_anomaly(check_nan=False):
            _loss(_leaf()).backward()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="'sqrt'"):
            _loss(_leaf()).backward()
    assert done == [True]


def test_a_captured_step_runs_plainly_within_and_says_so_once():
    w = _leaf()

    @tg.capture
    def step(x: Any) -> Any:
        w.grad = None
        loss = _loss(w * x)
        loss.backward()
        return loss

    x = tg.ones(2)
    for _ in range(3):
        step(x)
    before = step.summary()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="'sqrt'"):
                step(x)
    assert [(w.category, w.filename) for w in told] == [(RuntimeWarning, __file__)]
    assert "within detect_anomaly a captured step runs plainly" in str(told[0].message)
    step(x)
    assert step.summary() == before and "2 " in before


def test_a_function_that_enters_it_is_not_captured():
    @tg.capture
    def step(x: Any) -> Any:
        with tg.autograd.detect_anomaly():
            return x * 2

    with pytest.warns(RuntimeWarning, match=r"detect_anomaly.*runs plainly"):
        for _ in range(3):
            step(tg.ones(2))
