"""Recurrent layers: a step for each entry along the time dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.nested import tree
from tilegrad.ops import recurrent as recurrent_ops
from tilegrad.ops.linalg import dense
from tilegrad.tensor import Tensor


def rnn(
    step_function: Callable[..., Any],
    inputs: Any,
    initial_states: Any,
    go_backwards: bool = False,
    mask: Any = None,
    constants: Any = None,
    unroll: bool = False,
    input_length: Any = None,
    time_major: bool = False,
    zero_output_for_mask: bool = False,
    return_all_outputs: bool = True,
) -> tuple[Any, Any, Any]:
    """output, states = step_function(input, (*states, *constants)) along time.

    Where the mask does not hold, states stay as they are, and the output is the one before, or 0 if asked for.
    Returns the last output, all outputs along time (or the last alone), and the last states.
    """
    if not time_major:
        inputs = tree.map_structure(_exchanged, inputs)
        mask = None if mask is None else _exchanged(mask)
    steps = tree.flatten(inputs)[0].shape[0]
    if not steps:
        raise ValueError("Unrolling requires a fixed number of timesteps.")
    shown = None if mask is None else convert_to_tensor(mask, dtype="bool")
    states, constants = list(initial_states), list(constants or [])
    outputs: list[Any] = []
    for t in reversed(range(steps)) if go_backwards else range(steps):
        output, found = step_function(_at(inputs, t), (*states, *constants))
        if shown is not None:
            before = tree.map_structure(tg.zeros_like, output) if zero_output_for_mask or not outputs else outputs[-1]
            output, found = _chosen(shown[t], output, before), _chosen(shown[t], list(found), states)
        states = list(found)
        outputs = [*outputs, output] if return_all_outputs else [output]
    flat = [tree.flatten(output) for output in outputs]
    stacked = tree.pack_sequence_as(outputs[0], [tg.stack(list(column)) for column in zip(*flat)])
    return outputs[-1], stacked if time_major else tree.map_structure(_exchanged, stacked), states


def _exchanged(x: Any) -> Tensor:
    """Time and batch exchanged."""
    return convert_to_tensor(x).transpose(0, 1)


def _at(inputs: Any, t: int) -> Any:
    """The inputs at a time."""
    return tree.map_structure(lambda x: x[t], inputs)


def _chosen(shown: Tensor, new: Any, old: Any) -> Any:
    """new in the rows that are shown, old in the others; nested."""

    def chosen(x: Tensor, y: Tensor) -> Tensor:
        return tg.where(shown.reshape(shown.shape[0], *[1] * (x.ndim - 1)), x, y)

    return tree.map_structure(chosen, new, old)


def cudnn_ok(*args: Any, **kwargs: Any) -> bool:
    """Whether cuDNN serves; it never does: the kernels of `lstm` and `gru` are tilegrad's."""
    return False


def lstm(
    inputs: Any,
    initial_state_h: Any,
    initial_state_c: Any,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(last output, outputs, states) of an LSTM layer, whose steps are one primitive.

    inputs (B, T, I); kernel (I, 4 H) and recurrent_kernel (H, 4 H) of i, f, c, o. Raises NotImplementedError for a mask
    and for other activations than tanh and sigmoid: Keras then runs its own cell by `rnn`.
    """
    _require_usual("lstm", mask, activation, recurrent_activation)
    kernel, recurrent, bias, h, c = _of_kernels_dtype(kernel, recurrent_kernel, bias, initial_state_h, initial_state_c)
    rows, sizes = _rows(inputs, kernel)
    x = dense(rows, kernel, bias)
    y, h, c = recurrent_ops.lstm(x, recurrent.transpose(0, 1), h, c, sizes, bool(go_backwards))
    return h, _outputs(y, h, sizes, return_sequences, go_backwards), [h, c]


def gru(
    inputs: Any,
    initial_state: Any,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    reset_after: bool = True,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """As lstm, of a GRU layer: kernels (.., 3 H) of z, r, h and biases (2, 3 H).

    Raises NotImplementedError also where r comes before the product (reset_after=False).
    """
    if not reset_after:
        raise NotImplementedError("rnn.gru without reset_after has no fused kernel in the tilegrad backend")
    _require_usual("gru", mask, activation, recurrent_activation)
    state = tree.flatten(initial_state)[0]
    kernel, recurrent, bias, h = _of_kernels_dtype(kernel, recurrent_kernel, bias, state)
    rows, sizes = _rows(inputs, kernel)
    of_input, of_state = (None, None) if bias is None else tg.unbind(_with_r_first(bias))
    x = dense(rows, _with_r_first(kernel), of_input)
    y, h = recurrent_ops.gru(x, _with_r_first(recurrent).transpose(0, 1), of_state, h, sizes, bool(go_backwards))
    return h, _outputs(y, h, sizes, return_sequences, go_backwards), [h]


def _require_usual(op: str, mask: Any, activation: Any, recurrent_activation: Any) -> None:
    from keras.src.activations import activations

    if mask is not None or activation is not activations.tanh or recurrent_activation is not activations.sigmoid:
        raise NotImplementedError(
            f"rnn.{op} with a mask or other activations has no fused kernel in the tilegrad backend"
        )


def _of_kernels_dtype(kernel: Any, *others: Any) -> list[Any]:
    """All as tensors of the kernel's dtype; None stays None."""
    kernel = convert_to_tensor(kernel)
    return [kernel, *[None if x is None else convert_to_tensor(x, dtype=kernel.dtype.name) for x in others]]


def _rows(inputs: Any, kernel: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(B, T, I) as rows (T B, I), and how many each step has."""
    x = convert_to_tensor(inputs, dtype=kernel.dtype.name).transpose(0, 1)
    if not x.shape[0]:
        raise ValueError("Unrolling requires a fixed number of timesteps.")
    return x.reshape(-1, x.shape[2]), (x.shape[1],) * x.shape[0]


def _outputs(y: Tensor, last: Tensor, sizes: tuple[int, ...], return_sequences: bool, go_backwards: bool) -> Tensor:
    """(B, T, H) in the order of the steps that were taken, or (B, 1, H) of the last one."""
    if not return_sequences:
        return last.unsqueeze(1)
    steps = y.reshape(len(sizes), sizes[0], y.shape[1])
    return (steps.flip(0) if go_backwards else steps).transpose(0, 1)


def _with_r_first(x: Tensor) -> Tensor:
    """The parts r, z, h, as the primitive takes them, of z, r, h."""
    z, r, h = tg.chunk(x, 3, -1)
    return tg.cat([r, z, h], -1)


def bidirectional_lstm(*args: Any, **kwargs: Any) -> Any:
    """No kernel for both directions at once: Keras then runs two layers."""
    raise NotImplementedError("rnn.bidirectional_lstm is not implemented in the tilegrad backend")


def bidirectional_gru(*args: Any, **kwargs: Any) -> Any:
    """As bidirectional_lstm."""
    raise NotImplementedError("rnn.bidirectional_gru is not implemented in the tilegrad backend")
