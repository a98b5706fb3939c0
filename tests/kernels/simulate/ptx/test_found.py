"""What executing our own kernels found, in a process where no simulator takes the compiler's place."""

from __future__ import annotations

import pytest

from tests.kernels.simulate.ptx.test_kernels import cases_pass


@pytest.mark.parametrize("simulate", ["ptx", "ptx:90"])
def test_what_was_found_stays_mended(simulate):
    cases_pass("found_cases.py", simulate)
