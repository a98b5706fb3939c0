"""Connectionist temporal classification (Graves et al., "Connectionist temporal classification", ICML 2006)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.hosted import constant, host, like
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor

_NEVER = -1e5  # the logarithm of a probability that is 0: a finite one has a gradient


def _wide(x: Any) -> Tensor:
    """Of 16-bit types in float32: products of many probabilities."""
    x = floating(x)
    return x.to(dtypes.float32) if x.dtype in dtypes.HALVES else x


def ctc_loss(target: Any, output: Any, target_length: Any, output_length: Any, mask_index: int = 0) -> Tensor:
    """-log of the probability that the outputs, with blanks and repetitions taken out, are the target's labels.

    target (N, L), output (N, T, classes) as logits, lengths (N,); mask_index is the blank's class. -> (N,)
    """
    labels, logits = convert_to_tensor(target).to(dtypes.int64), _wide(output)
    label_count, steps = [convert_to_tensor(x).to(dtypes.int64) for x in (target_length, output_length)]
    n, most = labels.shape
    logp = tg.log_softmax(logits, -1)
    # Blank, label, blank, label, ..., blank (equation 6 of the paper is about these 2 L + 1 places)
    places = tg.full((n, 2 * most + 1), mask_index, dtype=dtypes.int64, device=labels.device)
    places[:, 1::2] = labels
    skips = tg.zeros(n, 2 * most + 1, dtype=tg.bool, device=labels.device)
    skips[:, 2:] = places[:, 2:] != places[:, :-2]  # of two blanks never; a label may be the blank's class

    def emitted(t: int) -> Tensor:
        return tg.take_along_dim(logp[:, t], places, -1)

    def behind(alpha: Tensor, by: int) -> Tensor:
        never = tg.full((n, by), _NEVER, dtype=alpha.dtype, device=alpha.device)
        return tg.cat([never, alpha[:, :-by]], 1)

    begin = tg.arange(2 * most + 1, device=labels.device) < 2
    alpha = tg.where(begin, emitted(0), _NEVER)
    for t in range(1, logits.shape[1]):
        two = tg.where(skips, behind(alpha, 2), _NEVER) if most else alpha
        ways = tg.stack([alpha, behind(alpha, 1), two]) if most else alpha.unsqueeze(0)
        later = tg.add(tg.logsumexp(ways, 0), emitted(t))
        alpha = tg.where((t < steps).unsqueeze(-1), later, alpha)
    last = (2 * label_count).unsqueeze(-1)
    ends = tg.take_along_dim(alpha, last, 1)
    before = tg.where(last > 0, tg.take_along_dim(alpha, tg.clamp(last - 1, 0), 1), _NEVER)
    return tg.neg(tg.logsumexp(tg.cat([ends, before], 1), 1))


def ctc_decode(
    inputs: Any,
    sequence_lengths: Any,
    strategy: str = "greedy",
    beam_width: int = 100,
    top_paths: int = 1,
    merge_repeated: bool = True,
    mask_index: int = 0,
) -> tuple[Tensor, Tensor]:
    """Labels of logits (N, T, classes): (paths, N, labels), with -1 behind the last, and scores; no gradient.

    greedy: the likeliest class of each step, with minus the sum of the largest logits as the score (N, 1).
    beam_search: the top_paths likeliest labellings of beam_width prefixes, with their log probabilities (N, paths).
    """
    x = _wide(inputs).detach()
    lengths = host(convert_to_tensor(sequence_lengths)).astype(np.int64)
    rows = host(x)
    if strategy == "greedy":
        found, scores = _greedy(rows, lengths, merge_repeated, mask_index)
    elif strategy == "beam_search":
        found, scores = _beams(rows, lengths, beam_width, top_paths, mask_index)
    else:
        raise ValueError(f"Invalid strategy {strategy}. Supported values are 'greedy' and 'beam_search'.")
    return constant(like(found.astype(np.int32), x)), constant(like(scores.astype(x.dtype), x))


def _greedy(x: np.ndarray, lengths: np.ndarray, merge: bool, blank: int) -> tuple[np.ndarray, np.ndarray]:
    blank %= x.shape[-1]
    best = x.argmax(-1)
    inside = np.arange(x.shape[1]) < lengths[:, None]
    scores = -np.where(inside, x.max(-1), 0).sum(-1, keepdims=True)
    stay = inside & (best != blank)
    if merge:
        stay[:, 1:] &= best[:, 1:] != best[:, :-1]
    found = np.full(best.shape, -1)
    for row, (labels, kept) in enumerate(zip(best, stay)):
        found[row, : kept.sum()] = labels[kept]
    return found[None], scores


def _beams(x: np.ndarray, lengths: np.ndarray, width: int, paths: int, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """Prefix search (Graves, "Sequence transduction with recurrent neural networks", 2012, algorithm 1)."""
    blank %= x.shape[-1]
    shifted = x - x.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found = np.full((paths, len(x), x.shape[1]), -1)
    scores = np.full((len(x), paths), -np.inf)
    for row in range(len(x)):
        beams: dict[tuple, tuple[float, float]] = {(): (0.0, -math.inf)}  # (ends in a blank, in its last label)
        for t in range(lengths[row]):
            after: dict[tuple, tuple[float, float]] = {}
            for prefix, (in_blank, in_label) in beams.items():
                both = np.logaddexp(in_blank, in_label)
                _add(after, prefix, both + logp[row, t, blank], -math.inf)
                for label in range(x.shape[-1]):
                    if label == blank:
                        continue
                    p = logp[row, t, label]
                    if prefix and label == prefix[-1]:
                        _add(after, prefix, -math.inf, in_label + p)
                        _add(after, (*prefix, label), -math.inf, in_blank + p)
                    else:
                        _add(after, (*prefix, label), -math.inf, both + p)
            ordered = sorted(after.items(), key=lambda item: -np.logaddexp(*item[1]))
            beams = dict(ordered[:width])
        ordered = sorted(beams.items(), key=lambda item: -np.logaddexp(*item[1]))[:paths]
        for path, (prefix, ways) in enumerate(ordered):
            found[path, row, : len(prefix)] = prefix
            scores[row, path] = np.logaddexp(*ways)
    return found, scores


def _add(beams: dict[tuple, tuple[float, float]], prefix: tuple, in_blank: float, in_label: float) -> None:
    was = beams.get(prefix, (-math.inf, -math.inf))
    beams[prefix] = float(np.logaddexp(was[0], in_blank)), float(np.logaddexp(was[1], in_label))
