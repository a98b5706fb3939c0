"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal

import pytest
from training.interrupt import Interrupt


def test_the_first_one_asks_and_the_second_one_raises():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one passed")
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_comes_after_the_last_look_is_not_lost():
    with pytest.raises(KeyboardInterrupt), Interrupt():
        signal.raise_signal(signal.SIGINT)


def test_without_one_nothing_happens():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) is not before
    assert not interrupt.asked and signal.getsignal(signal.SIGINT) is before


def test_an_error_stays_what_it_is():
    with pytest.raises(ValueError, match="mine"), Interrupt():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("mine")


def test_a_program_that_ignores_it_still_does():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
        assert not interrupt.asked and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
