"""Where arrays lie in memory."""

from __future__ import annotations

import numpy as np
import pytest

from tilegrad.kernels.capture.extents import address, extent, span

BASE = np.arange(60.0).reshape(3, 4, 5)
ARRAYS = {
    "whole": BASE,
    "a part": BASE[1:, 2:, ::2],
    "backwards": BASE[::-1, :, ::-1],
    "turned": BASE.transpose(2, 0, 1),
    "broadcast": np.broadcast_to(BASE[0], (2, 4, 5)),
    "one element": BASE[2, 3, 4:],
    "no dimensions": np.array(3.0),
    "a subclass": np.ones(3).view(np.recarray),
    "of bytes": BASE.view(np.uint8)[..., 3:],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_address_is_that_of_the_first_element(name):
    array = ARRAYS[name]
    assert address(array) == array.__array_interface__["data"][0]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_span_is_what_numpy_says(name):
    array = ARRAYS[name]
    assert span(array) == np.lib.array_utils.byte_bounds(array)
    assert span(array)[0] == address(array) + extent(array)[0]
