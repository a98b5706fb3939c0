"""A captured step and its optimizer on the CPU: tests/captured/updates.py."""

from __future__ import annotations

import pytest

import tilegrad as tg
from tests.captured.updates import *  # noqa: F403
from tests.captured.updates import CASES, assert_same_run, host, parameters, parametrize, times
from tilegrad import kernels, optim

# Steps run plainly here on purpose; that each says so, once, is tested in tests/captured/changes.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*it runs plainly, as summary:RuntimeWarning")


def pytest_generate_tests(metafunc):
    parametrize(metafunc, CASES)


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def _backend(request):
    with kernels.use(request.param):
        yield


def test_a_rate_that_the_step_reads_as_a_tensor_is_that_of_its_place():
    """Before and behind the schedule: the program reads it in memory that the host has written to by then."""

    def run(capture):
        lr = tg.tensor(1.0)
        updates = optim.SGD(parameters(), lr=lr)
        updates.step()
        rates = optim.lr_scheduler.ExponentialLR(updates, 0.5)

        @capture
        def step(x):
            before = tg.relu(lr)
            rates.step()
            return before, tg.relu(lr)

        return [([*map(host, step(x))], None) for x in times(5)]

    assert_same_run(run, most=1)
