"""What a captured step reads of the program around it and finds changed: it does what the function would do now.

tests/cuda/test_capture_changes.py and tests/captured/test_changes.py run these, each on its device.
"""

from __future__ import annotations

import collections
import functools
import random
import sys
import types
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import ON, assert_graphs, graphs
from tests.compare import assert_same
from tilegrad import kernels, nn, optim
from tilegrad.kernels.device import gpu
from tilegrad.nn import functional as F

THIS = sys.modules[__name__]
SLOPES = (0.25, -0.5)  # of leaky_relu, in the two states of the program
slope = SLOPES[0]  # a global that a case changes
step = 0  # a global that no case reads, though they name attributes so


def randn(*shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return tg.tensor(x, device=ON["device"])


def parts(results):
    """Arrays, and None, of what a function returned."""
    results = results if isinstance(results, (tuple, list)) else [results]
    return [x if x is None else x.detach().cpu().numpy() for x in results]


def assert_alike(got, want):
    for a, b in zip(parts(got), parts(want), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same(a, b)
            assert a.tobytes() == b.tobytes()  # zeros have signs


def rectified(x, negative_slope=SLOPES[0]):
    return F.leaky_relu(x, negative_slope)


def by_global(x):
    return F.leaky_relu(x, slope)


@dataclass
class Options:
    slope: float = SLOPES[0]


class Loss:
    """An object with what code of the program may read."""

    default = SLOPES[0]
    __slots__ = ("__dict__", "apart")

    def __init__(self):
        self.slope, self.apart, self.options = SLOPES[0], SLOPES[0], Options()

    def __call__(self, x):
        return F.leaky_relu(x, self.slope)

    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        return F.leaky_relu(x, self.slope)

    @property
    def twice(self):
        return 2 * self.slope

    @functools.cached_property
    def once(self):
        return self.slope

    @staticmethod
    def by_global(x):
        return by_global(x)

    @classmethod
    def of_class(cls, x):
        return F.leaky_relu(x, cls.default)


class Constant:
    """A descriptor."""

    def __get__(self, instance, owner=None):
        return slope


class Described:
    slope = Constant()


class Child(Loss):
    def helper(self, x):
        return super().helper(x)


def logged(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


def of_object(fn, name="slope", cls=Loss):
    """(the function of an object, how its attribute is set)."""
    loss = cls()
    return fn(loss), lambda k: setattr(loss, name, SLOPES[k])


# By what changes: a function that gives (a function of x, what puts the program into state 0 or 1).
CASES = {}


def case(build):
    CASES[build.__name__.replace("_", " ").strip()] = build
    return build


def closed_over(value_0, value_1, fn):
    """fn(x, what a cell has)."""
    value = value_0

    def change(k):
        nonlocal value
        value = (value_0, value_1)[k]

    return lambda x: fn(x, value), change


CASES |= {
    "a number in a cell": lambda: closed_over(*SLOPES, F.leaky_relu),
    "the sign of zero in a cell": lambda: closed_over(0.0, -0.0, F.leaky_relu),
    "a bool in a cell": lambda: closed_over(True, False, lambda x, on: tg.relu(x) if on else tg.tanh(x)),
    "None in a cell": lambda: closed_over(None, 1, lambda x, v: tg.relu(x) if v is None else tg.tanh(x)),
    "a string in a cell": lambda: closed_over("none", "tanh", lambda x, name: F.gelu(x, name)),
    "a tuple in a cell": lambda: closed_over((0, 1), (1, 0), lambda x, order: x.permute(*order)),
    "a tensor in a cell": lambda: closed_over(randn(6, 3, seed=1), randn(6, 3, seed=2), tg.matmul),
    "a module in a cell": lambda: closed_over(nn.LeakyReLU(0.25), nn.Tanh(), lambda x, layer: layer(x)),
    "a function in a cell": lambda: closed_over(tg.relu, tg.tanh, lambda x, f: f(x)),
    "an object in a cell": lambda: closed_over(Options(0.25), Options(0.5), lambda x, o: F.leaky_relu(x, o.slope)),
    "a cell of a cell": lambda: (lambda fn, change: (lambda x: fn(x), change))(*closed_over(*SLOPES, F.leaky_relu)),
    "a global": lambda: (by_global, lambda k: setattr(THIS, "slope", SLOPES[k])),
    "a global of a helper": lambda: (lambda x: by_global(x), lambda k: setattr(THIS, "slope", SLOPES[k])),
    "an attribute of a module of the program": lambda: (
        lambda x: F.leaky_relu(x, THIS.slope),
        lambda k: setattr(THIS, "slope", SLOPES[k]),
    ),
    "a helper that is replaced": lambda: (
        lambda x: rectified(x),
        functools.partial(lambda both, k: setattr(THIS, "rectified", both[k]), (rectified, lambda x: tg.tanh(x))),
    ),
    "a default argument": lambda: (
        rectified,
        lambda k: setattr(rectified, "__defaults__", (SLOPES[k],)),
    ),
    "a default argument of a helper": lambda: (
        lambda x: rectified(x),
        lambda k: setattr(rectified, "__defaults__", (SLOPES[k],)),
    ),
    "an attribute": lambda: of_object(lambda loss: lambda x: F.leaky_relu(x, loss.slope)),
    "an attribute of an attribute": lambda: (lambda loss: (
        lambda x: F.leaky_relu(x, loss.options.slope),
        lambda k: setattr(loss.options, "slope", SLOPES[k]),
    ))(Loss()),
    "an attribute in a slot": lambda: of_object(lambda loss: lambda x: F.leaky_relu(x, loss.apart), "apart"),
    "an attribute by a local name": lambda: of_object(
        lambda loss: lambda x: (lambda o: F.leaky_relu(x, o.slope))(loss)
    ),
    "an attribute of a simple namespace": lambda: of_object(
        lambda loss: lambda x: F.leaky_relu(x, loss.slope), cls=types.SimpleNamespace
    ),
    "a class's attribute": lambda: (
        lambda x: F.leaky_relu(x, Loss.default), lambda k: setattr(Loss, "default", SLOPES[k])
    ),
    "a class's attribute, by an object": lambda: (lambda loss: (
        lambda x: F.leaky_relu(x, loss.default), lambda k: setattr(Loss, "default", SLOPES[k])
    ))(Loss()),
    "a class's attribute that an object gets": lambda: (lambda loss: (
        lambda x: F.leaky_relu(x, loss.default),
        lambda k: vars(loss).update(default=SLOPES[1]) if k else vars(loss).pop("default", None),
    ))(Loss()),
    "an attribute that may be missing": lambda: (lambda loss: (
        lambda x: F.leaky_relu(x, getattr(loss, "added", SLOPES[0])),
        lambda k: vars(loss).update(added=SLOPES[1]) if k else vars(loss).pop("added", None),
    ))(Loss()),
    "what a property reads": lambda: of_object(lambda loss: lambda x: F.leaky_relu(x, loss.twice)),
    "what a static method reads": lambda: (
        lambda x: Loss.by_global(x), lambda k: setattr(THIS, "slope", SLOPES[k])
    ),
    "what a class method reads": lambda: (lambda x: Loss.of_class(x), lambda k: setattr(Loss, "default", SLOPES[k])),
    "what a descriptor reads": lambda: (lambda o: (
        lambda x: F.leaky_relu(x, o.slope), lambda k: setattr(THIS, "slope", SLOPES[k])
    ))(Described()),
    "what a bound method reads": lambda: of_object(lambda loss: loss.forward),
    "what super's method reads": lambda: of_object(lambda loss: loss.forward, cls=Child),
    "what a callable object reads": lambda: of_object(lambda loss: loss),
    "what a called object reads": lambda: of_object(lambda loss: lambda x: loss(x)),
    "what an argument's method reads": lambda: of_object(
        lambda loss: functools.partial(lambda o, x: o.forward(x), loss)
    ),
    "what a partial holds": lambda: of_object(lambda loss: functools.partial(lambda x, loss: loss(x), loss=loss)),
    "what a decorated function reads": lambda: of_object(lambda loss: logged(lambda x: F.leaky_relu(x, loss.slope))),
    "what a decorated helper reads": lambda: (lambda fn, change: (lambda x: logged(fn)(x), change))(
        *of_object(lambda loss: lambda x: F.leaky_relu(x, loss.slope))
    ),
    "what a function under no_grad reads": lambda: of_object(
        lambda loss: tg.no_grad()(lambda x: F.leaky_relu(x, loss.slope))
    ),
    "what a captured helper reads": lambda: of_object(
        lambda loss: functools.partial(lambda f, x: f(x), tg.capture(lambda x: F.leaky_relu(x, loss.slope)))
    ),
    "what a generator reads": lambda: of_object(
        lambda loss: lambda x: next(F.leaky_relu(x, loss.slope) for _ in [0])
    ),
    "an item of a dict": lambda: (lambda d: (
        lambda x: F.leaky_relu(x, d["slope"]), lambda k: d.update(slope=SLOPES[k])
    ))({"slope": SLOPES[0]}),
    "options of a dict": lambda: (lambda d: (
        lambda x: F.leaky_relu(x, **d), lambda k: d.update(negative_slope=SLOPES[k])
    ))({"negative_slope": SLOPES[0]}),
    "an item that a dict gets": lambda: (lambda d: (
        lambda x: F.leaky_relu(x, d.get("slope", SLOPES[0])), lambda k: d.update(slope=SLOPES[1]) if k else d.clear()
    ))({}),
    "an item of a list": lambda: (lambda v: (
        lambda x: F.leaky_relu(x, v[0]), lambda k: v.__setitem__(0, SLOPES[k])
    ))([0]),
    "the items of a list": lambda: (lambda v: (
        lambda x: functools.reduce(lambda y, f: f(y), v, x), lambda k: v.__setitem__(slice(1, None), [tg.tanh] * k)
    ))([tg.relu]),
    "an item of a deque": lambda: (lambda v: (
        lambda x: F.leaky_relu(x, v[0]), lambda k: (v.clear(), v.append(SLOPES[k]))
    ))(collections.deque()),
    "what tensors have in a dict": lambda: (lambda d, both: (
        lambda x: x @ next(iter(d)) if len(d) == 1 else x,
        lambda k: (d.clear(), d.update({both[k]: 1})),
    ))({}, (randn(6, 3, seed=1), randn(6, 3, seed=2))),
    "what a set has": lambda: (lambda v: (
        lambda x: tg.relu(x) if "relu" in v else tg.tanh(x),
        lambda k: v.discard("relu") if k else v.add("relu"),
    ))(set()),
    "an object in a tuple in a list": lambda: of_object(
        lambda loss: (lambda held: lambda x: [F.leaky_relu(x, o.slope) for o, _ in held][0])([(loss, 1)])
    ),
}  # fmt: skip


# --- modules


class Layer(nn.Module):
    """A module of the program's own."""

    def __init__(self):
        super().__init__()
        self.slope, self.options, self.extra = SLOPES[0], Options(), None

    def forward(self, x):
        y = F.leaky_relu(x, self.slope if self.extra is None else self.extra)
        return F.leaky_relu(y, getattr(self, "added", 1.0) * self.options.slope)


def of_module(module, name, *values):
    module = module.to(ON["device"])
    return lambda x: module(x), lambda k: setattr(module, name, values[k])


def layers(*modules):
    tg.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 4), *modules).to(ON["device"])


def hook_that_comes_and_goes(register, hook):
    handles = []

    def change(k):
        if k and not handles:
            handles.append(register(hook))
        elif not k and handles:
            handles.pop().remove()

    return change


@case
def negative_slope_of_a_layer():
    return of_module(nn.LeakyReLU(0.25), "negative_slope", *SLOPES)


@case
def negative_slope_of_a_fused_layer():
    model = layers(nn.LeakyReLU())
    return lambda x: model(x), lambda k: setattr(model[1], "negative_slope", (0.01, 0.5)[k])


@case
def what_a_class_computes_by():
    return of_module(nn.GELU(), "approximate", "none", "tanh")


@case
def the_axis_of_softmax():
    return of_module(nn.Softmax(1), "dim", 1, 0)


@case
def the_smoothing_of_a_loss():
    loss, t = nn.CrossEntropyLoss(), tg.tensor([0, 5, 2, 3, 1], device=ON["device"])
    return lambda x: loss(x, t), lambda k: setattr(loss, "label_smoothing", (0.0, 0.3)[k])


@case
def the_padding_of_a_convolution():
    tg.manual_seed(3)
    conv = nn.Conv2d(1, 4, 3, padding=1).to(ON["device"])
    return lambda x: conv(x.reshape(1, 1, 5, 6)), lambda k: setattr(conv, "padding", (1, 0)[k])


@case
def an_attribute_of_ones_own_module():
    return of_module(Layer(), "slope", *SLOPES)


@case
def an_attribute_that_was_None():
    return of_module(Layer(), "extra", None, 0.5)


@case
def an_attribute_that_a_module_gets():
    layer = Layer()
    return lambda x: layer(x), lambda k: setattr(layer, "added", 0.5) if k else vars(layer).pop("added", None)


@case
def an_attribute_in_the_place_of_another():
    layer = Layer()

    def change(k):
        for name in ("added", "other"):
            vars(layer).pop(name, None)
        setattr(layer, ("added", "other")[k], SLOPES[0])  # in order, all values stay the same objects

    return lambda x: layer(x), change


@case
def an_attribute_by_its_dict():
    layer = Layer()
    return lambda x: layer(x), lambda k: vars(layer).update(slope=SLOPES[k])


@case
def an_object_that_a_module_has():
    layer = Layer()
    return lambda x: layer(x), lambda k: setattr(layer.options, "slope", SLOPES[k])


@case
def a_module_as_the_function():
    layer = Layer()
    return layer, lambda k: setattr(layer, "slope", SLOPES[k])


@case
def the_forward_of_a_module_as_the_function():
    layer = Layer()
    return layer.forward, lambda k: setattr(layer, "slope", SLOPES[k])


@case
def a_forward_of_an_object():
    layer = nn.Tanh()
    return lambda x: layer(x), lambda k: setattr(layer, "forward", tg.relu) if k else vars(layer).pop("forward", None)


@case
def a_submodule():
    model, members = layers(nn.ReLU(), nn.Tanh()), (nn.Tanh(), nn.Sigmoid())
    return lambda x: model(x), lambda k: setattr(model, "2", members[k])


@case
def an_attribute_below_a_module_that_code_reads():
    model = layers()
    return lambda x: F.leaky_relu(x, model[0].slope), lambda k: setattr(model[0], "slope", SLOPES[k])


@case
def a_forward_hook():
    model = layers(nn.ReLU())
    return lambda x: model(x), hook_that_comes_and_goes(model[1].register_forward_hook, lambda m, a, y: tg.tanh(y))


@case
def a_forward_hook_in_the_place_of_another():
    model, hooks = layers(nn.ReLU()), (lambda m, a, y: tg.tanh(y), lambda m, a, y: tg.sigmoid(y))
    key = model.register_forward_hook(hooks[0])._key
    return lambda x: model(x), lambda k: model._forward_hooks.update({key: hooks[k]})


@case
def a_pre_hook():
    model = layers()
    return lambda x: model(x), hook_that_comes_and_goes(model.register_forward_pre_hook, lambda m, a: tg.tanh(a[0]))


@case
def what_a_hook_reads():
    model = layers()
    fn, change = of_object(lambda loss: lambda m, a, y: F.leaky_relu(y, loss.slope))
    model.register_forward_hook(fn)
    return lambda x: model(x), change


@case
def the_mode_of_a_module():
    model = layers(nn.Dropout(1.0))
    return lambda x: model(x), lambda k: model.train(bool(k))


@case
def the_probability_of_dropout():
    model = layers(nn.Dropout(1.0))
    return lambda x: model(x), lambda k: setattr(model[1], "p", (1.0, 0.0)[k])


# --- tensors


def gradients(*leaves):
    """A function of x that gives the gradients of these, (6, 4) and (4, 3)."""

    optimizer = optim.SGD(leaves, lr=1.0)

    def fn(x):
        optimizer.zero_grad()
        loss = tg.relu(tg.relu(x @ leaves[0]) @ leaves[1]).sum()
        loss.backward()
        return tuple(leaf.grad for leaf in leaves)

    return fn


def leaves():
    return randn(6, 4, seed=1).requires_grad_(), randn(4, 3, seed=2).requires_grad_()


@case
def whether_a_tensor_requires_grad():
    w, v = leaves()
    return gradients(w, v), lambda k: v.requires_grad_(bool(k))


@case
def whether_a_parameter_requires_grad():
    model = layers(nn.ReLU(), nn.Linear(4, 3).to(ON["device"]))
    first, second = model[0].weight, model[2].weight

    def fn(x):
        model.zero_grad()
        model(x).sum().backward()
        return first.grad, second.grad

    return fn, lambda k: second.requires_grad_(bool(k))


@case
def a_hook_of_a_tensor():
    w, v = leaves()
    w.register_hook(tg.relu).remove()
    return gradients(w, v), hook_that_comes_and_goes(w.register_hook, lambda g: tg.relu(g))


@case
def an_item_that_goes_from_the_end_of_one_list_to_the_beginning_of_the_next():
    first, second = [], []

    def fn(x):
        for op in first:
            x = op(x)
        x = x * 2
        for op in second:
            x = op(x)
        return x

    def change(k):
        first[:] = [tg.relu, tg.tanh][: 2 - k]
        second[:] = [tg.tanh, tg.sigmoid][1 - k :]

    return fn, change


@case
def what_a_hook_of_a_tensor_reads():
    w, v = leaves()
    hook, change = of_object(lambda loss: lambda g: F.leaky_relu(g, loss.slope))
    v.register_hook(hook)
    return gradients(w, v), change


@case
def the_memory_of_a_tensor():
    w, arrays = randn(6, 4, seed=1), (randn(6, 4, seed=2).data, randn(6, 4, seed=3).data)
    return lambda x: x @ w, lambda k: setattr(w, "data", arrays[k])


@pytest.fixture(autouse=True)
def globals_come_back(monkeypatch):
    monkeypatch.setattr(THIS, "slope", SLOPES[0])
    monkeypatch.setattr(THIS, "rectified", rectified)
    monkeypatch.setattr(Loss, "default", SLOPES[0])
    yield
    rectified.__defaults__ = (SLOPES[0],)


@pytest.mark.parametrize("what", CASES)
def test_what_changes_is_followed(what):
    """Each state of the program is captured once, and its graph serves again when the state is back."""
    fn, change = CASES[what]()
    change(0)
    step, x, seen = tg.capture(fn, warmup=1), randn(5, 6), {}
    for k in (0, 0, 0, 1, 1, 1, 0, 1):
        change(k)
        seen[k] = fn(x)
        assert_alike(step(x), seen[k])
    with pytest.raises(AssertionError):
        assert_alike(seen[0], seen[1])
    assert_graphs(step, 2)


def test_the_first_hook_of_a_tensor_is_noticed():
    w, v = leaves()
    fn, x = gradients(w, v), randn(5, 6)
    step = tg.capture(fn, warmup=1)
    for _ in range(3):
        without = step(x)
    v.register_hook(tg.tanh)
    want = fn(x)
    with pytest.raises(AssertionError):
        assert_alike(without, want)
    for _ in range(3):
        assert_alike(step(x), want)
    assert_graphs(step, 2)


def test_another_optimizer_and_another_model():
    def run(captured):
        tg.manual_seed(1)
        models = [nn.Linear(6, 4).to(ON["device"]) for _ in range(2)]
        optimizers = [optim.SGD(m.parameters(), lr=0.01) for m in models]
        model, optimizer = models[0], optimizers[0]

        def fn(x):
            loss = tg.relu(model(x)).sum()
            model.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        call = tg.capture(fn, warmup=1) if captured else fn
        losses = []
        for k in (0, 0, 0, 1, 1, 1, 0, 1):
            model, optimizer = models[k], optimizers[k]
            losses.append(call(randn(5, 6)).item())
        return losses, [p for m in models for p in m.parameters()], call

    (got, tensors, call), (want, expected, _) = run(True), run(False)
    assert got == want and len(set(got)) == len(got)
    assert_alike(tensors, expected)
    assert_graphs(call, 2)


def test_a_captured_method_follows_its_objects():
    class Net:
        def __init__(self, slope):
            self.slope = slope

        @tg.capture(warmup=1)
        def rectified(self, x):
            return F.leaky_relu(x, self.slope)

    nets, x = [Net(0.25), Net(-0.5)], randn(5, 6)
    for k in (0, 0, 0, 1, 1, 1):
        for net in nets:
            net.slope = net.slope if k == 0 else 0.75
            assert_alike(net.rectified(x), F.leaky_relu(x, net.slope))


def test_an_attribute_that_a_module_gets_beside_one_that_its_forward_sets():
    class Watched(Layer):
        last = None

        def forward(self, x):
            self.last = super().forward(x)
            return tg.tanh(self.last)

    model, x = Watched(), randn(5, 6)
    call = tg.capture(lambda x: model(x), warmup=1)
    for k in (0, 0, 0, 1, 1, 1):
        if k:
            model.added = 0.5
        assert_alike(call(x), model(x))
    assert_graphs(call, 2)


def test_options_of_an_optimizer_that_the_function_reads():
    optimizer = optim.SGD([randn(2).requires_grad_()], lr=0.5)

    def fn(x):
        y = F.leaky_relu(x, optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups:
            y = F.leaky_relu(y, group["momentum"])
        return y

    step, x = tg.capture(fn, warmup=1), randn(5, 6)
    for lr, momentum in [(0.5, 0.0)] * 3 + [(0.25, 0.0)] * 3 + [(0.25, 0.9)] * 3:
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        assert_alike(step(x), fn(x))
    optimizer.param_groups[0]["weight_decay"] = 0.1  # which the function does not name
    step(x)
    assert_graphs(step, 3)


# --- what is no change


def test_equal_values_and_what_the_function_does_not_read_are_no_change():
    class Trainer:
        def __init__(self):
            self.model, self.slope, self.epoch, self.losses = layers(), 0.25, 0, []
            self.step = 0  # as the attribute of another object, below, is called
            self.other = types.SimpleNamespace(step=tg.relu)

        def forward(self, x):
            return self.other.step(F.leaky_relu(self.model(x), self.slope))

    trainer, x = Trainer(), randn(5, 6)
    call = tg.capture(trainer.forward, warmup=1)
    for i in range(6):
        THIS.step = i
        trainer.step, trainer.epoch, trainer.slope = i, i, float("0.25")
        trainer.losses.append(call(x))
        trainer.model[0].weight.grad = randn(4, 6)
        tg.manual_seed(i)
    assert_graphs(call, 1)


# --- what the function itself changes


def refused(fn, x, n=5, match="is changed by the function that reads it"):
    """What fn gives n times, and why it is not captured; on a GPU, where that is an error, once."""
    call = tg.capture(fn, warmup=1)
    first = call(x)
    if ON["device"] == "cuda":
        for _ in range(2):
            with pytest.raises(tg.CaptureError, match=match) as told:
                call(x)
        return [first], str(told.value)
    with pytest.warns(RuntimeWarning, match=match) as told:
        results = [first, *[call(x) for _ in range(n - 1)]]
    assert len(told) == 1 and told[0].filename == __file__
    return results, str(told[0].message)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 1

    def forward(self, x):
        self.calls += 1
        return F.leaky_relu(x, 1 / self.calls)


def counting_in(kind):
    count, counts, options = 1, [1], {"calls": 1}
    counting, data = Counting(), types.SimpleNamespace(calls=1)

    def in_a_cell(x):
        nonlocal count
        count += 1
        return F.leaky_relu(x, 1 / count)

    def in_a_list(x):
        counts[0] += 1
        return F.leaky_relu(x, 1 / counts[0])

    def in_a_longer_list(x):
        counts.append(1)
        return F.leaky_relu(x, 1 / len(counts))

    def in_a_dict(x):
        options["calls"] += 1
        return F.leaky_relu(x, 1 / options["calls"])

    def in_an_object(x):
        data.calls += 1
        return F.leaky_relu(x, 1 / data.calls)

    in_a_module = functools.partial(lambda m, x: m(x), counting)
    in_the_module_itself = counting
    return locals()[kind]


DRAWS = ["an iterator", "a generator of NumPy's", "NumPy's own", "a generator of Python's", "Python's own"]
DRAWS += ["a function of Python's own"]
KINDS = "in_a_cell in_a_list in_a_longer_list in_a_dict in_an_object in_a_module in_the_module_itself"


@pytest.mark.parametrize("kind", KINDS.split())
def test_a_count_that_the_function_keeps(kind):
    """No launch would count; an attempt to capture leaves the count where it was."""
    x = randn(5, 6)
    found, text = refused(counting_in(kind), x)
    for i, y in enumerate(found):
        assert_alike(y, F.leaky_relu(x, 1 / (i + 2)))
    assert "count" in text or "calls" in text


def test_an_exception_leaves_what_the_function_has_changed_as_it_was():
    """On the CPU the function is called once more, plainly, and raises what it raises."""
    data, items, options, names, layer = types.SimpleNamespace(calls=0), [1], {"a": 1}, {"a"}, layers()

    def fn(x):
        layer.eval(), layer[0].weight.requires_grad_(False)
        data.calls += 1
        if items[-1] and options and names and data.calls > 1:
            items[-1], options["b"] = len(items) + 1, len(options)
            items.append(2), names.add("b")
            raise KeyError("mine")
        return layer(x)

    call, x = tg.capture(fn, warmup=1), randn(5, 6)
    call(x), layer.train(), layer.requires_grad_()
    with pytest.raises(KeyError, match="mine"):
        call(x)
    is_plain = ON["device"] == "cpu"
    assert data.calls == 1 + is_plain
    assert (items, options, names) == (([2, 2], {"a": 1, "b": 1}, {"a", "b"}) if is_plain else ([1], {"a": 1}, {"a"}))
    assert layer.training is layer[0].training is layer[0].weight.requires_grad is not is_plain


def test_a_state_that_the_function_reads_and_replaces():
    state = types.SimpleNamespace(h=randn(5, 6, seed=1))
    h = state.h

    def fn(x):
        state.h = tg.relu(state.h @ x)
        return state.h

    x = randn(6, 6)
    found, text = refused(fn, x)
    for y in found:
        h = tg.relu(h @ x)
        assert_alike(y, h)
    assert "state.h" in text


def draws(kind):
    numbers, rng, python = iter([1.0, 0.5, 0.25, 0.75, 0.125]), np.random.default_rng(0), random.Random(0)
    return {
        "an iterator": lambda x: F.leaky_relu(x, next(numbers)),
        "a generator of NumPy's": lambda x: F.leaky_relu(x, float(rng.random())),
        "NumPy's own": lambda x: F.leaky_relu(x, float(np.random.random())),  # noqa: NPY002
        "a generator of Python's": lambda x: F.leaky_relu(x, python.random()),
        "Python's own": lambda x: F.leaky_relu(x, random.random()),
        "a function of Python's own": lambda x, draw=random.random: F.leaky_relu(x, draw()),
    }[kind]


@pytest.mark.parametrize("kind", DRAWS)
def test_what_goes_on_at_each_call(kind):
    x = randn(5, 6)
    random.seed(0), np.random.seed(0)  # noqa: NPY002
    found, _ = refused(draws(kind), x, match="goes on at each call of the function")
    random.seed(0), np.random.seed(0)  # noqa: NPY002
    again = draws(kind)
    for y in found:
        assert_alike(y, again(x))


def test_a_tensor_that_is_only_put_down_is_no_state():
    class Watched(nn.Module):
        last = None

        def forward(self, x):
            self.last = tg.relu(x)
            return tg.tanh(self.last)

    model, seen = Watched(), {}

    def fn(x):
        y = model(x)
        seen["y"] = y
        return y

    call = tg.capture(fn, warmup=1)
    for i in range(5):
        x = randn(5, 6, seed=i)
        assert_alike(call(x), tg.tanh(tg.relu(x)))
        assert_alike(model.last, tg.relu(x))
        assert_alike(seen["y"], tg.tanh(tg.relu(x)))
    assert_graphs(call, 1)


@pytest.mark.parametrize("kind", ["attribute", "item", "module", "variable"])
def test_what_is_put_down_is_of_the_last_call_whatever_was_captured(kind):
    """Two graphs in turns; what the caller has kept of earlier calls stays, as each call makes it anew."""

    def run(capture):
        place, item, variable = nn.Identity() if kind == "module" else SimpleNamespace(), {}, None

        def fn(x):
            nonlocal variable
            y = tg.relu(x) * 2
            if kind == "item":
                item["y"] = y
            elif kind == "variable":
                variable = y
            else:
                place.y = y
            return y.sum()

        step, kept = capture(fn), []
        for i in range(9):
            step(randn(5, 6, seed=i) if i % 2 else randn(3, 6, seed=i))
            kept.append(item["y"] if kind == "item" else variable if kind == "variable" else place.y)
        return step, [y.tolist() for y in kept]

    (step, got), (_, want) = run(lambda fn: tg.capture(fn, warmup=1)), run(lambda fn: fn)
    assert got == want
    assert_graphs(step, 2)


def test_what_is_put_down_of_the_programs_own_stays_that():
    """Memory that there was before is not copied: what is written there shows."""
    w, place = randn(4, 3), SimpleNamespace(whole=None, row=None)

    def fn(x):
        place.whole, place.row = w, w[1]
        return (x * w[1]).sum()

    step = tg.capture(fn, warmup=1)
    for i in range(4):
        step(randn(3, seed=i))
        w.add_(1)
        assert place.whole is w
        assert_alike(place.row, w[1])
    assert_graphs(step, 1)


def test_modes_are_left_as_the_function_leaves_them():
    model = layers(nn.Dropout(1.0))
    w = randn(4, 3, seed=2).requires_grad_()

    def fn(x):
        y = model(x)
        model.eval()
        w.requires_grad_(False)
        return y @ w

    call, x = tg.capture(fn, warmup=1), randn(5, 6)
    for _ in range(3):
        model.train(), w.requires_grad_()
        assert (call(x) == 0).all().item()
        assert (model.training, model[1].training, w.requires_grad) == (False, False, False)
        assert not (call(x) == 0).all().item()
    assert_graphs(call, 2)


def test_parameters_that_are_frozen_for_a_while_in_the_function():
    """As one net of two is, while the other learns from it."""
    critic, w = layers(nn.ReLU()), randn(6, 6, seed=2).requires_grad_()

    def fn(x):
        critic.requires_grad_(False)
        w.grad = None
        critic(tg.relu(x @ w)).sum().backward()
        critic.requires_grad_(True)
        return w.grad

    call, x = tg.capture(fn, warmup=1), randn(5, 6)
    for _ in range(4):
        assert_alike(call(x), fn(x))
        assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert len(graphs(call)) <= 2


def test_a_rate_that_the_function_reads_from_its_schedule():
    w = randn(6, 6).requires_grad_()
    schedule = optim.lr_scheduler.ExponentialLR(optim.SGD([w], lr=1.0), 0.5)
    call, x = tg.capture(lambda x: F.leaky_relu(x, schedule.get_last_lr()[0]), warmup=1), randn(5, 6)
    call(x)
    if ON["device"] == "cuda":
        with pytest.raises(tg.CaptureError, match="get_last_lr reads a learning rate"):
            call(x)
        return
    with pytest.warns(RuntimeWarning, match="get_last_lr reads a learning rate"):
        assert_alike(call(x), x.maximum(x))


@pytest.mark.parametrize("mode", ["grad mode", "seed", "backend", "threads"])
def test_modes_that_the_function_sets_for_all_that_follows(mode):
    threads = tg.get_num_threads()
    change = {
        "grad mode": lambda: tg.set_grad_enabled(False),
        "seed": lambda: tg.manual_seed(1),
        "backend": lambda: kernels.use("reference" if ON["device"] == "cpu" else "numba"),
        "threads": lambda: tg.set_num_threads(threads + 1),
    }[mode]
    if mode == "backend" and ON["device"] == "cuda" and not gpu.runs("numba"):
        pytest.skip("Numba's simulator is not on")

    def fn(x):
        y = tg.relu(x)
        change()
        return F.dropout(y, 0.5)

    call, x = tg.capture(fn, warmup=1), randn(5, 6)
    tg.manual_seed(0)
    before = kernels.name(ON["device"])
    with kernels.use(before):
        try:
            call(x)
            tg.set_grad_enabled(True), tg.set_num_threads(threads), kernels.use(before)
            match = "sets the random stream" if mode == "seed" else "leaves another grad mode"
            if ON["device"] == "cuda":
                with pytest.raises(tg.CaptureError, match=match):
                    call(x)
                assert tg.is_grad_enabled() and tg.get_num_threads() == threads
                assert kernels.name("cuda") == before
            else:
                state = tg.random.default_generator.get_state()
                with pytest.warns(RuntimeWarning, match=match):
                    y = call(x)
                tg.random.default_generator.set_state(state)
                assert_alike(y, fn(x))
        finally:
            tg.set_grad_enabled(True), tg.set_num_threads(threads)


def test_another_backend_is_captured_anew():
    other = {"cpu": "reference", "cuda": "numba"}[ON["device"]]
    if other == "numba" and not gpu.runs("numba"):
        pytest.skip("Numba's simulator is not on")
    call, x = tg.capture(lambda x: tg.relu(x), warmup=1), randn(5, 6)
    call(x), call(x)
    with kernels.use(other):
        call(x), call(x)
    call(x)
    assert_graphs(call, 2)


def test_running_statistics_of_another_momentum():
    model = nn.BatchNorm1d(6).to(ON["device"])
    same = nn.BatchNorm1d(6).to(ON["device"])
    call = tg.capture(lambda x: model(x), warmup=1)
    for momentum, eps in [(0.1, 1e-5)] * 3 + [(0.5, 1e-5)] * 3 + [(0.5, 0.1)] * 3:
        x = randn(5, 6)
        model.momentum = same.momentum = momentum
        model.eps = same.eps = eps
        assert_alike(call(x), same(x))
        assert_alike(model.running_var, same.running_var)
    assert_graphs(call, 3)
