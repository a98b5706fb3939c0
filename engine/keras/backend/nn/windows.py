"""What convolution and pooling share: images in Keras' order seen in the engine's, and padding by name.

Keras' images have channels last by default, the engine's are (N, C, H, W). A view changes from one to the other, and
the memory stays as it is. A sequence (N, L, C) is an image of one row.
"""

from __future__ import annotations

from typing import Any

from keras.src.backend.config import standardize_data_format

from tilegrad.tensor import Tensor

Pair = tuple[int, int]


def as_images(x: Tensor, data_format: str | None) -> Tensor:
    """(N, C, H, W) of images or of sequences in a data format. Raises NotImplementedError for volumes."""
    if x.ndim not in (3, 4):
        raise NotImplementedError(f"windows over {x.ndim - 2} dimensions are not implemented in the tilegrad backend")
    if standardize_data_format(data_format) == "channels_last":
        x = x.movedim(-1, 1)
    return x if x.ndim == 4 else x.unsqueeze(2)


def as_given(y: Tensor, ndim: int, data_format: str | None) -> Tensor:
    """The result (N, C, H, W) with the dimensions and the data format of what `as_images` was given."""
    y = y if ndim == 4 else y.squeeze(2)
    return y.movedim(1, -1) if standardize_data_format(data_format) == "channels_last" else y


def over_images(sizes: Any, ndim: int) -> Pair:
    """A size, or one a dimension, of images or sequences of `ndim` dimensions, as (rows, columns)."""
    given = sizes if isinstance(sizes, (list, tuple)) else (sizes,) * (ndim - 2)
    return tuple([1] * (4 - ndim) + [int(n) for n in given])  # type: ignore[return-value]


def padding_of(name: str, x: Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """(before, after) of rows and of columns, for padding "valid" or "same": ceil(n / stride) windows."""
    if name == "valid":
        return (0, 0), (0, 0)
    if name != "same":
        raise ValueError(f"padding is {name!r}; expected 'valid' or 'same'")
    both = []
    for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        both.append((total // 2, total - total // 2))
    return both[0], both[1]
