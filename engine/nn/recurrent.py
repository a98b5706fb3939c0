"""Recurrent layers over sequences, and the cells that take one step.

    RNN    h' = tanh or relu of (W_ih x + b_ih + W_hh h + b_hh)                         (Elman 1990)
    LSTM   i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of the four parts of the same sum
           c' = f c + i g,   h' = o tanh(c')                                             (Hochreiter & Schmidhuber 1997)
    GRU    r, z = sigmoid of two parts of the sum,   n = tanh(W_in x + b_in + r (W_hn h + b_hn))
           h' = (1 - z) n + z h                                                          (Cho et al. 2014)

A layer's part of the inputs, of all steps, is one product; its steps are one primitive (tilegrad.ops.recurrent).
"""

from __future__ import annotations

import warnings
from math import sqrt
from typing import Any

from tilegrad import ops
from tilegrad.create import empty, zeros
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import one_of, probability, require_tensor, size
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.nn.utils.rnn import PackedSequence
from tilegrad.ops.recurrent import gru, lstm, rnn
from tilegrad.tensor import Tensor

States = tuple[Tensor, ...]

_NONLINEARITIES = ("tanh", "relu")


class _Weights(Module):
    """What layers and cells share: parameters that start uniform on [-b, b), b = 1 / sqrt(hidden_size)."""

    gates: int  # parts of the sum
    input_size: int
    hidden_size: int
    bias: bool

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / sqrt(self.hidden_size)
        for each in self.parameters():
            init.uniform_(each, -bound, bound)

    def _steps(self, rows: Tensor, weights: list[Any], states: States, sizes: tuple[int, ...], reverse: bool) -> States:
        """(y, *last states) of rows (N, input_size); weights as `all_weights` lists them."""
        raise NotImplementedError


class _Layers(_Weights):
    """Layers on top of one another, in one direction or both.

    input        (T, B, input_size), with batch_first (B, T, input_size), without a batch (T, input_size); or a
                 PackedSequence
    hx           the states before the first step, (num_layers * directions, B, width) each, without a batch without B;
                 None: zeros
    ->           the last layer's h of every step, (T, B, directions * width), laid out as the input; and the states
                 after each sequence's last step, of hx's shape

    weight_ih_l{k}  (gates * hidden_size, input_size), for k > 0 (.., directions * width)
    weight_hh_l{k}  (gates * hidden_size, width)
    bias_ih_l{k}, bias_hh_l{k}  (gates * hidden_size,), with bias
    and the same with `_reverse` for the other direction

    num_layers     k counts them
    dropout        of each layer's output but the last one's, in training
    bidirectional  a second layer goes from each sequence's end to its beginning; its output stands behind the first's

    Raises ValueError for shapes, TypeError for what is no tensor.
    """

    proj_size: int = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = size(name, "input_size", input_size)
        self.hidden_size = size(name, "hidden_size", hidden_size, 1)
        self.num_layers = size(name, "num_layers", num_layers, 1)
        self.bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.dropout = float(probability(name, dropout))
        if self.dropout and num_layers == 1:
            warnings.warn(f"{name}: dropout is {dropout} but there is one layer, after which is none", stacklevel=3)
        across, made = self.gates * hidden_size, {"device": device, "dtype": dtype}
        for layer in range(num_layers):
            width = input_size if layer == 0 else self._width * self._directions
            shapes = [("weight_ih", (across, width)), ("weight_hh", (across, self._width))]
            if bias:
                shapes += [("bias_ih", (across,)), ("bias_hh", (across,))]
            if self.proj_size:
                shapes.append(("weight_hr", (self.proj_size, hidden_size)))
            for suffix in self._suffixes(layer):
                for kind, shape in shapes:
                    self.register_parameter(f"{kind}_{suffix}", Parameter(empty(*shape, **made)))
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _width(self) -> int:
        """Of h."""
        return self.proj_size or self.hidden_size

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][: self._directions]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction, in the order of the states."""
        kinds = ["weight_ih", "weight_hh", *["bias_ih", "bias_hh"] * self.bias, *["weight_hr"] * bool(self.proj_size)]
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        return [[getattr(self, f"{kind}_{suffix}") for kind in kinds] for suffix in suffixes]

    def flatten_parameters(self) -> None:
        """Nothing: the kernels take the parameters where they are."""

    def _through(self, input: Any, hx: States | None) -> tuple[Any, States]:
        """(output, last states); hx a tuple."""
        if isinstance(input, PackedSequence):
            self._require_width(input.data)
            states = self._first(hx, input.batch_sizes[0], True, input.data)
            y, states = self._layers(input.data, states, input.batch_sizes, *input[2:])
            return PackedSequence(y, *input[1:]), states
        require_tensor(type(self).__name__, input=input)
        if input.ndim not in (2, 3):
            raise self._refused(input, "2 dimensions, or 3 with a batch")
        self._require_width(input)
        batched = input.ndim == 3
        steps = input.transpose(0, 1) if self.batch_first and batched else input
        sizes = (steps.shape[1] if batched else 1,) * steps.shape[0]
        if not sizes:
            raise self._refused(input, "at least one step")
        rows = steps.reshape(-1, steps.shape[-1])
        y, states = self._layers(rows, self._first(hx, sizes[0], batched, rows), sizes)
        y = y.reshape(*steps.shape[:-1], y.shape[-1])
        states = states if batched else tuple([each.squeeze(1) for each in states])
        return y.transpose(0, 1) if self.batch_first and batched else y, states

    def _require_width(self, input: Tensor) -> None:
        if input.shape[-1] != self.input_size:
            raise self._refused(input, f"{self.input_size} in its last dimension")

    def _refused(self, input: Tensor, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: input is {input.shape}; expected {expected}")

    def _first(self, hx: States | None, batch: int, batched: bool, rows: Tensor) -> States:
        """The states before the first step, (num_layers * directions, B, width) each."""
        name, count = type(self).__name__, self.num_layers * self._directions
        widths = self._widths()
        if hx is None:
            return tuple([zeros(count, batch, width, dtype=rows.dtype, device=rows.device) for width in widths])
        for which, state, width in zip(("h_0", "c_0"), hx, widths):
            require_tensor(name, **{which: state})
            expected = (count, batch, width) if batched else (count, width)
            if state.shape != expected:
                raise ValueError(f"{name}: {which} is {state.shape}; expected {expected}")
        return hx if batched else tuple([each.unsqueeze(1) for each in hx])

    def _widths(self) -> tuple[int, ...]:
        """Of the states."""
        return (self._width,)

    def _layers(
        self,
        rows: Tensor,
        states: States,
        sizes: tuple[int, ...],
        order: Tensor | None = None,
        back: Tensor | None = None,
    ) -> tuple[Tensor, States]:
        """The last layer's y, and the states; order: where the sequence of each row is in the states, back: inversely.

        Rows are gathered layer by layer: a gather of rows checks its indices without waiting for a GPU.
        """
        first = iter([[each[k] for each in states] for k in range(states[0].shape[0])])
        weights, last = iter(self.all_weights), []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in (False, True)[: self._directions]:
                before = tuple([each if order is None else each[order] for each in next(first)])
                y, *after = self._steps(rows, next(weights), before, sizes, reverse)
                outputs.append(y)
                last.append([each if back is None else each[back] for each in after])
            rows = outputs[0] if len(outputs) == 1 else ops.cat(outputs, 1)
            if layer + 1 < self.num_layers:
                rows = F.dropout(rows, self.dropout, self.training)
        return rows, tuple([ops.stack(each) for each in zip(*last)])

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.proj_size:
            parts.append(f"proj_size={self.proj_size}")
        for name, default in (
            ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0), ("bidirectional", False)
        ):  # fmt: skip
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


class _Plain(_Weights):
    """What RNN and RNNCell share."""

    gates = 1
    nonlinearity: str

    def _steps(self, rows: Tensor, weights: list[Any], states: States, sizes: tuple[int, ...], reverse: bool) -> States:
        w_ih, w_hh, *biases = weights
        x = ops.linear(rows, w_ih, biases[0] + biases[1] if biases else None)
        return rnn(x, w_hh, states[0], sizes, reverse, self.nonlinearity)


class _LongShortTerm(_Weights):
    """What LSTM and LSTMCell share."""

    gates = 4

    def _steps(self, rows: Tensor, weights: list[Any], states: States, sizes: tuple[int, ...], reverse: bool) -> States:
        w_ih, w_hh, *others = weights
        x = ops.linear(rows, w_ih, others[0] + others[1] if self.bias else None)
        return lstm(x, w_hh, states[0], states[1], sizes, reverse, others[-1] if len(others) in (1, 3) else None)


class _Gated(_Weights):
    """What GRU and GRUCell share."""

    gates = 3

    def _steps(self, rows: Tensor, weights: list[Any], states: States, sizes: tuple[int, ...], reverse: bool) -> States:
        w_ih, w_hh, *biases = weights
        x = ops.linear(rows, w_ih, biases[0] if biases else None)
        return gru(x, w_hh, biases[1] if biases else None, states[0], sizes, reverse)


class RNN(_Plain, _Layers):
    __doc__ = f"""The plain recurrent layer; nonlinearity is "tanh" or "relu".

    {_Layers.__doc__}"""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        one_of("RNN", "nonlinearity", nonlinearity, _NONLINEARITIES)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """(output, h_n)."""
        y, (h,) = self._through(input, None if hx is None else (hx,))
        return y, h


class GRU(_Gated, _Layers):
    __doc__ = f"""The gated recurrent unit; the parts of its weights are r, z, n.

    {_Layers.__doc__}"""

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """(output, h_n)."""
        y, (h,) = self._through(input, None if hx is None else (hx,))
        return y, h


class LSTM(_LongShortTerm, _Layers):
    __doc__ = f"""Long short-term memory; the parts of its weights are i, f, g, o, and hx is (h_0, c_0).

    proj_size  P > 0: h is W_hr times what it would be, P wide (Sak, Senior & Beaufays 2014), with weight_hr_l{{k}}
               (P, hidden_size). Steps are some launches each then

    {_Layers.__doc__}"""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        self.proj_size = size("LSTM", "proj_size", proj_size)  # before the parameters are made, which it shapes
        if self.proj_size >= size("LSTM", "hidden_size", hidden_size, 1):
            raise ValueError(f"LSTM: proj_size is {proj_size} and hidden_size {hidden_size}; expected proj_size below")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)

    def _widths(self) -> tuple[int, ...]:
        return self._width, self.hidden_size

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """(output, (h_n, c_n))."""
        y, (h, c) = self._through(input, _pair("LSTM", hx))
        return y, (h, c)


class _Cell(_Weights):
    """One step.

    input  (B, input_size) or (input_size,)
    hx     the state before, (B, hidden_size) or (hidden_size,); None: zeros
    ->     the state after

    weight_ih (gates * hidden_size, input_size), weight_hh (gates * hidden_size, hidden_size), and with bias bias_ih and
    bias_hh (gates * hidden_size,)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = size(name, "input_size", input_size)
        self.hidden_size = size(name, "hidden_size", hidden_size, 1)
        self.bias = bool(bias)
        across, made = self.gates * hidden_size, {"device": device, "dtype": dtype}
        self.weight_ih = Parameter(empty(across, input_size, **made))
        self.weight_hh = Parameter(empty(across, hidden_size, **made))
        for each in ("bias_ih", "bias_hh"):
            self.register_parameter(each, Parameter(empty(across, **made)) if bias else None)
        self.reset_parameters()

    def _step(self, input: Tensor, hx: States | None, count: int = 1) -> States:
        """The states after the step; hx a tuple of `count`."""
        name = type(self).__name__
        require_tensor(name, input=input)
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(f"{name}: input is {input.shape}; expected ({self.input_size},), or that with a batch")
        rows = input if input.ndim == 2 else input.unsqueeze(0)
        if hx is None:
            hx = (zeros(rows.shape[0], self.hidden_size, dtype=rows.dtype, device=rows.device),) * count
        else:
            for which, state in zip(("hx", "cx"), hx):
                require_tensor(name, **{which: state})
                expected = (*input.shape[:-1], self.hidden_size)
                if state.shape != expected:
                    raise ValueError(f"{name}: {which} is {state.shape}; expected {expected}")
            hx = hx if input.ndim == 2 else tuple([each.unsqueeze(0) for each in hx])
        weights = [self.weight_ih, self.weight_hh, *([self.bias_ih, self.bias_hh] if self.bias else [])]
        _, *after = self._steps(rows, weights, hx, (rows.shape[0],), False)
        return tuple(after) if input.ndim == 2 else tuple([each.squeeze(0) for each in after])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Plain, _Cell):
    __doc__ = f"""A step of RNN; nonlinearity is "tanh" or "relu".

    {_Cell.__doc__}"""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        one_of("RNNCell", "nonlinearity", nonlinearity, _NONLINEARITIES)
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """h'."""
        return self._step(input, None if hx is None else (hx,))[0]


class GRUCell(_Gated, _Cell):
    __doc__ = f"""A step of GRU.

    {_Cell.__doc__}"""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """h'."""
        return self._step(input, None if hx is None else (hx,))[0]


class LSTMCell(_LongShortTerm, _Cell):
    __doc__ = f"""A step of LSTM; hx is (h, c).

    {_Cell.__doc__}"""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(h', c')."""
        h, c = self._step(input, _pair("LSTMCell", hx), 2)
        return h, c


def _pair(op: str, hx: Any) -> States | None:
    if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
        raise TypeError(f"{op}: hx is {type(hx).__name__}; expected two tensors, (h, c)")
    return None if hx is None else tuple(hx)
