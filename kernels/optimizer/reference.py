"""One step of Adam, AdamW or SGD over a list of parameters, in place: the NumPy specification.

Parameters and gradients are float16, bfloat16, float32 or float64 arrays with any strides; what the optimizer
remembers is float32 for the 16-bit types and has the parameter's dtype otherwise, and the step is
computed in that dtype. Gradients are never written. Everything is checked before the first parameter
changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from tilegrad.kernels.checks import A_FLOAT, FLOAT_DTYPES, accumulator, require

Arrays = Sequence[np.ndarray]
Scalar = float | np.ndarray  # a Python number or a 0-d array

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


@_quiet
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
    """Step number `step` (the first is 1) of Adam, or of AdamW where `decoupled`.

        g = -grad if maximize else grad
        p = p (1 - lr weight_decay)              AdamW
        g = g + weight_decay p                   Adam
        m = m + (1 - beta1) (g - m)              v = beta2 v + (1 - beta2) g^2
        p = p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + e)

    params, grads           arrays of one dtype and shape at each place
    exp_avgs, exp_avg_sqs   m and v, of the parameter's shape, at least float32
    step, lr                numbers or 0-d arrays
    eps_hat                 e = eps / sqrt(1 - beta2^step), and beta^step is rounded to float32 where m is float32, as
                            Keras has it; otherwise e = eps

    Traffic: reads p, g, m, v and writes p, m, v once: 28 bytes a float32 parameter.
    Raises ValueError for lengths, shapes and ranges, TypeError for dtypes.
    Sources: Kingma & Ba 2015, algorithm 1, and the end of section 2 for eps_hat; Loshchilov & Hutter 2019, algorithm 2.
    """
    check_arrays("adam_step", np.ndarray, params, grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    number, lr, beta1, beta2, eps, weight_decay = check_adam_numbers(step, lr, beta1, beta2, eps, weight_decay)

    for param, grad, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        correction1, correction2, _ = adam_factors(number, beta1, beta2, eps_hat and m.dtype == np.float32)
        step_size, correction2_sqrt = lr / correction1, math.sqrt(correction2)
        least = eps / correction2_sqrt if eps_hat else eps
        p, g = param.astype(m.dtype, copy=False), grad.astype(m.dtype, copy=False)
        if maximize:
            g = -g
        if weight_decay and decoupled:
            p *= 1 - lr * weight_decay
        elif weight_decay:
            g = g + weight_decay * p

        work = np.subtract(g, m, out=np.empty_like(p))
        work *= 1 - beta1
        m += work

        np.multiply(g, g, out=work)
        work *= 1 - beta2
        v *= beta2
        v += work

        np.sqrt(v, out=work)
        work /= correction2_sqrt
        work += least
        np.divide(m, work, out=work)
        work *= step_size
        np.subtract(p, work, out=param, casting="same_kind")


@_quiet
def sgd_step(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None,
    lr: Scalar,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    velocity: bool = False,
) -> None:
    """One step of stochastic gradient descent, with momentum where it is not 0.

        g = (-grad if maximize else grad) + weight_decay p
        b = g on the first step, momentum b + (1 - dampening) g afterwards
        p = p - lr (g + momentum b)  if nesterov,   p - lr b  with momentum,   p - lr g  without

    With `velocity` b is what a parameter moves by, as Keras has it: learning rates of earlier steps stay in it.

        d = -lr g
        b = d on the first step, momentum b + (1 - dampening) d afterwards
        p = p + d + momentum b  if nesterov,   p + b  with momentum,   p + d  without

    params, grads      arrays of one dtype and shape at each place
    momentum_buffers   b, of the parameter's shape, at least float32; None if momentum is 0
    lr                 a number or a 0-d array
    first              whether b holds nothing yet
    velocity           whether b has the learning rate in it

    Traffic: reads p, g, b and writes p, b once: 20 bytes a float32 parameter, 12 without momentum.
    Raises ValueError for lengths, shapes and ranges, TypeError for dtypes.
    Sources: Polyak 1964; Sutskever, Martens, Dahl & Hinton 2013 (`velocity` is their equations 1 to 4), otherwise in
    the form torch.optim.SGD gives it.
    """
    remembered = {} if momentum_buffers is None else {"momentum_buffers": momentum_buffers}
    check_arrays("sgd_step", np.ndarray, params, grads, **remembered)
    lr, momentum, dampening, weight_decay = check_sgd_numbers(
        momentum_buffers, lr, momentum, dampening, weight_decay, nesterov
    )

    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        accumulate = accumulator(param.dtype)
        p, g = param.astype(accumulate, copy=False), grad.astype(accumulate, copy=False)
        if maximize:
            g = -g
        if weight_decay:
            g = g + weight_decay * p
        if velocity:
            g = -lr * g
        if momentum:
            assert momentum_buffers is not None  # check_sgd_numbers has looked
            b = momentum_buffers[i]
            if first:
                b[...] = g
            else:
                b *= momentum
                b += (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        np.subtract(p, -g if velocity else lr * g, out=param, casting="same_kind")


def adam_factors(step: float, beta1: float, beta2: float, eps_hat: bool = False) -> tuple[float, float, float]:
    """What changes from step to step, in float64: the bias corrections 1 - beta1^step and 1 - beta2^step, 1 - beta1.

    The last because schedules that cycle the momentum (Smith 2018) change beta1. With eps_hat the powers are those of
    Keras, float32 of float32: 1 - 0.999 is 1.3e-5 of its value off then, and trainings would part by that.
    """
    if eps_hat:
        power1, power2 = (float(np.float32(float(np.float32(beta)) ** step)) for beta in (beta1, beta2))
        return 1 - power1, 1 - power2, 1 - beta1
    return 1 - beta1**step, 1 - beta2**step, 1 - beta1


def check_adam_numbers(
    step: int | np.ndarray, lr: Scalar, beta1: float, beta2: float, eps: float, weight_decay: float
) -> tuple[float, float, float, float, float, float]:
    """Raise as adam_step does for its numbers; the numbers as floats."""
    op = "adam_step"
    return (
        _number(op, "step", step, least=1),
        _number(op, "lr", lr, least=0),
        _number(op, "beta1", beta1, least=0, below=1),
        _number(op, "beta2", beta2, least=0, below=1),
        _number(op, "eps", eps, least=0),
        _number(op, "weight_decay", weight_decay, least=0),
    )


def check_sgd_numbers(
    momentum_buffers: Arrays | None,
    lr: Scalar,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> tuple[float, float, float, float]:
    """Raise as sgd_step does for its numbers; (lr, momentum, dampening, weight_decay) as floats."""
    op = "sgd_step"
    lr = _number(op, "lr", lr, least=0)
    momentum = _number(op, "momentum", momentum, least=0)
    dampening = _number(op, "dampening", dampening)
    weight_decay = _number(op, "weight_decay", weight_decay, least=0)
    given = momentum == 0 or momentum_buffers is not None
    require(given, op, f"momentum_buffers is None; expected a list of arrays for momentum {momentum}")
    lookahead = not nesterov or (momentum > 0 and dampening == 0)
    found = f"momentum is {momentum} and dampening {dampening}"
    require(lookahead, op, f"{found}; expected momentum > 0 and dampening 0 for nesterov")
    return lr, momentum, dampening, weight_decay


def check_arrays(op: str, kind: type, params: Arrays, grads: Arrays, **state: Arrays) -> None:
    """All are of that kind; params and grads are alike, place by place; the state too, but at least float32."""
    for name, arrays in {"params": params, "grads": grads, **state}.items():
        lengths = f"{len(params)} params but {len(arrays)} {name}"
        require(len(arrays) == len(params), op, f"{lengths}; expected one for each parameter")
        for i, (a, param) in enumerate(zip(arrays, params, strict=True)):
            # No message is built before it is needed: this runs for every array of every step.
            if not isinstance(a, kind):
                found, expected = type(a).__name__, f"{kind.__module__}.{kind.__name__}"
                raise TypeError(f"{op}: {name}[{i}] is a {found}; expected a {expected}")
            if a.dtype not in FLOAT_DTYPES:
                raise TypeError(f"{op}: {name}[{i}] is {a.dtype}; expected {A_FLOAT}")
            expected = accumulator(param.dtype) if name in state else param.dtype
            if a.dtype != expected:
                found = f"{name}[{i}] is {a.dtype} but params[{i}] is {param.dtype}"
                raise TypeError(f"{op}: {found}; expected {expected}")
            if a.shape != param.shape:
                raise ValueError(f"{op}: {name}[{i}] is {a.shape}; expected {param.shape} as params[{i}]")
            if name != "grads" and kind is np.ndarray and not a.flags.writeable:  # CuPy's are always writeable
                raise ValueError(f"{op}: {name}[{i}] is read-only; expected an array to update in place")


def _number(op: str, name: str, value: Scalar, least: float = -math.inf, below: float = math.inf) -> float:
    """The value as a float, least <= value < below; a 0-d array counts as a number."""
    is_number = type(value) in (float, int) or isinstance(value, Real)  # asking an abstract class is slow
    if not is_number and not (isinstance(value, np.ndarray) and value.ndim == 0):
        raise TypeError(f"{op}: {name} is {value!r}; expected a number or a 0-d array")
    number = float(value)
    if not least <= number < below:
        raise ValueError(f"{op}: {name} is {number}; expected {least} <= {name} < {below}")
    return number
