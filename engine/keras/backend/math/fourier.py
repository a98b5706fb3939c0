"""Discrete Fourier transforms. A complex tensor is a pair of its real and its imaginary part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import dtypes, ops
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.hosted import differentiable, library
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor

Complex = tuple[Tensor, Tensor]
Transform = Callable[[Any, Any], Any]  # (library, complex array) -> complex array


def _get_complex_tensor_from_tuple(x: Any) -> Complex:
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise ValueError(f"Input `x` should be a tuple of two tensors - real and imaginary. Received: x={x}")
    real, imag = convert_to_tensor(x[0]), convert_to_tensor(x[1])
    if real.shape != imag.shape:
        raise ValueError(
            "Input `x` should be a tuple of two tensors - real and imaginary. Both the real and imaginary parts "
            f"should have the same shape. Received: x[0].shape = {real.shape}, x[1].shape = {imag.shape}"
        )
    if real.dtype not in dtypes.FLOATS or imag.dtype not in dtypes.FLOATS:
        raise ValueError(
            "At least one tensor in input `x` is not of type float. Received: "
            f"x={x}, dtypes {real.dtype} and {imag.dtype}"
        )
    return real, imag


def fft(x: Any) -> Complex:
    """Of the last axis."""
    return _transformed("fft", lambda xp, z: xp.fft.fft(z), *_get_complex_tensor_from_tuple(x))


def fft2(x: Any) -> Complex:
    """Of the last two axes."""
    return _transformed("fft2", lambda xp, z: xp.fft.fft2(z), *_get_complex_tensor_from_tuple(x))


def ifft2(x: Any) -> Complex:
    """The inverse of fft2."""
    return _transformed("ifft2", lambda xp, z: xp.fft.ifft2(z), *_get_complex_tensor_from_tuple(x))


def _transformed(name: str, transform: Transform, real: Tensor, imag: Tensor) -> Complex:
    """A transform whose matrix F is symmetric: the gradients of Re(F z) and Im(F z) are made by F itself.

    y_re = Re F a - Im F b and y_im = Im F a + Re F b, of z = a + i b.
    """
    xp = library(real)
    z = transform(xp, real.data + 1j * imag.data)

    def of_real(dy: Tensor) -> tuple:
        re, im = _transformed(name, transform, dy, tg.zeros_like(dy))
        return re, tg.neg(im)

    def of_imag(dy: Tensor) -> tuple:
        re, im = _transformed(name, transform, dy, tg.zeros_like(dy))
        return im, re

    parts = [xp.ascontiguousarray(part).astype(real.dtype) for part in (z.real, z.imag)]
    return (
        differentiable(name, parts[0], [real, imag], of_real),
        differentiable(name, parts[1], [real, imag], of_imag),
    )


def rfft(x: Any, fft_length: int | None = None) -> Complex:
    """Of real numbers, cut or filled up with zeros to fft_length: the frequencies that are not negative."""
    x = _to_length(floating(x), fft_length)
    real, imag = fft((x, tg.zeros_like(x)))
    half = x.shape[-1] // 2 + 1
    return real[..., :half], imag[..., :half]


def irfft(x: Any, fft_length: int | None = None) -> Tensor:
    """The inverse of rfft: real numbers, fft_length of them, by default the even number."""
    real, imag = _get_complex_tensor_from_tuple(x)
    n = 2 * (real.shape[-1] - 1) if fft_length is None else fft_length
    half = n // 2 + 1
    real, imag = _to_length(real, half), _to_length(imag, half)
    # The imaginary parts of the first frequency, and of the last of an even number, count as 0.
    own = np.ones(half)
    own[0] = 0
    if n % 2 == 0:
        own[-1] = 0
    imag = tg.mul(imag, tg.tensor(own, dtype=imag.dtype, device=imag.device))
    behind = slice(1, half - 1 if n % 2 == 0 else half)
    real = tg.cat([real, tg.flip(real[..., behind], (-1,))], -1)
    imag = tg.cat([imag, tg.neg(tg.flip(imag[..., behind], (-1,)))], -1)
    return _transformed("ifft", lambda xp, z: xp.fft.ifft(z), real, imag)[0]


def _to_length(x: Tensor, n: int | None) -> Tensor:
    if n is None or n == x.shape[-1]:
        return x
    return x[..., :n] if n < x.shape[-1] else ops.pad(x, (0, n - x.shape[-1]))


def extract_sequences(x: Any, sequence_length: int, sequence_stride: int) -> Tensor:
    """(..., n) -> (..., sequences, length): windows of the last axis."""
    x = convert_to_tensor(x)
    count = (x.shape[-1] - sequence_length) // sequence_stride + 1
    starts = sequence_stride * tg.arange(max(count, 0), device=x.device)
    return x[..., starts.unsqueeze(-1) + tg.arange(sequence_length, device=x.device)]


def stft(
    x: Any, sequence_length: int, sequence_stride: int, fft_length: int, window: Any = "hann", center: bool = True
) -> Complex:
    """Spectra of windows of the last axis, (..., windows, fft_length // 2 + 1); center: the first is around x[0]."""
    x = _of_floats(x)
    if fft_length < sequence_length:
        raise ValueError(
            "`fft_length` must equal or larger than `sequence_length`. "
            f"Received: sequence_length={sequence_length}, fft_length={fft_length}"
        )
    if center:
        each = fft_length // 2
        x = _reflected(x, each)
    weights = _weights(window, sequence_length, fft_length, x)
    return rfft(tg.mul(extract_sequences(x, fft_length, sequence_stride), weights), fft_length)


def istft(
    x: Any,
    sequence_length: int,
    sequence_stride: int,
    fft_length: int,
    length: int | None = None,
    window: Any = "hann",
    center: bool = True,
) -> Tensor:
    """The signal whose spectra stft gave: windows weighted again, over the squares' sum, and added where they overlap.

    The sum of the squared weights is that of the middle, where all windows overlap. Without a window parts are added as
    they are.
    """
    parts = irfft(_get_complex_tensor_from_tuple(x), fft_length)
    if window is not None:
        weights = _weights(window, sequence_length, fft_length, parts)
        overlaps = -(-fft_length // sequence_stride)
        squares = ops.pad(tg.square(weights), (0, overlaps * sequence_stride - fft_length))
        sums = tg.sum(squares.reshape(overlaps, sequence_stride), 0)
        parts = tg.mul(parts, tg.div(weights, tg.tile(sums, (overlaps,))[:fft_length]))
    count = parts.shape[-2]
    n = fft_length + sequence_stride * (count - 1)
    starts = sequence_stride * tg.arange(count, device=parts.device)
    at = (starts.unsqueeze(-1) + tg.arange(fft_length, device=parts.device)).reshape(-1)
    flat = parts.reshape(*parts.shape[:-2], -1)
    zeros = tg.zeros(*flat.shape[:-1], n, dtype=flat.dtype, device=flat.device)
    y = tg.scatter_add(zeros, -1, at.broadcast_to(flat.shape), flat)
    begin = fft_length // 2 if center else 0
    end = n - begin if length is None else begin + length
    return _to_length(y[..., begin : min(end, n)], end - begin)


def _of_floats(x: Any) -> Tensor:
    x = convert_to_tensor(x)
    if x.dtype not in dtypes.FLOATS:
        raise TypeError(f"Invalid input type. Expected `float32` or `float64`. Received: input type={x.dtype}")
    return x


def _reflected(x: Tensor, each: int) -> Tensor:
    at = np.pad(np.arange(x.shape[-1]), (each, each), mode="reflect")
    return x[..., tg.tensor(at, device=x.device)]


def _weights(window: Any, length: int, fft_length: int, x: Tensor) -> Tensor:
    """The window's weights, in the middle of fft_length."""
    if window is None:
        weights = tg.ones(length, dtype=x.dtype, device=x.device)
    elif isinstance(window, str):
        if window not in ("hann", "hamming"):
            raise ValueError(
                f"If a string is passed to `window`, it must be one of `'hann'`, `'hamming'`. Received: window={window}"
            )
        angle = 2 * np.pi * np.arange(length) / length  # periodic
        low = 0.5 if window == "hann" else 0.54
        weights = tg.tensor(low - (1 - low) * np.cos(angle), dtype=x.dtype, device=x.device)
    else:
        weights = convert_to_tensor(window, dtype=x.dtype)
        if weights.ndim != 1 or len(weights) != length:
            raise ValueError(
                f"The shape of `window` must be equal to [sequence_length]. Received: window shape={weights.shape}"
            )
    left = (fft_length - length) // 2
    return ops.pad(weights, (left, fft_length - length - left))
