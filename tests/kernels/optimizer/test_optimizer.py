"""Adam, AdamW and SGD steps against torch.optim: single steps, and trajectories of 50."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16

from tests.compare import assert_close, assert_same
from tests.layouts import assert_border, inside_frame, untouched
from tilegrad import kernels
from tilegrad.kernels.contract import DTYPES

SHAPES = [(5, 10), (257,), (2, 3, 4, 5), (), (0, 3)]  # ragged, one past a tile, a convolution's, 0-d, empty
STEPS = 50
TRAJECTORY = [(257,), (), (0, 3)]  # fewer, for they are walked 50 times; the single steps take all of them


@pytest.fixture(params=[name for name, dtypes in DTYPES.items() if "float64" in dtypes])
def numpy_backend(request):
    """The backends that serve float64."""
    return kernels.load(request.param)


def wide(dtype):
    return np.float64 if dtype == np.float64 else np.float32


def sample(rng, dtype, count=1, shapes=SHAPES):
    """count lists of arrays, one of each shape."""
    return [[np.asarray(rng.standard_normal(s)).astype(dtype) for s in shapes] for _ in range(count)]


def full(value, dtype):
    return [np.full(s, value, dtype) for s in TRAJECTORY]


def learning_rate(i):
    """A schedule, so that lr is seen to be read at every step."""
    return 0.05 / (1 + 0.1 * i)


def torch_trajectory(make_optimizer, params, grads, dtype):
    """params after each step, as torch moves them in that dtype."""
    leaves = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in params]
    optimizer = make_optimizer(leaves)
    for i, step_grads in enumerate(grads):
        for leaf, grad in zip(leaves, step_grads, strict=True):
            leaf.grad = torch.tensor(grad, dtype=dtype)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(i)
        optimizer.step()
        yield [leaf.detach().numpy().copy() for leaf in leaves]


def check_trajectory(step, make_optimizer, dtype, rng):
    """step(params, grads, i) against torch after every one of 50 steps with the same gradients."""
    params, *grads = sample(rng, dtype, 1 + STEPS, TRAJECTORY)
    baseline_dtype = torch.from_numpy(params[0]).dtype
    want = torch_trajectory(make_optimizer, params, grads, torch.float64)
    baseline = torch_trajectory(make_optimizer, params, grads, baseline_dtype)
    for i, (want_i, baseline_i) in enumerate(zip(want, baseline, strict=True)):
        with untouched(*grads[i]):
            assert step(params, grads[i], i) is None
        for got, w, b in zip(params, want_i, baseline_i, strict=True):
            assert_close(got, w, b, scale=1.0)  # a parameter is a sum of steps and decays of about that size


ADAM_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"beta1": 0.0, "beta2": 0.5, "eps": 1e-3},
    {"weight_decay": 0.1, "maximize": True, "beta1": 0.8},
]


def check_adam(backend, decoupled, options, dtype, rng):
    m, v = full(0, dtype), full(0, dtype)

    def step(params, grads, i):
        return backend.adam_step(params, grads, m, v, i + 1, learning_rate(i), decoupled=decoupled, **options)

    torchs = {k: options[k] for k in ("eps", "weight_decay", "maximize") if k in options}
    torchs["betas"] = options.get("beta1", 0.9), options.get("beta2", 0.999)
    torchs.setdefault("weight_decay", 0.0)  # AdamW's own default differs
    optimizer = torch.optim.AdamW if decoupled else torch.optim.Adam
    check_trajectory(step, lambda leaves: optimizer(leaves, **torchs), dtype, rng)


@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
@pytest.mark.parametrize("options", ADAM_OPTIONS, ids=str)
def test_adam_trajectories(backend, decoupled, options, rng):
    check_adam(backend, decoupled, options, np.float32, rng)


@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
@pytest.mark.parametrize("options", ADAM_OPTIONS, ids=str)
def test_adam_trajectories_in_float64(numpy_backend, decoupled, options, rng):
    check_adam(numpy_backend, decoupled, options, np.float64, rng)


SGD_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
]


def check_sgd(backend, options, dtype, rng):
    buffers = full(np.nan, dtype) if "momentum" in options else None

    def step(params, grads, i):
        return backend.sgd_step(params, grads, buffers, learning_rate(i), first=i == 0, **options)

    check_trajectory(step, lambda leaves: torch.optim.SGD(leaves, lr=1.0, **options), dtype, rng)


@pytest.mark.parametrize("options", SGD_OPTIONS, ids=str)
def test_sgd_trajectories(backend, options, rng):
    check_sgd(backend, options, np.float32, rng)


@pytest.mark.parametrize("options", SGD_OPTIONS, ids=str)
def test_sgd_trajectories_in_float64(numpy_backend, options, rng):
    check_sgd(numpy_backend, options, np.float64, rng)


@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
def test_one_adam_step_from_given_moments(backend, decoupled, dtype, rng):
    """Every dtype, and the moments too; they are float32 for the 16-bit types, which torch would keep in 16 bits."""
    params, grads = sample(rng, dtype, 2)
    m, v = sample(rng, wide(dtype), 2)
    v = [np.asarray(np.square(a)) for a in v]
    leaves = [torch.tensor(p.astype(np.float64), requires_grad=True) for p in params]
    optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(leaves, lr=0.01, weight_decay=0.1)
    for leaf, grad, m_i, v_i in zip(leaves, grads, m, v, strict=True):
        leaf.grad = torch.tensor(grad.astype(np.float64))
        moments = {"exp_avg": torch.tensor(m_i).double(), "exp_avg_sq": torch.tensor(v_i).double()}
        optimizer.state[leaf] = {"step": torch.tensor(6.0), **moments}
    optimizer.step()

    with untouched(*grads):
        backend.adam_step(params, grads, m, v, 7, 0.01, weight_decay=0.1, decoupled=decoupled)
    for got, m_i, v_i, leaf in zip(params, m, v, leaves, strict=True):
        state = optimizer.state[leaf]
        for ours, want in ((got, leaf.detach()), (m_i, state["exp_avg"]), (v_i, state["exp_avg_sq"])):
            want = want.numpy()
            assert_close(ours, want, want.astype(ours.dtype), scale=1.0)  # of terms that are normal numbers


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_eps_hat_is_the_eps_of_the_papers_reordered_step(backend, step, dtype, rng):
    """p - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps), the end of section 2; large next to sqrt(v)."""
    params, grads = sample(rng, dtype, 2)
    m, v = sample(rng, wide(dtype), 2)
    v = [np.asarray(np.square(a)) for a in v]
    want = []
    for p, g, m_i, v_i in zip(params, grads, m, v, strict=True):
        p, g, m_i, v_i = (a.astype(np.float64) for a in (p, g, m_i, v_i))
        m_i, v_i = 0.9 * m_i + 0.1 * g, 0.999 * v_i + 0.001 * g * g
        alpha = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        want.append(p - alpha * m_i / (np.sqrt(v_i) + 0.5))
    backend.adam_step(params, grads, m, v, step, 0.01, eps=0.5, eps_hat=True)
    for got, w in zip(params, want, strict=True):
        assert_close(got, w, w.astype(dtype), scale=1.0)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_with_eps_hat_powers_are_rounded_to_float32_as_kerass_are(backend, step):
    """In a step from 0 it shows: the first is 6e-6 of its size smaller."""
    (p,), (g,), (m,), (v,) = ([np.full(5, value, np.float32)] for value in (0, 2, 0, 0))
    backend.adam_step([p], [g], [m], [v], step, 0.5, eps=0, eps_hat=True)
    first, second = (np.float64(np.float32(np.float64(np.float32(beta)) ** step)) for beta in (0.9, 0.999))
    want = -0.5 * np.sqrt(1 - second) / (1 - first) * 0.1 / np.sqrt(0.001)
    np.testing.assert_allclose(p, np.full(5, want), rtol=5e-7)
    assert abs(want / (-0.5 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * 0.1 / np.sqrt(0.001)) - 1) > 2e-6


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_sgd_step_from_a_given_buffer(backend, nesterov, dtype, rng):
    params, grads = sample(rng, dtype, 2)
    (buffers,) = sample(rng, wide(dtype))
    want = []
    for p, g, b in zip(params, grads, buffers, strict=True):
        p, g, b = p.astype(np.float64), g.astype(np.float64), b.astype(np.float64)
        g = g + 0.1 * p
        b = 0.9 * b + g
        want.append((p - 0.01 * (g + 0.9 * b if nesterov else b), b))
    backend.sgd_step(params, grads, buffers, 0.01, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    for p, b, (want_p, want_b) in zip(params, buffers, want, strict=True):
        assert_close(p, want_p, want_p.astype(dtype), scale=1.0)
        assert_close(b, want_b, want_b.astype(b.dtype), scale=1.0)


@pytest.mark.parametrize("kind", ["heavy ball", "nesterov", "none"])
def test_a_velocity_keeps_the_rates_of_earlier_steps(backend, kind, dtype, rng):
    """Sutskever et al., equations 1 to 4, over steps of different rates; the first finds nothing in the buffer."""
    momentum = 0 if kind == "none" else 0.75
    params, grads = sample(rng, dtype, 2)
    velocities = [np.full(p.shape, np.nan, wide(dtype)) for p in params]
    before = [np.zeros(p.shape) for p in params]
    for i, lr in enumerate((0.5, 0.125, 0.25)):
        want = []
        for p, g, v in zip(params, grads, before, strict=True):
            d = -lr * (-g.astype(np.float64) + 0.1 * p.astype(np.float64))
            v = momentum * v.astype(np.float64) + d
            want.append((p.astype(np.float64) + (d + momentum * v if kind == "nesterov" else v), v))
        backend.sgd_step(
            params, grads, velocities if momentum else None, lr, momentum, weight_decay=0.1,
            nesterov=kind == "nesterov", maximize=True, first=i == 0, velocity=True,
        )  # fmt: skip
        for p, v, (want_p, want_v) in zip(params, velocities, want, strict=True):
            assert_close(p, want_p, want_p.astype(dtype), scale=1.0)
            if momentum:
                assert_close(v, want_v, want_v.astype(v.dtype), scale=1.0)
        before = [v.copy() for v in velocities] if momentum else before


def test_dampening_does_not_touch_the_first_step(backend):
    param, buffer = np.zeros(2, np.float32), np.full(2, np.nan, np.float32)
    grad = np.array([1, 2], np.float32)
    backend.sgd_step([param], [grad], [buffer], 0.5, 0.9, dampening=0.5, first=True)
    assert_same(buffer, grad)
    assert_same(param, np.array([-0.5, -1], np.float32))
    backend.sgd_step([param], [grad], [buffer], 0.5, 0.5, dampening=0.5)
    assert_same(buffer, grad)


def test_layouts_and_borders(backend, layout, dtype, rng):
    """Parameters, gradients and moments in one memory order and, in turn, in the other."""
    p, g, m, v = (rng.random((4, 5, 6)) + 0.5).astype(wide(dtype))
    p, g = p.astype(dtype), g.astype(dtype)

    def results(place, place_grad):
        adam, sgd = [place(a) for a in (p, m, v)], [place(a) for a in (p, m)]
        backend.adam_step([adam[0]], [place_grad(g)], [adam[1]], [adam[2]], 3, 0.1, weight_decay=0.1)
        backend.sgd_step([sgd[0]], [place_grad(g)], [sgd[1]], 0.1, momentum=0.9)
        return adam + sgd

    want = results(np.array, np.array)
    for place, place_grad in ((layout, np.array), (np.array, layout), (layout, layout)):
        for got, expected in zip(results(place, place_grad), want, strict=True):
            assert_close(got, expected.astype(np.float64), expected, elementwise=True)
    whole, inside = inside_frame(p)
    backend.adam_step([inside], [g], [m.copy()], [v.copy()], 3, 0.1)
    backend.sgd_step([inside], [g], None, 0.1)
    assert_border(whole, inside)


def test_a_gradient_of_stride_0(backend, dtype):
    g = np.broadcast_to(np.array(2, dtype), (3, 4))
    param = np.ones((3, 4), dtype)
    backend.sgd_step([param], [g], None, 0.25)
    assert_same(param, np.full((3, 4), 0.5, dtype))


def test_lr_and_step_may_be_0d_arrays(numpy_backend):
    """Of NumPy; those on a device: test_optimizer_triton.py."""
    backend, results = numpy_backend, []
    for kind in (lambda x: x, np.array):
        (p,), (g,), (m,), (v,) = ([np.linspace(i, i + 1, 7)] for i in range(4))
        backend.adam_step([p], [g], [m], [v], kind(4), kind(0.1))
        q = p.copy()
        backend.sgd_step([q], [g], None, kind(0.1))
        results.append((p, q))
    assert_same(results[1][0], results[0][0])
    assert_same(results[1][1], results[0][1])


def test_the_first_step_of_adam_has_length_lr(backend, dtype):
    """Bias correction: m / sqrt(v) is the sign of the gradient, however small that is."""
    g = np.array([3, -0.5, 1e-2, -100], dtype)
    p = np.zeros(4, dtype)
    backend.adam_step([p], [g], [np.zeros(4, wide(dtype))], [np.zeros(4, wide(dtype))], 1, 0.25, eps=0.0)
    want = -0.25 * np.sign(g).astype(np.float64)
    assert_close(p, want, want.astype(dtype), elementwise=True)


def test_nan_in_a_gradient_reaches_its_element_only(backend, dtype):
    for step in ("adam", "sgd"):
        p, g = np.ones(3, dtype), np.array([1, np.nan, 1], dtype)
        m, v = np.zeros(3, wide(dtype)), np.zeros(3, wide(dtype))
        if step == "adam":
            backend.adam_step([p], [g], [m], [v], 1, 0.1)
        else:
            backend.sgd_step([p], [g], [m], 0.1, momentum=0.9, first=True)
        assert_same(np.isnan(p), np.array([False, True, False]))


def test_no_parameters_are_no_error(backend):
    backend.adam_step([], [], [], [], 1, 0.1)
    backend.sgd_step([], [], None, 0.1)


# --- errors: raised before anything is changed


def arrays(shape=(2,), dtype=np.float32):
    return [np.ones(3, np.float32), np.ones(shape, dtype)]


ARRAY_ERRORS = [
    ({"grads": arrays()[:1]}, ValueError, "2 params but 1 grads; expected one for each parameter"),
    ({"state": arrays()[:1]}, ValueError, "2 params but 1 STATE; expected one for each parameter"),
    ({"grads": arrays((3,))}, ValueError, r"grads\[1\] is \(3,\); expected \(2,\) as params\[1\]"),
    ({"state": arrays((1,))}, ValueError, r"STATE\[1\] is \(1,\); expected \(2,\) as params\[1\]"),
    (
        {"grads": arrays(dtype=np.float64)},
        TypeError,
        r"grads\[1\] is float64 but params\[1\] is float32; expected float32",
    ),
    (
        {"state": arrays(dtype=np.float64)},
        TypeError,
        r"STATE\[1\] is float64 but params\[1\] is float32; expected float32",
    ),
    (
        {"params": arrays(dtype=np.float64), "grads": arrays(dtype=np.float64)},
        TypeError,
        r"STATE\[1\] is float32 but params\[1\] is float64; expected float64",
    ),
    (
        {"params": arrays(dtype=np.float16), "grads": arrays(dtype=np.float16), "state": arrays(dtype=np.float16)},
        TypeError,
        r"STATE\[1\] is float16 but params\[1\] is float16; expected float32",
    ),
    (
        {"params": arrays(dtype=bfloat16), "grads": arrays(dtype=bfloat16), "state": arrays(dtype=np.float16)},
        TypeError,
        r"STATE\[1\] is float16 but params\[1\] is bfloat16; expected float32",
    ),
    ({"params": arrays(dtype=int)}, TypeError, r"params\[1\] is int64; expected float16, bfloat16, float32 or float64"),
    (
        {"grads": [*arrays()[:1], [1, 2]]},
        TypeError,
        r"grads\[1\] is a list; expected a (numpy|cupy|tilegrad\.kernels\.simulate\.arrays)\.ndarray",
    ),
]


@pytest.mark.parametrize("change, error, message", ARRAY_ERRORS)
def test_wrong_arrays(backend, change, error, message):
    check_wrong_arrays(backend, change, error, message)


@pytest.mark.parametrize("name", ["params", "state"])
def test_read_only_arrays(numpy_backend, name):
    """Of NumPy: a device array is always writeable."""
    change = {name: arrays()}
    change[name][1].flags.writeable = False
    message = rf"{name.replace('state', 'STATE')}\[1\] is read-only; expected an array to update in place"
    check_wrong_arrays(numpy_backend, change, ValueError, message)


def check_wrong_arrays(backend, change, error, message):
    given = {"params": arrays(), "grads": arrays(), "state": arrays(), **change}
    params, grads, state = given["params"], given["grads"], given["state"]
    right = arrays(dtype=wide(params[1].dtype))
    everything = [a for a in params + grads + state + right if isinstance(a, np.ndarray)]
    for name in ("exp_avgs", "exp_avg_sqs"):
        both = (state, right) if name == "exp_avgs" else (right, state)
        text = f"^adam_step: {message.replace('STATE', name)}$"
        with untouched(*everything), pytest.raises(error, match=text):
            backend.adam_step(params, grads, *both, 1, 0.1)
    text = f"^sgd_step: {message.replace('STATE', 'momentum_buffers')}$"
    with untouched(*everything), pytest.raises(error, match=text):
        backend.sgd_step(params, grads, state, 0.1, momentum=0.9)


NUMBER_ERRORS = [
    ("adam_step", {"step": 0}, ValueError, "step is 0.0; expected 1 <= step < inf"),
    ("adam_step", {"beta1": 1.0}, ValueError, "beta1 is 1.0; expected 0 <= beta1 < 1"),
    ("adam_step", {"beta2": -0.1}, ValueError, "beta2 is -0.1; expected 0 <= beta2 < 1"),
    ("adam_step", {"eps": -1}, ValueError, "eps is -1.0; expected 0 <= eps < inf"),
    ("adam_step", {"lr": -1}, ValueError, "lr is -1.0; expected 0 <= lr < inf"),
    ("adam_step", {"lr": np.nan}, ValueError, "lr is nan; expected 0 <= lr < inf"),
    (
        "adam_step",
        {"lr": np.ones(1)},
        TypeError,
        r"lr is (array\(\[1.\]\)|an array of shape \(1,\)); expected a number or a 0-d array",
    ),
    ("adam_step", {"lr": "1"}, TypeError, "lr is '1'; expected a number or a 0-d array"),
    ("adam_step", {"weight_decay": -1}, ValueError, "weight_decay is -1.0; expected 0 <= weight_decay < inf"),
    ("sgd_step", {"lr": -1}, ValueError, "lr is -1.0; expected 0 <= lr < inf"),
    ("sgd_step", {"momentum": -1}, ValueError, "momentum is -1.0; expected 0 <= momentum < inf"),
    ("sgd_step", {"weight_decay": -1}, ValueError, "weight_decay is -1.0; expected 0 <= weight_decay < inf"),
    ("sgd_step", {"dampening": None}, TypeError, "dampening is None; expected a number or a 0-d array"),
    (
        "sgd_step",
        {"momentum": 0.9, "momentum_buffers": None},
        ValueError,
        "momentum_buffers is None; expected a list of arrays for momentum 0.9",
    ),
    (
        "sgd_step",
        {"nesterov": True},
        ValueError,
        "momentum is 0.0 and dampening 0.0; expected momentum > 0 and dampening 0 for nesterov",
    ),
    (
        "sgd_step",
        {"nesterov": True, "momentum": 0.9, "dampening": 0.5},
        ValueError,
        "momentum is 0.9 and dampening 0.5; expected momentum > 0 and dampening 0 for nesterov",
    ),
]


@pytest.mark.parametrize("name, change, error, message", NUMBER_ERRORS)
def test_wrong_numbers(backend, name, change, error, message):
    given = {"params": arrays(), "grads": arrays(), "lr": 0.1}
    if name == "adam_step":
        given |= {"exp_avgs": arrays(), "exp_avg_sqs": arrays(), "step": 1}
    else:
        given |= {"momentum_buffers": arrays()}
    given |= change
    with untouched(*given["params"]), pytest.raises(error, match=f"^{name}: {message}$"):
        getattr(backend, name)(**given)
