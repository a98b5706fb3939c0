"""Recurrent layers: a step for each entry along the time dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.nested import tree
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
    """Whether there is a fused kernel; there is none."""
    return False


def lstm(*args: Any, **kwargs: Any) -> Any:
    """No fused kernel: Keras then runs its own cell by `rnn`."""
    raise NotImplementedError("rnn.lstm is not implemented in the tilegrad backend")


def gru(*args: Any, **kwargs: Any) -> Any:
    """As lstm."""
    raise NotImplementedError("rnn.gru is not implemented in the tilegrad backend")


def bidirectional_lstm(*args: Any, **kwargs: Any) -> Any:
    """As lstm."""
    raise NotImplementedError("rnn.bidirectional_lstm is not implemented in the tilegrad backend")


def bidirectional_gru(*args: Any, **kwargs: Any) -> Any:
    """As lstm."""
    raise NotImplementedError("rnn.bidirectional_gru is not implemented in the tilegrad backend")
