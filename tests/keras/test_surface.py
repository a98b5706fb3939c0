"""What Keras calls is there, or says by name that it is not."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from pathlib import Path

import keras
import pytest

from tests.keras.versions import IS_NEWEST
from tilegrad.keras.backend.exports import missing
from tilegrad.keras.backend.surface import SURFACE

SOURCES = Path(keras.__file__).parent / "src"


def called() -> dict[str, set[str]]:
    """backend.<family>.<name> in all of Keras but its backends and tests."""
    found = defaultdict(set)
    for path in SOURCES.rglob("*.py"):
        parts = path.relative_to(SOURCES).parts
        if path.stem.endswith("_test") or (parts[0] == "backend" and len(parts) > 2 and parts[1] != "common"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            of = node.value if isinstance(node, ast.Attribute) else None
            if isinstance(of, ast.Attribute) and ast.unparse(of.value) in ("backend", "self.backend", "_backend"):
                found[of.attr].add(node.attr)
    return found


def test_the_list_is_what_keras_calls():
    """All of it in the newest release. Older ones call less."""
    found = called()
    found["random"].discard("SeedGenerator")  # which is Keras' own
    found["numpy"].add("conj")  # which Keras' test of its backends asks for
    for family, names in SURFACE.items():
        listed = set(names.split())
        assert found[family] - listed == set()
        assert listed - found[family] == set() or not IS_NEWEST


@pytest.mark.parametrize("family", SURFACE)
def test_every_function_is_there(family):
    module = getattr(keras.src.backend, family)
    assert [name for name in SURFACE[family].split() if not callable(getattr(module, name, None))] == []
    assert module is importlib.import_module(f"tilegrad.keras.backend.{family}")


@pytest.mark.parametrize("family", [family for family in SURFACE if family != "random"])
def test_coming_versions_find_it_in_ops(family):
    """As keras/src/backend/numpy/ops of Keras' master has it: each family a module there, core's functions beside."""
    backend = importlib.import_module("keras.src.backend.tilegrad")
    module = importlib.import_module(f"keras.src.backend.tilegrad.ops.{family}")
    assert module is getattr(backend.ops, family) is getattr(keras.src.backend, family)
    assert [name for name in SURFACE[family].split() if not callable(getattr(module, name, None))] == []
    for name in SURFACE["core"].split():
        assert getattr(backend.ops, name) is getattr(backend.core, name)
    assert backend.SUPPORTS_GRADIENT


@pytest.mark.parametrize("family", SURFACE)
def test_one_that_is_missing_says_its_name(family):
    module = getattr(keras.src.backend, family)
    for name in missing(module):
        with pytest.raises(NotImplementedError, match=f"^{family}.{name} is not implemented in the tilegrad backend$"):
            getattr(module, name)(1, 2, of=3)


@pytest.mark.parametrize("name", ["bidirectional_lstm", "bidirectional_gru"])
def test_layers_of_both_directions_say_that_they_are_not_fused(name):
    with pytest.raises(NotImplementedError, match=f"rnn.{name} is not implemented"):
        getattr(keras.src.backend, name)()
    assert keras.src.backend.cudnn_ok() is False
