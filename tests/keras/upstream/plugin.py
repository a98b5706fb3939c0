"""The pytest plugin that Keras' tests run with: our backend before Keras, its marks, and outcomes in a file."""

import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ["KERAS_BACKEND"] = "tilegrad"

from tilegrad.keras import hook  # noqa: E402 - before keras

# A test of Keras' that chooses a backend's trainer by name has a case for ours as well.
hook.CASES["keras.src.trainers.trainer_test"] = f"from {hook.SERVED}.trainer import TilegradTrainer"

# Keras' installed package lacks its conftest.py, from which tests take this mark.
sys.modules["conftest"] = conftest = ModuleType("conftest")
conftest.skip_if_backend = lambda name, reason: pytest.mark.skipif(name == "tilegrad", reason=reason)  # type: ignore[attr-defined]

MARKS = "requires_trainable_backend: not for backends that cannot train", "multi_device: of several devices"


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--outcomes", help="a file for the outcome of every test, as JSON")


def pytest_configure(config: Any) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if config.getoption("--outcomes") and not hasattr(config, "workerinput"):  # with workers: in their parent alone
        config.pluginmanager.register(_Outcomes(Path(config.getoption("--outcomes"))))


class _Outcomes:
    """The worst outcome of a test's three phases, by its name."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = _name(report)
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        order = ["passed", "xfailed", "skipped", "failed"]
        self.found[name] = max(self.found.get(name, "passed"), outcome, key=order.index)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.found[_name(report)] = "failed"

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.found, indent=0, sort_keys=True))


def _name(report: Any) -> str:
    """The test's or the file's name, without addresses, which differ from run to run."""
    found = re.sub("0x[0-9a-f]+", "", str(report.nodeid))
    assert "keras/src/" in found, f"{found}: {report.longrepr}"
    return found[found.index("keras/src/") :]
