"""no_grad, enable_grad, set_grad_enabled: as blocks, as decorators, nested, after exceptions, in threads."""

from __future__ import annotations

import threading

import pytest

import tilegrad as tg
from tests.autograd.both import assert_agree


def test_nested_blocks():
    def scenario(lib):
        x = lib.leaf([1.0])
        seen = []
        with lib.no_grad():
            seen.append((x * 2).requires_grad)
            with lib.enable_grad():
                seen.append((x * 2).requires_grad)
                with lib.no_grad():
                    seen.append(lib.is_grad_enabled())
                seen.append(lib.is_grad_enabled())
            seen.append(lib.is_grad_enabled())
        return [*seen, lib.is_grad_enabled()]

    assert_agree(scenario)


def test_decorators():
    def scenario(lib):
        x = lib.leaf([1.0])
        seen = []

        @lib.no_grad()
        def without(depth):
            seen.append((x * 2).requires_grad)
            if depth:
                with_grad(depth - 1)
            return lib.is_grad_enabled()

        @lib.enable_grad()
        def with_grad(depth):
            seen.append((x * 2).requires_grad)
            if depth:
                without(depth - 1)
            return lib.is_grad_enabled()

        @lib.no_grad
        def bare():
            return lib.is_grad_enabled()

        return [without(3), with_grad(3), bare(), bare.__name__, seen, lib.is_grad_enabled()]

    assert_agree(scenario)


def test_set_grad_enabled():
    def scenario(lib):
        seen = []
        with lib.set_grad_enabled(False):
            seen.append(lib.is_grad_enabled())
            with lib.set_grad_enabled(True):
                seen.append(lib.is_grad_enabled())
            seen.append(lib.is_grad_enabled())
        lib.set_grad_enabled(False)
        seen.append(lib.is_grad_enabled())
        lib.set_grad_enabled(True)

        @lib.set_grad_enabled(False)
        def without():
            return lib.is_grad_enabled()

        seen += [lib.is_grad_enabled(), without(), lib.is_grad_enabled(), without(), lib.is_grad_enabled()]
        return seen

    assert_agree(scenario)


def test_one_object_in_itself():
    off = tg.no_grad()
    with off:
        with off:
            assert not tg.is_grad_enabled()
        assert not tg.is_grad_enabled()
    assert tg.is_grad_enabled()


def test_an_exception_restores_the_mode():
    def scenario(lib):
        seen = []
        for mode in (lib.no_grad(), lib.set_grad_enabled(False)):
            try:
                with mode:
                    raise KeyError
            except KeyError:
                seen.append(lib.is_grad_enabled())

        @lib.no_grad()
        def failing():
            raise KeyError

        try:
            failing()
        except KeyError:
            seen.append(lib.is_grad_enabled())
        return seen

    assert_agree(scenario)


def test_a_rule_that_fails_restores_the_mode():
    from tilegrad.autograd.record import record

    def failing(dy):
        raise KeyError("rule")

    x = tg.ones(2, requires_grad=True)
    with pytest.raises(KeyError):
        record("failing", x.data, (x,), failing).sum().backward()
    assert tg.is_grad_enabled()
    with tg.no_grad(), pytest.raises(KeyError):
        tg.grad(record_with_grad(x, failing), [x], create_graph=True)
    assert tg.is_grad_enabled()


@tg.enable_grad()
def record_with_grad(x, rule):
    from tilegrad.autograd.record import record

    return record("failing", x.data, (x,), rule).sum()


def test_backward_works_without_grad_mode():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = (x * x).sum()
        with lib.no_grad():
            y.backward()
            made = lib.leaf([1.0])
        return [x.grad, made.requires_grad, lib.is_grad_enabled()]

    assert_agree(scenario)


def test_each_thread_has_its_own_mode():
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other():
        seen.append(tg.is_grad_enabled())  # a new thread records
        with tg.no_grad():
            entered.set()
            leave.wait(10)
        seen.append(tg.is_grad_enabled())

    thread = threading.Thread(target=other)
    with tg.no_grad():
        thread.start()
        assert entered.wait(10)
    assert tg.is_grad_enabled()
    leave.set()
    thread.join()
    assert seen == [True, True]


def test_a_decorated_function_in_two_threads():
    """Each call restores the mode of its own thread, whatever order they end in."""
    inside, go_on = threading.Barrier(2, timeout=10), threading.Event()
    after = {}

    @tg.no_grad()
    def function(last):
        inside.wait()
        if last:
            go_on.wait(10)

    def run(enabled, last):
        with tg.set_grad_enabled(enabled):
            function(last)
            after[enabled] = tg.is_grad_enabled()
        go_on.set()

    threads = [threading.Thread(target=run, args=arguments) for arguments in ((True, False), (False, True))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert after == {True: True, False: False}


def test_two_threads_may_run_backward_at_once():
    results = {}

    def run(k):
        x = tg.full((50,), float(k), dtype="float64", requires_grad=True)
        y = x
        for _ in range(200):
            y = y * 1.0 + x
        y.sum().backward()
        results[k] = x.grad.tolist()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [201.0] * 50 for k in range(4)}


def test_generators_are_refused():
    """A decorator would set the mode while the generator is made, not while it runs."""
    with pytest.raises(TypeError, match="no_grad: a generator runs outside it"):

        @tg.no_grad()
        def values():
            yield 1
