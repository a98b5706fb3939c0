"""What a captured step knows of parameters and their gradients: which there are, what they are now, whose they are.

tests/cuda/test_capture_gradients.py and tests/captured/test_gradients.py run these, each on its device.
"""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import ON, graphs
from tests.captured.updates import assert_same_run, everything, host, parameters, times
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.nn import functional as F


def gradients(params, seed):
    """Each of these gets a gradient of its own, in new memory."""
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = tg.tensor(rng.standard_normal(p.shape).astype(np.float32), device=ON["device"])


# --- which parameters there are


def _add_group(updates, extra):
    updates.add_param_group({"params": [extra], "lr": 0.5})


def _append(updates, extra):
    updates.param_groups[0]["params"].append(extra)


def _replace(updates, extra):
    updates.param_groups[0]["params"][0] = extra


def _new_list(updates, extra):
    updates.param_groups[0]["params"] = [extra, *updates.param_groups[0]["params"]]


def _remove(updates, extra):
    del updates.param_groups[0]["params"][0]


def _no_groups(updates, extra):
    updates.param_groups.clear()


def _move(updates, extra):
    first, second = updates.param_groups
    second["params"].insert(0, first["params"].pop())


def _swap(updates, extra):
    updates.param_groups = updates.param_groups[::-1]


def _drop_gradient(updates, extra):
    updates.param_groups[0]["params"][0].grad = None


def _gain_gradient(updates, extra):
    gradients(updates.param_groups[1]["params"], 5)


def _load(updates, extra):
    saved = updates.state_dict()
    for entries in saved["state"].values():
        entries["exp_avg"] = tg.tensor(np.ones(entries["exp_avg"].shape, np.float32), device=ON["device"])
    updates.load_state_dict(saved)


def _forget(updates, extra):
    updates.state.clear()


def _forget_one(updates, extra):
    del updates.state[updates.param_groups[0]["params"][0]]


def _replace_state(updates, extra):
    updates.state = type(updates.state)(dict)


def _replace_entry(updates, extra):
    entries = updates.state[updates.param_groups[0]["params"][0]]
    entries["exp_avg"] = tg.ones(*entries["exp_avg"].shape, device=ON["device"])


def _replace_entries(updates, extra):
    p = updates.param_groups[0]["params"][0]
    updates.state[p] = {name: x.clone() for name, x in updates.state[p].items()}


def _set_count(updates, extra):
    updates.state[updates.param_groups[0]["params"][0]]["step"].fill_(7)


def _other_memory(updates, extra):
    p = updates.param_groups[0]["params"][0]
    p.data = p.data.copy()


def _freeze(updates, extra):
    updates.param_groups[0]["params"][0].requires_grad_(False)  # has a gradient still, so it is updated still


MEMBERS = {
    change.__name__.strip("_"): change
    for change in (
        _add_group, _append, _replace, _new_list, _remove, _no_groups, _move, _swap, _drop_gradient, _gain_gradient,
        _load, _forget, _forget_one, _replace_state, _replace_entry, _replace_entries, _set_count, _other_memory,
        _freeze,
    )
}  # fmt: skip


def test_what_an_optimizer_has_to_update_is_asked_at_each_launch(change):
    """Two groups, the second without gradients at first."""

    def run(capture):
        (a, b), (c, _), (extra, _) = parameters(), parameters(), parameters()
        c.grad = None
        updates = optim.Adam([{"params": [a, b]}, {"params": [c], "lr": 0.1}], lr=0.01)

        @capture
        def step(x):
            updates.step()
            return x

        seen = []
        for i, x in enumerate(times(6)):
            if i == 3:
                MEMBERS[change](updates, extra)
            step(x)
            arrays, rest = everything(updates)
            seen.append(([*arrays, *map(host, (a, b, c, extra))], rest))
        return seen

    assert_same_run(run, most=3)


def test_a_parameter_that_takes_part_later():
    """A branch of the net that the loss reaches only from the third step on: its captured update was without it."""

    def run(capture):
        params = parameters()
        late = parameters()
        for p in (*params, *late):
            p.grad = None
        updates = optim.SGD([*params, *late], lr=0.1, momentum=0.9)

        @capture
        def step(x):
            updates.step()
            updates.zero_grad()
            return x

        seen = []
        for i, x in enumerate(times(8)):
            gradients([*params, *(late if i > 3 and i != 6 else [])], i)
            step(x)
            seen.append(everything(updates))
        return seen

    assert_same_run(run, most=2)


def test_gradients_of_parameters_that_come_later_are_dropped_too(dropped):
    of, how = dropped
    set_to_none = how == "to none"

    def run(capture):
        tg.manual_seed(0)
        model = nn.Module()
        model.layers = nn.ModuleList([nn.Linear(2, 2).to(ON["device"])])
        updates = optim.SGD(model.parameters(), lr=0.1)
        gradients(model.parameters(), 0)
        kept = [p.grad for p in model.parameters()]

        @capture
        def step(x):
            (updates if of == "optimizer" else model).zero_grad(set_to_none=set_to_none)
            return tg.relu(x)

        seen = []
        for i, x in enumerate(times(6)):
            if i == 3:
                model.layers.append(nn.Linear(2, 2).to(ON["device"]))
                updates.add_param_group({"params": list(model.layers[1].parameters())})
            if i != 4:
                gradients(model.parameters(), i)
            kept += [p.grad for p in model.parameters() if p.grad is not None]
            step(x)
            arrays, rest = everything(updates)
            seen.append(([*arrays, *map(host, kept)], rest))
        return seen

    assert_same_run(run)


def test_clipping_is_of_the_parameters_there_are(norm):
    """A list that grows, a parameter without a gradient that gets one: the norm is of them all."""
    norm = float(norm)

    def run(capture):
        params = parameters()
        clipped = params[:1]
        updates = optim.SGD(params, lr=0.1)

        @capture
        def step(x):
            total = nn.utils.clip_grad_norm_(clipped, 0.5, norm)
            updates.step()
            return total

        seen = []
        for i, x in enumerate(times(8)):
            gradients(params, i)
            if i == 3:
                clipped.append(params[1])
            if i == 6:
                params[0].grad = None
            total = step(x)
            arrays, rest = everything(updates)
            seen.append(([*arrays, host(total)], rest))
        return seen

    assert_same_run(run, most=3, refused=norm == 3.0)


# --- gradients from outside


def test_an_update_alone_uses_the_gradients_of_now():
    """Moves 1, 2, 3, 4: each by the gradient that the parameter has at the call. One graph."""
    w = nn.Parameter(tg.zeros(3, device=ON["device"]))
    updates = optim.SGD([w], lr=1.0)

    @tg.capture(warmup=1)
    def step(x):
        updates.step()
        return x

    at = 0.0
    for i, x in enumerate(times(5)):
        w.grad = tg.full((3,), float(i + 1), device=ON["device"])
        step(x)
        at -= i + 1
        assert w.tolist() == [at] * 3
    assert len(graphs(step)) == 1


def test_clipping_and_update_alone(where):
    """The gradients of the caller are clipped where they lie, and stay the caller's."""

    def run(capture):
        params = parameters()
        updates = optim.Adam(params, lr=0.1)
        base = tg.zeros(4, 13, device=ON["device"])

        @capture
        def step(x):
            total = nn.utils.clip_grad_norm_(params, 0.5)
            updates.step()
            return total

        seen = []
        for i, x in enumerate(times(6)):
            kept = [p.grad for p in params]
            if where == "the same memory":
                for p in params:
                    p.grad.mul_(1.5)
            else:
                gradients(params, i)
            if where == "a view":
                base[i % 4, :3].copy_(params[0].grad)
                params[0].grad = base[i % 4, :3]
            now = [p.grad for p in params]
            total = step(x)
            assert all(p.grad is g for p, g in zip(params, now))
            arrays, rest = everything(updates)
            seen.append(([*arrays, *map(host, [total, base, *kept])], rest))
        return seen

    assert_same_run(run, most=1)


def test_gradients_read_and_set_by_hand():
    """fn reads p.grad, gives one parameter another's, and takes one away."""

    def run(capture):
        a, b, c = (parameters()[0] for _ in range(3))

        @capture
        def step(x):
            y = tg.relu(a.grad)
            b.grad = a.grad
            a.grad = y
            c.grad = None
            return b.grad

        seen = []
        for i, x in enumerate(times(6)):
            gradients([a, b, c], i)
            found = a.grad
            result = step(x)
            assert b.grad is found
            if i == 4:
                a.grad.fill_(3.0)  # nobody else's
            seen.append(([*map(host, (a.grad, b.grad, c.grad, found, result))], None))
        return seen

    assert_same_run(run, most=1)


@pytest.mark.parametrize("now", ["frozen", "on other memory"])
def test_a_leaf_that_is_changed_gets_the_gradients_of_now(now):
    def run(capture):
        (_, v), (_, w) = parameters(), parameters()

        @capture
        def step(x):
            v.grad = w.grad = None
            F.linear(tg.relu(F.linear(x, w)), v.T).sum().backward()
            return x

        seen = []
        for i in range(6):
            if i == 3 and now == "frozen":
                w.requires_grad_(False)
            elif i == 3:
                w.data = w.data * -1
            step(tg.full((3, 5), i + 1.0, device=ON["device"]))
            seen.append(([*map(host, (v.grad, w.grad))], None))
        return seen

    assert_same_run(run, most=2)


def test_a_gradient_that_the_step_makes_of_numbers_is_another_one_at_each_call():
    def run(capture):
        w = parameters()[0]

        @capture
        def step(x):
            w.grad = tg.zeros(3, device=ON["device"])
            return tg.relu(x)

        seen = []
        for x in times(5):
            step(x)
            seen.append(([host(w.grad)], None))
            w.grad.add_(1)
        return seen

    assert_same_run(run, either=True)


def test_one_gradient_for_two_parameters_is_refused():
    """What is done to one in place would have to be seen in the other."""

    def run(capture):
        a, b = parameters()[0], parameters()[0]

        @capture
        def step(x):
            a.grad = b.grad = tg.relu(x)
            return a.grad

        seen = []
        for i in range(4):
            step(tg.full((3,), float(i), device=ON["device"]))
            a.grad.add_(1)
            seen.append(([host(a.grad), host(b.grad)], None))
        return seen

    if ON["device"] == "cpu":
        assert_same_run(run, refused=True)
    else:
        with pytest.raises(tg.CaptureError, match="gives one gradient to two tensors"):
            run(lambda fn: tg.capture(fn, warmup=1))


def test_a_gradient_that_lies_otherwise_is_clipped_in_its_own_order():
    """The same values by columns have another sum of squares, in the last bits."""

    def run(capture):
        w = nn.Parameter(tg.zeros(300, 200, device=ON["device"]))
        updates = optim.SGD([w], lr=0.1)
        rng = np.random.default_rng(3)

        @capture
        def step(x):
            total = nn.utils.clip_grad_norm_([w], 0.5)
            updates.step()
            return total

        seen = []
        for i, x in enumerate(times(6)):
            grad = rng.standard_normal((300, 200)).astype(np.float32)
            by_columns = tg.tensor(np.ascontiguousarray(grad.T), device=ON["device"]).T
            w.grad = by_columns if i > 2 else tg.tensor(grad, device=ON["device"])
            total = step(x)
            arrays, rest = everything(updates)
            seen.append(([*arrays, host(total)], rest))
        return seen

    assert_same_run(run, most=2)


@pytest.mark.parametrize("clips", [True, False])
def test_a_graph_that_saved_a_gradient_finds_out_that_it_was_clipped(clips):
    w, v = parameters()[0], parameters()[0].requires_grad_()
    updates = optim.SGD([w], lr=0.1)

    @tg.capture(warmup=1)
    def step(x):
        if clips:
            nn.utils.clip_grad_norm_([w], 0.5)
        updates.step()
        return x

    for i, x in enumerate(times(4)):
        gradients([w], i)
        y = (v * w.grad).sum()
        step(x)
        if clips:
            with pytest.raises(RuntimeError, match="saved by 'mul' was written to in place"):
                y.backward()
        else:
            y.backward()
    assert len(graphs(step)) == 1


def accumulation(capture, every=2, calls=9, update=True, micro=True):
    """Gradients of `every` batches added up, then an update, both captured or one of them."""
    rng = np.random.default_rng(0)
    tg.manual_seed(0)
    model = nn.Linear(6, 4).to(ON["device"])
    updates = optim.Adam(model.parameters(), lr=0.1)

    def backward(x, t):
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        return loss

    def apply(x):
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        updates.step()
        updates.zero_grad()
        return x

    backward = capture(backward) if micro else backward
    apply = capture(apply) if update else apply
    seen, kept = [], []
    for i in range(calls):
        x, t = rng.standard_normal((5, 6)).astype(np.float32), rng.integers(0, 4, 5)
        backward(tg.tensor(x, device=ON["device"]), tg.tensor(t, device=ON["device"]))
        if i == 4:
            kept += [p.grad for p in model.parameters()]  # what the caller keeps stays what it is
        if i % every == every - 1:
            apply(*times(1))
        seen.append(everything(updates))
        seen.append(([host(g) for g in kept], None))
    return seen


def test_accumulation(captured):
    """The everyday case: right, and captured once for each kind of call."""
    steps = assert_same_run(
        lambda capture: accumulation(capture, update=captured != "backward", micro=captured != "update"), most=2
    )
    assert [len(graphs(step)) for step in steps] == {"update": [1], "backward": [2], "both": [2, 1]}[captured]


def test_a_gradient_that_the_caller_keeps_is_never_written_to():
    """The tensor, its array, a view: uncaptured they stay what they were, captured too."""

    def run(capture):
        w = parameters()[1]
        w.grad = None

        @capture
        def step(x):
            w.grad = None
            F.linear(x, w).sum().backward()
            return x

        kept, seen = [], []
        for i in range(6):
            step(tg.full((2, 5), float(i), device=ON["device"]))
            if i != 3:
                kept += [w.grad, w.grad.detach(), w.grad[0], tg.Tensor(w.grad.data)]
            if i == 4:
                w.grad.add_(1)
            seen.append(([host(g) for g in kept], None))
        return seen

    assert_same_run(run, most=1)


def test_a_step_that_replaces_its_gradients_copies_none():
    """What nobody asks for is not copied; who asks has the same tensor until the next call."""
    w = parameters()[1]

    @tg.capture(warmup=1)
    def step(x):
        w.grad = None
        F.linear(x, w).sum().backward()
        return x

    x = tg.ones(2, 5, device=ON["device"])
    step(x), step(x)
    left = w._grad
    assert not isinstance(left, tg.Tensor)
    step(x)
    assert w._grad is left
    grad = w.grad
    assert w.grad is grad and isinstance(grad, tg.Tensor)
    assert_same(host(grad), np.full((2, 5), 2, np.float32))


def test_gradients_of_an_argument_are_the_functions_own():
    """An argument that the function itself has require grad, as for adversarial examples."""

    def run(capture):
        w = parameters()[1]

        @capture
        def step(x):
            x = x.detach().requires_grad_()
            F.linear(x, w).relu().sum().backward()
            return x.grad

        seen = []
        for i in range(5):
            found = step(tg.full((2, 5), i - 2.0, device=ON["device"]))
            seen.append(([*map(host, (found, w.grad))], None))
            w.grad = None
        return seen

    assert_same_run(run, most=1)


@pytest.mark.parametrize("clips", [True, False])
def test_a_step_that_begins_with_the_gradients_that_it_left(clips):
    """Nobody asks for them in between: they go from launch to launch."""

    def run(capture):
        w = parameters()[1]
        updates = optim.SGD([w], lr=0.1)

        @capture
        def step(x):
            if clips:
                nn.utils.clip_grad_norm_([w], 0.5)
            updates.step()
            w.grad = None
            F.linear(x, w).sum().backward()
            return x

        for i in range(6):
            step(tg.full((2, 5), i + 1.0, device=ON["device"]))
        return [everything(updates)]

    assert_same_run(run, most=1)


def test_captured_under_no_grad_and_called_with_grad():
    """Whether ops record themselves is part of what is captured, either way round."""
    w = parameters()[1]

    def plain(x):
        y = F.linear(x, w)
        if y.requires_grad:
            w.grad = None
            y.sum().backward()
        return y

    for first in (True, False):
        step = tg.capture(plain, warmup=1)
        for i in range(8):
            w.grad = None
            x = tg.full((2, 5), float(i), device=ON["device"])
            with tg.set_grad_enabled(first if i < 3 else not first if i < 6 else first):
                y = step(x)
                has = tg.is_grad_enabled()
            assert_same(host(y), host(F.linear(x, w)))
            assert (w.grad is not None) == has
            if has:
                assert_same(host(w.grad), np.full((2, 5), 2.0 * i, np.float32))
        assert len(graphs(step)) == 2


# --- calls that fail


ORDERS = {
    "zero first": ["zero", "loss", "backward", "update", "schedule"],
    "loss first": ["loss", "zero", "backward", "update", "schedule"],
    "schedule first": ["schedule", "loss", "zero", "backward", "update"],
    "update first": ["update", "zero", "schedule", "loss", "backward"],
    "clipped first": ["clip", "update", "zero", "loss", "backward", "schedule"],
    "nothing dropped": ["loss", "backward", "update", "schedule"],
    "zeros": ["zeros", "loss", "backward", "update"],
    "two losses": ["zero", "loss", "backward", "update", "schedule", "loss", "backward", "update"],
}


def check_a_call_that_fails(order, row, at):
    """A label that no class has in call number `at`: what the function has done before the error is done, what comes
    behind it is not. On a GPU the error comes when the program next waits.
    """

    def run(capture):
        rng = np.random.default_rng(0)
        tg.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 16), *([nn.Dropout(0.5)] if row else [])).to(ON["device"])
        updates = optim.AdamW(model.parameters(), lr=tg.tensor(0.1))
        schedule = optim.lr_scheduler.ExponentialLR(updates, 0.5)
        gradients(model.parameters(), 0)
        updates.step()

        @capture
        def step(x, t):
            for part in ORDERS[order]:
                if part == "loss":
                    loss = F.cross_entropy(model(x), t)
                elif part == "backward":
                    loss.backward()
                else:
                    {
                        "clip": lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.01),
                        "zero": updates.zero_grad,
                        "zeros": lambda: updates.zero_grad(set_to_none=False),
                        "update": updates.step,
                        "schedule": schedule.step,
                    }[part]()
            return loss

        seen = []
        for i in range(6):
            x, t = rng.standard_normal((16, 16)).astype(np.float32), rng.integers(0, 16, 16)
            fails = i % 2 if at == "every other" else i == at
            if fails:
                t[row] = 16
            x, t = tg.tensor(x, device=ON["device"]), tg.tensor(t, device=ON["device"])
            kept = [p.grad for p in model.parameters()] if i == 4 else []
            if fails:
                with pytest.raises(ValueError, match=rf"softmax_xent: t\[{row}\] is 16; expected 0 <= t < 16"):
                    step(x, t).item()
            else:
                step(x, t).item()
            seen.append(everything(updates, schedule))
            seen.append(([host(g) for g in kept], None))
        return seen

    assert_same_run(run, most=3)


CASES = {
    "change": list(MEMBERS),
    "dropped": [(of, how) for of in ("optimizer", "module") for how in ("to none", "to zero")],
    "norm": ["2", "3"],
    "where": ["new memory", "the same memory", "a view"],
    "captured": ["update", "backward", "both"],
}
FEW = {  # as in tests/captured/updates.py
    "change": ["add_group", "gain_gradient", "replace_entry", "other_memory"],
    "dropped": [("optimizer", "to none"), ("module", "to zero")],
    "norm": ["2"],
    "where": ["a view"],
    "captured": ["both"],
}
