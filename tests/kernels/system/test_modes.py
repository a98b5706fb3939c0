"""Ctrl-C at any moment: no lock stays taken, no mode on, every thread at work, and the process ends.

A timer stands for the user. Its handler raises KeyboardInterrupt as Ctrl-C's does, thousands of times and each time
somewhere else; a process of its own computes meanwhile, and says what it found.
"""

import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that interrupts")

STORM = """
import random, signal, sys, time
import numpy as np
import tilegrad
from tilegrad import kernels
from tilegrad import nn
from tilegrad.autograd import grad_mode
from tilegrad import capture_hooks
from tilegrad.nn import functional as F
from tilegrad.kernels import dispatch
from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.cpu import buffers, effects, threads

random.seed(0)
sys.unraisablehook = lambda lost: None  # what rises in a finalizer is printed by Python, and dropped
threads.set_num_threads(4)

def state():
    return dict(
        grad=grad_mode.of_thread.stack[:],
        backend=(kernels.name(), [each.get() for each in dispatch._chosen.values()]),
        pool=buffers._local.pool,
        program=effects.capturing(),
        graph=cuda_graph.capturing(),
        account=(capture_hooks.current(), capture_hooks.capturing[:]),
        team=threads._user.copy(),
    )

def interrupted(work, seconds):
    # Does it over and over until it was interrupted, after so many seconds or, if that was lost, soon again.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
        while True:
            work()
    except KeyboardInterrupt:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)

def storm(work, interrupts):
    for _ in range(3):
        work()
    start = time.perf_counter()
    for _ in range(10):
        work()
    once = (time.perf_counter() - start) / 10
    before = state()
    for i in range(interrupts):
        interrupted(work, 2e-5 + random.random() * 2 * once)
        found = state()
        assert found == before, (i, {name: found[name] for name in found if found[name] != before[name]})
"""


def run(code):
    command = [sys.executable, "-c", STORM + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_modes():
    code = """
        pool = buffers.Pool()

        @tilegrad.no_grad()
        def without():
            return tilegrad.is_grad_enabled()

        def modes():
            with tilegrad.no_grad():
                with tilegrad.enable_grad(), tilegrad.no_grad():
                    pass
            without()
            with tilegrad.set_grad_enabled(False):
                pass
            with kernels.use("reference"):
                with buffers.taken_from(pool):
                    pass
            with effects.paused(), capture_hooks.captured_in(None):
                pass

        storm(modes, 6000)
    """
    run(code)


def test_ops_and_the_team():
    code = """
        x = tilegrad.randn(256, 512)
        w = tilegrad.randn(64, 64, requires_grad=True)

        def forward():
            x.relu()

        def backward():
            (w @ w).relu().sum().backward()
            w.grad = None

        storm(forward, 1000)
        storm(backward, 300)

        # All threads are there, and wake up.
        assert len(threads._alive) == 3
        end = time.monotonic() + 30
        while len(threads._asleep) < 3 and time.monotonic() < end:
            time.sleep(1e-3)
        assert len(threads._asleep) == 3
        while threads._asleep and time.monotonic() < end:
            forward()
        assert not threads._asleep
    """
    run(code)


def test_a_step_that_is_captured():
    """Interrupted while it is recorded or launched; what was recorded before stays, or is recorded anew."""
    code = """
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        x, t = tilegrad.randn(64, 64), tilegrad.randint(10, (64,))

        def loss(x, t):
            return F.cross_entropy(net(x), t)

        want = loss(x, t).item()

        def captured():
            step = tilegrad.capture(loss, warmup=1)
            assert [step(x, t).item() for _ in range(3)] == [want] * 3

        storm(captured, 100)
        captured()
    """
    run(code)


def test_a_program_that_is_interrupted_while_its_threads_start_ends():
    code = """
        x = tilegrad.randn(256, 512)
        with kernels.use("reference"):
            want = x.relu().numpy()
        x.relu()
        for i in range(60):
            threads._started.clear()  # as if none was there yet
            interrupted(x.relu, 1e-5 + random.random() * 2e-4)
        assert (x.relu().numpy() == want).all()
        assert not threads._user
    """
    run(code)


def test_a_first_use_that_is_interrupted(tmp_path):
    """While Numba compiles, which nothing of ours could make good: it goes on, and the next call finds it done."""
    code = f"""
        import os
        os.environ["NUMBA_CACHE_DIR"] = {str(tmp_path)!r}
        from tilegrad.kernels.sum import cpu as sum_cpu
        x = np.ones((3, 4), np.float32)
        for i in range(40):
            interrupted(lambda: sum_cpu.sum(x, (0,)), 1e-3 + random.random() * 0.03)
        interrupted(lambda: tilegrad.ones(512, 512).sum(0), 1e-3)
        assert (sum_cpu.sum(x, (0,)) == 3).all()
        assert len(sum_cpu.sum_rows.signatures) == 1
        assert list(__import__("pathlib").Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*sum_rows*.code"))
    """
    run(code)


def test_a_first_op_that_is_interrupted():
    """While Numba is imported."""
    code = """
        import random, signal, sys
        import tilegrad
        from tilegrad import kernels
        random.seed(int(sys.argv[1]))
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for _ in range(6):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01 + random.random() * 0.08)
                tilegrad.ones(3).relu()
            except KeyboardInterrupt:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(kernels.name(), tilegrad.ones(3).relu().sum().item())
    """
    for seed in "1234":
        command = [sys.executable, "-c", textwrap.dedent(code), seed]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.stderr, done.returncode) == ("cpu 3.0\n", "", 0)
