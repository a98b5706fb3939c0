"""Whole training steps, compiled and executed, in a process where no simulator takes the compiler's place."""

from __future__ import annotations

from tests.kernels.simulate.ptx.test_kernels import cases_pass


def test_training_executed():
    cases_pass("training_cases.py")
