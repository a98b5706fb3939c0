"""Choosing a backend: by name, by environment, by what is installed."""

import asyncio
import copy
import importlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.cpu import test_dirty_memory as compiled
from tests.test_imports import ROOT, sources
from tilegrad import kernels
from tilegrad.bench import inputs
from tilegrad.kernels import backends, checks, contract, dispatch
from tilegrad.kernels.backends import cpu, reference
from tilegrad.kernels.capture.program import Program
from tilegrad.kernels.device import gpu


@pytest.fixture
def _no_numba(monkeypatch):
    monkeypatch.setattr(dispatch, "_has_numba", lambda: False)


def test_auto_takes_the_compiled_kernels():
    with kernels.use("auto"):
        assert kernels.name() == "cpu"


def test_a_choice_lasts_for_its_block():
    with kernels.use("cpu"):
        with kernels.use("reference"):
            assert kernels.of(np.ones(1)).__name__ == "tilegrad.kernels.backends.reference"
        assert kernels.of(np.ones(1)).__name__ == "tilegrad.kernels.backends.cpu"


def test_a_choice_is_of_the_thread_that_makes_it():
    """Two blocks that overlap, the first of which ends first: each thread has its own choice, before and afterwards."""
    turn, found, begins_with = threading.Barrier(2, timeout=30), [], kernels.name()

    def other():
        turn.wait()
        with kernels.use("cpu"):
            turn.wait()
            turn.wait()
            found.append(kernels.name())
        found.append(kernels.name())
        kernels.use("reference")
        turn.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with kernels.use("cpu"):
        with kernels.use("reference"):
            turn.wait()
            turn.wait()
            assert kernels.name() == "reference"
        turn.wait()
        turn.wait()
        assert kernels.name() == "cpu"
    thread.join()
    assert found == ["cpu", begins_with]


def test_a_device_is_simulated_for_the_thread_that_asks(monkeypatch):
    for variable in (*gpu.SIMULATORS.values(), "TILEGRAD_SIMULATE"):
        monkeypatch.delenv(variable, raising=False)
    found = []
    with gpu.simulate():
        thread = threading.Thread(target=lambda: found.append(gpu.is_simulated()))
        thread.start()
        thread.join()
        found.append(gpu.is_simulated())
    assert found == [False, True] and not gpu.is_simulated()


def test_a_choice_is_of_the_task_that_makes_it():
    async def chooses(name):
        with kernels.use(name):
            await asyncio.sleep(0)
            return kernels.name()

    async def both():
        return await asyncio.gather(*map(chooses, ("reference", "cpu")))

    before = kernels.name()
    assert asyncio.run(both()) == ["reference", "cpu"] and kernels.name() == before


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_every_thread_begins_with_what_the_variable_says(name):
    code = """
import contextvars, threading
from tilegrad import kernels
kernels.use("cpu" if kernels.name() == "reference" else "reference")
thread = threading.Thread(target=contextvars.Context().run, args=(lambda: print(kernels.name()),))
thread.start()
thread.join()
"""
    environment = os.environ | {"TILEGRAD_KERNELS": name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr


def test_a_block_hides_no_error():
    before = kernels.name()
    with pytest.raises(KeyError), kernels.use("reference"), kernels.use("auto"):
        raise KeyError
    assert kernels.name() == before


@pytest.mark.usefixtures("_no_numba")
def test_without_numba_auto_says_so_and_takes_the_reference():
    with pytest.warns(UserWarning, match="Numba is not installed.*pip install numba"), kernels.use("auto"):
        assert kernels.name() == "reference"


@pytest.mark.usefixtures("_no_numba")
def test_without_numba_the_cpu_backend_cannot_be_had():
    with pytest.raises(ImportError, match="the backend 'cpu' needs Numba, which is not installed: pip install numba"):
        kernels.use("cpu")


def test_a_whole_training_step_without_numba():
    """In a process where Numba cannot be imported, one notice and then plain NumPy."""
    code = """
import sys, warnings
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "numba" else found(name, *a)
import tilegrad
from tilegrad import nn
from tilegrad.nn import functional as F
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    for _ in range(3):
        F.cross_entropy(model(tilegrad.randn(2, 1, 8, 8)), tilegrad.tensor([0, 2])).backward()
assert all(p.grad is not None for p in model.parameters())
assert "numba" not in sys.modules
print(len(caught), caught[0].message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 kernels: Numba is not installed")


STEP = """
import sys, warnings
import tilegrad
from tilegrad import kernels
from tilegrad import nn
from tilegrad.nn import functional as F
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    for _ in range(3):
        F.cross_entropy(model(tilegrad.randn(2, 1, 8, 8)), tilegrad.tensor([0, 2])).backward()
    step = tilegrad.capture(lambda x: model(x).sum())
    x = tilegrad.randn(2, 1, 8, 8)
    assert len({step(x).item() for _ in range(4)}) == 1 and "runs plainly" in step.summary()
assert all(p.grad is not None for p in model.parameters())
print(kernels.name(), len(caught), *[str(w.message) for w in caught], sep="|")
try:
    kernels.use("cpu")
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "raised"),
    [
        ("raise OSError('libllvmlite.so: cannot open shared object file')", "OSError: libllvmlite.so: cannot open"),
        ("raise ImportError('Numba needs NumPy 2.3 or less')", "ImportError: Numba needs NumPy 2.3 or less"),
        ("", "ModuleNotFoundError: No module named 'numba.core'"),  # a folder of that name, say
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_with_a_broken_numba_auto_says_so_once_and_takes_the_reference(package, raised, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(package)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said, refused = done.stdout.splitlines()
    chosen, _, of_backend, of_step = said.split("|")
    assert chosen == "reference" and of_backend.startswith(f"kernels: Numba cannot be used ({raised}")
    assert of_backend.endswith("; plain NumPy serves, at a fraction of the speed")
    assert "is played by compiled code, which needs Numba; it runs plainly" in of_step
    assert refused.startswith(f"kernels: the backend 'cpu' needs Numba, which cannot be used ({raised}")


def test_with_numbas_compiler_switched_off_auto_says_so_once_and_takes_the_reference():
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said, refused = done.stdout.splitlines()
    assert said.startswith("reference|2|kernels: Numba cannot be used (ImportError: Numba's compiler is switched off")
    assert "NUMBA_DISABLE_JIT" in refused


def test_an_empty_variable_counts_as_unset():
    code = """
import os
import tilegrad
from tilegrad import kernels
from tilegrad.kernels.cpu import threads
assert threads.num_threads() == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
print(kernels.name(), tilegrad.ones(3).relu().sum().item())
"""
    names = ["TILEGRAD_KERNELS", "TILEGRAD_DATA", "TILEGRAD_CACHE", "TILEGRAD_AUTOTUNE", "TRITON_INTERPRET"]
    names += ["NUMBA_ENABLE_CUDASIM", "TILEGRAD_SIMULATE", "OMP_NUM_THREADS"]
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"} | dict.fromkeys(names, "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "cpu 3.0\n"), done.stderr


@pytest.mark.parametrize(("simulated", "other"), [("triton", "numba"), ("numba", "triton")])
def test_a_device_simulated_for_one_language_runs_that_one(simulated, other):
    """Chosen by itself, while the other language is refused with what it would need."""
    variables = {"triton": "TRITON_INTERPRET", "numba": "NUMBA_ENABLE_CUDASIM"}
    code = f"""
import tilegrad
from tilegrad import kernels
x = tilegrad.ones(3, device="cuda")
print(kernels.name("cuda"), (x - 2).relu().sum().item())
try:
    kernels.use({other!r})
except RuntimeError as e:
    print(e)
"""
    env = {k: v for k, v in os.environ.items() if k not in (*variables.values(), "TILEGRAD_SIMULATE")}
    env[variables[simulated]] = "1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    chosen, refusal = done.stdout.splitlines()
    assert chosen == f"{simulated} 0.0"
    assert refusal.endswith(f"{other!r} cannot run on the simulated device; expected {variables[other]}=1 too")


# --- backends are made from the contract ------------------------------------------------------------------------------


def test_the_contract_says_of_each_backend_what_it_serves():
    for table in (contract.DEVICES, contract.DTYPES):
        assert list(table) == list(contract.BACKENDS)
    assert inputs.DTYPES.keys() == set(contract.DTYPES["reference"]), "the benchmarks have an order of their own"


NOT_SERVED = [(name, dtype) for name in contract.BACKENDS for dtype in checks.SERVED["reference"]]
NOT_SERVED = [(name, dtype) for name, dtype in NOT_SERVED if dtype not in checks.SERVED[name]]
ELSEWHERE = {"bfloat16": "bfloat16: reference, cpu, triton", "float64": "float64: reference, cpu"}


@pytest.mark.parametrize(("backend", "dtype"), NOT_SERVED, ids=str)
@pytest.mark.parametrize("primitive", ["relu", "conv2d_grad_bias", "sum", "clip_norm_step"])
def test_a_dtype_that_a_backend_does_not_serve_is_refused_with_those_that_do(backend, dtype, primitive):
    """Whichever way it is checked."""
    x = gpu.xp().zeros((2, 2, 2, 2), dtype)
    arguments = {"sum": (x, (0,)), "clip_norm_step": ([x], 1.0)}.get(primitive, (x,))
    text = f"^{primitive}: the arrays are {dtype}, which the backend '{backend}' does not serve; expected float16"
    with pytest.raises(TypeError, match=text) as raised:
        getattr(kernels.load(backend), primitive)(*arguments)
    assert ELSEWHERE[dtype.name] in str(raised.value)


def test_each_family_has_a_folder_and_each_folder_of_kernels_a_family():
    folders = {path.parent.name for path in Path(kernels.__path__[0]).glob("*/reference.py")} - {"backends"}
    assert folders == contract.FAMILIES.keys()
    assert sum(map(len, contract.FAMILIES.values())) == len(contract.PRIMITIVES), "a name in two families"


@pytest.mark.parametrize("backend", contract.BACKENDS)
@pytest.mark.parametrize("primitive", contract.PRIMITIVES)
def test_a_function_is_defined_in_the_file_that_the_contract_names(backend, primitive):
    serves = "reference" if backend == "cpu" and primitive not in cpu.NOTED else backend
    assert getattr(kernels.load(backend), primitive).__module__ == contract.module_of(primitive, serves)


def test_the_engine_and_the_examples_know_no_backend():
    """They ask the contract: none imports a backend, or a file of a family that is a backend's."""
    names = "|".join(contract.FAMILIES)
    of_a_backend = re.compile(rf"kernels(\.| import )(backends|({names})(\.| import )(reference|cpu|gpu_))")
    files = [*sources("engine"), *sources("examples")]
    assert len(files) > 60
    assert [str(path) for path in files if of_a_backend.search(path.read_text())] == []


def test_every_place_that_the_readme_of_kernels_names_is_there():
    readme = (ROOT / "kernels" / "README.md").read_text()
    places = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(places) > 20
    assert [place for place in places if not (ROOT / "kernels" / place).exists()] == []


def test_a_primitive_that_a_backend_lacks_is_named_with_the_file_that_should_have_it(monkeypatch):
    monkeypatch.delattr("tilegrad.kernels.softmax.gpu_triton.softmax_grad")
    message = "the backend 'triton' has no 'softmax_grad'; expected a function in tilegrad.kernels.softmax.gpu_triton"
    with pytest.raises(ImportError, match=f"^kernels: {message}$"):
        backends.functions("triton")


def test_a_file_that_a_backend_lacks_is_named(monkeypatch):
    monkeypatch.setitem(contract._FILES, "numba", "gpu_other")
    message = "the backend 'numba' has no 'matmul'; expected a function in tilegrad.kernels.matmul.gpu_other"
    with pytest.raises(ImportError, match=f"^kernels: {message}$"):
        backends.functions("numba")


def test_what_the_cpu_has_no_function_for_the_reference_serves(monkeypatch):
    monkeypatch.delattr("tilegrad.kernels.softmax.cpu.softmax")
    found = backends.functions("cpu", otherwise=vars(reference))
    assert found["softmax"] is reference.softmax and found["softmax_grad"] is cpu.softmax_grad


def test_an_error_within_a_file_of_the_cpu_is_no_reason_to_go_without(monkeypatch):
    def broken(name):
        raise ImportError(f"{name} is broken")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match="^tilegrad.kernels.matmul.cpu is broken$"):
        backends.functions("cpu", otherwise=vars(reference))


# --- by which door a primitive of the CPU goes into a captured step ---------------------------------------------------

CALLS = dict(compiled.CASES)  # of each compiled primitive one


@pytest.mark.parametrize("name", sorted(cpu.NOTED))
def test_a_primitive_that_the_backend_says_notes_its_own_kernels_does(name):
    captured = Program()
    with captured.capturing():
        getattr(cpu, name)(*copy.deepcopy(CALLS[name]))
    assert captured.nodes()


def test_the_others_are_the_references_which_knows_no_door():
    assert cpu.NOTED < kernels.PRIMITIVES.keys()
    for name in kernels.PRIMITIVES.keys() - cpu.NOTED:
        assert getattr(cpu, name) is getattr(reference, name)
    files = list(Path(kernels.__path__[0]).glob("*/reference*.py"))
    assert len(files) > len(contract.FAMILIES)
    assert [str(path) for path in files if re.search(r"kernels\.(capture|cpu)", path.read_text())] == []
