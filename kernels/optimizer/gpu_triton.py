"""One step of Adam, AdamW or SGD on a GPU, in Triton: the formulas of optimizer/reference.py, one launch for all
parameters of a dtype.

A program takes BLOCK neighbouring elements of one parameter, which it finds in a table
(kernels/multi_tensor/gpu_triton.py), computes in float32 and rounds once. A block that lies wholly inside its parameter
is loaded without a mask, 16 bytes at a time.

float16, bfloat16 and float32 parameters, also mixed; what is remembered is float32. Any strides: arrays that do not
walk memory as their parameter does are copied, and those that are updated copied back.

What changes from step to step may be in device memory: lr, momentum, and what Adam's step count gives. Every program
then reads it, so that each launch of a captured step has the values of that moment. They are the float32 numbers that a
launch passes otherwise, computed in float64 on the host, so that a captured step has the bits of a plain one.

Traffic, bytes a parameter of float32 (of 16 bits): Adam 28 (22); SGD with momentum 20 (14), without 12 (6). That is the
floor: while 28 bytes come and go, an H100 has time for some 240 instructions, and Adam takes a quarter of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.device_numbers import number_or_array, step_or_factors
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import Kernel, kernel
from tilegrad.kernels.multi_tensor.arrays import Arrays, in_one_order, write_back
from tilegrad.kernels.multi_tensor.gpu_triton import find, pointer, tables
from tilegrad.kernels.optimizer.reference import adam_factors, check_adam_numbers, check_arrays, check_sgd_numbers

# 4 elements a thread: for Adam 4 loads of 16 bytes. A multiprocessor holds 6 programs, which have 96 KB under way. Some
# 20 KB hide the latency of its share of an H100's memory, so that the search for the parameter, which comes before the
# first load, is hidden too. With 8 elements halves and floats would be laid out differently over the threads, and
# exchanged through shared memory.
BLOCK, WARPS = 1024, 8


@triton.jit
def _adam_block(pointers, i, inside, numbers, DECAY: tl.constexpr, MAXIMIZE: tl.constexpr):
    """rate = 1 - beta, step_size = lr / (1 - beta1^step), scale = 1 / sqrt(1 - beta2^step).

    The root is correctly rounded: the approximate one takes small v for 0.
    """
    p_ptr, g_ptr, m_ptr, v_ptr = pointers
    lr, step_size, scale, rate1, beta2, rate2, eps, weight_decay = numbers
    p = tl.load(p_ptr + i, mask=inside).to(tl.float32)
    g = tl.load(g_ptr + i, mask=inside).to(tl.float32)
    m = tl.load(m_ptr + i, mask=inside)
    v = tl.load(v_ptr + i, mask=inside)
    if MAXIMIZE:
        g = -g
    if DECAY == "decoupled":
        p = p * (1.0 - lr * weight_decay)
    elif DECAY == "l2":
        g = g + weight_decay * p
    m = m + rate1 * (g - m)
    v = beta2 * v + rate2 * (g * g)
    p = p - step_size * tl.div_rn(m, tl.sqrt_rn(v) * scale + eps)
    tl.store(p_ptr + i, p.to(p_ptr.dtype.element_ty), mask=inside)
    tl.store(m_ptr + i, m, mask=inside)
    tl.store(v_ptr + i, v, mask=inside)


@triton.jit
def _sgd_block(
    pointers,
    i,
    inside,
    numbers,
    MOMENTUM: tl.constexpr,
    FIRST: tl.constexpr,
    DECAY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    VELOCITY: tl.constexpr,
):
    p_ptr, g_ptr, b_ptr = pointers
    lr, momentum, rate, weight_decay = numbers
    p = tl.load(p_ptr + i, mask=inside).to(tl.float32)
    g = tl.load(g_ptr + i, mask=inside).to(tl.float32)
    if MAXIMIZE:
        g = -g
    if DECAY:
        g = g + weight_decay * p
    if VELOCITY:
        g = -(lr * g)
    if MOMENTUM is not None:
        b = g
        if not FIRST:
            b = momentum * tl.load(b_ptr + i, mask=inside) + rate * g
        tl.store(b_ptr + i, b, mask=inside)
        g = g + momentum * b if MOMENTUM == "nesterov" else b
    p = p + g if VELOCITY else p - lr * g
    tl.store(p_ptr + i, p.to(p_ptr.dtype.element_ty), mask=inside)


@kernel
def _adam_kernel(
    table_ptr,
    lr_ptr,
    factors_ptr,
    tensors,
    lr,
    correction1,
    correction2,
    rate1,
    beta2,
    rate2,
    eps,
    weight_decay,
    DECAY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    EPS_HAT: tl.constexpr,
    ELEMENT: tl.constexpr,
    ALIGNED: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """table: of p, g, m, v. lr (1,), factors (3,): or None, and the numbers hold.

    correction = 1 - beta^step, rate = 1 - beta; factors: correction1, correction2, rate1.
    """
    column_ptr, start, left = find(table_ptr, tensors, TENSORS, BLOCK)
    p_ptr = pointer(column_ptr, tensors, 0, ELEMENT, ALIGNED) + start
    g_ptr = pointer(column_ptr, tensors, 1, ELEMENT, ALIGNED) + start
    m_ptr = pointer(column_ptr, tensors, 2, tl.float32, ALIGNED) + start
    v_ptr = pointer(column_ptr, tensors, 3, tl.float32, ALIGNED) + start
    if lr_ptr is not None:
        lr = tl.load(lr_ptr).to(tl.float32)
    if factors_ptr is not None:
        correction1 = tl.load(factors_ptr)
        correction2 = tl.load(factors_ptr + 1)
        rate1 = tl.load(factors_ptr + 2)
    scale = tl.div_rn(1.0, tl.sqrt_rn(correction2))
    if EPS_HAT:
        eps = eps * scale

    pointers = p_ptr, g_ptr, m_ptr, v_ptr
    numbers = lr, tl.div_rn(lr, correction1), scale, rate1, beta2, rate2, eps, weight_decay
    i = tl.arange(0, BLOCK)
    if left >= BLOCK:
        _adam_block(pointers, i, None, numbers, DECAY, MAXIMIZE)
    else:
        _adam_block(pointers, i, i < left, numbers, DECAY, MAXIMIZE)


@kernel
def _sgd_kernel(
    table_ptr,
    lr_ptr,
    momentum_ptr,
    tensors,
    lr,
    momentum,
    rate,
    weight_decay,
    MOMENTUM: tl.constexpr,
    FIRST: tl.constexpr,
    DECAY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    VELOCITY: tl.constexpr,
    ELEMENT: tl.constexpr,
    ALIGNED: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """table: of p, g and, with momentum, b. lr, momentum (1,): or None, and the numbers hold. rate = 1 - dampening."""
    column_ptr, start, left = find(table_ptr, tensors, TENSORS, BLOCK)
    p_ptr = pointer(column_ptr, tensors, 0, ELEMENT, ALIGNED) + start
    g_ptr = pointer(column_ptr, tensors, 1, ELEMENT, ALIGNED) + start
    b_ptr = p_ptr  # not used without momentum
    if MOMENTUM is not None:
        b_ptr = pointer(column_ptr, tensors, 2, tl.float32, ALIGNED) + start
    if lr_ptr is not None:
        lr = tl.load(lr_ptr).to(tl.float32)
    if momentum_ptr is not None:
        momentum = tl.load(momentum_ptr).to(tl.float32)

    pointers = p_ptr, g_ptr, b_ptr
    numbers = lr, momentum, rate, weight_decay
    i = tl.arange(0, BLOCK)
    if left >= BLOCK:
        _sgd_block(pointers, i, None, numbers, MOMENTUM, FIRST, DECAY, MAXIMIZE, VELOCITY)
    else:
        _sgd_block(pointers, i, i < left, numbers, MOMENTUM, FIRST, DECAY, MAXIMIZE, VELOCITY)


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

    Traffic: 28 bytes a float32 parameter, 22 a float16 or bfloat16 one.
    """
    op = "adam_step"
    _check(op, params, grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    step, factors = step_or_factors(op, step)
    lr, lr_array = number_or_array(op, "lr", lr, 0.0)
    step, lr, beta1, beta2, eps, weight_decay = check_adam_numbers(step, lr, beta1, beta2, eps, weight_decay)
    _launch(
        _adam_kernel,
        (params, grads, exp_avgs, exp_avg_sqs),
        (lr_array, factors),
        (lr, *adam_factors(step, beta1, beta2, bool(eps_hat)), beta2, 1 - beta2, eps, weight_decay),
        DECAY=("decoupled" if decoupled else "l2") if weight_decay else None,
        MAXIMIZE=bool(maximize),
        EPS_HAT=bool(eps_hat),
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

    Traffic: 20 bytes a float32 parameter, 14 a float16 or bfloat16 one; 12 and 6 without momentum.
    """
    op = "sgd_step"
    _check(op, params, grads, **({} if momentum_buffers is None else {"momentum_buffers": momentum_buffers}))
    lr, lr_array = number_or_array(op, "lr", lr, 0.0)
    momentum, momentum_array = number_or_array(op, "momentum", momentum, 0.5)
    lr, momentum, dampening, weight_decay = check_sgd_numbers(
        momentum_buffers, lr, momentum, dampening, weight_decay, nesterov
    )
    _launch(
        _sgd_kernel,
        (params, grads, momentum_buffers) if momentum else (params, grads),
        (lr_array, momentum_array),
        (lr, momentum, 1 - dampening, weight_decay),
        MOMENTUM=("nesterov" if nesterov else "heavy ball") if momentum else None,
        FIRST=bool(first),
        DECAY=weight_decay != 0,
        MAXIMIZE=bool(maximize),
        VELOCITY=bool(velocity),
    )


def _check(op: str, params: Arrays, grads: Arrays, **state: Arrays) -> None:
    check_arrays(op, gpu.xp().ndarray, params, grads, **state)
    for param in params:
        no_float64(op, param.dtype)


def _launch(
    kernel: Kernel, lists: Sequence[Arrays], pointers: tuple[Any, ...], numbers: tuple[float, ...], **constexprs: Any
) -> None:
    """One launch for all parameters of a dtype; lists has the parameters, the gradients, then what is remembered."""
    tensors, copies = in_one_order(lists)
    for table, found in tables(tensors, BLOCK):
        arguments = (table.array, *pointers, table.tensors, *numbers)
        kernel((table.programs,), *arguments, **constexprs, **found, num_warps=WARPS)
    write_back(copies)
