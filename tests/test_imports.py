"""What importing loads, who may import whom, and the contract between engine and kernels."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tilegrad import kernels

ROOT = Path(__file__).parents[1]
HEAVY = "numba triton cupy torch scipy pooch platformdirs tqdm pandas matplotlib".split()


def python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """A fresh interpreter that sees this repository and nothing of the test run."""
    inherited = {k: v for k, v in os.environ.items() if k != "TILEGRAD_KERNELS"}
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def imported_by(path: Path) -> set[str]:
    """What a file imports anywhere, in functions too: others' packages by name, ours by folder."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {_folder(name) for name in found}


def _folder(name: str) -> str:
    """kernels, bench, or engine for a module of tilegrad's; else the top-level package."""
    top, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return (part if part in ("kernels", "bench") else "engine") if top == "tilegrad" else top


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


# --- what an import loads --------------------------------------------------------------------------------------------


def test_importing_the_engine_loads_numpy_and_nothing_heavier():
    code = "import sys, json, tilegrad.nn, tilegrad.optim, tilegrad.data; print(json.dumps(sorted(sys.modules)))"
    done = python(code)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "numpy" in loaded and loaded.isdisjoint(HEAVY)


def test_importing_the_engine_takes_at_most_50_ms_longer_than_numpy(tmp_path):
    """CPU time, as the machine may be busy, from cached bytecode; measured in turn, and the least of each counts."""
    code = """
        import time
        start = time.process_time()
        import {}
        print(time.process_time() - start)
    """
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    times = {"numpy": [], "tilegrad": []}
    for rounds in range(1, 41):  # as many as it takes to see the machine undisturbed
        for name, taken in times.items():
            taken.append(float(python(code.format(name), **cached).stdout))
        if rounds >= 7 and min(times["tilegrad"]) - min(times["numpy"]) < 0.050:
            return
    raise AssertionError(times)


def test_importing_the_engine_changes_no_numpy_settings():
    code = """
        import numpy as np
        before = np.geterr(), np.get_printoptions()
        import tilegrad
        print(before == (np.geterr(), np.get_printoptions()))
    """
    assert python(code).stdout == "True\n"


# --- who imports whom ------------------------------------------------------------------------------------------------


def test_torch_is_for_tests_and_benchmarks_only():
    files = [f for package in ("engine", "kernels", "examples") for f in sources(package)]
    assert len(files) > 40
    assert [str(f) for f in files if "torch" in imported_by(f)] == []


def test_kernels_know_nothing_of_the_engine():
    assert [str(f) for f in sources("kernels") if imported_by(f) & {"engine", "examples", "tests", "bench"}] == []
    assert [str(f) for f in sources("engine") if imported_by(f) & {"examples", "tests", "bench"}] == []


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_a_backend_exports_the_primitives_and_nothing_else(name):
    backend = kernels.load(name)
    public = {n for n, v in vars(backend).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert public - {"annotations", "NOTED", "UFUNCS"} == set(kernels.PRIMITIVES)
    assert set(getattr(backend, "__all__", kernels.PRIMITIVES)) == set(kernels.PRIMITIVES)


@pytest.mark.parametrize("name", kernels.BACKENDS)
@pytest.mark.parametrize("primitive", kernels.PRIMITIVES)
def test_a_primitive_has_the_references_signature_types_and_words(name, primitive):
    function = getattr(kernels.load(name), primitive)
    specification = getattr(kernels.load("reference"), primitive)
    signature = inspect.signature(function)
    assert function.__name__ == primitive
    expected = inspect.signature(specification)
    if name in ("reference", "cpu"):
        assert str(signature) == str(expected)
    else:  # arrays of a GPU have no type that could be named without importing CuPy
        assert [_named(p) for p in signature.parameters.values()] == [_named(p) for p in expected.parameters.values()]
    assert all(p.annotation is not p.empty for p in signature.parameters.values()), signature
    assert signature.return_annotation is not signature.empty
    assert function.__doc__ and len(function.__doc__) > 10
    module = inspect.getdoc(importlib.import_module(specification.__module__))
    assert "Traffic" in specification.__doc__ + module, "a kernel states the memory it moves"


def _named(parameter: inspect.Parameter) -> tuple:
    return parameter.name, parameter.kind, parameter.default


def test_every_primitive_has_a_one_line_meaning():
    assert all(m and "\n" not in m and len(m) < 100 for m in kernels.PRIMITIVES.values())


# --- choosing a backend ----------------------------------------------------------------------------------------------


@pytest.fixture
def chosen():
    """Puts back whatever a test chooses."""
    with kernels.use(kernels.name()):
        before = kernels.of()
        yield
    assert kernels.of() is before


def test_use(chosen):
    assert kernels.use("reference") and kernels.name() == "reference"
    with kernels.use("auto"):
        assert kernels.of() in [kernels.load(name) for name in kernels.BACKENDS]
    with pytest.raises(KeyError), kernels.use("reference"):
        raise KeyError
    assert kernels.name() == "reference"


def test_use_refuses(chosen):
    with pytest.raises(ValueError, match="kernels: no backend is called 'opencl'; expected auto, "):
        kernels.use("opencl")
    assert kernels.name() in kernels.BACKENDS, "a refused choice changes nothing"


def test_of_refuses_arrays_of_another_kind():
    import numpy as np

    assert kernels.of(np.ones(2), None) is kernels.of()
    with pytest.raises(TypeError, match=r"kernels.of: expected arrays of one device.*numpy.ndarray, builtins.list"):
        kernels.of(np.ones(2), [1.0])


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_the_environment_chooses_the_first_backend(name):
    on_device = name in ("triton", "numba")
    code = f"from tilegrad import kernels; print(kernels.name({'cuda' if on_device else 'cpu'!r}), kernels.name())"
    first, on_the_cpu = python(
        code, TILEGRAD_KERNELS=name, TRITON_INTERPRET="1", NUMBA_ENABLE_CUDASIM="1"
    ).stdout.split()
    assert first == name and on_the_cpu == ("cpu" if on_device else name)


def test_a_wrong_choice_in_the_environment_is_an_error():
    done = python("import tilegrad; tilegrad.ones(2).relu()", TILEGRAD_KERNELS="opencl")
    assert done.returncode == 1 and "ValueError: kernels: no backend is called 'opencl'" in done.stderr
