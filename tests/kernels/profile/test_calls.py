"""Every primitive can be profiled, and a shape that does not fit is refused in words."""

from __future__ import annotations

import pytest

from tilegrad.kernels.contract import PRIMITIVES
from tilegrad.kernels.profile.calls import CALLS


def test_every_primitive_has_a_call():
    """A new primitive gets a line in kernels/profile/calls.py."""
    assert sorted(CALLS) == sorted(PRIMITIVES)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_a_shape_that_fits(name):
    call = CALLS[name]
    assert call.refusal(call.shape) == ""
    if "..." not in call.axes:
        assert call.refusal(
            (*call.shape, 3)
        ) == f"{'x'.join(map(str, (*call.shape, 3)))}; expected {call.axes}, as " + ("x".join(map(str, call.shape)))
