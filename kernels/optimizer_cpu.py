"""Adam on the CPU, compiled: one pass over p, g, m, v where NumPy makes a dozen.

Served here are float32 parameters in C order; where one is not, the list goes to the reference.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from kernels import optimizer_reference as reference
from kernels import threads
from kernels.optimizer_reference import Arrays, Scalar
from kernels.program import do, whole
from kernels.share_cpu import share

_SHARED_FROM = 1 << 15  # elements: some 20 microseconds of one core
_float32 = np.dtype(np.float32)


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    step: int | np.ndarray,
    lr: Scalar,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> None:
    """optimizer_reference.adam_step. Traffic: 28 bytes a parameter, once."""
    served = len(params) == len(grads) == len(exp_avgs) == len(exp_avg_sqs)
    served = served and all(map(_is_served, params, grads, exp_avgs, exp_avg_sqs))
    if not served:
        options = step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize
        whole(reference.adam_step, params, grads, exp_avgs, exp_avg_sqs, *options)
        return
    scalars = np.empty(9, np.float32)
    do(_set_scalars, scalars, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)
    for p, g, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        arrays = p.reshape(-1), g.reshape(-1), m.reshape(-1), v.reshape(-1)
        threads.share(_adam, p.size if p.size >= _SHARED_FROM else 1, p.size, *arrays, scalars)


def _set_scalars(scalars, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize) -> None:
    """The numbers of a step as _adam takes them; step, lr and beta1 may be arrays that change from step to step."""
    step, lr, beta1, beta2, eps, weight_decay = reference.check_adam_numbers(step, lr, beta1, beta2, eps, weight_decay)
    scalars[:] = (
        -1 if maximize else 1,
        0 if decoupled else weight_decay,
        1 - lr * weight_decay if decoupled else 1,
        1 - beta1,
        beta2,
        1 - beta2,
        1 / math.sqrt(1 - beta2**step),
        eps,
        lr / (1 - beta1**step),
    )


def _is_served(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray) -> bool:
    """Whether these four pass every check of the reference's, and are what the loop below takes."""
    shape = p.shape
    for a in (p, m, v):
        if type(a) is not np.ndarray or a.dtype != _float32 or a.shape != shape or not a.flags.carray:
            return False
    return type(g) is np.ndarray and g.dtype == _float32 and g.shape == shape and g.flags.c_contiguous


@njit(nogil=True, cache=True, error_model="numpy")
def _adam(params, grads, exp_avgs, exp_avg_sqs, scalars, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    sign, l2, decay, rate1, beta2, rate2, correction, eps, step_size = scalars
    # Slices count from 0: an index that could be negative would keep the loop from becoming vectors.
    params, grads = params[begin:stop], grads[begin:stop]
    exp_avgs, exp_avg_sqs = exp_avgs[begin:stop], exp_avg_sqs[begin:stop]
    for i in range(params.size):
        g = sign * grads[i] + l2 * params[i]
        m = exp_avgs[i] + rate1 * (g - exp_avgs[i])
        v = beta2 * exp_avg_sqs[i] + rate2 * (g * g)
        exp_avgs[i] = m
        exp_avg_sqs[i] = v
        params[i] = decay * params[i] - step_size * (m / (np.sqrt(v) * correction + eps))
