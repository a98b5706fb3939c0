"""A captured step on the CPU reads its arguments where they lie, however that is, and gives a plain call's bits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import kernels, nn, optim
from tilegrad.data import image_batch
from tilegrad.nn import functional as F

# Steps run plainly here on purpose; that each says so, once, is tested in tests/captured/changes.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*it runs plainly, as summary:RuntimeWarning")


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


def assert_read_where_they_lie(step, n=1):
    """n graphs, none of which has memory that an argument could be copied to, or did so at its last launch."""
    assert len(graphs(step)) == n, step.summary()
    for account in graphs(step):
        program = account.graph
        assert program._inputs and not program._copies
        assert all(each.own is None and each.memory is None for each in program._inputs)


def training(model, batches, *, loss=F.cross_entropy):
    """(the captured step after all batches, its losses, the plain one's)."""
    found = []
    for is_captured in (False, True):
        tg.manual_seed(0)
        net = model()
        optimizer = optim.Adam(net.parameters(), lr=0.01)

        def plain(x, t, net=net, optimizer=optimizer):
            value = loss(net(x), t)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            return value

        step = tg.capture(plain, warmup=1) if is_captured else plain
        found.append([step(*batch).item() for batch in batches])
    return step, found[1], found[0]


def images(n=5, batch=8, size=12):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, batch, 1, size, size)).astype(np.float32)
    t = rng.integers(0, 10, (n, batch))
    return [(tg.tensor(a), tg.tensor(b)) for a, b in zip(x, t, strict=True)]


def net(*layers, features):
    return lambda: nn.Sequential(*[layer() for layer in layers], nn.Flatten(), nn.Linear(features, 10))


MODELS = {
    "linear": net(nn.Flatten, lambda: nn.Linear(144, 32), nn.ReLU, features=32),
    "small linear": net(nn.Flatten, lambda: nn.Linear(144, 3), features=3),
    "convolution": net(lambda: nn.Conv2d(1, 16, 3), nn.ReLU, lambda: nn.MaxPool2d(2), features=400),
    "strided": net(lambda: nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.GELU, features=108),
    "normalised": net(lambda: nn.BatchNorm2d(1), lambda: nn.Conv2d(1, 2, 3), features=200),
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("model", MODELS)
def test_images_and_labels_are_not_copied(model, backend):
    with kernels.use(backend):
        step, losses, want = training(MODELS[model], images())
    assert losses == want
    assert_read_where_they_lie(step)


def test_an_index_is_not_copied():
    rng = np.random.default_rng(0)
    pixels = tg.tensor(rng.integers(0, 256, (40, 1, 12, 12)).astype(np.uint8))
    labels = tg.tensor(rng.integers(0, 10, 40))
    floats = tg.tensor(rng.standard_normal((40, 1, 12, 12)).astype(np.float32))

    def loss(y, index):
        return F.cross_entropy(y, labels[index])

    class Taken(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MODELS["convolution"]()

        def forward(self, index):
            return self.net(image_batch(pixels, index, 0.1, 0.3) + floats[index])

    batches = [(index, index) for index in tg.randperm(40).split(8)]
    step, losses, want = training(Taken, batches, loss=loss)
    assert losses == want
    assert_read_where_they_lie(step)


def test_targets_are_not_copied():
    rng = np.random.default_rng(0)
    batches = [(x, tg.tensor(rng.standard_normal((8, 10)).astype(np.float32))) for x, _ in images()]
    step, losses, want = training(MODELS["linear"], batches, loss=F.mse_loss)
    assert losses == want
    assert_read_where_they_lie(step)


# --- however they lie


def _misaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    shifted = memory.view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return shifted


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def _in(array, pad=1):
    """A view of larger memory, of every other column."""
    outer = np.full((len(array) + 2 * pad, 2 * array.shape[1] + 3), np.nan, array.dtype)
    view = outer[pad:-pad, 2 : 2 + 2 * array.shape[1] : 2]
    view[...] = array
    return view


LAYOUTS = {
    "in rows": np.ascontiguousarray,
    "in columns": np.asfortranarray,
    "with gaps": _in,
    "with gaps, in columns": lambda a: _in(np.ascontiguousarray(a.T)).T,
    "backwards": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "rows backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "one row for all": lambda a: np.broadcast_to(a[0], a.shape),
    "one column for all": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "misaligned": _misaligned,
    "read-only": _read_only,
    "behind an offset": lambda a: np.concatenate([np.zeros(3, a.dtype), a.ravel()])[3:].reshape(a.shape),
}
READERS = {
    "linear": lambda w: lambda x: F.relu(F.linear(x, w)),
    "sums": lambda w: lambda x: x.sum(0) * w[0] + x.sum(),
    "softmax": lambda w: lambda x: F.softmax(x, 1) + F.log_softmax(x, 0),
    "numpy": lambda w: lambda x: (x * w[0]).exp() + x[1:2] + x[[0]],
    "views": lambda w: lambda x: F.relu(x[2:, 1:]).T.contiguous(),
    "copies": lambda w: lambda x: x.contiguous() + x.double().float() + x.clone(),
    "convolution": lambda w: lambda x: F.conv2d(x[None, None], w[None, None, :3, :3]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_bits_of_a_plain_call(layout, reader):
    """Also those that an order in memory decides: a sum, or a product. Each layout has a graph of its own."""
    rng = np.random.default_rng(0)
    w = tg.tensor(rng.standard_normal((8, 40)).astype(np.float32))
    fn = READERS[reader](w)
    step = tg.capture(fn, warmup=1)
    with tg.no_grad():
        for _ in range(4):
            a = LAYOUTS[layout](rng.standard_normal((24, 40)).astype(np.float32))
            before = a.copy()
            x = tg.from_numpy(a)
            assert x.data.strides == a.strides
            assert_same(step(x).numpy(), fn(x).numpy())
            assert_same(a, before)
        assert_read_where_they_lie(step)
        other = tg.from_numpy(LAYOUTS["in columns" if layout in ("in rows", "behind an offset") else "in rows"](before))
        for _ in range(3):
            assert_same(step(other).numpy(), fn(other).numpy())
    assert_read_where_they_lie(step, 2)


@pytest.mark.parametrize("shape", [(0, 40), (24, 0), (0, 0)])
def test_empty_arguments(shape):
    w = tg.ones(40)

    def fn(x, y):
        return x.sum() + F.relu(y) + w.sum()

    step = tg.capture(fn, warmup=1)
    for i in range(4):
        x, y = tg.zeros(*shape), tg.full((3,), float(i))
        assert_same(step(x, y).numpy(), fn(x, y).numpy())
    assert_read_where_they_lie(step)


def test_arguments_that_end_where_a_page_does():
    """Nothing is read behind them, or before."""
    mmap = pytest.importorskip("mmap")
    page = mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, page), np.float32)
    w = tg.ones(8, 16)
    step = tg.capture(lambda x: F.linear(x, w).exp(), warmup=1)
    for _ in range(3):
        memory[:] = 0.5
        assert_same(
            step(tg.from_numpy(memory.reshape(-1, 16))).numpy(), np.full((page // 64, 8), np.exp(np.float32(8)))
        )
    assert_read_where_they_lie(step)


# --- what they share memory with


def test_an_argument_that_the_step_writes_to_by_another_name():
    """A view of a weight: what is read behind the optimizer's step is the new weight, as in the plain function."""

    def run(is_captured, layout):
        tg.manual_seed(0)
        layer = nn.Linear(8, 8, bias=False)
        optimizer = optim.SGD(layer.parameters(), lr=0.1)

        def fn(x):
            early = x * 2
            loss = layer(x.clone()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return early + x

        step = tg.capture(fn, warmup=1) if is_captured else fn
        seen = [step(layout(layer.weight.detach())).detach().numpy().copy() for _ in range(5)]
        return step, [*seen, layer.weight.detach().numpy()]

    for layout in (lambda w: w, lambda w: w.T, lambda w: w[2:3].expand(8, 8)):
        step, got = run(True, layout)
        _, want = run(False, layout)
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)
        assert_read_where_they_lie(step)


def test_an_argument_on_the_programs_own_memory():
    """The gradient that the last launch left is an argument of the next, which writes there: it is copied."""

    def run(is_captured):
        tg.manual_seed(0)
        layer = nn.Linear(8, 8, bias=False)
        x = tg.randn(4, 8)

        def fn(last):
            layer.zero_grad()
            layer(x * (1 + last.sum())).square().mean().backward()
            with tg.no_grad():
                layer.weight.sub_(0.1 * layer.weight.grad)
            return (last * layer.weight).sum() + last.exp().sum()

        step = tg.capture(fn, warmup=1) if is_captured else fn
        last, seen = tg.zeros(8, 8), []
        for i in range(8):
            seen.append(step(last).item())
            last = layer.weight.grad if i % 2 else layer.weight.grad.T  # its own memory, or a view of it
        return step, seen

    (step, got), (_, want) = run(True), run(False)
    assert got == want
    assert graphs(step) and all(account.graph._left for account in graphs(step))


def test_what_the_last_launch_left_is_an_argument_of_the_next():
    """Which writes there before it has read all of it: it is copied."""

    def run(is_captured):
        tg.manual_seed(0)
        w, kept = 0.3 * tg.randn(8, 8), SimpleNamespace(y=None)

        def fn(last):
            kept.y = y = last @ w
            return (y * 2 + last).sum()

        step = tg.capture(fn, warmup=1) if is_captured else fn
        last, seen = tg.randn(8, 8), []
        for i in range(12):
            seen.append(step(last).item())
            last = kept.y if i % 3 else kept.y.T
        return step, seen

    (step, got), (_, want) = run(True), run(False)
    assert got == want
    assert graphs(step)


def test_two_arguments_on_one_memory():
    def fn(x, y):
        early = y * 2
        x.mul_(3)
        return early + y

    step = tg.capture(fn, warmup=1)
    for _ in range(4):
        a, b = tg.ones(4, 4), tg.ones(4, 4)
        assert_same(step(a, a).numpy(), fn(b, b).numpy())
        assert_same(a.numpy(), b.numpy())
        assert_same(step(a, a[1:2].expand(4, 4)).numpy(), fn(b, b[1:2].expand(4, 4)).numpy())
        assert_same(a.numpy(), b.numpy())
    assert_read_where_they_lie(step, 2)


def test_an_argument_that_is_kept_is_copied():
    """What the function keeps of it, or returns, has the values of the last call, and is nobody else's memory."""
    kept = SimpleNamespace(x=None)

    def fn(x):
        kept.x = x[1:]
        return x[:1], x * 2

    step = tg.capture(fn, warmup=1)
    step(tg.zeros(3))
    for i in range(4):
        x = tg.full((3,), float(i))
        first, twice = step(x)
        x.fill_(9.0)
        assert (first.tolist(), twice.tolist()) == ([i], [2.0 * i] * 3)
        assert kept.x.tolist() == [i, i]
    (account,) = graphs(step)
    assert account.graph._inputs[0].fixed


def test_what_is_kept_shares_memory_with_what_is_written():
    """A copy would miss what the step writes in between: such a call runs plainly, others do not."""

    def run(is_captured):
        buffer, kept, calls = tg.zeros(4), SimpleNamespace(x=None), []

        def fn(x):
            calls.append(1)
            kept.x = x
            buffer.add_(1)
            return x * 2

        step = tg.capture(fn, warmup=1) if is_captured else fn
        seen = []
        for i in range(8):
            seen.append(step(buffer[:2] if i in (4, 5) else tg.full((2,), float(i))).tolist())
        return seen, buffer.tolist(), len(calls)

    (got, buffer, calls), (want, expected, _) = run(True), run(False)
    assert (got, buffer) == (want, expected)
    assert calls == 4  # a plain one, the captured one, and two


def test_arguments_belong_to_the_caller_after_the_call():
    """They may be freed or overwritten: results are not theirs, and the next launch reads its own arguments."""
    w = tg.ones(64, 64)
    step = tg.capture(lambda x, i: (F.linear(x, w), x[i], x.sum(1)), warmup=1)
    held = []
    for k in range(6):
        x, i = tg.full((64, 64), float(k)), tg.tensor([k % 3, 5])
        held.append((k, step(x, i)))
        x.fill_(-1.0)
        i.fill_(63)
        del x, i
    for k, (product, rows, sums) in held:
        assert_same(product.numpy(), np.full((64, 64), 64 * k, np.float32))
        assert_same(rows.numpy(), np.full((2, 64), k, np.float32))
        assert_same(sums.numpy(), np.full(64, 64 * k, np.float32))
    assert_read_where_they_lie(step)


def test_a_bad_label_is_told_of_the_caller_s_own():
    layer = nn.Linear(4, 3)
    step = tg.capture(lambda x, t: F.cross_entropy(layer(x), t), warmup=1)
    x = tg.ones(5, 4)
    for _ in range(3):
        step(x, tg.zeros(5, dtype=tg.int64))
    with pytest.raises(ValueError, match=r"softmax_xent: t\[3\] is 7; expected 0 <= t < 3"):
        step(x, tg.tensor([0, 1, 2, 7, 0]))
    assert_read_where_they_lie(step)


def test_an_index_out_of_range_is_told():
    table = tg.ones(4, 2)
    step = tg.capture(lambda i: table[i] * 2, warmup=1)
    for _ in range(3):
        step(tg.tensor([0, 3]))
    with pytest.raises(IndexError, match=r"take_rows: index\[1\] is 4; expected -4 <= index < 4"):
        step(tg.tensor([0, 4]))
    assert_read_where_they_lie(step)
