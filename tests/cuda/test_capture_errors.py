"""What a captured step cannot have: an error that names the op and the line, and a program that is where it was."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.device import gpu
from tilegrad.nn import functional as F

HERE = re.escape(__file__)


def captured(fn, *args):
    """fn after its one plain call: the next is captured."""
    step = tg.capture(fn, warmup=1)
    step(*args)
    return step


@pytest.fixture
def x():
    return tg.tensor([1.0, 2.0, 3.0], device="cuda")


WAITING = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "repr": lambda x: print(x),
    "bool": lambda x: 1 if x.sum() > 0 else 0,
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "synchronize": lambda x: tg.cuda.synchronize(),
    "nonzero": lambda x: x.nonzero(),
}


@pytest.mark.parametrize("op", WAITING)
def test_what_waits_for_the_gpu_is_named_with_its_line(op, x, capsys):
    def fn(x):
        y = x * 2
        WAITING[op](y)
        return y

    step = captured(fn, x)
    line = WAITING[op].__code__.co_firstlineno
    # print calls __repr__, and nonzero's way to the wait is its own: the op is the engine's function that was called
    with pytest.raises(tg.CaptureError, match=rf"^fn: \w*{op}\w* waits for the GPU.*\({HERE}:{line}\)$"):
        step(x)
    assert not hasattr(cuda_graph.capturing(), "launch")
    assert (x * 2).tolist() == [2.0, 4.0, 6.0]


def test_a_librarys_frame_is_not_the_programs_line(x, monkeypatch):
    """CuPy's compiled functions leave frames too, of files that are not there."""
    library = {"__name__": "cupy._core.core"}
    code = "def waits(*args, **kwargs):\n    raise RuntimeError('cudaErrorStreamCaptureUnsupported')"
    exec(compile(code, "cupy/_core/core.pyx", "exec"), library)
    step = captured(lambda x: x.exp(), x)
    monkeypatch.setattr(gpu.xp(), "exp", library["waits"])
    with pytest.raises(tg.CaptureError, match=rf"exp\w* waits for the GPU.*\({HERE}:\d+\)$"):
        step(x)


def test_a_mask_waits_for_the_number_of_its_elements(x):
    step = captured(lambda x: x[x > 1], x)
    with pytest.raises(tg.CaptureError, match=rf"getitem\w* waits for the GPU.*{HERE}"):
        step(x)


def test_what_comes_from_the_cpu_is_named(x):
    host = np.ones(3, np.float32)
    step = captured(lambda x: x + tg.tensor(host, device="cuda"), x)
    with pytest.raises(tg.CaptureError, match=rf"tensor copies from the CPU, once and for all.*{HERE}"):
        step(x)
    step = captured(lambda x: x + tg.rand(3, device="cuda"), x)
    with pytest.raises(tg.CaptureError, match=rf"rand\w* draws on the CPU, once and for all.*{HERE}"):
        step(x)


def test_a_function_of_tensors_on_the_cpu_that_works_on_the_gpu_runs_plainly(x):
    total = tg.zeros(3, device="cuda")

    def fn(host):
        total.add_(x)
        return (total * 2).sum()

    def moved(host):
        return (host.to("cuda") * 2).sum()

    step, other = captured(fn, tg.ones(2)), captured(moved, tg.ones(2))
    twice = captured(lambda host: x * 2, tg.ones(2))
    with pytest.warns(RuntimeWarning, match="runs plainly") as told:
        assert [step(tg.ones(2)).item() for _ in range(3)] == [24.0, 36.0, 48.0]
        assert [other(tg.full((2,), i)).item() for i in (1.0, 2.0, 3.0)] == [4.0, 8.0, 12.0]
        assert twice(tg.ones(2)).tolist() == [2.0, 4.0, 6.0]
    assert len(told) == 3
    assert "mul works on a GPU, in a function whose arguments are on the CPU" in twice.summary()
    assert "runs plainly" in step.summary() and "runs plainly" in other.summary()


def program():
    tg.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).to("cuda")
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return model, optimizer, schedule


def test_an_exception_leaves_everything_where_it_was(x):
    """Parameters, gradients, counts, schedule, random state, and a device that can be used and captured."""
    model, optimizer, schedule = program()
    broken = [False]

    def fn(x):
        loss = model(x).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if broken[0]:
            raise KeyError("mine")
        return loss

    def everything():
        state = [s for p in model.parameters() for s in optimizer.state[p].values()]
        tensors = [*model.parameters(), *[p.grad for p in model.parameters()], *state]
        arrays = [t.detach().cpu().numpy().copy() for t in tensors]
        return arrays, (schedule.state_dict(), schedule.get_last_lr(), tg.random.default_generator.get_state())

    step = captured(fn, x)
    arrays, numbers = everything()
    broken[0] = True
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            step(x)
        found, found_numbers = everything()
        assert found_numbers == numbers
        for a, b in zip(found, arrays, strict=True):
            assert_same(a, b)
    broken[0] = False
    losses = [step(x).item() for _ in range(3)]

    model, optimizer, schedule = program()
    assert losses == [fn(x).item() for _ in range(4)][1:]


def test_state_that_begins_in_every_step_is_refused(x):
    """The call in which it begins is a plain one; that it begins in all of them is told in the end."""
    model, optimizer, _ = program()
    kind = [None]

    def fn(x):
        loss = model(x).sum()
        optimizer.zero_grad()
        loss.backward()
        if kind[0] == "same":
            optimizer.step()
        elif kind[0] == "new":
            optim.Adam(model.parameters(), lr=0.1).step()
        return loss

    step = captured(fn, x)
    kind[0] = "same"
    step(x)
    assert {s["step"].item() for s in optimizer.state.values()} == {1.0}
    assert step.summary() == "fn: no graph was captured"
    step(x), step(x)
    assert {s["step"].item() for s in optimizer.state.values()} == {3.0}
    assert "_adam_kernel" in step.summary()
    kind[0] = "new"
    step = captured(fn, x)
    with pytest.raises(tg.CaptureError, match="step would begin to remember a parameter at each step"):
        for _ in range(20):
            step(x)


def test_arguments_of_another_dtype_or_device(x):
    step = captured(lambda x: x + 1, x)
    step(x)
    with pytest.raises(TypeError, match="tensor 0 of the arguments is float64 on cuda; expected float32 on cuda as be"):
        step(x.double())
    with pytest.raises(TypeError, match="tensor 0 of the arguments is float32 on cpu; expected float32 on cuda as bef"):
        step(x.cpu())
    with pytest.raises(TypeError, match="tensor 1 of the arguments is on cpu, tensor 0 on cuda; expected one device"):
        tg.capture(lambda x, y: x)(x, x.cpu())
    with pytest.raises(ValueError, match="tensor 0 of the arguments requires grad; expected detach"):
        step(x.clone().requires_grad_())
    with pytest.raises(TypeError, match="an argument is a set; expected tensors and hashable values"):
        tg.capture(lambda x, y: x)(x, {1})
    assert step(x).tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"warmup": 0}, "capture: warmup is 0; expected an int >= 1"),
        ({"warmup": True}, "capture: warmup is True; expected an int >= 1"),
        ({"steps": 0}, "capture: steps is 0; expected an int >= 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        tg.capture(lambda x: x, **options)


def test_what_is_no_function():
    with pytest.raises(TypeError, match="capture: got a Tensor; expected a function"):
        tg.capture(tg.ones(2))


def test_a_schedule_of_a_rate_on_the_device(x):
    model = nn.Linear(3, 2).to("cuda")
    optimizer = optim.SGD(model.parameters(), lr=tg.tensor(0.1, device="cuda"))
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def fn(x):
        loss = F.mse_loss(model(x), x[:2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    step = captured(fn, x)
    with pytest.raises(tg.CaptureError, match="step would read a learning rate that is on the GPU"):
        step(x)


def test_a_rate_out_of_range_is_told_at_the_launch(x):
    model, optimizer, _ = program()

    def fn(x):
        loss = model(x).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = captured(fn, x)
    step(x)
    optimizer.param_groups[0]["lr"] = -1.0
    before = [s["step"].item() for s in optimizer.state.values()]
    with pytest.raises(ValueError, match="Adam: lr is -1.0"):
        step(x)
    assert [s["step"].item() for s in optimizer.state.values()] == before


def test_one_capture_at_a_time():
    with (
        cuda_graph.capture(),
        pytest.raises(RuntimeError, match="a graph is being captured already"),
        cuda_graph.capture(),
    ):
        pass
    gpu.xp().zeros(3)[0].item()  # the device is usable
