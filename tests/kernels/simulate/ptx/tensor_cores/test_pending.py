"""What the manual leaves undefined about asynchronous products is an error; what it allows is not."""

from __future__ import annotations

import pytest

from tilegrad.kernels.simulate.ptx.tensor_cores.pending import Pending


def fenced() -> Pending:
    pending = Pending()
    pending.fence()
    return pending


def test_groups_are_waited_for_in_order():
    pending = fenced()
    pending.issue("n8", ["d0"], [], "first")
    pending.issue("n8", ["d0"], [], "second")
    pending.commit()
    pending.commit()  # an empty group counts
    pending.issue("n8", ["d1"], [], "third")
    pending.commit()
    assert pending.wait(3) == []
    assert pending.wait(2) == ["first", "second"]
    pending.use(["d0"])
    with pytest.raises(ValueError, match="d1 is a wgmma.mma_async's until a wgmma.wait_group has waited for it"):
        pending.use(["d1"])
    assert pending.running
    assert pending.wait(0) == ["third"]
    assert not pending.running
    pending.use(["d1"])


def test_what_is_in_no_group_is_not_waited_for():
    pending = fenced()
    pending.issue("n8", ["d0"], ["a0"], "first")
    assert pending.wait(0) == []
    for register in ("d0", "a0"):
        with pytest.raises(ValueError, match=register):
            pending.use([register])


def test_the_first_product_needs_a_fence():
    with pytest.raises(ValueError, match="without a wgmma.fence before it"):
        Pending().issue("n8", ["d0"], [], None)


@pytest.mark.parametrize("register", ["d0", "a0"])
def test_a_register_that_was_used_needs_a_fence(register):
    pending = fenced()
    pending.use([register])
    with pytest.raises(ValueError, match=f"{register} was used since the last wgmma.fence"):
        pending.issue("n8", ["d0"], ["a0"], None)
    pending.fence()
    pending.issue("n8", ["d0"], ["a0"], None)


def test_a_copy_needs_no_fence_but_the_wait():
    pending = fenced()
    pending.copied(["d0", "a0"])
    pending.issue("n8", ["d0"], ["a0"], None)
    for register in ("d0", "a0"):
        with pytest.raises(ValueError, match=f"{register} is a wgmma.mma_async's until"):
            pending.copied([register])


def test_what_goes_its_own_way_is_apart():
    pending = fenced()
    pending.issue("n8", ["d0"], [], "both")
    pending.commit()
    other = pending.copy()
    other.issue("n8", ["d1"], [], "its own")
    other.commit()
    assert pending.wait(0) == ["both"] and other.wait(1) == ["both"] and other.wait(0) == ["its own"]


def test_only_products_of_one_shape_share_accumulators_without_a_fence():
    pending = fenced()
    pending.issue("n8", ["d0", "d1"], ["a0"], None)
    pending.issue("n8", ["d0", "d1"], ["a0"], None)
    with pytest.raises(ValueError, match="was used since the last wgmma.fence"):
        pending.issue("n16", ["d0"], [], None)
    pending.fence()
    pending.issue("n16", ["d0"], [], None)


def test_a_result_is_no_input_before_it_is_waited_for():
    pending = fenced()
    pending.issue("n8", ["d0"], [], None)
    pending.commit()
    pending.fence()
    with pytest.raises(ValueError, match="d0 is the result of a wgmma.mma_async that was not waited for"):
        pending.issue("n8", ["d1"], ["d0"], None)
    pending.wait(0)
    pending.issue("n8", ["d1"], ["d0"], None)
