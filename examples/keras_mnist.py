"""MNIST for the Keras examples.

From the folder that the environment variable TILEGRAD_DATA names, or as keras.datasets has it, or as tilegrad has it
where that cannot be reached.
"""

from __future__ import annotations

import os
from typing import Any

import keras

from tilegrad.data import mnist


def load_data() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """(images (N, 28, 28) uint8, labels (N,)) of training and of test."""
    if not os.environ.get("TILEGRAD_DATA"):
        try:
            return keras.datasets.mnist.load_data()
        except Exception as error:  # Keras raises no narrower class where a download fails
            print(f"keras.datasets.mnist: {str(error).splitlines()[0]}; tilegrad's files serve instead")
    return mnist(split="train"), mnist(split="test")
