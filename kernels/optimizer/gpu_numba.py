"""One step of Adam, AdamW or SGD on a GPU, in Numba-CUDA: the formulas of optimizer/reference.py, one launch for all
parameters of a dtype.

    parameter 0, 2500 elements           parameter 1, 10           parameter 2 ...
    |  block 0  |  block 1  | block 2 |  |block 3|                 |  block 4  | ...      1024 elements a block

    in a block: thread t has elements t, t + 256, t + 512, t + 768; neighbours in a warp read neighbours in memory

A block finds its parameter in a table of addresses (kernels/multi_tensor/gpu_numba.py), computes in float32 and rounds
once. float16 and float32 parameters, also mixed; what is remembered is float32. Any strides: arrays that do not walk
memory as their parameter does are copied, and those that are updated copied back.

What changes from step to step may be in device memory: lr, momentum, and what Adam's step count gives. Every thread
then reads it, so that each launch of a captured step has the values of that moment: the float32 numbers that a launch
passes otherwise.

Traffic, bytes a parameter of float32 (of float16): Adam 28 (22); SGD with momentum 20 (14), without 12 (6). Memory is
the ceiling, and within reach: a thread of Adam has four loads under way at a time, 16 bytes (12). At 36 registers six
blocks share a multiprocessor, whose 1536 threads have 24 KB (18) on their way; some 20 KB cover the latency of its
share of an H100's memory. SGD with momentum has as much, from 2048 threads at 32 registers; without, 16 KB (8).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from numpy import float32

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.device_numbers import number_or_array, step_or_factors
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, array_at, cuda, device
from tilegrad.kernels.multi_tensor.arrays import Arrays, in_one_order, write_back
from tilegrad.kernels.multi_tensor.gpu_numba import find, tables
from tilegrad.kernels.optimizer.reference import adam_factors, check_adam_numbers, check_arrays, check_sgd_numbers

THREADS, BLOCK = (4, 64) if SIMULATED else (256, 1024)  # BLOCK: elements

_ONE = float32(1)


@device
def _given(number):
    return number


@device
def _read(array):
    return float32(array[()])


@device
def _factors_given(factors, correction1, correction2, rate1):
    return correction1, correction2, rate1


@device
def _factors_read(factors, correction1, correction2, rate1):
    return factors[0], factors[1], factors[2]


@functools.cache
def _adam_kernel(
    element: type, lr_of: Callable, factors_of: Callable, decay: str | None, maximize: bool, eps_hat: bool
) -> Kernel:
    @kernel
    def _adam_kernel(
        table, lr, factors, correction1, correction2, rate1, beta2, rate2, eps, weight_decay
    ):  # fmt: skip
        """table: of p, g, m, v. lr: a number, or 0-d. factors: (3,); or a number that is not looked at, and the three
        numbers behind it hold. correction = 1 - beta^step, rate = 1 - beta.
        """
        column = find(table, cuda.blockIdx.x)
        size = table[1, column]
        p_of = array_at(table[2, column], size, element)
        g_of = array_at(table[3, column], size, element)
        m_of = array_at(table[4, column], size, float32)
        v_of = array_at(table[5, column], size, float32)
        rate = lr_of(lr)
        first, second, part = factors_of(factors, correction1, correction2, rate1)
        step_size = rate / first
        scale = _ONE / float32(math.sqrt(second))
        least = eps * scale if eps_hat else eps

        start = (cuda.blockIdx.x - table[0, column]) * BLOCK
        for i in range(start + cuda.threadIdx.x, min(start + BLOCK, size), THREADS):
            p, g, m, v = float32(p_of[i]), float32(g_of[i]), m_of[i], v_of[i]
            if maximize:
                g = -g
            if decay == "decoupled":
                p *= _ONE - rate * weight_decay
            if decay == "l2":
                g += weight_decay * p
            m += part * (g - m)
            v = beta2 * v + rate2 * (g * g)
            p_of[i] = p - step_size * (m / (float32(math.sqrt(v)) * scale + least))
            m_of[i] = m
            v_of[i] = v

    return _adam_kernel


@functools.cache
def _sgd_kernel(
    element: type,
    lr_of: Callable,
    momentum_of: Callable,
    momentum_kind: str | None,
    first: bool,
    decay: bool,
    maximize: bool,
    velocity: bool,
) -> Kernel:
    buffer_row = 3 if momentum_kind is None else 4  # not used without momentum

    @kernel
    def _sgd_kernel(table, lr, momentum, rate, weight_decay):
        """table: of p, g and, with momentum, b. lr, momentum: numbers, or 0-d arrays. rate = 1 - dampening."""
        column = find(table, cuda.blockIdx.x)
        size = table[1, column]
        p_of = array_at(table[2, column], size, element)
        g_of = array_at(table[3, column], size, element)
        b_of = array_at(table[buffer_row, column], size, float32)
        step_size, kept = lr_of(lr), momentum_of(momentum)

        start = (cuda.blockIdx.x - table[0, column]) * BLOCK
        for i in range(start + cuda.threadIdx.x, min(start + BLOCK, size), THREADS):
            p, g = float32(p_of[i]), float32(g_of[i])
            if maximize:
                g = -g
            if decay:
                g += weight_decay * p
            if velocity:
                g = -(step_size * g)
            if momentum_kind is not None:
                b = g if first else kept * b_of[i] + rate * g
                b_of[i] = b
                g = g + kept * b if momentum_kind == "nesterov" else b
            p_of[i] = p + g if velocity else p - step_size * g

    return _sgd_kernel


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    step: int | Any,
    lr: float | Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    eps_hat: bool = False,
) -> None:
    """optimizer.reference.adam_step.

    step   a number; or, in device memory, its `adam_factors` as float32 (3,), which beta1 and eps_hat are in
    lr     a number, or a 0-d device array (float32, float64, int32 or int64)

    Values in device memory are not checked.
    """
    op = "adam_step"
    _check(op, params, grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    step, factors = step_or_factors(op, step)
    lr, lr_array = number_or_array(op, "lr", lr, 0.0)
    step, lr, beta1, beta2, eps, weight_decay = check_adam_numbers(step, lr, beta1, beta2, eps, weight_decay)
    decay = ("decoupled" if decoupled else "l2") if weight_decay else None

    def kernel_for(element: type) -> Kernel:
        lr_of = _given if lr_array is None else _read
        factors_of = _factors_given if factors is None else _factors_read
        return _adam_kernel(element, lr_of, factors_of, decay, bool(maximize), bool(eps_hat))

    _launch(
        kernel_for,
        (params, grads, exp_avgs, exp_avg_sqs),
        lr if lr_array is None else lr_array,
        0.0 if factors is None else factors,
        *adam_factors(step, beta1, beta2, bool(eps_hat)),
        beta2,
        1 - beta2,
        eps,
        weight_decay,
    )


def sgd_step(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None,
    lr: float | Any,
    momentum: float | Any = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    velocity: bool = False,
) -> None:
    """optimizer.reference.sgd_step.

    lr, momentum   numbers, or 0-d device arrays (float32, float64, int32 or int64), whose values are not checked; a
                   momentum in device memory is not 0
    """
    op = "sgd_step"
    _check(op, params, grads, **({} if momentum_buffers is None else {"momentum_buffers": momentum_buffers}))
    lr, lr_array = number_or_array(op, "lr", lr, 0.0)
    momentum, momentum_array = number_or_array(op, "momentum", momentum, 0.5)
    lr, momentum, dampening, weight_decay = check_sgd_numbers(
        momentum_buffers, lr, momentum, dampening, weight_decay, nesterov
    )
    momentum_kind = ("nesterov" if nesterov else "heavy ball") if momentum else None

    def kernel_for(element: type) -> Kernel:
        lr_of, momentum_of = (_given if array is None else _read for array in (lr_array, momentum_array))
        flags = bool(first), weight_decay != 0, bool(maximize), bool(velocity)
        return _sgd_kernel(element, lr_of, momentum_of, momentum_kind, *flags)

    lists = (params, grads, momentum_buffers) if momentum else (params, grads)
    numbers = (lr if lr_array is None else lr_array), (momentum if momentum_array is None else momentum_array)
    _launch(kernel_for, lists, *numbers, 1 - dampening, weight_decay)


def _check(op: str, params: Arrays, grads: Arrays, **state: Arrays) -> None:
    check_arrays(op, gpu.xp().ndarray, params, grads, **state)
    for param in params:
        only_served(op, param.dtype)


def _launch(kernel_for: Callable[[type], Kernel], lists: Sequence[Arrays], *numbers: Any) -> None:
    """One launch for all parameters of a dtype; lists has the parameters, the gradients, then what is remembered."""
    tensors, copies = in_one_order(lists)
    for table, element in tables(tensors, BLOCK):
        kernel_for(element)((table.blocks,), (THREADS,), table.array, *numbers)
    write_back(copies)
