"""A child that was forked while other threads compile, import or hold a lock computes like any other."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# Runs `work` in another thread, up to the middle of what it does, forks, and has the child compute.
FORKED = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads: that is the test

def forked(work, compute):
    middle = threading.Event()
    def pause():
        middle.set()
        time.sleep(0.3)
    thread = threading.Thread(target=work, args=(pause,))
    thread.start()
    middle.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs is killed
        try:
            compute()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    thread.join()
    compute()
    return os.waitstatus_to_exitcode(status)
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", FORKED + textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_while_another_thread_imports_the_backend():
    """The first op of a program, in a thread: Numba is imported, and takes a while."""
    code = """
        import importlib.abc
        import tilegrad
        class Slow(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                is_late = name == "tilegrad.kernels.activations.cpu_loops"
                if is_late and threading.current_thread() is not threading.main_thread():
                    self.pause()
        slow = Slow()
        sys.meta_path.insert(0, slow)
        def compute():
            assert tilegrad.ones(3, 4).relu().sum().item() == 12
        def work(pause):
            slow.pause = pause
            compute()
        print(forked(work, compute))
    """
    assert run(code) == ["0"]


def test_while_another_thread_compiles():
    code = """
        import tilegrad
        from llvmlite.binding import ffi
        from numba import njit
        from numba.core.compiler_lock import global_compiler_lock
        from tilegrad.kernels.cpu import buffers
        tilegrad.ones(3).relu()
        def compute():
            twice = njit(lambda x: 2 * x)  # what is in no cache
            assert twice(3) == 6
            x = tilegrad.rand(300, 200)
            assert (x.relu() + x).sum().item() > 0
        def held(*locks):
            def work(pause):
                for lock in locks:
                    lock.__enter__()
                pause()
                for lock in reversed(locks):
                    lock.__exit__(None, None, None)
            return work
        for locks in (
            [global_compiler_lock],
            [ffi.lib._lock],
            [global_compiler_lock, ffi.lib._lock],
            [buffers._common._lock],
            [tilegrad.random.default_generator._lock],
        ):
            print(forked(held(*locks), compute))
    """
    assert run(code) == ["0"] * 5


def test_while_another_thread_logs_as_it_compiles():
    """logging holds a lock of its own over a fork. Numba asks for that one while it holds its compiler's."""
    code = """
        import tilegrad
        tilegrad.ones(3).relu()
        import logging
        from numba.core.compiler_lock import global_compiler_lock
        def work(pause):
            with global_compiler_lock:
                pause()
                logging.getLogger("another")
        signal.alarm(30)
        print(forked(work, lambda: tilegrad.ones(3).relu()))
    """
    assert run(code) == ["0"]


def test_what_is_held_over_a_fork_is_let_go_on_both_sides():
    code = """
        import tilegrad
        from numba.core.compiler_lock import global_compiler_lock
        from tilegrad.kernels.system import forks
        tilegrad.ones(3).relu()
        def compute():
            free = []
            def look():
                free.append(all(lock.acquire(blocking=False) for lock in (forks.loading, global_compiler_lock._lock)))
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            assert free == [True]
        print(forked(lambda pause: pause(), lambda: None))
        compute()
    """
    assert run(code) == ["0"]
