"""Adam on the CPU, compiled: one pass over p, g, m, v where NumPy makes a dozen.

Served here are float32 parameters in C order; where one is not, the list goes to the reference.
"""

from __future__ import annotations

import math

import numpy as np

from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import do, whole
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.optimizer import reference
from tilegrad.kernels.optimizer.reference import Arrays, Scalar

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
    eps_hat: bool = False,
) -> None:
    """optimizer.reference.adam_step. Traffic: 28 bytes a parameter, once."""
    served = len(params) == len(grads) == len(exp_avgs) == len(exp_avg_sqs)
    served = served and all(map(_is_served, params, grads, exp_avgs, exp_avg_sqs))
    if not served:
        options = step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize, eps_hat
        whole(reference.adam_step, params, grads, exp_avgs, exp_avg_sqs, *options)
        return
    numbers = reference.check_adam_numbers(step, lr, beta1, beta2, eps, weight_decay)
    options = np.array([*numbers[3:], decoupled, maximize, eps_hat], np.float64)
    scalars = np.empty(9, np.float32)
    threads.share(_set_scalars, 1, 1, *map(_as_array, (step, lr, beta1), numbers), options, scalars)
    for p, g, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        arrays = p.reshape(-1), g.reshape(-1), m.reshape(-1), v.reshape(-1)
        threads.share(_adam, p.size if p.size >= _SHARED_FROM else 1, p.size, *arrays, scalars)


def _as_array(number: Scalar, value: float) -> np.ndarray:
    """A number as float64 (1,): the very memory of an array, for a program reads what is there at each launch."""
    if not isinstance(number, np.ndarray):
        return np.array([value])
    if number.dtype == np.float64 and number.flags.carray:
        return number.reshape(1)
    array = np.empty(1)
    do(np.copyto, array, number)
    return array


@njit(nogil=True, cache=True, error_model="numpy")
def _set_scalars(step, lr, beta1, options, scalars, begin, stop, part, team):
    """The numbers of a step as _adam takes them, all of them computed in float64."""
    if team:
        share(begin, stop, part, team)
        return
    beta2, eps, weight_decay, decoupled, maximize, eps_hat = options
    scalars[0] = -1 if maximize else 1
    scalars[1] = 0 if decoupled else weight_decay
    scalars[2] = 1 - lr[0] * weight_decay if decoupled else 1
    scalars[3] = 1 - beta1[0]
    scalars[4] = beta2
    scalars[5] = 1 - beta2
    power1, power2 = beta1[0] ** step[0], beta2 ** step[0]
    if eps_hat:  # as in adam_factors
        power1 = np.float64(np.float32(np.float64(np.float32(beta1[0])) ** step[0]))
        power2 = np.float64(np.float32(np.float64(np.float32(beta2)) ** step[0]))
    scalars[6] = 1 / math.sqrt(1 - power2)
    scalars[7] = eps / math.sqrt(1 - power2) if eps_hat else eps
    scalars[8] = lr[0] / (1 - power1)


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
        g = sign * grads[i]
        if l2 != 0:  # not multiplied by 0: a parameter may be infinite
            g += l2 * params[i]
        m = exp_avgs[i] + rate1 * (g - exp_avgs[i])
        v = beta2 * exp_avg_sqs[i] + rate2 * (g * g)
        exp_avgs[i] = m
        exp_avg_sqs[i] = v
        params[i] = decay * params[i] - step_size * (m / (np.sqrt(v) * correction + eps))
