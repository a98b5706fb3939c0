"""A part of Keras' own tests, chosen by family: what fails is what is listed, and what is listed fails."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.keras.upstream import expected
from tests.keras.upstream.families import PART, WITHOUT_TENSORFLOW
from tests.keras.upstream.run import outcomes
from tests.keras.versions import IS_NEWEST


@pytest.mark.skipif(not IS_NEWEST, reason="the list is of the newest release")
@pytest.mark.parametrize("name", PART)
def test_keras_own_tests_fail_as_listed(name, tmp_path):
    found = outcomes(sys.executable, PART[name], None, WITHOUT_TENSORFLOW, tmp_path / f"{name}.json")
    passed = Counter(test.partition("::")[0] for test, outcome in found.items() if outcome == "passed")
    assert expected.differences(found, expected.read()) == []
    for part in PART[name]:
        assert any(file.startswith(f"keras/src/{part}") for file in passed), f"nothing passed in {part}"
