"""The team of threads: every item once, forks survived, results the same for any number of threads and callers."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from numba import njit

import tilegrad as tg
from tests.compare import assert_close
from tilegrad import kernels, nn, optim
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.team import share
from tilegrad.nn import functional as F


@pytest.fixture
def four_threads():
    before = threads.num_threads()
    threads.set_num_threads(4)
    yield
    threads.set_num_threads(before)


@njit(nogil=True)
def note(begins, stops, done, begin, stop, part, team):
    """Where each piece begins and stops, and how often each item was done."""
    if team:
        share(begin, stop, part, team)
        return
    begins[part], stops[part] = begin, stop
    for i in range(begin, stop):
        done[i] += 1


def shared(most, items):
    """(begins, stops, how often each item was done) of one call."""
    begins, stops = np.full((2, 16), -1)
    done = np.zeros(items, np.int64)
    threads.share(note, most, items, begins, stops, done)
    pieces = int((begins >= 0).sum())
    assert (begins[pieces:] == -1).all()
    return begins[:pieces].tolist(), stops[:pieces].tolist(), done


@pytest.mark.parametrize("items", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("most", [1, 2, 4, 9])
def test_every_item_once_and_in_contiguous_pieces(items, most, four_threads):
    begins, stops, done = shared(most, items)
    assert len(begins) == min(4, most, items)
    assert begins[0] == 0
    assert stops[-1] == items
    assert begins[1:] == stops[:-1]
    assert all(begin < stop for begin, stop in zip(begins, stops))
    assert (done == 1).all()


def test_many_calls_in_a_row_and_after_the_team_has_gone_to_sleep(four_threads):
    for i in range(5000):
        assert (shared(4, 7)[2] == 1).all()
        if i % 1000 == 0:
            time.sleep(0.01)


def test_while_the_team_is_busy_a_caller_makes_the_same_pieces_alone(four_threads, monkeypatch):
    alone = shared(4, 10)
    monkeypatch.setitem(threads._user, None, object())
    beside = shared(4, 10)
    assert beside[:2] == alone[:2]
    assert (beside[2] == 1).all()


def test_callers_from_many_threads(four_threads):
    failed = []

    def call():
        for items in range(1, 400):
            begins, _, done = shared(4, items)
            if len(begins) != min(4, items) or not (done == 1).all():
                failed.append(items)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed


def test_a_program_ends_while_its_team_is_awake_or_asleep():
    code = """
        import sys, time
        import numpy as np
        from tilegrad.kernels.cpu import threads
        from tilegrad.kernels.sum.cpu import sum_rows
        threads.set_num_threads(3)
        x, y = np.ones((3, 4, 5), np.float32), np.empty((3, 5), np.float32)
        threads.share(sum_rows, 3, 3, x, y)
        time.sleep(float(sys.argv[1]))
        assert (y == 4).all()
    """
    for pause in ("0", "0.2"):
        command = [sys.executable, "-c", textwrap.dedent(code), pause]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_set_num_threads_refuses(n):
    with pytest.raises(ValueError, match=r"set_num_threads: n is .*; expected an int >= 1"):
        tg.set_num_threads(n)


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
    code = "from tilegrad.kernels.cpu import threads; print(threads.num_threads())"
    out = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    assert int(out.stdout) == expected


COUNT = """
import sys, threading, _thread
import numpy as np
import tilegrad
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.sum.cpu import sum_rows
x, y = np.ones((2000, 4, 5), np.float32), np.empty((2000, 5), np.float32)
threads.share(sum_rows, 2000, 2000, x, y)
assert (y == 4).all()
print(threads.num_threads(), len(threads._started))
"""


def count(code=COUNT, **environment):
    """(threads that kernels may use, threads that were started), said by a process that ends as it should."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(map(int, done.stdout.split()))


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_the_environment_may_ask_for_more_than_is_of_use(variable):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert count(**{variable: str(1000 * cores)}) == (4 * cores, 4 * cores - 1)


@pytest.mark.parametrize(("most", "error"), [(0, "RuntimeError()"), (1, "MemoryError()"), (5, "RuntimeError()")])
def test_where_the_system_starts_no_more_threads_fewer_do_the_work(most, error):
    limit = f"""
import _thread
import threading  # whose threads are others
start = _thread.start_new_thread
started = []
def limited(*args):
    if len(started) == {most}:
        raise {error}
    started.append(start(*args))
    return started[-1]
_thread.start_new_thread = limited
from tilegrad.kernels.cpu import threads
threads.set_num_threads(8)
"""
    assert count(limit + COUNT + "threads.share(sum_rows, 2000, 2000, x, y)") == (8, most)


def test_a_limit_of_the_systems_own():
    """The memory that stacks of threads are mapped in, used up; as root too, whom a number of processes does not bind.

    The kernels are loaded before, which takes more memory than there is then.
    """
    resource = pytest.importorskip("resource")
    assert resource
    limit = """
import resource
from tilegrad.kernels.cpu import team, threads
import numpy as np
threads.set_num_threads(3)
from tilegrad.kernels.sum.cpu import sum_rows
threads.share(sum_rows, 2000, 2000, np.ones((2000, 4, 5), np.float32), np.empty((2000, 5), np.float32))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
threads.set_num_threads(200)
"""
    asked, started = count(limit + COUNT)
    assert asked == 200 and 2 <= started < 50


def test_set_num_threads_of_very_many(four_threads):
    threads.set_num_threads(10**9)
    begins, _, done = shared(9, 100)
    assert len(begins) == 9 and (done == 1).all()


def losses_of_training(seed):
    generator = tg.Generator(seed)
    engine_nets = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2704, 10))
    with tg.no_grad():
        for p in engine_nets.parameters():
            p.normal_(0, 0.05, generator=generator)
    optimizer = optim.Adam(engine_nets.parameters())
    x, t = tg.randn(32, 1, 28, 28, generator=generator), tg.randint(10, (32,), generator=generator)
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
        from tilegrad.kernels.backends import cpu
        from tilegrad.kernels.cpu import threads
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
