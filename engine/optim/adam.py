"""Adam, and AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

import math
from typing import Any

from tilegrad import kernels
from tilegrad.optim.captured import lr_beside, step_and_beta1
from tilegrad.optim.moments import follow, new_moment, new_step
from tilegrad.optim.optimizer import Group, Optimizer, Params
from tilegrad.optim.options import refuse, require_flag, require_lr, require_number
from tilegrad.tensor import Tensor


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1).

        g = (-grad if maximize else grad) + weight_decay p
        m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2          t = t + 1
        p = p - lr m' / (sqrt(v') + eps),    m' = m / (1 - beta1^t),    v' = v / (1 - beta2^t)

    lr                      a number >= 0, or a tensor of no dimensions, which may be changed in place between steps
    betas                   (beta1, beta2), each in [0, 1)
    eps, weight_decay       >= 0
    decoupled_weight_decay  shrink p by lr weight_decay p instead of adding to the gradient, as AdamW does

    Remembered of a parameter: "exp_avg" (m) and "exp_avg_sq" (v), at least float32, on its device; and "step" (t), on
    the CPU as in PyTorch, so that no step waits for a GPU to know it. t counts a parameter's own steps; the parameters
    of a group with the same t are updated by one call of the primitive `adam_step`.
    Raises ValueError and TypeError as `Optimizer` does, and for options out of range or of the wrong kind; TypeError
    for PyTorch's amsgrad, foreach, fused, capturable and differentiable if they are switched on.
    """

    _state_names = ("step", "exp_avg", "exp_avg_sq")
    _read_when_launched = ("params", "lr", "betas")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **unsupported: Any,
    ) -> None:
        refuse(type(self).__name__, {"amsgrad": amsgrad, **unsupported})
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _check_changing(self, group: dict[str, Any]) -> None:
        lr, betas = group["lr"], group["betas"]
        if type(lr) is float and type(betas) is tuple and len(betas) == 2:  # a short way for what is asked at each step
            beta1, beta2 = betas
            if type(beta1) is float is type(beta2) and 0 <= lr < math.inf and 0 <= beta1 < 1 and 0 <= beta2 < 1:
                return
        op = type(self).__name__
        require_lr(op, lr)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{op}: betas is {betas!r}; expected a pair of numbers")
        require_number(op, "betas[0]", betas[0], least=0, below=1)
        require_number(op, "betas[1]", betas[1], least=0, below=1)

    def _check_options(self, group: dict[str, Any]) -> None:
        op = type(self).__name__
        self._check_changing(group)
        require_number(op, "eps", group["eps"], least=0)
        require_number(op, "weight_decay", group["weight_decay"], least=0)
        require_flag(op, "maximize", group["maximize"])
        require_flag(op, "decoupled_weight_decay", group["decoupled_weight_decay"])

    def _update(self, group: Group, params: list[Tensor]) -> None:
        by_step: dict[int, list[tuple[Tensor, dict[str, Tensor]]]] = {}
        known = self.state
        for param in params:
            state = known.get(param)
            if not state:
                state = {"step": new_step(param), "exp_avg": new_moment(param), "exp_avg_sq": new_moment(param)}
                known[param] = state
            if type(state["exp_avg"]._data) is not type(param._data) and state["exp_avg"].is_cuda != param.is_cuda:
                follow(state, param)
            by_step.setdefault(int(state["step"]._data.item()), []).append((param, state))
        for steps_before, batch in by_step.items():
            self._run(group, batch, steps_before + 1)

    def _run(self, group: Group, batch: list[tuple[Tensor, dict[str, Tensor]]], step: int) -> None:
        arrays = [param._data for param, _ in batch]
        lr = lr_beside(type(self).__name__, group, batch[0][0])  # first: it may be wrong, and nothing has changed yet
        number, beta1 = step_and_beta1(arrays[0], [state["step"].data for _, state in batch], step, group)
        kernels.of(*arrays).adam_step(
            arrays,
            [param._grad._data for param, _ in batch],  # pyright: ignore  (`step` has read it: it is a tensor)
            [state["exp_avg"]._data for _, state in batch],
            [state["exp_avg_sq"]._data for _, state in batch],
            number,
            lr,
            beta1=beta1,
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            maximize=group["maximize"],
        )
        for param, state in batch:
            state["step"]._data.fill(step)
            param._storage.version += 1  # a graph that still needs the old values finds out


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

        p = p (1 - lr weight_decay), then Adam's step without weight decay

    Arguments, state and errors as Adam's; weight_decay defaults to 0.01.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **unsupported: Any,
    ) -> None:
        refuse("AdamW", unsupported)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `Optimizer` does; the decay stays decoupled, also where the state is Adam's."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
