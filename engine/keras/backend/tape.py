"""GradientTape: gradients of what a program computes in a `with` block, for a training loop of its own.

Source: the class of that name in TensorFlow, for which Keras' documents write such loops; Keras itself has none.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

from keras.src.backend.common.variables import Variable as KerasVariable

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.core.recording import recording
from tilegrad.keras.backend.core.variable import Variable
from tilegrad.keras.backend.nested import tree
from tilegrad.tensor import Tensor


class _Local(threading.local):
    open_tapes = 0


_local = _Local()


class GradientTape:
    """Records what is computed from trainable variables in its block, and from what `watch` names.

        with tilegrad.keras.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_weights))

    persistent  whether `gradient` may be called more than once

    One tape in another gives second derivatives. What was recorded still requires grad after the block: `float(loss)`
    and `keras.ops.convert_to_numpy(logits)` read it, `logits.numpy()` is an error.
    """

    def __init__(self, persistent: bool = False) -> None:
        self._persistent = persistent
        self._is_used = False
        self._block = ExitStack()
        self._is_open = False
        self._watched: list[tuple[Any, Tensor]] = []  # what was named, and the tensor that gradients are of

    def __enter__(self) -> GradientTape:
        if self._is_open:
            raise ValueError("GradientTape: its block is entered already")
        self._block.enter_context(recording())
        self._is_open = True
        _local.open_tapes += 1
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            _local.open_tapes -= 1
            self._block.close()

    def watch(self, tensor: Any) -> None:
        """Record what is computed from this too, in the block: tensors, and variables that are not trainable.

        Nested tuples, lists and dicts of them too. Raises TypeError for other things, and for what is not floating
        point; RuntimeError outside the block.
        """
        if not self._is_open:
            raise RuntimeError("watch: expected to be called in the tape's block")
        for x in tree.flatten(tensor):
            if isinstance(x, Variable):
                self._watch_variable(x)
            elif isinstance(x, Tensor):
                self._watch_tensor(x)
            else:
                raise TypeError(f"watch: expected tensors or variables; got {type(x).__name__}")

    def _watch_variable(self, variable: Variable) -> None:
        _require_floats(variable._value)
        if variable._leaf is None:
            variable._leaf = Tensor(variable._value, requires_grad=True)
            self._watched.append((variable, variable._leaf))
            self._block.callback(variable._make_leaf)

    def _watch_tensor(self, tensor: Tensor) -> None:
        _require_floats(tensor)
        if not tensor.requires_grad:
            tensor.requires_grad = True
            self._watched.append((tensor, tensor))
            self._block.callback(tensor.requires_grad_, False)

    def gradient(
        self, target: Any, sources: Any, output_gradients: Any = None, unconnected_gradients: str = "none"
    ) -> Any:
        """d(target)/d(source) for each source, in the structure of sources.

        target                 a tensor, or nested ones: their sum, over all elements
        sources                variables and tensors, alone or nested
        output_gradients       what the target's gradient is, in the structure of target; ones
        unconnected_gradients  what stands for a source that target does not depend on: "none" or "zero"

        Raises RuntimeError for a second call where the tape is not persistent, ValueError for another word, and
        TypeError for a source that is neither variable nor tensor.
        """
        if unconnected_gradients not in ("none", "zero"):
            raise ValueError(f'gradient: unconnected_gradients is {unconnected_gradients!r}; expected "none" or "zero"')
        if self._is_used and not self._persistent:
            raise RuntimeError("gradient: called before on this tape; expected GradientTape(persistent=True)")
        asked = tree.flatten(sources)
        leaves = [self._leaf(x) for x in asked]
        if self._is_open and not self._persistent:
            self._close()
        targets = [convert_to_tensor(y) for y in tree.flatten(target)]
        seeds = [None] * len(targets) if output_gradients is None else tree.flatten(output_gradients)
        if len(seeds) != len(targets):
            raise ValueError(f"gradient: {len(targets)} targets but {len(seeds)} output_gradients; expected one each")
        pairs = [(y, _seed(y, seed)) for y, seed in zip(targets, seeds) if y.requires_grad]
        found = self._walk(pairs, [x for x in leaves if x is not None])
        self._is_used = True
        each = [None if leaf is None else next(found) for leaf in leaves]
        if unconnected_gradients == "zero":
            each = [tg.zeros_like(_tensor(x)) if g is None else g for x, g in zip(asked, each)]
        return tree.pack_sequence_as(sources, each)

    def _leaf(self, source: Any) -> Tensor | None:
        """The tensor that the source was while it was recorded; None where it was not."""
        if not isinstance(source, (KerasVariable, Tensor)):
            raise TypeError(f"gradient: expected variables or tensors as sources; got {type(source).__name__}")
        for named, leaf in self._watched:
            if named is source:
                return leaf
        leaf = source if isinstance(source, Tensor) else getattr(source, "_leaf", None)
        return leaf if leaf is not None and leaf.requires_grad else None

    def _walk(self, pairs: list[tuple[Tensor, Tensor | None]], leaves: list[Tensor]) -> Any:
        if not pairs or not leaves:
            return iter([None] * len(leaves))
        is_nested = _local.open_tapes > 0  # then the gradients are recorded too
        targets, seeds = zip(*pairs)
        off = [leaf for leaf in leaves if not leaf.requires_grad]  # watched, and the block has ended
        for leaf in off:
            leaf.requires_grad = True
        try:
            return iter(
                tg.grad(
                    targets, leaves, seeds,
                    retain_graph=self._persistent or is_nested, create_graph=is_nested, allow_unused=True,
                )
            )  # fmt: skip
        finally:
            for leaf in off:
                leaf.requires_grad = False


def _require_floats(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"watch: expected floating point; got {x.dtype}")


def _seed(target: Tensor, given: Any) -> Tensor | None:
    if given is not None:
        return convert_to_tensor(given)
    return None if target.numel() == 1 else tg.ones_like(target.detach())


def _tensor(source: Any) -> Any:
    return source._value if isinstance(source, KerasVariable) else source.detach()
