"""What executing our own kernels found, in a process where no simulator takes the compiler's place."""

from __future__ import annotations

from tests.kernels.simulate.ptx.test_kernels import cases_pass


def test_what_was_found_stays_mended():
    cases_pass("found_cases.py")
