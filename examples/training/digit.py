"""A picture of a digit as MNIST has its own: white on black, 20 pixels large, centred by mass in 28 x 28.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits": digits are scaled into a box
of 20 x 20 pixels with their proportions kept, and shifted so that their centre of mass is the centre of the frame.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

FRAME, BOX = 28, 20
FAINT = 0.2  # of full ink: what is fainter does not count as part of the digit's extent
LINE = 0.9  # of an outer row or column that is ink: then it is a line of a drawn frame


def as_mnist(picture: Image.Image) -> np.ndarray:
    """(28, 28) uint8, 0 is background, of one digit: any size, dark on light or light on dark, with or without a frame.

    Raises ValueError for a picture without anything on it.
    """
    ink = _inside(_ink(_grey(picture)))
    height, width = ink.shape
    scale = BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BILINEAR))
    small = np.clip(small / small.max(), 0, 1)
    canvas = np.zeros((FRAME, FRAME))
    top, left = (_start(small, axis) for axis in (0, 1))
    canvas[top : top + size[1], left : left + size[0]] = small
    return np.rint(255 * canvas).astype(np.uint8)


def _grey(picture: Image.Image) -> np.ndarray:
    """The picture as float32, 0 black to 1 white. What is transparent gets the colour that is not the ink's."""
    if picture.mode.startswith("I"):
        return np.asarray(picture, np.float32) / 65535  # 16 bits a pixel
    light, alpha = (np.asarray(x, np.float32) / 255 for x in picture.convert("RGBA").convert("LA").split())
    paper = float((light * alpha).sum() < 0.5 * alpha.sum())
    return light * alpha + paper * (1 - alpha)


def _ink(grey: np.ndarray) -> np.ndarray:
    """How much ink a pixel has, 0 to 1: its distance from the paper, which more than half of the pixels are."""
    dark, quarter, half, most, light = np.percentile(grey, [0, 25, 50, 75, 100])
    if light - dark < 0.05:
        raise ValueError("nothing is drawn on it; expected a digit")
    ink = grey - quarter if half < (dark + light) / 2 else most - grey
    return (np.clip(ink, 0, None) / ink.max()).astype(np.float32)


def _inside(ink: np.ndarray) -> np.ndarray:
    """The part that holds the digit, without margins and without a frame that is drawn around it."""
    whole = inside = _cropped(ink)
    while inside.size and all(line.mean() > LINE for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1])):
        inside = inside[1:-1, 1:-1]
        if not (inside > FAINT).any():
            return whole  # there was no frame: it is the digit
    return _cropped(inside)


def _cropped(ink: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((ink > FAINT).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _start(small: np.ndarray, axis: int) -> int:
    """Where the box begins so that its centre of mass is the frame's centre, as nearly as whole pixels allow."""
    mass = small.sum(1 - axis)
    centre = (mass * np.arange(len(mass))).sum() / mass.sum()
    return int(np.clip(round(FRAME / 2 - centre), 0, FRAME - len(mass)))
