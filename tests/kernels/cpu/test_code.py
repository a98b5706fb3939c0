"""The kernels' machine code on disk saves time, and is never a reason to fail or to compute what no source says."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tilegrad
from tilegrad import kernels

# Prints whether the code came from disk, and a result of it.
SUM = """
import numpy as np
from tilegrad.kernels.sum.cpu import sum, sum_rows
y = sum(np.ones((3, 4), np.float32), (0,))
print(len(sum_rows.stats.cache_hits), y.tolist())
"""
THREES = "[3.0, 3.0, 3.0, 3.0]"


@pytest.fixture
def package(tmp_path):
    """The kernels in a folder of their own, to be edited."""
    copy = tmp_path / "tilegrad" / "kernels"
    for source, target in ((tilegrad.__path__[0], copy.parent), (kernels.__path__[0], copy)):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "kernels", "bench"))
    return copy


def environment(folder, **variables):
    return os.environ | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache")} | variables


def run(folder, code=SUM, **variables):
    """What the code prints, in a process of its own with the package and the cache in the folder."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command, env=environment(folder, **variables), cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def add(path, line):
    path.write_text(path.read_text() + line + "\n")


def codes(folder):
    return sorted((folder / "cache").rglob("*.code"))


def test_code_of_other_sources_is_not_read(package, tmp_path):
    assert run(tmp_path) == f"0 {THREES}"
    assert run(tmp_path) == f"1 {THREES}"
    mine = tmp_path / "cache" / "mine.nbi"
    mine.touch()
    add(package / "device" / "gpu.py", "# no source of these")
    os.utime(package / "cpu" / "team.py", (1, 1))  # says the same as before
    assert run(tmp_path) == f"1 {THREES}"
    add(package / "cpu" / "team.py", "# one that others are made of")
    assert run(tmp_path) == f"0 {THREES}"
    assert run(tmp_path) == f"1 {THREES}"
    assert mine.exists()


PART = """
from tilegrad.kernels.cpu.code import njit

@njit(nogil=True)
def part():
    return 1
"""
WHOLE = """
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.odd.cpu_part import part

@njit(nogil=True, cache=True)
def whole():
    return part()
"""
CALL = "from tilegrad.kernels.odd.cpu_whole import whole; print(whole(), len(whole.stats.cache_hits))"


def test_what_is_compiled_after_an_edit_is_not_kept_as_code_of_the_new_source(package, tmp_path):
    """A process that was started before it computes by the old source, and leaves nothing to those that come later."""
    part = package / "odd" / "cpu_part.py"
    part.parent.mkdir()
    part.write_text(PART)
    part.with_name("cpu_whole.py").write_text(WHOLE)
    before = subprocess.Popen(
        [sys.executable, "-c", "import tilegrad.kernels.odd.cpu_whole; print(flush=True); input()\n" + CALL],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    before.stdout.readline()
    part.write_text(PART.replace("return 1", "return 2  # edited"))
    assert (
        run(tmp_path, "import tilegrad.kernels.odd.cpu_whole") == ""
    )  # as what is new is used first, nothing is compiled yet
    assert before.communicate("\n", timeout=300)[0].strip() == "1 0"
    assert run(tmp_path, CALL) == "2 0"
    assert run(tmp_path, CALL) == "2 1"
    part.write_text(PART)
    assert run(tmp_path, CALL) == "1 0"


AGAIN = """
import numpy as np
from tilegrad.kernels.cpu import code as code_cpu
from tilegrad.kernels.sum.cpu import sum_rows

def served():
    \"\"\"Whether a function that was just defined has its code from disk; what it computes is right.\"\"\"
    again = code_cpu.njit(nogil=True, cache=True, fastmath={"reassoc"})(sum_rows.py_func)
    y = np.empty((1, 4), np.float32)
    again(np.ones((1, 3, 4), np.float32), y, 0, 1, 0, 0)
    assert (y == 3).all()
    return len(again.stats.cache_hits) == 1
"""


def test_a_file_that_is_damaged_is_compiled_anew(package, tmp_path):
    code = """
        import pathlib
        assert not served() and served()
        [path] = pathlib.Path("cache").rglob("*sum_rows*.code")
        content = path.read_bytes()
        half = len(content) // 2
        flipped = bytes([content[half] ^ 1])
        for bad in (b"", content[:10], content[:-1], content[:half] + flipped + content[half + 1:], b"foreign" * 1000):
            path.write_bytes(bad)
            assert not served() and served()
        path.unlink()
        path.mkdir()
        assert not served() and not served()
    """
    run(tmp_path, AGAIN + textwrap.dedent(code))


def test_code_of_another_function_or_build_is_compiled_anew(package, tmp_path):
    """Files that are whole, but are for something else, or hold what cannot be made use of."""
    code = """
        import pathlib, pickle
        assert not served() and served()
        [path] = pathlib.Path("cache").rglob("*sum_rows*.code")
        right = path.read_bytes()
        build, code_cpu.numba.__version__ = code_cpu.numba.__version__, "another"
        assert not served() and served()
        code_cpu.numba.__version__ = build
        [other] = set(pathlib.Path("cache").rglob("*sum_rows*.code")) - {path}
        path.write_bytes(other.read_bytes())
        assert not served() and served()
        dumps = code_cpu.dumps
        for payload in ((), ("nothing", 1, 2), range(3)):
            path.unlink()
            code_cpu.dumps = lambda _: pickle.dumps(payload)
            assert not served()
            code_cpu.dumps = dumps
            assert not served() and served()
    """
    run(tmp_path, AGAIN + textwrap.dedent(code))


def test_without_a_place_for_it_the_kernels_are_compiled_all_the_same(package, tmp_path):
    """As in a container: neither the folder that is asked for, nor the package, nor the home can be written to. What
    stands in the way is of another kind here, so that it does in the way of root too.
    """
    (package / "cpu" / "__pycache__").touch()
    nowhere = {name: "/dev/null/here" for name in ("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME")}
    for variables in (nowhere, nowhere | {"NUMBA_CACHE_DIR": ""}):
        assert run(tmp_path, **variables) == f"0 {THREES}"
    assert codes(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit to set")
@pytest.mark.parametrize("limit", [0, 3000])
def test_on_a_full_disk(package, tmp_path, limit):
    """Nothing can be written, or not all of it: nothing is left that a later run would stumble over."""
    full = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""
    assert run(tmp_path, full + SUM, PYTHONDONTWRITEBYTECODE="1") == f"0 {THREES}"
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert run(tmp_path) == f"0 {THREES}"
    assert run(tmp_path) == f"1 {THREES}"


def test_the_folders_of_other_sources_do_not_pile_up(tmp_path):
    from tilegrad.kernels.cpu import code as code_cpu

    folders = [tmp_path / f"tilegrad-cpu-{i}" for i in range(7)]
    for i, folder in enumerate(folders):
        code_cpu._make(folder)
        (folder / "some.code").touch()
        os.utime(folder, (i, i))
    (tmp_path / "mine").mkdir()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine", *folders[2:]]


def test_every_kernel_of_the_cpu_is_compiled_with_this_cache():
    """Numba's own would bring back all that is tested here."""
    ours = "from tilegrad.kernels.cpu.code import njit"
    for path in (*Path(kernels.__path__[0]).glob("*/cpu*.py"), *Path(kernels.__path__[0], "cpu").glob("*.py")):
        if path.name != "code.py":
            assert "import njit" not in path.read_text().replace(ours, ""), path


def test_a_part_of_kernels_has_no_door_for_python(package, tmp_path):
    """It has no machine code either: a call by Python would jump to nowhere."""
    code = """
import numpy as np
from numba import njit
from tilegrad.kernels.cpu.scalar_math import exp

@njit
def one(x):
    return exp(x)

print(one(np.float32(0)))  # by code that Numba compiles in the thread that Ctrl-C reaches
try:
    exp(np.float32(0))
except TypeError as error:
    print(error)
"""
    assert run(tmp_path, code).splitlines() == [
        "1.0",
        "exp is a part of compiled kernels: only compiled code can call it",
    ]
