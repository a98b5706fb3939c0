"""Keras on tilegrad, in the process of the tests: the backend comes before the first `import keras`."""

import os
import tempfile

import pytest

os.environ["KERAS_HOME"] = tempfile.mkdtemp()  # Keras would write its settings into the user's home
os.environ["KERAS_BACKEND"] = "tilegrad"

import tilegrad.keras  # noqa: E402, F401


@pytest.fixture(autouse=True)
def _fresh():
    """Every test begins with the same names and seeds."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
