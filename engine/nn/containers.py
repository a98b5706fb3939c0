"""Modules made of modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tilegrad import capture_hooks
from tilegrad.nn.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from tilegrad.nn.conv import Conv2d
from tilegrad.nn.linear import Flatten, Linear
from tilegrad.nn.module import MODULE, Module
from tilegrad.nn.norm import BatchNorm1d, BatchNorm2d
from tilegrad.nn.pool import MaxPool2d
from tilegrad.tensor import Tensor

S = TypeVar("S", bound="_Sequence")


class _Sequence(Module):
    """The protocol of a Python list, over submodules. They are numbered, or have names of their own."""

    def _names(self) -> list[str]:
        return [name for name, kind in self._members.items() if kind == MODULE]

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Module]:
        own = self.__dict__
        return iter([own[name] for name, kind in self._members.items() if kind == MODULE])

    def __contains__(self, module: Any) -> bool:
        return any(module is own for own in self)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._part(self._names()[index])
        return self.__dict__[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), self._checked(module))

    def __delitem__(self, index: int | slice) -> None:
        for name in self._names()[index] if isinstance(index, slice) else [self._name(index)]:
            delattr(self, name)
        self._rearrange(self._names(), list(self))

    def __add__(self, other: Iterable[Module]) -> Any:
        return self._part([]).extend(self).extend(other)

    def __iadd__(self: S, other: Iterable[Module]) -> S:
        return self.extend(other)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.isdigit()]

    def append(self: S, module: Module) -> S:
        """Add a module at the end; returns the container."""
        self.register_module(self._free_name(), self._checked(module))
        return self

    def extend(self: S, modules: Iterable[Module]) -> S:
        """Add modules at the end; returns the container."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"{type(self).__name__}: expected an iterable of modules; got {type(modules).__name__}")
        for module in [self._checked(module) for module in modules]:
            self.append(module)
        return self

    def insert(self: S, index: int, module: Module) -> S:
        """Put a module before the one at `index`; returns the container."""
        names, modules = self._names(), list(self)
        names.insert(operator.index(index), self._free_name())
        modules.insert(operator.index(index), self._checked(module))
        self._rearrange(names, modules)
        return self

    def pop(self, index: int = -1) -> Module:
        """Take out the module at `index` and return it."""
        module = self[operator.index(index)]
        del self[index]
        return module

    def _name(self, index: int) -> str:
        names = self._names()
        try:
            return names[operator.index(index)]
        except IndexError:
            kind, n = type(self).__name__, len(names)
            raise IndexError(f"{kind}: index is {index}; expected {-n} <= index < {n}") from None

    def _free_name(self) -> str:
        number = len(self)
        while str(number) in self._members:
            number += 1
        return str(number)

    def _checked(self, module: Any) -> Module:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: expected a Module; got {type(module).__name__}")
        return module

    def _rearrange(self, names: list[str], modules: list[Module]) -> None:
        """Hold these modules in this order, numbered anew unless they have names of their own."""
        if all(name.isdigit() for name in names):
            names = [str(i) for i in range(len(names))]
        for name in self._names():
            delattr(self, name)
        for name, module in zip(names, modules):
            self.register_module(name, module)

    def _part(self, names: list[str]) -> Any:
        """A new container of these members."""
        raise NotImplementedError


class Sequential(_Sequence):
    """Modules called one after the other: Sequential(a, b, ...) or Sequential(OrderedDict(name=a, ...)).

    A Linear or Conv2d directly followed by an activation that the kernels know is computed as one primitive, with the
    activation in its epilogue; so is a batch normalisation followed by ReLU. Where Conv2d and ReLU are followed by
    MaxPool2d, ReLU goes into the epilogue of the pooling: the maximum of relu is relu of the maximum, and the gradient
    is then masked at the pooled size.

    This is done only where nobody can see the intermediate result: all modules are of exactly these classes, without
    hooks and without a forward of their own. In float16 that result is then not rounded; otherwise values are the same.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.register_module(name, self._checked(module))
        else:
            self.extend(args)

    def _part(self, names: list[str]) -> Sequential:
        return Sequential({name: self.__dict__[name] for name in names})  # under the names they have here

    def forward(self, input: Any) -> Tensor | Any:
        """input through every module in turn."""
        modules = list(self)
        i, n = 0, len(modules)
        while i < n:
            module = modules[i]
            i += 1
            activation = _epilogue(module, modules[i]) if i < n and type(module) in _FUSING else None
            if activation is None:
                input = module(input)
                continue
            i += 1
            following: Any = modules[i] if i < n else None
            pools = _pools_first(module, activation, following)
            if capture_hooks.capturing and (account := capture_hooks.current()) is not None:
                for each in modules[i - 2 : i + pools]:  # it hears of modules by their calls
                    account.module(each)
            if pools:
                input = following.forward_activated(module.forward(input), activation)
                i += 1
            elif type(module) is Conv2d:  # of images that the next module flattens
                input = module.forward_activated(input, activation, type(following) is Flatten)
            else:
                input = module.forward_activated(input, activation)
        return input


# By class: the activation in the kernels' epilogues that computes the same, or None if the module's options differ.
_EPILOGUES: dict[type, Callable[[Any], str | None]] = {
    ReLU: lambda m: "relu",
    LeakyReLU: lambda m: "leaky_relu" if m.negative_slope == 0.01 else None,
    Tanh: lambda m: "tanh",
    Sigmoid: lambda m: "sigmoid",
    GELU: lambda m: {"none": "gelu", "tanh": "gelu_tanh"}.get(m.approximate),
    SiLU: lambda m: "silu",
}


_NORMS = BatchNorm1d, BatchNorm2d  # whose kernels know relu alone
_FUSING = frozenset((Linear, Conv2d, *_NORMS))


def _epilogue(module: Module, following: Module) -> str | None:
    """The name of the activation to compute together with `module`, one of _FUSING; None if they run one by one."""
    known = _EPILOGUES.get(type(following))
    if known is None or type(module) in _NORMS and type(following) is not ReLU:
        return None
    return None if observed(module) or observed(following) else known(following)


def _pools_first(module: Module, activation: str, following: Any) -> bool:
    """Whether the activation of `module` may as well be applied to the maxima that `following` takes of its result."""
    if type(module) is not Conv2d or activation != "relu" or type(following) is not MaxPool2d:
        return False
    if following.return_indices or observed(following):
        return False
    # A dilated window may hold padding alone. Its maximum is then minus infinity, which relu of it is not.
    return following.dilation in (1, (1, 1), [1, 1])


def observed(module: Module) -> bool:
    """Whether somebody may see what the module is given and gives: hooks, or a `forward` of its own."""
    books = module._books
    return bool(books.hooks or books.pre_hooks or "forward" in module.__dict__)


class ModuleList(_Sequence):
    """A list of modules, registered under "0", "1", ...; it has no forward."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def _part(self, names: list[str]) -> ModuleList:
        return ModuleList(self.__dict__[name] for name in names)

    def _repr_children(self) -> Iterable[tuple[str, Any]]:
        # Runs of modules that look alike are shown once: (0-2): 3 x Linear(...).
        runs: list[tuple[int, int, str]] = []
        for i, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], i, text)
            else:
                runs.append((i, i, text))
        for first, last, text in runs:
            if first == last:
                yield str(first), _Text(text)
            else:
                yield f"{first}-{last}", _Text(f"{last - first + 1} x {text}")


class _Text(str):
    """Text whose repr is itself."""

    __repr__ = str.__str__


class ModuleDict(Module):
    """A dict of modules, registered under their keys; it has no forward."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._members))

    def __contains__(self, key: Any) -> bool:
        return key in self._members

    def __getitem__(self, key: str) -> Module:
        if key not in self._members:
            raise KeyError(f"ModuleDict: no module {key!r}; there are {', '.join(map(repr, self._members))}")
        return self.__dict__[key]

    def __setitem__(self, key: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"ModuleDict: {key!r} is {type(module).__name__}; expected a Module")
        self.register_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def keys(self) -> Iterable[str]:
        """The keys, in order of registration."""
        return self._members.keys()

    def values(self) -> Iterable[Module]:
        """The modules, in order of registration."""
        return [module for _, module in self._own(MODULE)]

    def items(self) -> Iterable[tuple[str, Module]]:
        """(key, module) pairs, in order of registration."""
        return list(self._own(MODULE))

    def pop(self, key: str) -> Module:
        """Take out the module under `key` and return it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Take out all modules."""
        for key in self:
            delattr(self, key)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules from a mapping or from (key, module) pairs; keys that exist are replaced."""
        pairs: Any = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for key, module in pairs:
            self[key] = module
