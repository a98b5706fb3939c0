"""Module: the base of all layers and models.

Parameters, buffers and submodules are plain attributes: reading one costs an attribute access and no more. `_members`
says which attributes these are, in the order in which they were registered. It is one of the module's books.
"""

from __future__ import annotations

import copy
import itertools
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

from tilegrad import capture_hooks, dtypes
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.autograd.hooks import RemovableHandle
from tilegrad.nn import state
from tilegrad.nn.parameter import Parameter
from tilegrad.ops.moves import destination
from tilegrad.tensor import Storage, Tensor

T = TypeVar("T", bound="Module")

if TYPE_CHECKING:
    P = ParamSpec("P")
    R = TypeVar("R", covariant=True)

    class HasForward(Protocol[P, R]):
        """So that calling a module has the types of its own `forward`."""

        def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


# The kinds of members.
PARAMETER, BUFFER, MODULE = "parameter", "buffer", "module"
_EXPECTED = {PARAMETER: "a Parameter", BUFFER: "a Tensor", MODULE: "a Module"}


class _Books(NamedTuple):
    """What a module keeps of itself: one object, so that a captured step has one to compare.

    members           name -> kind
    transient         names of buffers that stay out of the state dict
    hooks, pre_hooks  of `forward`, by number
    """

    members: dict[str, str]
    transient: set[str]
    hooks: dict[int, Callable]
    pre_hooks: dict[int, Callable]


def _book(name: str) -> Any:
    """One of them as an attribute of the module."""

    def put(module: Module, value: Any) -> None:
        module.__dict__["_books"] = module._books._replace(**{name: value})

    return property(attrgetter(f"_books.{name}"), put)


_hook_numbers = itertools.count()


class Module:
    """A function with parameters. Subclasses call `super().__init__()`, assign members, and define `forward`.

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(784, 10)

            def forward(self, x):
                return self.fc(x)

    A Parameter or Module that is assigned to an attribute is registered under its name; `register_buffer` registers
    tensors that belong to the state but are not trained. Names, order and keys are PyTorch's.
    """

    training: bool
    _books: _Books
    _members: dict[str, str] = _book("members")
    _transient: set[str] = _book("transient")
    _forward_hooks: dict[int, Callable] = _book("hooks")
    _forward_pre_hooks: dict[int, Callable] = _book("pre_hooks")

    def __init__(self) -> None:
        self.__dict__.update(training=True, _books=_Books({}, set(), {}, {}))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | Any:
        """What the module computes; called through the module itself."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method forward(); the class defines none")

    if TYPE_CHECKING:

        def __call__(self: HasForward[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    else:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if capture_hooks.capturing and (account := capture_hooks.current()) is not None:
                account.module(self)
            books = self._books
            if books.hooks or books.pre_hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)

    # --- members

    def __setattr__(self, name: str, value: Any) -> None:
        kind = PARAMETER if isinstance(value, Parameter) else MODULE if isinstance(value, Module) else None
        books = self.__dict__.get("_books")
        members = None if books is None else books.members
        if kind is not None:
            if members is None:
                raise AttributeError(
                    f"{type(self).__name__}: cannot assign {kind} {name!r} before Module.__init__() call; "
                    "expected super().__init__() first"
                )
            if members.get(name) != kind:
                self._forget(name)
                members[name] = kind
        elif members is not None and name in members:
            kind = members[name]
            if value is not None and not (kind == BUFFER and isinstance(value, Tensor)):
                raise TypeError(
                    f"{type(self).__name__}: cannot assign {type(value).__name__} as {kind} {name!r}; "
                    f"expected {_EXPECTED[kind]} or None"
                )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._forget(name)

    def __copy__(self: T) -> T:
        """A module with the same members and attributes. A member or hook added to one is not added to the other."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if "_books" in self.__dict__:
            twin.__dict__["_books"] = _Books._make(map(copy.copy, self._books))
        return twin

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for what it did not find in the usual places.
        if "_books" not in self.__dict__ and not name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__}: {name!r} is missing because Module.__init__() was not called; "
                "expected super().__init__() first"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _forget(self, name: str) -> None:
        self._members.pop(name, None)
        self._transient.discard(name)

    def _register(self, op: str, kind: str, name: str, value: Any, wanted: type) -> None:
        if "_books" not in self.__dict__:
            raise AttributeError(
                f"{op}: cannot register {name!r} before Module.__init__() call; expected super().__init__() first"
            )
        if not isinstance(name, str):
            raise TypeError(f"{op}: name is {name!r}; expected a str")
        if name == "" or "." in name:
            raise KeyError(f"{op}: name is {name!r}; expected one that is not empty and has no dot")
        if hasattr(self, name) and self._members.get(name) != kind:
            raise KeyError(f"{op}: {type(self).__name__} already has an attribute {name!r}; expected another name")
        if value is not None and not isinstance(value, wanted):
            raise TypeError(f"{op}: {name!r} is {type(value).__name__}; expected {_EXPECTED[kind]} or None")
        self._members[name] = kind
        self.__dict__[name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register a parameter under a name; None keeps the place without a parameter.

        Raises KeyError for a name that is taken, empty or dotted, TypeError for what is no Parameter.
        """
        if isinstance(param, Tensor) and param.grad_fn is not None:
            raise ValueError(f"register_parameter: {name!r} is the result of an op; expected a leaf")
        self._register("register_parameter", PARAMETER, name, param, Parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that is part of the state but no parameter. The state dict has it only if it is persistent.

        Raises as register_parameter does.
        """
        self._register("register_buffer", BUFFER, name, tensor, Tensor)
        (self._transient.discard if persistent else self._transient.add)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Register a submodule under a name. Raises as register_parameter does."""
        self._register("register_module", MODULE, name, module, Module)

    def add_module(self, name: str, module: Module | None) -> None:
        """Another name for register_module."""
        self.register_module(name, module)

    # --- what there is, in order of registration, each thing once

    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(name, module) of this module (named `prefix`) and all below it, outer before inner."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._own(MODULE):
            yield from child.named_modules(memo, _joined(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the submodules directly below."""
        seen: set[int] = set()
        for name, child in self._own(MODULE):
            if id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """The submodules directly below."""
        return (module for _, module in self.named_children())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of this module and, with recurse, of all below it."""
        return self._named(PARAMETER, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and, with recurse, of all below it."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer) of this module and, with recurse, of all below it."""
        return self._named(BUFFER, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and, with recurse, of all below it."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _own(self, kind: str) -> Iterator[tuple[str, Any]]:
        """The members of one kind, without those that are None."""
        values = self.__dict__
        account = capture_hooks.current()
        if account is not None:
            account.module(self)
        for name, member in list(self._members.items()):
            if member == kind and values[name] is not None:
                yield name, values[name]

    def _named(self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in module._own(kind):
                if remove_duplicate:
                    if id(value) in seen:
                        continue
                    seen.add(id(value))
                yield _joined(path, name), value

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; "" is this one. Raises AttributeError if there is none."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = module.__dict__.get(name) if isinstance(module, Module) else None
        return self._found("get_submodule", target, module, Module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path. Raises AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        return self._found("get_parameter", target, self.get_submodule(path).__dict__.get(name), Parameter)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path. Raises AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        buffer = owner.__dict__.get(name) if owner._members.get(name) == BUFFER else None
        return self._found("get_buffer", target, buffer, Tensor)

    def _found(self, op: str, target: str, value: Any, wanted: type) -> Any:
        if not isinstance(value, wanted):
            raise AttributeError(f"{op}: {type(self).__name__} has no {op[4:]} {target!r}")
        return value

    # --- state

    def state_dict(self, *, prefix: str = "") -> OrderedDict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, detached, on the module's own memory."""
        tensors: OrderedDict[str, Tensor] = OrderedDict()
        for path, owner in self.named_modules(remove_duplicate=False):  # a shared tensor stands under each of its names
            for kind in (PARAMETER, BUFFER):
                for name, value in owner._own(kind):
                    if name not in owner._transient:
                        tensors[prefix + _joined(path, name)] = value.detach()
        return tensors

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> state.IncompatibleKeys:
        """Copy values (tensors or arrays) into the parameters and buffers of the same names, in place.

        Returns (missing_keys, unexpected_keys). Raises RuntimeError naming everything that does not fit, before
        anything is copied: wrong shapes and kinds and, if strict, missing and unexpected keys.
        """
        return state.load(type(self).__name__, Module.state_dict(self), state_dict, strict)

    def train(self: T, mode: bool = True) -> T:
        """Set training mode (dropout drops, batch norm takes the batch's statistics) here and below."""
        if not isinstance(mode, bool):
            raise TypeError(f"train: mode is {mode!r}; expected a bool")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: T) -> T:
        """train(False)."""
        return self.train(False)

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Set requires_grad of every parameter."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient; with set_to_none=False fill it with zeros instead."""
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad = p.grad.detach()
                p.grad.zero_()

    def apply(self: T, fn: Callable[[Module], Any]) -> T:
        """Call fn on every submodule, inner before outer, then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self: T, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> T:
        """Move parameters, their gradients and buffers, in place: to(device), to(dtype), to(device, dtype), to(tensor).

        Integer buffers keep their dtype; an optimizer's state follows at its next step.
        Raises TypeError for a dtype that is not floating-point.
        """
        dtype, device = destination(args, dtype, device)
        if dtype is not None and not dtypes.is_float(dtype):
            raise TypeError(f"to: dtype is {dtype}; expected a floating-point dtype for a module")
        return self._convert(lambda x: x.to(dtype=dtype if x.is_floating_point() else None, device=device))

    def float(self: T) -> T:
        """Floating-point parameters and buffers as float32."""
        return self.to(dtypes.float32)

    def double(self: T) -> T:
        """Floating-point parameters and buffers as float64."""
        return self.to(dtypes.float64)

    def half(self: T) -> T:
        """Floating-point parameters and buffers as float16."""
        return self.to(dtypes.float16)

    def bfloat16(self: T) -> T:
        """Floating-point parameters and buffers as bfloat16."""
        return self.to(dtypes.bfloat16)

    def cpu(self: T) -> T:
        """Parameters and buffers on the CPU."""
        return self.to("cpu")

    def cuda(self: T, device: Any = None) -> T:
        """Parameters and buffers on the GPU."""
        return self.to("cuda" if device is None else device)

    def _convert(self: T, convert: Callable[[Tensor], Tensor]) -> T:
        """Give every parameter and buffer the memory of convert(it). The objects stay, as optimizers hold them."""
        with no_grad():
            for x in itertools.chain(self.parameters(), self.buffers()):
                self._lay(x, convert(x).data)
                if x.grad is not None:
                    x.grad = convert(x.grad)
            for module in self.modules():
                module._moved()
        return self

    @staticmethod
    def _lay(x: Tensor, data: Any) -> None:
        """Give the tensor this memory."""
        if data is not x.data:
            x._storage.leave(x)  # a graph that saved x must not use the new values
            x._data, x._storage = data, Storage()
            capture_hooks.moved()

    def _moved(self) -> None:
        """Called where the module's own parameters have come to be on a device; they may be laid out for it."""

    # --- hooks

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> RemovableHandle:
        """Call hook(module, args, output) after every forward; what it returns, if not None, replaces the output."""
        return _add_hook(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> RemovableHandle:
        """Call hook(module, args) before every forward; what it returns, if not None, replaces the arguments."""
        return _add_hook(self._forward_pre_hooks, hook)

    def _call_with_hooks(self, args: tuple, kwargs: dict) -> Any:
        for hook in list(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    # --- looks

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {value!r}" for name, value in self._repr_children()]
        return _block(type(self).__name__, self.extra_repr(), children)

    def _repr_html_(self) -> str:
        """For notebooks: the modules as a tree that opens and closes."""
        from tilegrad import html  # for notebooks alone

        def tree(name: str, module: Any) -> str:
            if not isinstance(module, Module):
                return html.text(f"{name}{module!r}")
            children = [tree(f"({each}): ", value) for each, value in module._repr_children()]
            own = sum(p.data.size for p in module.parameters())
            extra = module.extra_repr().replace("\n", ", ")
            return html.tree(
                f"{name}{type(module).__name__}({extra})" + (f"  {own:,} parameters" if own else ""), children
            )

        return tree("", self)

    def _repr_children(self) -> Iterable[tuple[str, Any]]:
        return ((name, self.__dict__[name]) for name, kind in self._members.items() if kind == MODULE)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _add_hook(hooks: dict[int, Callable], hook: Callable) -> RemovableHandle:
    key = next(_hook_numbers)
    hooks[key] = hook
    return RemovableHandle(hooks, key)


def _block(name: str, extra: str, children: list[str]) -> str:
    """name(extra) on one line, or an indented block of extra and children."""
    if not children and "\n" not in extra:
        return f"{name}({extra})"
    body = textwrap.indent("\n".join([extra, *children] if extra else children), "  ")
    return f"{name}(\n{body}\n)"
