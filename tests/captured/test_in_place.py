"""In-place writes, constants and NumPy's own functions in a captured step on the CPU: the bits of the plain one."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import kernels, nn, optim
from tilegrad.nn import functional as F

# Steps run plainly here on purpose; that each says so, once, is tested in tests/captured/changes.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*it runs plainly, as summary:RuntimeWarning")


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


def arguments(n=6):
    """n calls' arguments."""
    rng = np.random.default_rng(0)
    return [tg.tensor(rng.standard_normal((4, 6)).astype(np.float32)) for _ in range(n)]


def trace(make, is_captured, calls):
    """The bits of results, arguments and state after each call, and which of the latter the call has written to."""
    tg.manual_seed(0)
    fn, *state = make()
    step = tg.capture(fn, warmup=1) if is_captured else fn
    seen, written = [], []
    for x in calls:
        versions = [t._version for t in (x, *state)]
        y = step(x)
        kept = [y, x, *state, *[t.grad for t in state if t.grad is not None]]
        seen.append([t.detach().numpy().copy() for t in kept])
        written.append([t._version != before for t, before in zip((x, *state), versions, strict=True)])
    return seen, written, step


def assert_as_plain(make, is_captured=True, calls=arguments):
    """Captured or not as is asked for, and in any case as the plain function. Returns the summary."""
    got, got_written, step = trace(make, True, calls())
    want, written, _ = trace(make, False, calls())
    for found, expected in zip(got, want, strict=True):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    assert got_written == written  # as autograd sees it
    assert bool(graphs(step)) == is_captured == ("runs plainly" not in step.summary()), step.summary()
    return step.summary()


def table():
    return tg.tensor(np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32))


WRITES = {
    "add_": lambda b, x: b.add_(x),
    "sub_ of a number": lambda b, x: b.sub_(0.5),
    "mul_ and add_": lambda b, x: b.mul_(0.9).add_(x * 0.1),
    "div_": lambda b, x: b.div_(x.abs() + 1),
    "copy_": lambda b, x: b.copy_(x),
    "copy_ of another dtype": lambda b, x: b.copy_(x.double()),
    "copy_ broadcast": lambda b, x: b.copy_(x[0]),
    "zero_": lambda b, x: b.zero_().add_(x),
    "fill_": lambda b, x: b.fill_(2.5).mul_(x),
    "fill_ with a tensor": lambda b, x: b.fill_(x.sum()),
    "setitem": lambda b, x: b.__setitem__(1, x[2]),
    "setitem of a slice": lambda b, x: b.__setitem__((slice(None), slice(1, 5, 2)), x[:, :2]),
    "setitem with a list": lambda b, x: b.__setitem__([3, 0], x[:2]),
    "setitem of a number by a mask": lambda b, x: b.__setitem__(x > 0, 0.25),
    "augmented": lambda b, x: b.__iadd__(x).__imul__(x),
    "exp_": lambda b, x: b.clamp_(-1, 1).exp_(),
    "relu_": lambda b, x: b.add_(x).relu_().neg_(),
    "masked_fill_": lambda b, x: b.add_(x).masked_fill_(x > 1, 7.0),
    "a view": lambda b, x: b[1:3].mul_(x[1:3]),
    "a transposed view": lambda b, x: b.transpose(0, 1).add_(x.transpose(0, 1)),
    "with itself": lambda b, x: b.copy_(b * 0.5 + x),
    "over itself": lambda b, x: b[1:].copy_(b[:-1]),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("where", ["before", "behind", "between"])
def test_a_buffer_is_written_to(write, where):
    """Whether it is read before the write, behind it, or both: reads and writes keep their order."""

    def make():
        buffer = table()

        def fn(x):
            early = x * buffer if where != "behind" else 0
            WRITES[write](buffer, x)
            late = x + buffer if where != "before" else 0
            return early + late

        return fn, buffer

    assert_as_plain(make)


@pytest.mark.parametrize("write", WRITES)
def test_an_argument_is_written_to(write):
    """It is the caller's memory that changes."""

    def make():
        def fn(x):
            y = x * 2
            WRITES[write](x, y)
            return x.sum() + y

        return (fn,)

    assert_as_plain(make)


@pytest.mark.parametrize("write", WRITES)
def test_a_result_is_written_to(write):
    def make():
        w = tg.ones(6, requires_grad=True)

        def fn(x):
            w.grad = None
            y = x * w
            with tg.no_grad():
                z = x * 2
                WRITES[write](z, x)
            (y * z).sum().backward()
            return z

        return fn, w

    assert_as_plain(make)


def test_a_write_that_is_differentiated():
    def make():
        w = tg.ones(6, requires_grad=True)

        def fn(x):
            w.grad = None
            y = x * 3
            y.mul_(w)
            y.exp_()
            y[0] = w * 2
            y.sum().backward()
            return y

        return fn, w

    assert_as_plain(make)


def test_an_optimizer_by_hand():
    def make():
        model = nn.Linear(6, 3)

        def fn(x):
            loss = model(x).square().mean()
            model.zero_grad()
            loss.backward()
            with tg.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
            return loss

        return fn, *model.parameters()

    assert_as_plain(make)


def test_an_average_of_the_weights():
    def make():
        model = nn.Linear(6, 3)
        average = [p.detach().clone() for p in model.parameters()]
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def fn(x):
            loss = F.relu(model(x)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with tg.no_grad():
                for a, p in zip(average, model.parameters(), strict=True):
                    a.mul_(0.9).add_(p * 0.1)
            return loss

        return fn, *model.parameters(), *average

    assert_as_plain(make)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training, momentum):
    """Running averages and the count of batches move with the step; by momentum None they are means of all batches."""

    def make():
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=momentum), nn.ReLU(), nn.Linear(5, 2))
        model.train(training)
        optimizer = optim.Adam(model.parameters(), lr=0.01)

        def fn(x):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return fn, *model.parameters(), *model.buffers()

    assert_as_plain(make)


def test_batch_norm_of_images():
    def make():
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

        def fn(x):
            model.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        return fn, *model.parameters(), *model.buffers()

    def images():
        return [tg.tensor(np.random.default_rng(i).standard_normal((3, 1, 4, 4)).astype(np.float32)) for i in range(5)]

    assert_as_plain(make, calls=images)


# --- constants


HOST = np.arange(6, dtype=np.float32)
CONSTANTS = {
    "a number": lambda x: x * 2 + 1 - x / 3,
    "tensor": lambda x: x + tg.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "tensor of an array": lambda x: x + tg.tensor(HOST),
    "tensor of an array, in another dtype": lambda x: x + tg.tensor(HOST, dtype=tg.float64),
    "from_numpy": lambda x: x + tg.from_numpy(HOST),
    "as_tensor": lambda x: x + tg.as_tensor(HOST),
    "an array as operand": lambda x: x + HOST,
    "zeros": lambda x: x + tg.zeros(4, 6),
    "ones": lambda x: x @ tg.ones(6, 3),
    "full": lambda x: x + tg.full((6,), 0.5),
    "arange": lambda x: x * tg.arange(6),
    "linspace": lambda x: x * tg.linspace(0, 1, 6),
    "eye": lambda x: x @ tg.eye(6),
    "ones_like": lambda x: tg.ones_like(x) + x,
    "one_hot": lambda x: x[:, :3] * F.one_hot(tg.tensor([0, 2, 1, 2]), 3),
    "made by NumPy": lambda x: x + tg.tensor(np.tri(4, 6, dtype=np.float32)),
    "labels": lambda x: F.cross_entropy(x, tg.tensor([0, 1, 2, 3])),
    "of constants alone": lambda x: x + tg.ones(6) * 2,
    "a mask": lambda x: x.masked_fill(tg.ones(4, 6).tril() == 0, -1.0),
    "empty, then filled": lambda x: x + tg.empty(4, 6).fill_(3.0),
    "an index": lambda x: x[[2, 0]] + x[tg.tensor([1, 1])],
    "written to": lambda x: tg.zeros(4, 6).add_(x).mul_(2),
    "written to in part": lambda x: _filled(tg.zeros(4, 6), x),
    "of the same memory": lambda x: _filled(tg.ones(4, 6).transpose(0, 1), x.transpose(0, 1)),
}


def _filled(total, x):
    total[1] = x[1]
    total[2] += x[3]
    return total + x


@pytest.mark.parametrize("constant", CONSTANTS)
def test_constants_are_part_of_the_step(constant):
    assert_as_plain(lambda: (CONSTANTS[constant],))


def test_an_array_of_the_host_is_read_at_each_launch():
    host = np.zeros(6, np.float32)

    def fn(x):
        return x + tg.tensor(host) + host

    step = tg.capture(fn, warmup=1)
    for i, x in enumerate(arguments()):
        assert_same(step(x).numpy(), fn(x).numpy())
        if i:
            assert len(graphs(step)) == 1
        host[i] = i + (i > 1)  # from the second launch on


@pytest.mark.parametrize("numbers", ["random", "counted"])
def test_constants_that_change_at_each_call_are_none(numbers):
    def make():
        rng, count = np.random.default_rng(3), []

        def fn(x):
            count.append(1)
            made = {"random": lambda: rng.random(6, np.float32), "counted": lambda: [float(len(count))] * 6}
            return x + tg.tensor(made[numbers]())

        return (fn,)

    got, _, step = trace(make, True, arguments(12))
    assert not graphs(step)
    told = step.summary()  # of random streams and counts by the code that reads them, of others by what they give
    assert "makes a tensor of other numbers at each call" in told or "goes on at each call" in told
    assert len({seen[0].tobytes() for seen in got}) == 12


def test_a_number_that_changes_once_is_none_of_the_first_step(rng=None):
    """Where the first call makes more, or other, constants than the later ones, those are captured."""
    w = tg.ones(6, requires_grad=True)

    def fn(x):
        if w.grad is not None:
            w.grad.zero_()
        (x * w).sum().backward()
        return w.grad

    step = tg.capture(fn, warmup=1)
    for x in arguments():
        assert_same(step(x).numpy(), np.add.reduce(x.numpy(), axis=0))
    assert graphs(step)


# --- what is refused, and rolled back


def test_a_gradient_that_flows_into_memory_from_outside():
    w = tg.ones(6, requires_grad=True)

    def make():
        def fn(x):
            x.mul_(w)
            return x.detach()

        return (fn,)

    assert "writes, with a gradient, to a tensor from outside" in assert_as_plain(make, is_captured=False)


def test_an_argument_that_is_written_to_and_returned():
    def make():
        return (lambda x: x.add_(1),)

    assert "writes to an argument, and keeps it or returns it" in assert_as_plain(make, is_captured=False)


def test_an_attempt_that_fails_has_not_written():
    """Writes of the attempt come about once, in the plain call."""

    def make():
        buffer = tg.zeros(4, 6)

        def fn(x):
            buffer.add_(x)
            buffer[0] = 1
            x.mul_(2)
            return buffer * float(buffer.sum())

        return fn, buffer

    assert "reads values" in assert_as_plain(make, is_captured=False)


def test_values_computed_beside_the_program_are_found():
    """The program's own NumPy on arrays from outside is done by the time anybody notices."""
    w = tg.ones(6)

    def make():
        def fn(x):
            y = tg.Tensor(w.data * w.data)
            y.add_(x[0])
            return x + y[None]

        return fn, w

    assert "beside it" in assert_as_plain(make, is_captured=False)


@pytest.mark.parametrize(
    "check",
    [
        lambda w, x: tg.allclose(w, w),
        lambda w, x: tg.equal(w, w),
        lambda w, x: F.one_hot(w.long()).sum(),
    ],
)
def test_values_of_tensors_from_outside_are_not_read_once_and_for_all(check):
    w = tg.ones(4, 6)

    def make():
        return lambda x: x + check(w, x), w

    assert_as_plain(make, is_captured=False)


# --- NumPy's functions are steps like any other


NUMPY = {
    "ufuncs": lambda x: (x.exp() + x.sin()) / (x.abs() + 1),
    "comparisons": lambda x: (x > 0).float() * (x != x[0]).float(),
    "where": lambda x: tg.where(x > 0, x, x * 2),
    "reductions": lambda x: x.mean(1) + x.var(1) + x.amax(1) + x.argmax(1),
    "cat and stack": lambda x: tg.cat([x, tg.stack([x[0], x[1]])]),
    "cumsum": lambda x: x.cumsum(1),
    "an index": lambda x: x[[2, 0]] + x[1:3, [3]],
    "transposed": lambda x: x.T.exp() + (x.T * 2).contiguous(),
    "of the program's own": lambda x: tg.from_numpy(np.exp(x.data) * 2).relu(),
    "norms": lambda x: F.layer_norm(x, (6,)) + F.group_norm(x, 2) + F.normalize(x),
}


INTO = {
    "a ufunc": lambda x, y: np.exp(x, y),
    "a ufunc by name": lambda x, y: np.exp(x, out=y),
    "an operator": lambda x, y: y.__iadd__(x),
    "add.at": lambda x, y: np.add.at(y, [0, 0], x[:2]),
    "a reduction": lambda x, y: np.add.reduce(x[None], 0, None, y),
    "a reduction by name": lambda x, y: np.add.reduce(x[None], out=y),
    "a function": lambda x, y: np.clip(x, 0, 1, y),
    "a function by name": lambda x, y: np.sum(x[None], axis=0, out=y),
    "concatenate": lambda x, y: np.concatenate((x[:1], x[1:]), 0, y),
    "a method": lambda x, y: x.clip(0, 1, y),
    "a reducing method": lambda x, y: x[None].sum(0, None, y),
}


@pytest.mark.parametrize("kept", [True, False], ids=["from outside", "made in the step"])
@pytest.mark.parametrize("call", INTO)
def test_numpy_s_results_in_given_memory_are_written_at_launches_only(call, kept):
    """Where the program does not know how, the step runs plainly. Nothing is written while it is recorded."""
    outside = np.zeros((4, 6), np.float32)

    def fn(x):
        y = outside if kept else (x * 0).data
        INTO[call](x.data, y)
        return x + tg.from_numpy(y)

    step = tg.capture(fn, warmup=1)
    xs = arguments()
    seen = []
    for x in xs:
        seen.append((step(x).numpy(), outside.copy()))
    outside[:] = 0
    for x, (y, memory) in zip(xs, seen, strict=True):
        assert_same(y, fn(x).numpy())
        assert_same(memory, outside)


@pytest.mark.parametrize("op", NUMPY)
def test_ops_of_numpy_are_part_of_the_step(op):
    assert_as_plain(lambda: (NUMPY[op],))


def test_gradients_through_ops_of_numpy():
    def make():
        w, v = (table().requires_grad_() for _ in range(2))

        def fn(x):
            w.grad = v.grad = None
            y = (x * w).tanh() + (w - v).exp() * x[:, :1]
            y = tg.where(y > 0, y, y * 0.1)
            y = tg.cat([y[:2], y[[3, 1]].clamp(-1, 1)])
            F.layer_norm(y, (6,)).square().mean().backward()
            return y

        return fn, w, v

    assert_as_plain(make)


def test_gradients_of_two_leaves_do_not_share_memory():
    def make():
        a, b = tg.ones(6, requires_grad=True), tg.ones(6, requires_grad=True)

        def fn(x):
            a.grad = b.grad = None
            (a.reshape(2, 3) + b.reshape(2, 3)).square().sum().backward()
            nn.utils.clip_grad_norm_([a, b], 1.0)
            return x * 2

        return fn, a, b

    assert_as_plain(make)


def test_large_results_share_memory():
    """As kernels' results do: what dies is used again within the program."""
    x = tg.ones(256, 256)

    def fn(x):
        for _ in range(20):
            x = (x * 1.5).exp().sqrt()
        return x

    step = tg.capture(fn, warmup=1)
    for _ in range(3):
        assert_same(step(x).numpy(), fn(x).numpy())
    (account,) = graphs(step)
    assert account.graph.nbytes < 6 * x.nbytes
