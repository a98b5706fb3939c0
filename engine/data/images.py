"""A batch of images, taken from a data set that lies on the device as bytes."""

from __future__ import annotations

from tilegrad import capture_hooks
from tilegrad.kernels import of
from tilegrad.ops.operands import require_one_device
from tilegrad.tensor import Tensor, wrap


def image_batch(images: Tensor, index: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """(images[index] / 255 - mean) / std in float32: a batch gathered and normalised by one kernel.

    images     (N, ...) uint8
    index      (M,) int32 | int64 on the images' device; negative ones count from the end
    mean, std  of pixels from 0 to 1, as in torchvision's Normalize
    ->         (M, ...) float32

    Raises TypeError for dtypes and devices, ValueError for shapes and a std that is not above 0, IndexError for an
    index out of range (on a GPU it comes when the program next waits for the GPU).
    """
    op = "image_batch"
    require_one_device(op, images, index)
    if not std > 0:
        raise ValueError(f"{op}: std is {std}; expected > 0")
    capture_hooks.reads(images, index)
    return wrap(of(images.data, index.data).take_rows(images.data, index.data, 1 / (255 * std), -mean / std))
