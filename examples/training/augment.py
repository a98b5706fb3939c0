"""More images than there are: each one shifted a little and turned a little, anew whenever it is shown."""

from __future__ import annotations

import math

import tilegrad as tg
from tilegrad import Tensor

DEGREES = 10.0  # that an image is turned at most, to either side
PIXELS = 2.0  # that it is shifted at most, along each axis


class Augment:
    """Shifts and turns images (N, 1, H, W) of uint8 at random, on their device; gives float32 from 0 to 255.

    The amounts are drawn once an epoch, by `draw`. The rest is ops of tilegrad: in a captured step it is captured with
    the others. A pixel of the result lies between four of the image; it is their mean, weighted by nearness (bilinear
    interpolation). What lies outside of the image is 0.
    """

    def __init__(self, height: int, width: int, device: str) -> None:
        self.height, self.width = height, width
        y = (tg.arange(height, dtype=tg.float32) - (height - 1) / 2)[:, None].expand(height, width)
        x = (tg.arange(width, dtype=tg.float32) - (width - 1) / 2).expand(height, width)
        # (3, H * W): every pixel's place, seen from the centre, and 1 to add a shift
        self.places = tg.stack([x, y, tg.ones(height, width)]).reshape(3, -1).to(device)

    def draw(self, n: int) -> Tensor:
        """(n, 3): angles in radians, anticlockwise, shifts to the right and down, from the engine's random stream."""
        limits = tg.tensor([math.radians(DEGREES), PIXELS, PIXELS])
        return ((2 * tg.rand(n, 3) - 1) * limits).to(self.places.device)

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Each image shifted, and then turned about its centre."""
        angle, right, down = amounts[:, 0], amounts[:, 1], amounts[:, 2]
        # a black border around each: one pixel before, and two after, as a place may lie just at the edge
        n, height, width = len(images), self.height + 3, self.width + 3
        pixels = tg.zeros(n, height, width, dtype=tg.uint8, device=images.device)
        pixels[:, 1:-2, 1:-2] = images[:, 0]
        pixels = pixels.reshape(-1)

        # where each pixel of the result comes from: the inverse movement
        cos, sin = angle.cos(), angle.sin()
        x = (tg.stack([cos, -sin, (self.width + 1) / 2 - right], 1) @ self.places).clamp(0, self.width + 1)
        y = (tg.stack([sin, cos, (self.height + 1) / 2 - down], 1) @ self.places).clamp(0, self.height + 1)
        column, row = x.int(), y.int()
        x, y = x - column, y - row

        first = (tg.arange(n, dtype=tg.int32, device=images.device)[:, None] * height + row) * width + column
        above = _between(pixels[first], pixels[first + 1], x)
        below = _between(pixels[first + width], pixels[first + (width + 1)], x)
        return _between(above, below, y).reshape(images.shape)


def _between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """a where the share is 0, b where it is 1."""
    return a + (b.float() - a) * share
