"""The geometry of windows, against windows that are laid over an image one by one."""

from __future__ import annotations

from itertools import product

import pytest

from tilegrad.kernels.windows import windows

# Along one axis: (image, kernel, stride, padding, dilation). Each with what only it shows.
AXES = (
    (6, 2, 2, 0, 1),  # tiles the image
    (7, 2, 2, 0, 1),  # leaves a rest; with ceil_mode a window reaches beyond the image
    (7, 3, 2, 1, 1),  # overlaps, and padding
    (7, 3, 1, 0, 1),  # the most overlap
    (9, 2, 3, 0, 1),  # leaves gaps between windows
    (9, 2, 2, 0, 3),  # dilated: a window covers pixels that it does not read
    (5, 5, 5, 0, 1),  # one window
    (4, 1, 1, 0, 1),  # a window is a pixel
)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("down", "right"), list(product(AXES, AXES)))
def test_windows_laid_one_by_one(down, right, ceil_mode):
    image, kernel, stride, padding, dilation = zip(down, right, strict=True)
    w = windows("test", image, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    covered, outside = [], []
    for axis in (0, 1):
        starts = [i * stride[axis] - padding[axis] for i in range(w.count[axis])]
        spans = [range(start, start + dilation[axis] * (kernel[axis] - 1) + 1) for start in starts]
        pixels = [x for span in spans for x in span]
        outside.append(any(not 0 <= x < image[axis] for x in pixels))
        # However long the image is, the most windows over a pixel are those over one in its middle.
        endless = [range(i * stride[axis], i * stride[axis] + w.span[axis]) for i in range(40)]
        covered.append(max(sum(x in span for span in endless) for x in range(40)))
    assert w.tap_count == kernel[0] * kernel[1]
    assert w.padded == tuple(image[a] + 2 * padding[a] for a in (0, 1))
    assert w.has_edges == any(outside)
    assert w.over_a_pixel == tuple(covered)
    assert w.disjoint == (covered == [1, 1])
    touching = all(stride[a] == w.span[a] for a in (0, 1)) and dilation == (1, 1)
    assert w.side_by_side == (touching and not any(outside))
