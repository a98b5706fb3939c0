"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import Any

from tilegrad import kernels
from tilegrad.optim.captured import lr_beside, momentum_beside
from tilegrad.optim.moments import follow, new_moment
from tilegrad.optim.optimizer import Group, Optimizer, Params
from tilegrad.optim.options import refuse, require_flag, require_lr, require_number
from tilegrad.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent (Robbins & Monro 1951) with momentum (Polyak 1964) or Nesterov's.

        g = (-grad if maximize else grad) + weight_decay p
        b = g on a parameter's first step, momentum b + (1 - dampening) g afterwards
        p = p - lr (g + momentum b)  if nesterov,   p - lr b  with momentum,   p - lr g  without

    lr            a number >= 0, or a tensor of no dimensions, which may be changed in place between steps
    momentum      >= 0; what is remembered of a parameter is b, "momentum_buffer"
    weight_decay  >= 0, an L2 penalty in the gradient
    nesterov      the form of Sutskever, Martens, Dahl & Hinton 2013; needs momentum and no dampening

    All parameters of a group are updated by one call of the primitive `sgd_step`.
    Raises ValueError and TypeError as `Optimizer` does, and for options out of range or of the wrong kind; TypeError
    for PyTorch's foreach, fused and differentiable if they are switched on.
    """

    _state_names = ("momentum_buffer",)
    _read_when_launched = ("params", "lr", "momentum")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **unsupported: Any,
    ) -> None:
        refuse("SGD", unsupported)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_changing(self, group: dict[str, Any]) -> None:
        require_lr("SGD", group["lr"])
        require_number("SGD", "momentum", group["momentum"], least=0)

    def _check_options(self, group: dict[str, Any]) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        self._check_changing(group)
        require_number("SGD", "dampening", dampening)
        require_number("SGD", "weight_decay", group["weight_decay"], least=0)
        require_flag("SGD", "nesterov", group["nesterov"])
        require_flag("SGD", "maximize", group["maximize"])
        if group["nesterov"] and (momentum == 0 or dampening != 0):
            found = f"momentum is {momentum} and dampening {dampening}"
            raise ValueError(f"SGD: {found}; expected momentum > 0 and dampening 0 for nesterov")

    def _update(self, group: Group, params: list[Tensor]) -> None:
        if group["momentum"] == 0:
            self._run(group, params, first=False)
            return
        new = [p for p in params if not self.state.get(p)]
        old = [p for p in params if self.state.get(p)]
        for param in new:
            self.state[param] = {"momentum_buffer": new_moment(param)}
        if new:
            self._run(group, new, first=True)
        if old:
            self._run(group, old, first=False)

    def _remembers(self, group: Group) -> bool:
        return group["momentum"] != 0

    def _run(self, group: Group, params: list[Tensor], first: bool) -> None:
        buffers = None
        if group["momentum"] != 0:
            for param in params:
                if self.state[param]["momentum_buffer"].is_cuda != param.is_cuda:
                    follow(self.state[param], param)
            buffers = [self.state[p]["momentum_buffer"].data for p in params]
        arrays = [p.data for p in params]
        kernels.of(*arrays).sgd_step(
            arrays,
            [p.grad.data for p in params],  # pyright: ignore[reportOptionalMemberAccess]  (each has one)
            buffers,
            lr_beside("SGD", group, params[0]),
            momentum=momentum_beside(arrays[0], group),
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            first=first,
        )
        for param in params:
            param._storage.version += 1  # a graph that still needs the old values finds out
