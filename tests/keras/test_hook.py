"""How Keras comes to know the backend, and what is said where it cannot."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tilegrad.keras
from tilegrad.keras import hook

ROOT = Path(__file__).parents[2]
MODULES = [*hook.CASES, hook.DYNAMIC]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | environment
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)


def source(name: str) -> str:
    spec = importlib.util.find_spec(name.rpartition(".")[0])
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / name.rpartition(".")[2]
    return (path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py").read_text()


def test_one_module_has_both_names():
    import keras
    from keras.src.backend import tilegrad as served
    from keras.src.backend.tilegrad import core

    import tilegrad.keras.backend.core as ours

    assert keras.config.backend() == "tilegrad"
    assert core is ours and served.core is ours
    assert ours.__name__ == ours.__spec__.name == "tilegrad.keras.backend.core"
    assert issubclass(keras.Variable, ours.Variable)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_not_as_expected_is_named_with_the_version(name):
    version = importlib.metadata.version("keras")
    changed = source(name).replace('"tensorflow"', '"another"').replace("class DynamicBackend", "class Dynamic")
    with pytest.raises(ImportError, match=f"{name} of keras {version} .*; this version cannot be extended"):
        hook.extend(name, ast.parse(changed))


@pytest.mark.parametrize("name", hook.CASES)
def test_a_second_choice_in_a_module_is_not_overlooked(name):
    text = source(name)
    call = "backend()" if name == "keras.src.backend" else "backend.backend()"
    with pytest.raises(ImportError, match="chooses its backend in 2 places, not in one"):
        hook.extend(name, ast.parse(text + f'\nif {call} == "tensorflow":\n    pass\n'))


@pytest.mark.parametrize("name", hook.CASES)
def test_the_backend_gets_the_name_that_this_version_gives_it(name):
    """Keras 3.13 and 3.14 differ in one of them."""
    text = re.sub(r"( as )(Backend\w+|Trainer)\b", r"\1Renamed", source(name))
    tree = ast.parse(text)
    hook.extend(name, tree)
    chain = next(node for node in tree.body if isinstance(node, ast.If) and hook.NAME in ast.unparse(node.test))
    assert " as Renamed" in ast.unparse(chain.body[-1])
    with pytest.raises(ImportError, match="imports 0 names of its backend, not one; this version cannot be extended"):
        hook.extend(name, ast.parse(re.sub(" as Renamed", "", text)))


@pytest.mark.parametrize("name", hook.CASES)
def test_the_other_cases_and_all_lines_stay_as_they_are(name):
    before, after = ast.parse(source(name)), ast.parse(source(name))
    hook.extend(name, after)
    chains = [node for node in after.body if isinstance(node, ast.If) and hook.NAME in ast.unparse(node.test)]
    assert len(chains) == 1
    after.body[after.body.index(chains[0])] = chains[0].orelse[0]
    assert ast.dump(after, include_attributes=True) == ast.dump(before, include_attributes=True)


def test_a_dynamic_backend_can_be_this_one():
    import numpy as np
    from keras.src.utils.backend_utils import DynamicBackend

    backend = DynamicBackend()
    backend.set_backend("tilegrad")
    assert backend.name == "tilegrad"
    assert backend.convert_to_numpy(backend.numpy.add(np.float32(1), 2)) == 3
    with pytest.raises(ValueError, match="Available backends"):
        backend.set_backend("another")


@pytest.mark.parametrize("version", ["2.15.0", "3.12.9", "3.16.0", "4.0.0", "nonsense"])
def test_unsupported_versions_are_errors(version, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ImportError, match=f"^tilegrad.keras: keras is {version}; expected 3.13 <= version < 3.16$"):
        hook.require_supported()


@pytest.mark.parametrize("version", ["3.13.0", "3.15.1", "3.15.0rc1"])
def test_supported_versions(version, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert hook.require_supported() == version


def test_the_supported_versions_are_said_alike_everywhere():
    oldest, before = (".".join(map(str, version)) for version in (hook.OLDEST, hook.BEFORE))
    newest = f"{hook.BEFORE[0]}.{hook.BEFORE[1] - 1}"
    assert f'"keras>={oldest},<{before}"' in (ROOT / "pyproject.toml").read_text()
    assert f'"keras=={newest}.' in (ROOT / "pyproject.toml").read_text()  # which the tests run with
    assert f"\nKERAS ?= {oldest}.0\n" in (ROOT / "Makefile").read_text()  # and which `make test-keras` runs them with
    assert f"Keras {oldest} to {newest} runs" in (ROOT / "README.md").read_text()


def test_no_keras_is_an_error_with_what_to_install(monkeypatch):
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match=r'keras is not installed; .* \(pip install "tilegrad\[keras\]"\)$'):
        hook.require_supported()


def test_another_backend_in_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ImportError, match='KERAS_BACKEND is "torch"; expected "tilegrad", or none'):
        hook.install()


def test_keras_imported_before_with_another_backend_is_an_error(monkeypatch):
    import keras

    monkeypatch.setattr(keras.src.backend, "backend", lambda: "torch")
    told = "^tilegrad.keras: keras is imported already, with the backend torch; expected this import before it$"
    with pytest.raises(ImportError, match=told):
        hook.install()


def test_a_program_runs_unchanged(tmp_path):
    """Its arguments, its folder on the path, its exit status; and no other framework is imported."""
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, keras, beside\n"
        "assert __name__ == '__main__' and __file__ == sys.argv[0]\n"
        "others = sorted({'torch', 'tensorflow', 'jax'} & set(sys.modules))\n"
        "print(keras.config.backend(), type(keras.ops.ones(2)).__module__, sys.argv[1:], beside.WORD, others)\n"
        "sys.exit(3)\n"
    )
    done = run("-m", "tilegrad.keras", str(program), "--epochs", "2")
    assert done.returncode == 3, done.stderr
    assert done.stdout == "tilegrad tilegrad.tensor ['--epochs', '2'] beside []\n"
    assert "usage: python -m tilegrad.keras program.py" in run("-m", "tilegrad.keras").stderr


def test_a_keras_that_is_imported_anew_gets_a_backend_of_its_own():
    program = (
        "import warnings, tilegrad.keras, keras\n"
        "before = keras.Variable\n"
        "warnings.simplefilter('ignore')\n"
        "keras.config.set_backend('tilegrad')\n"
        "import keras\n"
        "assert keras.Variable is not before\n"
        "print(keras.Sequential([keras.layers.Dense(2)])(keras.ops.ones((3, 4))).shape)\n"
    )
    done = run("-c", program)
    assert done.stdout == "(3, 2)\n", done.stderr


def test_installing_twice_adds_nothing():
    before = len(sys.meta_path)
    tilegrad.keras.hook.install()
    assert len(sys.meta_path) == before
