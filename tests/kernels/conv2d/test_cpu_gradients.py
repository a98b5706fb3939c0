"""On the CPU dx and dw are each computed in two ways, dx pixel by pixel or tap by tap, and images are framed in caches:
with the same bits.
"""

from __future__ import annotations

import numpy as np
import pytest

from tilegrad.kernels.conv2d import cpu, reference
from tilegrad.kernels.conv2d.cpu_frame import NO_TILES, _framed_tiles, over_images
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.tile import LANES, NO_SHIFT, ROWS, tiles_address

C = LANES
GATHERED = {  # x, w, padding, dilation
    "same": ((2, C, 7, 9), (C, C, 3, 3), (1, 1), (1, 1)),
    "several panels": ((2, 8 * C, 3, 4), (C, 8 * C, 3, 3), (1, 1), (1, 1)),
    "wide windows": ((1, 2 * C, 6, 5), (3, 2 * C, 5, 5), (2, 2), (1, 1)),
    "few channels": ((2, C, 4, 4), (4 * C, C, 3, 3), (1, 1), (1, 1)),
    "dilated": ((2, C, 8, 9), (5, C, 3, 2), (2, 2), (2, 3)),
    "no frame": ((2, C, 4, 5), (5, C, 3, 2), (2, 1), (1, 1)),
    "a frame of rows alone": ((2, C, 4, 5), (5, C, 3, 1), (1, 0), (1, 1)),
    "1x1": ((3, C, max(ROWS.values()), 2), (C, C, 1, 1), (0, 0), (1, 1)),
}
BY_TAPS = {
    "dx has more pixels": ((2, C, 7, 9), (C, C, 3, 3), (0, 0), (1, 1)),
    "padding beyond the window": ((2, C, 7, 9), (C, C, 3, 3), (3, 3), (1, 1)),
    "above and below alone": ((2, C, 7, 9), (C, C, 3, 3), (3, 1), (1, 1)),
}


def arguments(x, w, padding, dilation, stride=(1, 1)):
    """conv2d_grad_input's, of random numbers."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(w, dtype=np.float32)
    y = reference.conv2d(np.zeros(x, np.float32), weight, None, stride, padding, dilation)
    return rng.standard_normal(y.shape, dtype=np.float32), weight, x, stride, padding, dilation, 1


def is_gathered(given):
    return cpu._gathering(reference.check_grad_input(*given, "ieee")[1]) is not None


@pytest.mark.parametrize("case", GATHERED)
def test_both_ways_add_in_one_order(case, monkeypatch):
    given = arguments(*GATHERED[case])
    assert is_gathered(given)
    found = cpu.conv2d_grad_input(*given)
    monkeypatch.setattr(cpu, "_gathering", lambda s: None)
    assert found.tobytes() == cpu.conv2d_grad_input(*given).tobytes()


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("case", GATHERED)
def test_gradients_together_have_the_bits_of_each_by_itself(case, pieces, monkeypatch):
    monkeypatch.setattr(threads, "num_threads", lambda: pieces)
    dy, w, shape, *geometry = arguments(*GATHERED[case])
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    dx, dw, db = cpu.conv2d_grad(dy, None, x, w, shape, w.shape, *geometry, True)
    assert dx.tobytes() == cpu.conv2d_grad_input(dy, w, shape, *geometry).tobytes()
    assert dw.tobytes() == cpu.conv2d_grad_weight(dy, x, w.shape, *geometry).tobytes()
    assert db.tobytes() == cpu.conv2d_grad_bias(dy).tobytes()


def test_gradients_share_a_frame_where_that_is_as_fast(monkeypatch):
    seen = []

    def noted(x, frame, first, second=NO_TILES):
        seen.append((frame, second is not NO_TILES))
        over_images(x, frame, first, second)

    monkeypatch.setattr(cpu, "over_images", noted)
    one, two = [((1, 1), True)], [((1, 1), False)] * 2
    for case, frames in (("same", one), ("several panels", one), ("few channels", two)):
        dy, w, shape, *geometry = arguments(*GATHERED[case])
        cpu.conv2d_grad(dy, None, np.ones(shape, np.float32), w, shape, w.shape, *geometry)
        assert seen == frames
        seen.clear()


@pytest.mark.parametrize("images", [(3, C, 7, 9), (3, C, 7, 8)])
def test_x_of_another_shape_is_refused_where_gradients_share_a_frame(images):
    dy, w, shape, *geometry = arguments(*GATHERED["same"])
    with pytest.raises(ValueError, match="dy is"):
        cpu.conv2d_grad(dy, None, np.ones(images, np.float32), w, shape, w.shape, *geometry)


@pytest.mark.parametrize("case", BY_TAPS)
def test_what_is_computed_tap_by_tap(case):
    assert not is_gathered(arguments(*BY_TAPS[case]))


def test_with_a_stride_dx_is_computed_tap_by_tap():
    assert not is_gathered(arguments((2, C, 3, 3), (C, C, 3, 3), (1, 1), (1, 1), stride=(2, 1)))


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_small_images_together_have_the_bits_of_one_after_the_other(stride, pieces, monkeypatch):
    monkeypatch.setattr(threads, "num_threads", lambda: pieces)
    dy, w, shape, *geometry = arguments((16, C, 5, 4), (2 * C, C, 3, 3), (0, 0), (1, 1), stride)
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    call = dy, x, w.shape, *geometry
    assert cpu._together(reference.check_grad_weight(*call, "ieee")[1]) == 2
    found = cpu.conv2d_grad_weight(*call)
    monkeypatch.setattr(cpu, "_together", lambda s: 1)
    assert found.tobytes() == cpu.conv2d_grad_weight(*call).tobytes()


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("padding", [(1, 2), (2, 0), (0, 1)])
@pytest.mark.parametrize("channels", [1, C])
def test_a_frame_is_what_zeros_around_the_images_are(channels, padding, pieces, monkeypatch):
    monkeypatch.setattr(threads, "num_threads", lambda: pieces)
    dy, w, shape, *_ = arguments((5, channels, 4, 5), (C, channels, 3, 3), padding, (1, 1))
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    wide = np.pad(x, [(0, 0), (0, 0), *[(width, width) for width in padding]])
    geometry, without = ((1, 1), padding, (1, 1), 1), ((1, 1), (0, 0), (1, 1), 1)
    assert cpu.conv2d(x, w, None, *geometry).tobytes() == cpu.conv2d(wide, w, None, *without).tobytes()
    dw = cpu.conv2d_grad_weight(dy, x, w.shape, *geometry)
    assert dw.tobytes() == cpu.conv2d_grad_weight(dy, wide, w.shape, *without).tobytes()


def test_each_thread_frames_images_of_its_own():
    x = np.random.default_rng(0).standard_normal((3, 4, 5), dtype=np.float32)
    frames = np.full((2, 6 * 9), np.nan, np.float32)
    _framed_tiles(x.reshape(-1), frames, 4, 5, 1, 2, NO_SHIFT, tiles_address(), *NO_TILES, *NO_TILES, 1, 3, 1, 0)
    assert np.isnan(frames[0]).all()
    assert frames[1].tobytes() == np.pad(x[2], [(1, 1), (2, 2)]).tobytes()
