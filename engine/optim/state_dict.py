"""An optimizer's state as plain dicts, in PyTorch's structure, and back.

    {"state": {0: {"step": ..., "exp_avg": ...}, ...}, "param_groups": [{"lr": 0.001, ..., "params": [0, 1]}, ...]}

Parameters are numbered through all groups in order; one that was never stepped has no entry in "state".
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.device import is_array, move, on_host
from tilegrad.dtypes import is_number
from tilegrad.optim.moments import new_moment, new_step
from tilegrad.optim.options import refuse
from tilegrad.tensor import Tensor, wrap

Groups = list[Any]  # dicts: options, and "params"
State = defaultdict[Tensor, dict[str, Any]]  # by parameter, what is remembered of it

# Options that PyTorch writes and that are no option here: how it computes, not what.
_HOW = ("foreach", "fused", "capturable", "differentiable")


def pack(groups: Groups, state: State) -> dict[str, Any]:
    """The state dict of an optimizer with these; its tensors are the optimizer's own."""
    params = [p for group in groups for p in group["params"]]
    packed, start = [], 0
    for group in groups:
        stop = start + len(group["params"])
        packed.append({**group, "params": list(range(start, stop))})
        start = stop
    entries = {i: dict(state[p]) for i, p in enumerate(params) if state.get(p)}
    return {"state": entries, "param_groups": packed}


def unpack(
    op: str,
    saved: dict[str, Any],
    groups: Groups,
    defaults: dict[str, Any],
    names: tuple[str, ...] | None,
    check: Callable[[Any], None],
) -> tuple[Groups, State]:
    """The groups with the saved options, and the saved state. All of it is copied, and nothing written to.

    defaults   the optimizer's options, with their values where a saved group has none
    names      what is remembered of a parameter; None where the optimizer does not say
    check      raises for a group whose options are wrong
    """
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= saved.keys():
        found = sorted(saved) if isinstance(saved, dict) else f"a {type(saved).__name__}"
        raise ValueError(f"{op}: got {found}; expected a dict with state and param_groups")
    sizes = [len(group["params"]) for group in groups]
    saved_sizes = [len(group.get("params", ())) for group in saved["param_groups"]]
    if saved_sizes != sizes:
        raise ValueError(f"{op}: the saved groups have {saved_sizes} parameters; expected {sizes}")

    groups = [_group(op, *pair, defaults, check) for pair in zip(groups, saved["param_groups"])]
    numbers = [n for group in saved["param_groups"] for n in group["params"]]
    params = dict(zip(numbers, (p for group in groups for p in group["params"])))
    unknown = [n for n in saved["state"] if n not in params]
    if unknown:
        raise ValueError(f"{op}: state has entries for {unknown}; expected some of the parameters {list(params)}")
    state: State = defaultdict(dict)
    for n, entries in saved["state"].items():
        entries = {name: value for name, value in entries.items() if value is not None}  # None: not there yet
        if entries:
            state[params[n]] = _entries(op, names, n, entries, params[n])
    return groups, state


def _group(
    op: str, group: dict[str, Any], saved: dict[str, Any], defaults: dict[str, Any], check: Callable[[Any], None]
) -> dict[str, Any]:
    """The group with the saved options."""
    refuse(op, {"amsgrad": saved.get("amsgrad")})
    options = {name: _copied(value) for name, value in saved.items() if name not in (*_HOW, "amsgrad", "params")}
    for name, default in defaults.items():
        if name not in options and not isinstance(default, bool):  # an older PyTorch knew fewer switches
            raise ValueError(f"{op}: a saved group has the options {sorted(options)}; expected {name} among them")
    merged = type(group)({**defaults, **options, "params": group["params"]})
    if "param_names" in group:
        merged.setdefault("param_names", group["param_names"])
    check(merged)
    return merged


def _copied(value: Any) -> Any:
    """A copy of an option; a saved array, such as a learning rate in device memory, becomes a tensor."""
    if isinstance(value, Tensor) or is_array(value):
        return wrap(_array(value).copy())
    return copy.deepcopy(value)


def _entries(op: str, names: tuple[str, ...] | None, n: int, entries: dict[str, Any], param: Tensor) -> dict[str, Any]:
    """What is remembered of one parameter, as tensors in the dtypes that the optimizer uses."""
    if names is None:
        return {name: _copied(value) for name, value in entries.items()}
    if set(entries) != set(names):
        raise ValueError(f"{op}: state[{n}] has {sorted(entries)}; expected {sorted(names)}")
    restored = {}
    for name in names:
        value = _array(entries[name])
        is_step = name == "step"
        value = on_host(value) if is_step else value
        shape = () if is_step else param.shape
        if value.shape != shape:
            raise ValueError(f"{op}: state[{n}][{name!r}] is {value.shape}; expected {shape}")
        if value.dtype.kind == "b" or not is_number(value.dtype):
            raise TypeError(f"{op}: state[{n}][{name!r}] is {value.dtype}; expected numbers")
        if is_step and not 0 <= value < np.inf:
            raise ValueError(f"{op}: state[{n}]['step'] is {value}; expected a count of steps")
        like = new_step(param) if is_step else new_moment(param)
        like.data[...] = move(value, like.device)
        restored[name] = like
    return restored


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data
    return value if is_array(value) else np.asarray(value)
