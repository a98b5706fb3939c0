"""Keras' functions of nested tuples, lists and dicts, whose types checkers cannot follow."""

from __future__ import annotations

from typing import Any

from keras.src import tree as _tree

tree: Any = _tree
