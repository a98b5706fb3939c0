"""The optimizer: parameters in groups with options of their own, and what is remembered of each parameter."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import enable_grad
from tilegrad.optim.state_dict import pack, unpack
from tilegrad.tensor import Tensor

if TYPE_CHECKING:
    from tilegrad.captured.account import Account


class Group(dict[str, Any]):
    """The parameters and options of a group: a dict, which a captured step may not write to by hand.

    It would do so once and for all. A schedule is done again at each launch.
    """

    def __setitem__(self, name: str, value: Any) -> None:
        if capture_hooks.capturing:
            _refuse_by_hand(name)
        dict.__setitem__(self, name, value)

    def update(self, *args: Any, **options: Any) -> None:
        if capture_hooks.capturing:
            _refuse_by_hand(*dict(*args, **options))
        super().update(*args, **options)


def _refuse_by_hand(*names: str) -> None:
    for name in names:
        capture_hooks.refuse(f'sets "{name}" of an optimizer by hand, once and for all; expected a schedule')


Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class Optimizer:
    """Base class of all optimizers.

    params    tensors, (name, tensor) pairs, or groups: dicts with "params" and options that differ from the defaults
    defaults  option -> value, for what a group does not say itself

    param_groups  the groups, each with all its options; they may be changed between steps
    state         parameter -> name -> tensor; empty until the parameter's first step

    A subclass defines `_update` (one step of one group) and `_check_options`; or, as in PyTorch, a `step` of its own.
    Raises TypeError for what is not a floating-point tensor, ValueError for no, repeated or non-leaf parameters.
    """

    # What is remembered of a parameter; None where a subclass does not say.
    _state_names: tuple[str, ...] | None = None
    # Options that a captured step reads anew at each launch: a schedule may change them. "params" are compared apart.
    _read_when_launched: tuple[str, ...] = ("params", "lr")

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        op = type(self).__name__
        if isinstance(params, (Tensor, dict, str)) or not isinstance(params, Iterable):
            raise TypeError(f"{op}: params is a {type(params).__name__}; expected a list of tensors or of groups")
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError(f"{op}: params is empty; expected at least one parameter")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.defaults = dict(defaults)
        self.param_groups: list[Group] = []
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self._stepped = False  # asked by the schedulers, which belong after the first step
        for group in groups:
            self.add_param_group(group)

    # --- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a dict with "params" (a tensor or a list) and any options that differ from the defaults.

        Raises as the constructor does, and ValueError for a parameter that is in another group.
        """
        op = type(self).__name__
        if not isinstance(param_group, dict):
            raise TypeError(f"{op}: a group is a {type(param_group).__name__}; expected a dict")
        if "params" not in param_group:
            raise ValueError(f'{op}: a group has the keys {sorted(param_group)}; expected "params" among them')
        group = {**self.defaults, **param_group}
        names, group["params"] = _named(op, param_group["params"])
        if names:
            group["param_names"] = names
        known = {id(p) for g in self.param_groups for p in g["params"]}
        for i, param in enumerate(group["params"]):
            _check_parameter(op, i, param)
            if id(param) in known:
                raise ValueError(f"{op}: params[{i}], of shape {param.shape}, is given twice; expected each once")
            known.add(id(param))
        if self.param_groups and ("param_names" in group) != ("param_names" in self.param_groups[0]):
            raise ValueError(f"{op}: one group has names for its parameters, another has none; expected all or none")
        self._check_options(group)
        self.param_groups.append(Group(group))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or (set_to_none=False) fill them with zeros where they are."""
        account = capture_hooks.current()
        if account is not None:
            self._tell_members(account)
        at_once = set_to_none and not capture_hooks.capturing
        for group in self.param_groups:
            for param in group["params"]:
                if at_once:
                    param._grad = None
                elif set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    if param.grad.requires_grad:  # of a backward with create_graph
                        param.grad = param.grad.detach()
                    param.grad.zero_()

    # --- the step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; one that has none is left as it is, with all its state.

        closure  called first, with gradients recorded: it computes the loss and its gradients; the loss is returned

        State follows a parameter that was moved to another device.

        Raises TypeError or ValueError for a gradient whose dtype, device or shape is not its parameter's, and for
        options out of range, before any parameter changes.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check_options(group)
        ready = [self._with_gradient(group) for group in self.param_groups]
        account = capture_hooks.current()
        if account is not None:
            self._tell_members(account)
        for group, params in zip(self.param_groups, ready):
            if params:
                if account is not None:
                    self._tell(account, group, params)
                self._update(group, params)
        self._stepped = True
        return loss

    def _tell_members(self, account: Account) -> None:
        """A graph of what is done to all parameters serves while the same groups have the same ones."""
        account.listed(self, "param_groups")
        for group in self.param_groups:
            account.listed(group, "params")

    def _tell(self, account: Account, group: Group, params: list[Tensor]) -> None:
        """A graph of this step serves while all memory is as now, and the group's options that no launch reads."""
        if self._state_names is None:
            raise capture_hooks.CaptureError("is an optimizer of the program's own, which may compute on the host")
        if any(not self.state.get(param) for param in params) and self._remembers(group):
            raise capture_hooks.NotYet("would begin to remember a parameter at each step; expected a step before")
        state = self.state
        names = [name for name in group if name not in self._read_when_launched]
        options, now = [copy.copy(group[name]) for name in names], group.get
        storages = [param._storage for param in params]
        reads_lr = isinstance(group["lr"], Tensor) and group["lr"].is_cuda  # the graph does, in a GPU's memory

        def holds() -> bool:
            try:
                self._check_changing(group)
            except (TypeError, ValueError):
                return False  # the plain function raises it
            lr = group["lr"]
            if type(lr) is not float and isinstance(lr, Tensor) and lr.is_cuda is not reads_lr:
                return False
            return self.state is state and list(map(now, names)) == options

        def count_writes() -> None:
            for storage in storages:
                storage.version += 1

        account.holds(holds)
        account.again(count_writes)
        if reads_lr:
            account.members(group, ["lr"])
        account.memory(*params)
        account.members(state, params)
        for param in params:
            account.members(state.get(param, {}), self._state_names)

    def _remembers(self, group: Group) -> bool:
        """Whether a step with these options needs what is remembered of a parameter."""
        return bool(self._state_names)

    def _with_gradient(self, group: Group) -> list[Tensor]:
        """The group's parameters that have a gradient, which is checked."""
        ready = []
        for i, param in enumerate(group["params"]):
            grad = param.grad
            if grad is None:
                continue
            p, g = param._data, grad._data
            if type(g) is type(p) and g.dtype is p.dtype and g.shape == p.shape:
                ready.append(param)
                continue
            if type(g) is not type(p) and grad.device != param.device:
                found = f"grad is on {grad.device}, the parameter on {param.device}"
                raise TypeError(f"{self._place(group, i)}: {found}; expected one device")
            if g.dtype != p.dtype:
                raise TypeError(f"{self._place(group, i)}: grad is {g.dtype}; expected {p.dtype} as the parameter")
            if g.shape != p.shape:
                raise ValueError(f"{self._place(group, i)}: grad is {g.shape}; expected {p.shape} as the parameter")
            ready.append(param)
        return ready

    def _place(self, group: Group, i: int) -> str:
        """How an error names a parameter: its name where it has one, its place otherwise."""
        if "param_names" in group:
            return f"{type(self).__name__}: {group['param_names'][i]}"
        at = next(k for k, g in enumerate(self.param_groups) if g is group)
        return f"{type(self).__name__}: param_groups[{at}]['params'][{i}]"

    def _update(self, group: Group, params: list[Tensor]) -> None:
        """One step of these parameters of a group, all of which have a gradient."""
        raise NotImplementedError(f"{type(self).__name__}: step is not defined; expected a subclass to define it")

    def _check_options(self, group: dict[str, Any]) -> None:
        """Raise unless the group's options are of the right kind and in range."""

    def _check_changing(self, group: dict[str, Any]) -> None:
        """Those of `_read_when_launched` alone."""

    # --- saving

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: {name: tensor}}, "param_groups": [options with "params": indices]}, as PyTorch's.

        The tensors are the optimizer's own, not copies: a later step changes them.
        """
        return pack(self.param_groups, self.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of what `state_dict` gave, here or (with its tensors as NumPy arrays) in PyTorch.

        Raises ValueError for groups, keys or shapes that are not this optimizer's, before anything changes.
        """
        op = f"{type(self).__name__}.load_state_dict"
        self.param_groups, self.state = unpack(
            op, state_dict, self.param_groups, self.defaults, self._state_names, self._check_options
        )

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines.extend(f"    {name}: {group[name]}" for name in sorted(group) if name != "params")
        return "\n".join([*lines, ")"])


def _named(op: str, params: Any) -> tuple[list[str], list[Any]]:
    """(names, parameters) from a tensor, a list of tensors, or a list of (name, tensor) pairs."""
    if isinstance(params, Tensor):
        return [], [params]
    if isinstance(params, (set, frozenset)):
        raise TypeError(f"{op}: params is a set, whose order changes from run to run; expected a list")
    if isinstance(params, (dict, str)) or not isinstance(params, Iterable):
        raise TypeError(f"{op}: params is a {type(params).__name__}; expected a tensor or a list of tensors")
    params = list(params)
    pairs = [p for p in params if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str)]
    if pairs and len(pairs) != len(params):
        raise ValueError(f"{op}: {len(pairs)} of {len(params)} parameters have names; expected all or none")
    return [name for name, _ in pairs], [p for _, p in pairs] if pairs else params


def _check_parameter(op: str, i: int, param: Any) -> None:
    if not isinstance(param, Tensor):
        raise TypeError(f"{op}: params[{i}] is a {type(param).__name__}; expected a Tensor")
    if not param.is_floating_point():
        raise TypeError(f"{op}: params[{i}] is {param.dtype}; expected a floating-point tensor")
    if not param.is_leaf:
        raise ValueError(f"{op}: params[{i}] is the result of {param.grad_fn}; expected a leaf")
