"""The pytest plugin that Keras' tests run with: our backend before Keras, its marks, and outcomes in a file."""

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

os.environ["KERAS_BACKEND"] = "tilegrad"

import tilegrad.keras  # noqa: E402, F401 - before keras

# What Keras' tests import of the file at the root of its repository, which the package does not have
sys.modules["conftest"] = types.SimpleNamespace(  # type: ignore[assignment]
    skip_if_backend=lambda backend, reason: pytest.mark.skipif(backend == "tilegrad", reason=reason)
)

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
        name = report.nodeid[report.nodeid.index("keras/src/") :]
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        order = ["passed", "xfailed", "skipped", "failed"]
        self.found[name] = max(self.found.get(name, "passed"), outcome, key=order.index)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.found[report.nodeid[report.nodeid.index("keras/src/") :]] = "failed"

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.found, indent=0, sort_keys=True))
