"""The pool of threads: every item once, errors raised, forks survived, results the same for any number of threads."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import engine
import kernels
from engine import nn, optim
from engine.nn import functional as F
from kernels import threads
from tests.compare import assert_close


@pytest.fixture
def four_threads():
    before = threads.num_threads()
    threads.set_num_threads(4)
    yield
    threads.set_num_threads(before)


@pytest.mark.parametrize("items", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("most", [1, 2, 4, 9])
def test_every_item_once_and_in_contiguous_parts(items, most, four_threads):
    calls = []
    threads.parallel(lambda name, start, stop, part: calls.append((part, start, stop, name)), most, items, "x")
    calls.sort()
    assert [part for part, *_ in calls] == list(range(min(4, most, items)))
    assert calls[0][1] == 0
    assert calls[-1][2] == items
    assert all(a[2] == b[1] for a, b in zip(calls, calls[1:]))
    assert all(start < stop for _, start, stop, _ in calls)


@pytest.mark.parametrize("bad", [0, 3])
def test_an_error_in_any_part_is_raised_once_all_have_ended(bad, four_threads):
    ended = []

    def work(start, stop, part):
        if part == bad:
            raise ArithmeticError(f"part {part}")
        ended.append(part)

    with pytest.raises(ArithmeticError, match=f"part {bad}"):
        threads.parallel(work, 4, 4)
    assert sorted(ended) == [part for part in range(4) if part != bad]


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_set_num_threads_refuses(n):
    with pytest.raises(ValueError, match=r"set_num_threads: n is .*; expected an int >= 1"):
        engine.set_num_threads(n)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "3"}, 2),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        (
            {"OMP_NUM_THREADS": "many"},
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        ),
    ],
)
def test_the_environment_sets_the_number(environment, expected):
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    code = "from kernels import threads; print(threads.num_threads())"
    out = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    assert int(out.stdout) == expected


def losses_of_training(seed):
    generator = engine.Generator(seed)
    engine_nets = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2704, 10))
    with engine.no_grad():
        for p in engine_nets.parameters():
            p.normal_(0, 0.05, generator=generator)
    optimizer = optim.Adam(engine_nets.parameters())
    x, t = engine.randn(32, 1, 28, 28, generator=generator), engine.randint(10, (32,), generator=generator)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(engine_nets(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_number_of_threads_changes_only_rounding(four_threads):
    with kernels.use("cpu"):
        many, again = losses_of_training(1), losses_of_training(1)
        threads.set_num_threads(1)
        one = losses_of_training(1)
    assert many == again  # two runs, the same bits
    assert_close(np.array(many, np.float32), np.array(one), np.array(one, np.float32) * (1 + 1e-6))


def test_two_trainings_at_once_are_as_if_alone(four_threads):
    with kernels.use("cpu"):
        alone = [losses_of_training(seed) for seed in (1, 2)]
        together = [None, None]

        def work(i):
            together[i] = losses_of_training(i + 1)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert together == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_too():
    code = textwrap.dedent(
        """
        import os, sys, warnings
        import numpy as np
        from kernels import cpu, threads
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads: that is the test
        threads.set_num_threads(3)
        x = np.ones((6, 16, 8, 8), np.float32)
        w = np.ones((16, 16, 3, 3), np.float32)
        want = cpu.conv2d(x, w)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(cpu.conv2d(x, w), want) else 1)
        status = os.waitpid(child, 0)[1]
        assert np.array_equal(cpu.conv2d(x, w), want)
        sys.exit(os.waitstatus_to_exitcode(status))
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
