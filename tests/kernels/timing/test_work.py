"""Bytes and FLOP of a call, beside those that the benchmarks' rows are counted by, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tilegrad import kernels
from tilegrad.bench.inputs import drawn
from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import Case
from tilegrad.kernels.described import Call
from tilegrad.kernels.timing.work import Work, work

ROWS = [
    (op, variant, mode)
    for op in OPS.values()
    for variant in op.variants
    for mode in variant.modes
    if "UFUNCS" not in variant.uses["forward"] and mode != "both"
]


class _Counting:
    """The reference, and the work of the calls that it gets."""

    def __init__(self) -> None:
        self.module = kernels.load("reference")
        self.done = Work(0, 0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            results = getattr(self.module, name)(*args, **kwargs)
            self.done = self.done.plus(work(Call.of(name, args, kwargs, results)))
            return results

        return call


@pytest.mark.parametrize("op, variant, mode", ROWS, ids=lambda x: x if type(x) is str else x.name)
def test_it_is_what_the_rows_of_the_benchmarks_count(op, variant, mode):
    inputs = SimpleNamespace(**drawn(variant, op.toy, "float32"), precision="ieee")
    counting = _Counting()
    outputs = variant.forward(counting, inputs)
    if mode == "backward":
        counting.done = Work(0, 0)
        variant.gradients(counting, inputs, outputs if type(outputs) is tuple else (outputs,))
    case = Case(op, variant, mode, op.toy, "float32", "ieee")
    # A row of batch_norm counts the moments once, which one primitive writes and the next one reads.
    moments = 2 * 4 * op.toy[1] if op.name == "batch_norm" and mode == "forward" else 0
    assert counting.done == (case.bytes() + moments, case.flops())


def _array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def test_a_step_writes_to_what_it_is_given():
    p = [_array(10), _array(3)]
    call = Call.of("sgd_step", (p, p, p, 0.1, 0.9), {}, None)
    assert work(call) == (13 * 4 * 5, 13 * 4)  # read p, g, m; write p, m
    assert work(Call.of("sgd_step", (p, p, None, 0.1), {}, None)) == (13 * 4 * 3, 13 * 2)
    assert work(Call.of("clip_norm_step", (p, 1.0), {}, _array())) == (13 * 4 * 2 + 4, 13 * 3)


def test_the_gradients_of_a_linear_layer_cost_what_is_asked_for():
    dy, x, w = _array(8, 5), _array(8, 7), _array(5, 7)
    both = Call.of("linear_grad", (dy, dy, x, w, True), {}, (x, w, _array(5)))
    assert work(both).flop == 2 * (2 * 8 * 5 * 7) + 8 * 5 + 8 * 5  # dx and dw, db, and where y > 0
    assert work(Call.of("linear_grad", (dy, None, x, None), {}, (w,))).flop == 2 * 8 * 5 * 7


def test_an_array_that_says_how_the_result_lies_is_not_read():
    x, w, dy = _array(2, 3, 6, 6), _array(4, 3, 3, 3), _array(2, 4, 4, 4)
    plain = (dy, None, x, w, x.shape, w.shape, (1, 1), (0, 0), (1, 1), 1, False)
    assert work(Call.of("conv2d_grad", (*plain, w), {}, (x, w))) == work(Call.of("conv2d_grad", plain, {}, (x, w)))


def test_of_a_table_only_the_rows_count_that_are_taken():
    table, at = _array(1000, 4), _array(3, dtype=np.int64)
    assert work(Call.of("take_rows", (table, at), {}, _array(3, 4))) == (3 * 8 + 2 * 3 * 4 * 4, 0)
    images = _array(1000, 4, dtype=np.uint8)
    scaled = Call.of("take_rows", (images, at, 0.5), {}, _array(3, 4))
    assert work(scaled) == (3 * 8 + 12 * 1 + 12 * 4, 24)  # bytes are read, floats are written


def test_a_function_of_numpys_computes_each_element_once_and_a_copy_nothing():
    x, row = _array(4, 5), _array(5)
    assert work(Call.of("add", (x, row), {}, x)) == ((20 + 5 + 20) * 4, 20)
    assert work(Call.of("maximum", (x,), {}, _array(5))) == (25 * 4, 20)
    assert work(Call.of("copyto", (x,), {}, x)) == (160, 0)


def test_a_call_keeps_no_array_alive():
    call = Call.of("sum", (_array(4), (0,)), {"keepdims": True}, _array(1))
    assert not any(isinstance(x, np.ndarray) for x in (*call.args, *call.kwargs.values(), *call.results))
