"""An optimizer's state as plain dicts, in PyTorch's structure, and back.

    {"state": {0: {"step": ..., "exp_avg": ...}, ...}, "param_groups": [{"lr": 0.001, ..., "params": [0, 1]}, ...]}

Parameters are numbered through all groups in order; one that was never stepped has no entry in "state".
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.device import array_module, is_array, move, on_host
from tilegrad.dtypes import is_number
from tilegrad.kernels.checks import accumulator
from tilegrad.optim.options import refuse
from tilegrad.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tilegrad.optim.optimizer import Optimizer

# Options that PyTorch writes and that are no option here: how it computes, not what.
_HOW = ("foreach", "fused", "capturable", "differentiable")


def pack(optimizer: Optimizer) -> dict[str, Any]:
    """The state dict; its tensors are the optimizer's own."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    groups, start = [], 0
    for group in optimizer.param_groups:
        stop = start + len(group["params"])
        groups.append({**group, "params": list(range(start, stop))})
        start = stop
    state = {i: dict(optimizer.state[p]) for i, p in enumerate(params) if optimizer.state.get(p)}
    return {"state": state, "param_groups": groups}


def unpack(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Bring the optimizer to the saved state, of which everything is copied and nothing written to."""
    op = f"{type(optimizer).__name__}.load_state_dict"
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= saved.keys():
        found = sorted(saved) if isinstance(saved, dict) else f"a {type(saved).__name__}"
        raise ValueError(f"{op}: got {found}; expected a dict with state and param_groups")
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved_sizes = [len(group.get("params", ())) for group in saved["param_groups"]]
    if saved_sizes != sizes:
        raise ValueError(f"{op}: the saved groups have {saved_sizes} parameters; expected {sizes}")

    groups = [_group(op, optimizer, *pair) for pair in zip(optimizer.param_groups, saved["param_groups"])]
    numbers = [n for group in saved["param_groups"] for n in group["params"]]
    params = dict(zip(numbers, (p for group in groups for p in group["params"])))
    unknown = [n for n in saved["state"] if n not in params]
    if unknown:
        raise ValueError(f"{op}: state has entries for {unknown}; expected some of the parameters {list(params)}")
    state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
    for n, entries in saved["state"].items():
        entries = {name: value for name, value in entries.items() if value is not None}  # None: not there yet
        if entries:
            state[params[n]] = _entries(op, optimizer, n, entries, params[n])
    optimizer.param_groups, optimizer.state = groups, state


def _group(op: str, optimizer: Optimizer, group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """The group with the saved options."""
    refuse(op, {"amsgrad": saved.get("amsgrad")})
    options = {name: _copied(value) for name, value in saved.items() if name not in (*_HOW, "amsgrad", "params")}
    for name, default in optimizer.defaults.items():
        if name not in options and not isinstance(default, bool):  # an older PyTorch knew fewer switches
            raise ValueError(f"{op}: a saved group has the options {sorted(options)}; expected {name} among them")
    merged = type(group)({**optimizer.defaults, **options, "params": group["params"]})
    if "param_names" in group:
        merged.setdefault("param_names", group["param_names"])
    optimizer._check_options(merged)
    return merged


def _copied(value: Any) -> Any:
    """A copy of an option; a saved array, such as a learning rate in device memory, becomes a tensor."""
    if isinstance(value, Tensor) or is_array(value):
        return wrap(_array(value).copy())
    return copy.deepcopy(value)


def _entries(op: str, optimizer: Optimizer, n: int, entries: dict[str, Any], param: Tensor) -> dict[str, Any]:
    """What is remembered of one parameter, as tensors in the dtypes that the optimizer uses."""
    names = optimizer._state_names
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


def follow(state: dict[str, Tensor], param: Tensor) -> None:
    """Move what is remembered of a parameter, in `state`, to the device that the parameter was moved to."""
    for name, x in state.items():
        if name != "step":
            state[name] = wrap(move(x.data, param.device))


def new_step(param: Tensor) -> Tensor:
    """A count of steps, 0: on the CPU and float32 as in PyTorch, exact up to 2^24 steps."""
    return wrap(np.zeros((), np.float32))


def new_moment(param: Tensor) -> Tensor:
    """Zeros of the parameter's shape and memory order, at least float32."""
    data = param.data
    return wrap(array_module(data).zeros_like(data, dtype=accumulator(data.dtype)))
