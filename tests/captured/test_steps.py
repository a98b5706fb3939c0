"""tilegrad.capture on the CPU: what any captured step does (tests/captured/steps.py), and what is a program's alone."""

from __future__ import annotations

import copy
import gc
import threading
from contextlib import nullcontext

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import *  # noqa: F403
from tests.captured.steps import Program, batches, graphs, values
from tests.compare import assert_same
from tilegrad import kernels, nn, optim
from tilegrad.data import image_batch
from tilegrad.kernels.cpu import threads
from tilegrad.nn import functional as F


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


def captured(fn, *args):
    """fn after its one plain call: the next is captured."""
    step = tg.capture(fn, warmup=1)
    step(*args)
    return step


def refusal(fn, *args):
    """Why fn runs plainly, after a call that must give what fn gives, and tell this line so, once."""
    step = captured(fn, *args)
    fn_gives = fn(*args)
    with pytest.warns(RuntimeWarning, match="runs plainly") as told:
        gives = step(*args)
    step(*args)
    assert [each.filename for each in told] == [__file__]
    assert str(told[0].message).partition(";")[0] in step.summary()
    if isinstance(fn_gives, tg.Tensor):
        assert_same(gives.numpy(), fn_gives.detach().numpy())
    assert not graphs(step)
    return step.summary()


# --- whole trainings


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2304, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip


def strided():
    """Layers whose shapes no tile serves, activations that NumPy computes, and pooling that overlaps."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=2), nn.GELU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 16, 3, groups=2), nn.SiLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 30), nn.Tanh(), nn.Linear(30, 10), nn.LogSoftmax(1),
    )  # fmt: skip


def train(make, capture, batch, steps=6, classes=10, **options):
    tg.manual_seed(0)
    model = make()
    optimizer = optim.Adam(model.parameters(), lr=1e-3, **options)
    rng = np.random.default_rng(0)

    def step(x, t):
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    call = tg.capture(step, warmup=1) if capture else step
    losses = []
    for _ in range(steps):
        x = tg.tensor(rng.standard_normal((batch, 1, 28, 28), np.float32))
        t = tg.tensor(rng.integers(0, classes, batch))
        losses.append(call(x, t).item())
    if capture:
        assert len(graphs(call)) == 1, call.summary()
    return losses, [a for p in model.parameters() for a in (p.detach().numpy(), p.grad.numpy())]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("make", [mlp, cnn, strided])
def test_training_gives_the_bits_of_the_plain_one(make, batch, backend):
    with kernels.use(backend):
        (losses, arrays), (want, expected) = train(make, True, batch), train(make, False, batch)
    assert losses == want
    assert len(set(losses)) == len(losses)
    for x, y in zip(arrays, expected, strict=True):
        assert_same(x, y)


@pytest.mark.parametrize("n", [1, 3])
def test_any_number_of_threads(n):
    before = threads.num_threads()
    threads.set_num_threads(n)
    try:
        assert train(cnn, True, 8)[0] == train(cnn, False, 8)[0]
    finally:
        threads.set_num_threads(before)


def test_two_trainings_at_once_are_as_if_alone():
    """Each captures while the other computes, and launches while the other has the team."""
    nets = {make: make() for make in (mlp, strided)}
    want = {make: train(lambda n=net: copy.deepcopy(n), False, 16, steps=12)[0] for make, net in nets.items()}
    found = {}

    def run(make):
        found[make] = train(lambda: copy.deepcopy(nets[make]), True, 16, steps=12)[0]

    workers = [threading.Thread(target=run, args=(make,)) for make in want]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == want


def test_batches_taken_by_their_index_in_the_step():
    """As the examples train: the data stays where it is, a step gets numbers of images; a schedule goes on in it."""
    rng = np.random.default_rng(0)
    images = tg.tensor(rng.integers(0, 256, (50, 1, 28, 28)).astype(np.uint8))
    labels = tg.tensor(rng.integers(0, 10, 50))
    losses = {}
    for is_captured in (False, True):
        tg.manual_seed(0)
        model = cnn()
        optimizer = optim.Adam(model.parameters())
        schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=20)

        def step(index, model=model, optimizer=optimizer, schedule=schedule):
            x, t = image_batch(images, index, 0.1, 0.3), labels[index]
            loss = F.cross_entropy(model(x), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            return loss

        call = tg.capture(step) if is_captured else step
        losses[is_captured] = values([call(index) for index in tg.randperm(50).split(7)])
    assert losses[True] == losses[False]
    assert len(graphs(call)) == 1, call.summary()
    with pytest.raises(IndexError, match=r"index\[1\] is 50; expected -50 <= index < 50"):
        call(tg.tensor([1, 50, 2, 3, 4, 5, 6]))


# --- what is captured anew


def test_the_backend_and_the_threads_are_part_of_it():
    x = tg.ones(64, 128)
    layer = nn.Linear(128, 64)
    step = captured(lambda x: layer(x), x)
    step(x)
    with kernels.use("reference"):
        want = layer(x).detach()
        for _ in range(3):
            assert_same(step(x).numpy(), want.numpy())
    assert len(graphs(step)) == 2
    before = threads.num_threads()
    threads.set_num_threads(before + 1)
    try:
        step(x), step(x)
        assert len(graphs(step)) == 3
    finally:
        threads.set_num_threads(before)
    step(x)
    assert len(graphs(step)) == 3


# --- memory


def test_results_are_the_callers():
    """They keep their values when the program goes on, and nothing made afterwards lies in its memory."""
    program = Program(True, warmup=1)
    data = batches(np.random.default_rng(0), shape=(4096, 6))
    losses = program.run(data[:5])
    before = values(losses)
    own = [p._grad.array for p in program.model.parameters()]
    made = [kernels.cpu.buffers.empty((4096, 8), np.float32) for _ in range(20)]
    for x in made:
        x.fill(7)
    gc.collect()
    program.run(data[5:])
    assert values(losses) == before
    assert all((x == 7).all() for x in made)
    assert not any(np.shares_memory(x, y) for x in made for y in own)


def test_what_dies_in_it_serves_again_in_it():
    """A chain of ten layers needs the memory of a few, not of ten."""
    layers = nn.Sequential(*[nn.Linear(256, 256) for _ in range(10)])
    x = tg.ones(256, 256)
    step = captured(lambda x: layers(x), x)
    with tg.no_grad():
        step(x), step(x)
    (account,) = graphs(step)
    assert account.graph.nbytes < 6 * x.nbytes


def test_arguments_of_any_layout_and_results_that_are_views():
    layer = nn.Conv2d(16, 16, 3)
    x = tg.randn(2, 16, 8, 8)
    step = captured(lambda x: layer(x)[:, 3:5].transpose(0, 1), x)
    for y in (x, x + 1, x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
        want = layer(y)[:, 3:5].transpose(0, 1)
        assert_same(step(y).numpy(), want.detach().numpy())
    assert len(graphs(step)) == 1


# --- what a program cannot have


HOST = np.ones(3, np.float32)
WEIGHT = tg.ones(3, requires_grad=True)
REASONS = {
    "item reads values": lambda x: tg.relu(x).sum().item(),
    "tolist reads values": lambda x: tg.relu(x).tolist(),
    "bool reads values": lambda x: 1 if tg.relu(x).sum() else 0,
    "repr reads values": lambda x: repr(x),
    "float reads values": lambda x: float(tg.relu(x).sum()),
    "numpy reads values": lambda x: tg.relu(x).numpy(),
    "one_hot reads values": lambda x: F.one_hot(x.long()).float(),
    "getitem reads values": lambda x: x[tg.relu(x).argmax()],
    "allclose reads values": lambda x: x if tg.allclose(tg.relu(x), x) else -x,
    "computes numpy.nonzero": lambda x: tg.relu(x).nonzero(),
    "masked_select takes elements by a mask": lambda x: tg.masked_select(x, x > 0),
    "asks for __int__": lambda x: int(tg.relu(x).data.argmax()),
    "computes numpy.unique": lambda x: tg.tensor(np.unique(tg.relu(x).data)),
    "takes elements by a mask": lambda x: tg.relu(x)[x > 0],
    "uses an array that was made beside it, with NumPy": lambda x: x + tg.Tensor(HOST),
    "relu uses an array that was made beside it": lambda x: tg.relu(tg.Tensor(WEIGHT.data * 2)),
}


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_told(reason):
    told = refusal(REASONS[reason], tg.ones(3))
    op, _, what = reason.partition(" reads")
    assert told.startswith("<lambda>(float32[3]) runs plainly: <lambda>: ")
    assert op in told and what in told
    assert f"({__file__}:{REASONS[reason].__code__.co_firstlineno})" in told


def test_numpy_that_writes_to_a_parameter_is_found_and_undone():
    layer = nn.Linear(4, 4)

    def fn(x):
        y = layer(x)
        layer.weight.data *= 0.5
        return y

    x = tg.ones(2, 4)
    before = layer.weight.detach().numpy().copy()
    step = captured(fn, x)
    for i in range(2, 5):
        with pytest.warns(RuntimeWarning, match="NumPy") if i == 2 else nullcontext():
            step(x)
        assert_same(layer.weight.detach().numpy(), before * np.float32(0.5**i))
    assert "writes to a parameter with NumPy" in step.summary()


def test_a_function_that_gives_a_tensor_other_memory_runs_plainly():
    w = tg.zeros(3)

    def fn(x):
        y = tg.relu(x)
        w.data = x
        return y

    step = captured(fn, tg.zeros(3))
    for gives, told in ((tg.ones(3), "gives a tensor other memory"), (tg.full((3,), 2.0), None)):
        with pytest.warns(RuntimeWarning, match=told) if told else nullcontext():
            step(gives)
        assert w.data is gives.data
    assert "gives a tensor other memory" in step.summary() and not graphs(step)


def test_random_numbers_of_the_program_go_on_as_in_plain_calls():
    """An attempt that fails leaves the engine's stream where it was."""
    x = tg.ones(8)

    def fn(x):
        y = F.dropout(tg.relu(x), 0.5)
        return y + y.sum().item()

    tg.manual_seed(3)
    want = [fn(x).numpy() for _ in range(4)]
    tg.manual_seed(3)
    step = tg.capture(fn, warmup=1)
    with pytest.warns(RuntimeWarning, match="reads values"):
        found = [step(x).numpy() for _ in want]
    for x, y in zip(found, want, strict=True):
        assert_same(x, y)
    assert "reads values" in step.summary()


def test_labels_out_of_range_are_told_at_the_launch_and_no_parameter_changes():
    program = Program(True, "plain", inside=False, warmup=1)
    data = batches(np.random.default_rng(0), n=5)
    program.run(data[:3])
    before = [p.detach().numpy().copy() for p in program.model.parameters()]
    x, t = data[3]
    wrong = t.clone()
    wrong[2] = 9
    with pytest.raises(ValueError, match=r"softmax_xent: t\[2\] is 9; expected 0 <= t < 4"):
        program.step(x, wrong)
    for p, y in zip(program.model.parameters(), before):
        assert_same(p.detach().numpy(), y)
    program.step(x, t)
    assert len(graphs(program.step)) == 1


def test_an_exception_of_the_function_is_raised_as_it_is():
    x = tg.ones(3)
    calls = []

    def fn(x):
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("mine")
        return tg.relu(x)

    step = captured(fn, x)
    with pytest.raises(KeyError, match="mine"):
        step(x)


# --- as on a GPU


def test_the_function_runs_when_it_is_captured_and_not_again():
    calls = []

    @tg.capture(warmup=1)
    def rectified(x, twice=False):
        calls.append(twice)
        return tg.relu(x)

    x = tg.ones(3)
    assert rectified.summary() == "rectified: no graph was captured"
    assert [rectified(x).tolist() for _ in range(4)] == [[1.0] * 3] * 4
    assert [rectified(x, twice=True).tolist() for _ in range(4)] == [[1.0] * 3] * 4
    assert calls == [False] * 2 + [True] * 2
    assert rectified.summary().startswith("rectified(float32[3]): 1 nodes, ")


def test_results_have_no_graph_of_gradients():
    w = tg.ones(2, requires_grad=True)
    step = captured(lambda x: {"y": tg.relu(w)}, tg.ones(2))
    for _ in range(2):
        y = step(tg.ones(2))["y"]
        assert not y.requires_grad
        assert y.tolist() == [1.0, 1.0]
    assert len(graphs(step)) == 1


def test_several_steps_that_run_plainly():
    step = tg.capture(lambda x: (x[x > 0].sum(), {"twice": x * 2}), steps=2)
    for i in range(4):
        with pytest.warns(RuntimeWarning, match="runs plainly") if i == 2 else nullcontext():
            total, more = step(tg.tensor([[1.0, 2.0], [3.0, 4.0]]))
        assert total.tolist() == [3.0, 7.0]
        assert more["twice"].tolist() == [[2.0, 4.0], [6.0, 8.0]]
    with pytest.raises(ValueError, match=r"tensor 0 of the arguments is \(3,\); expected \(2, ...\), one entry a step"):
        step(tg.ones(3))


def test_arguments_of_another_dtype():
    step = tg.capture(lambda x: x)
    step(tg.ones(2))
    with pytest.raises(TypeError, match="tensor 0 of the arguments is int64 on cpu; expected float32 on cpu as before"):
        step(tg.ones(2, dtype=tg.int64))
    with pytest.raises(ValueError, match="requires grad; expected detach"):
        step(tg.ones(2, requires_grad=True))


def test_a_function_that_nothing_says_the_device_of():
    with pytest.raises(TypeError, match="no tensor among its arguments or results, .*; expected one, such as the loss"):
        tg.capture(lambda: 3)()
