"""Sequential, ModuleList and ModuleDict as the containers they are."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn


def layers(n):
    return [nn.Linear(i + 1, i + 2) for i in range(n)]


@pytest.mark.parametrize("kind", [nn.Sequential, lambda *m: nn.ModuleList(m)], ids=["Sequential", "ModuleList"])
def test_it_is_a_list(kind):
    a, b, c, d = layers(4)
    box = kind(a, b, c)
    assert len(box) == 3 and list(box) == [a, b, c]
    assert box[0] is a and box[-1] is c and b in box and d not in box
    assert list(box[1:]) == [b, c] and type(box[1:]) is type(box)
    assert box.append(d) is box and list(box) == [a, b, c, d]
    assert box.pop() is d and box.pop(0) is a and list(box) == [b, c]
    assert [name for name, _ in box.named_children()] == ["0", "1"]
    box.insert(0, a).insert(-1, d)
    assert list(box) == [a, b, d, c]
    box[1] = c
    assert [m for m in box] == [a, c, d, c]
    del box[1:3]
    assert list(box) == [a, c]
    box += [b, d]
    assert list(box) == [a, c, b, d]
    assert list(box + [a]) == [a, c, b, d, a] and len(box) == 4
    assert list(box.extend(box)) == [a, c, b, d] * 2
    assert [name for name in dir(box) if name.isdigit()] == []


def test_keys_are_torchs():
    ours, theirs = nn.Sequential(*layers(3)), torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(3)])
    assert list(ours[1:].state_dict()) == list(theirs[1:].state_dict())  # a slice keeps its names
    del ours[0], theirs[0]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.insert(1, nn.Linear(1, 1))
    theirs.insert(1, torch.nn.Linear(1, 1))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_appending_to_a_slice_replaces_nothing():
    tail = nn.Sequential(*layers(3))[1:]  # "1", "2"
    new = nn.ReLU()
    tail.append(new)
    assert len(tail) == 3 and tail[-1] is new


def test_names():
    a, b, c = layers(3)
    box = nn.Sequential(OrderedDict(first=a, second=b))
    assert box.first is a and list(box.state_dict())[0] == "first.weight"
    box.append(c)
    assert [name for name, _ in box.named_children()] == ["first", "second", "2"]
    box.insert(0, c)
    assert [m for m in box] == [c, a, b, c] and box.second is b
    del box[0]
    assert box.first is a


def test_sequential_calls_in_order():
    box = nn.Sequential(nn.Linear(2, 3), nn.Flatten(0), nn.Identity())
    x = tg.randn(2, 2)
    assert_same(box(x).detach().numpy(), box[0](x).detach().numpy().reshape(-1))
    assert nn.Sequential()(x) is x


def test_members_that_are_no_modules():
    class Scaled(nn.Sequential):
        def __init__(self, *modules):
            super().__init__(*modules)
            self.scale = nn.Parameter(tg.ones(1))

    box = Scaled(nn.ReLU(), nn.Tanh())
    assert len(box) == 2 and [type(m) for m in box] == [nn.ReLU, nn.Tanh]
    assert "scale" in box.state_dict()
    assert len(box.append(nn.ReLU())) == 3
    assert type(box[:2]) is nn.Sequential


def test_module_dict():
    a, b, c = layers(3)
    box = nn.ModuleDict({"a": a, "b": b})
    assert len(box) == 2 and list(box) == ["a", "b"] and "a" in box and "c" not in box
    assert list(box.keys()) == ["a", "b"] and list(box.values()) == [a, b] and list(box.items()) == [("a", a), ("b", b)]
    box["c"] = c
    box["a"] = c
    assert box["a"] is c and list(box.state_dict())[0] == "a.weight"
    assert box.pop("b") is b and list(box) == ["a", "c"]
    box.update([("d", a)])
    box.update(nn.ModuleDict({"e": b}))
    assert list(box) == ["a", "c", "d", "e"] and box["e"] is b
    del box["d"]
    box.clear()
    assert len(box) == 0 and list(box.parameters()) == []


def test_looks():
    def build(nn):
        same = [nn.Linear(2, 2) for _ in range(3)]
        return nn.ModuleDict(
            {
                "list": nn.ModuleList([*same, nn.ReLU(), nn.Sequential(nn.Tanh()), nn.Sequential(nn.Tanh())]),
                "none": nn.ModuleList(),
                "one": nn.ModuleList([nn.ReLU()]),
            }
        )

    assert repr(build(nn)) == repr(build(torch.nn))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU(), tg.relu), TypeError, "Sequential: expected a Module; got function"),
        (lambda: nn.Sequential({"a": 3}), TypeError, "Sequential: expected a Module; got int"),
        (lambda: nn.ModuleList([None]), TypeError, "ModuleList: expected a Module; got NoneType"),
        (lambda: nn.ModuleList(3), TypeError, "ModuleList: expected an iterable of modules; got int"),
        (lambda: nn.ModuleList([nn.ReLU()])[1], IndexError, "ModuleList: index is 1; expected -1 <= index < 1"),
        (lambda: nn.Sequential().pop(), IndexError, "Sequential: index is -1; expected 0 <= index < 0"),
        (lambda: nn.ModuleList([nn.ReLU()]).__setitem__(0, 1), TypeError, "ModuleList: expected a Module; got int"),
        (lambda: nn.ModuleList()(1), NotImplementedError, "ModuleList: expected a method forward()"),
        (lambda: nn.ModuleDict({"a": 1}), TypeError, "ModuleDict: 'a' is int; expected a Module"),
        (lambda: nn.ModuleDict({"a": nn.ReLU()})["b"], KeyError, "ModuleDict: no module 'b'; there are 'a'"),
        (
            lambda: nn.ModuleDict({"pop": nn.ReLU()}),
            KeyError,
            "register_module: ModuleDict already has an attribute 'pop'",
        ),
        (
            lambda: nn.ModuleDict({"a.b": nn.ReLU()}),
            KeyError,
            "register_module: name is 'a.b'; expected one that is not",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert error.value.args[0].startswith(message)


def test_an_error_adds_nothing():
    box = nn.ModuleList([nn.ReLU()])
    with pytest.raises(TypeError):
        box.extend([nn.Tanh(), 3])
    assert len(box) == 1
