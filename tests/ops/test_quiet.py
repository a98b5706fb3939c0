"""Ops compute without NumPy's warnings, and leave NumPy's settings as they were."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

import tilegrad as tg
from tilegrad.ops import quiet as module
from tilegrad.ops.quiet import quiet

ALL_IGNORED = dict.fromkeys(("divide", "over", "under", "invalid"), "ignore")


def test_a_block_is_quiet_and_restores_what_was_set_before():
    with np.errstate(all="raise"):
        before = np.geterr()
        with quiet():
            assert np.geterr() == ALL_IGNORED
            with quiet():
                assert np.geterr() == ALL_IGNORED
            assert np.geterr() == ALL_IGNORED
            np.float32(1) / np.float32(0)
        assert np.geterr() == before
        with pytest.raises(FloatingPointError):
            np.float32(1) / np.float32(0)


def test_it_restores_after_an_error():
    before = np.geterr()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert np.geterr() == before


def test_another_thread_keeps_its_own_settings():
    found = []
    with quiet():
        thread = threading.Thread(target=lambda: found.append(np.geterr()))
        thread.start()
        thread.join()
    assert found[0]["divide"] == "warn"


def test_ops_warn_of_nothing_and_a_program_still_gets_its_own_warnings():
    x = tg.tensor([0.0, 1.0, 1e38], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (1 / x + x * 1e10).sum().backward()
        with pytest.raises(RuntimeWarning, match="divide"):
            np.ones(1) / np.zeros(1)


def test_it_is_not_numpys_own_block():
    """The short way was found: this NumPy keeps the setting where it is looked for."""
    assert len(module._changed) == 1
