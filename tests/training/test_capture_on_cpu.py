"""engine.capture on the CPU calls the function, with the same arguments, results and errors as on a GPU."""

from __future__ import annotations

import pytest

import engine


def test_it_calls_the_function_each_time():
    calls = []

    @engine.capture
    def double(x, factor=2):
        calls.append(factor)
        return x * factor

    x = engine.ones(3)
    assert [double(x).tolist(), double(x, factor=3).tolist()] == [[2.0] * 3, [3.0] * 3]
    assert calls == [2, 3]
    assert double.summary() == "double: no graph was captured"


def test_results_have_no_graph_of_gradients():
    w = engine.ones(2, requires_grad=True)
    y = engine.capture(lambda x: {"y": (w * x).sum()})(engine.ones(2))["y"]
    assert not y.requires_grad and y.item() == 2


def test_several_steps():
    step = engine.capture(lambda x: (x.sum(), {"twice": x * 2}), steps=2)
    total, more = step(engine.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert total.tolist() == [3.0, 7.0]
    assert more["twice"].tolist() == [[2.0, 4.0], [6.0, 8.0]]
    with pytest.raises(ValueError, match=r"tensor 0 of the arguments is \(3,\); expected \(2, ...\), one entry a step"):
        step(engine.ones(3))


def test_arguments_of_another_dtype():
    step = engine.capture(lambda x: x)
    step(engine.ones(2))
    with pytest.raises(TypeError, match="tensor 0 of the arguments is int64 on cpu; expected float32 on cpu as before"):
        step(engine.ones(2, dtype=engine.int64))
    with pytest.raises(ValueError, match="requires grad; expected detach"):
        step(engine.ones(2, requires_grad=True))


def test_waiting_is_allowed():
    assert engine.capture(lambda x: x.sum().item())(engine.ones(3)) == 3.0


def test_a_function_that_nothing_says_the_device_of():
    with pytest.raises(TypeError, match="no tensor among its arguments or results, .*; expected one, such as the loss"):
        engine.capture(lambda: 3)()
