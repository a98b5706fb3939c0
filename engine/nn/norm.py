"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.create import ones, zeros
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import size, sizes
from tilegrad.nn.functional.norm import batch_norm_activated, layer_norm_residual, rms_norm_residual
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.ops.writes import count_up
from tilegrad.tensor import Tensor


class _Tracking(Module):
    """What batch and instance normalisation share: parameters and running statistics, a number a channel."""

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    _dims: tuple[int, ...]  # how many dimensions the input may have
    _shape: str

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.num_features = n = size(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        _register_affine(self, affine, bias, (n,), made)
        self.register_buffer("running_mean", zeros(n, **made) if track_running_stats else None)
        self.register_buffer("running_var", ones(n, **made) if track_running_stats else None)
        count = zeros(dtype=np.int64, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and reset_running_stats."""
        self.reset_running_stats()
        _reset_affine(self)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Tracking):
    """Batch normalisation (Ioffe & Szegedy 2015); `F.batch_norm` has the formula.

    weight (ones) and bias (zeros), of shape (num_features,), are None unless affine. The buffers running_mean,
    running_var and num_batches_tracked are None unless track_running_stats; the batch's statistics are then used in
    evaluation too. momentum None makes the running statistics the mean over all batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input normalised; in training the running statistics follow."""
        return self.forward_activated(input, None)

    def forward_activated(self, input: Tensor, activation: str | None) -> Tensor:
        """activation(forward(input)) in one primitive; activation None or "relu"."""
        return self._forward(input, None, activation)

    def forward_residual(self, input: Tensor, residual: Tensor, activation: str | None = None) -> Tensor:
        """activation(forward(input) + residual) in one primitive; both of one shape, activation None or "relu".

        So a block of a residual net ends (He et al. 2016). Apart, norm, sum and relu read and write seven arrays of
        input's size and their gradient eight; in one it is three and seven. Hooks are not called, as by `forward`.
        """
        if capture_hooks.capturing and (account := capture_hooks.current()) is not None:
            account.module(self)  # it hears of modules by their calls
        return self._forward(input, residual, activation)

    def _forward(self, input: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
        name = type(self).__name__
        if input.ndim not in self._dims or input.shape[1] != self.num_features:
            raise ValueError(f"{name}: input is {input.shape}; expected {self._shape} with C = {self.num_features}")
        if not self.training:
            training = self.running_mean is None and self.running_var is None
            return self._normalized(input, training, 0.0, activation, residual)
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None:
            if self.momentum is None:
                with no_grad():  # a tensor, not a number: a captured step counts on
                    momentum = 1.0 / (self.num_batches_tracked.to(np.float64) + 1.0)
            y = self._normalized(input, True, momentum, activation, residual)
            count_up(self.num_batches_tracked)
            return y
        return self._normalized(input, True, momentum, activation, residual)

    def _normalized(
        self, input: Tensor, training: bool, momentum: float | Tensor, activation: str | None, residual: Tensor | None
    ) -> Tensor:
        running, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return batch_norm_activated(input, *running, *affine, training, momentum, self.eps, activation, residual)


class BatchNorm1d(_BatchNorm):
    __doc__ = "Over (N, C) or (N, C, L). " + (_BatchNorm.__doc__ or "")

    _dims, _shape = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    __doc__ = "Over (N, C, H, W). " + (_BatchNorm.__doc__ or "")

    _dims, _shape = (4,), "(N, C, H, W)"


class _InstanceNorm(_Tracking):
    """Instance normalisation (Ulyanov, Vedaldi & Lempitsky 2016); `F.instance_norm` has the formula.

    weight (ones) and bias (zeros), of shape (num_features,), are None unless affine. The buffers running_mean,
    running_var and num_batches_tracked are None unless track_running_stats; they are then used in evaluation.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """The input normalised; in training the running statistics follow. One image without N is a batch of one."""
        lone = min(self._dims)
        if input.ndim not in self._dims or input.shape[input.ndim - lone] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: input is {input.shape}; expected {self._shape} with C = {self.num_features}"
            )
        batch = input.unsqueeze(0) if input.ndim == lone else input
        own = self.training or not self.track_running_stats
        running, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        y = F.instance_norm(batch, *running, *affine, own, self.momentum or 0.0, self.eps)
        return y.squeeze(0) if input.ndim == lone else y


class InstanceNorm1d(_InstanceNorm):
    __doc__ = "Over (N, C, L) or (C, L). " + (_InstanceNorm.__doc__ or "")

    _dims, _shape = (2, 3), "(N, C, L) or (C, L)"


class InstanceNorm2d(_InstanceNorm):
    __doc__ = "Over (N, C, H, W) or (C, H, W). " + (_InstanceNorm.__doc__ or "")

    _dims, _shape = (3, 4), "(N, C, H, W) or (C, H, W)"


class LayerNorm(Module):
    """Layer normalisation over the last dimensions, normalized_shape (Ba, Kiros & Hinton 2016); see `F.layer_norm`.

    weight (ones) and bias (zeros) have that shape. Both are None without elementwise_affine; bias also without `bias`.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = sizes(normalized_shape)
        self.normalized_shape = tuple(size("LayerNorm", "normalized_shape", s) for s in shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        _register_affine(self, elementwise_affine, bias, self.normalized_shape, {"device": device, "dtype": dtype})

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        """The input normalised."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def forward_residual(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(forward(s), s), s = input + residual, in one primitive; both of one shape."""
        return layer_norm_residual(input, residual, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Normalisation by the root mean square over the last dimensions (Zhang & Sennrich 2019); see `F.rms_norm`.

    weight (ones) has the shape normalized_shape; it is None without elementwise_affine.
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = tuple(size("RMSNorm", "normalized_shape", s) for s in sizes(normalized_shape))
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        made = ones(self.normalized_shape, device=device, dtype=dtype) if elementwise_affine else None
        self.register_parameter("weight", None if made is None else Parameter(made))

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """The input normalised."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def forward_residual(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(forward(s), s), s = input + residual, in one primitive; both of one shape."""
        return rms_norm_residual(input, residual, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalisation over groups of channels (Wu & He 2018); see `F.group_norm`.

    weight (ones) and bias (zeros), of shape (num_channels,), are None unless affine.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = size("GroupNorm", "num_groups", num_groups, 1)
        self.num_channels = size("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels is {num_channels}; expected a multiple of num_groups, {num_groups}"
            )
        self.eps = eps
        self.affine = affine
        _register_affine(self, affine, bias, (self.num_channels,), {"device": device, "dtype": dtype})

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        """The input normalised."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


def _register_affine(module: Module, affine: bool, bias: bool, shape: tuple[int, ...], made: dict[str, Any]) -> None:
    module.register_parameter("weight", Parameter(ones(shape, **made)) if affine else None)
    module.register_parameter("bias", Parameter(zeros(shape, **made)) if affine and bias else None)


def _reset_affine(module: Any) -> None:
    if module.weight is not None:
        init.ones_(module.weight)
    if module.bias is not None:
        init.zeros_(module.bias)
