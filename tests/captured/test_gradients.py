"""A captured step and its gradients on the CPU: tests/captured/gradients.py."""

from __future__ import annotations

import pytest

import tilegrad as tg
from tests.captured.gradients import *  # noqa: F403
from tests.captured.gradients import CASES, ORDERS, check_a_call_that_fails
from tests.captured.updates import assert_same_run, everything, parametrize
from tilegrad import kernels, nn, optim
from tilegrad.nn import functional as F

# Steps run plainly here on purpose; that each says so, once, is tested in tests/captured/changes.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*it runs plainly, as summary:RuntimeWarning")


def pytest_generate_tests(metafunc):
    parametrize(metafunc, CASES)


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def _backend(request):
    with kernels.use(request.param):
        yield


@pytest.mark.parametrize("at", [1, 3, "every other"])
@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("order", ORDERS)
def test_a_call_that_fails_leaves_what_the_function_leaves(order, row, at):
    """The one that captures (1), launches, and one after the other."""
    check_a_call_that_fails(order, row, at)


@pytest.mark.parametrize("rows", [256, 512])
def test_gradients_outlive_calls_that_fail_though_memory_is_used_again(rows):
    """Activations are as large as weights: what dies in the forward pass could serve a gradient, and be overwritten."""

    def run(capture):
        tg.manual_seed(0)
        model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
        updates = optim.SGD(model.parameters(), lr=0.1)

        @capture
        def step(x, t):
            loss = F.cross_entropy(model(x), t)
            updates.zero_grad()
            loss.backward()
            updates.step()
            return loss

        seen = []
        for i in range(5):
            x, t = tg.randn(rows, 256), tg.randint(0, 256, (rows,))
            if i == 3:
                t[0] = 256
                with pytest.raises(ValueError, match=r"t\[0\] is 256"):
                    step(x, t)
            else:
                step(x, t)
            if i > 2:  # asked for after the failure: nobody has copied them before
                seen.append(everything(updates))
        return seen

    assert_same_run(run, most=1)
