"""The installed package: its wheel, what is in it, and that it lives beside others' `kernels` and a user's `engine`."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import tilegrad

ROOT = Path(__file__).parents[1]
FOLDERS = {"tilegrad": "engine", "tilegrad.kernels": "kernels", "tilegrad.bench": "bench"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Its output. Only what `environment` names is on the search path."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TILEGRAD_KERNELS", "KERAS_BACKEND")}
    done = subprocess.run(
        command, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(folder: str) -> set[str]:
    return {str(path.relative_to(ROOT / folder)) for path in (ROOT / folder).rglob("*.py")}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what git knows or would add."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT)
    source = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # deleted ones are listed too
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """Built of that copy, without network."""
    built = tmp_path_factory.mktemp("wheel")
    options = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check --wheel-dir".split()
    run(sys.executable, "-m", "pip", "wheel", *options, built, source, folder=built)
    (path,) = built.iterdir()
    return path


def test_the_packages_of_the_project_are_the_folders():
    folders = {
        ".".join((package, *init.parent.relative_to(ROOT / folder).parts))
        for package, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert len(set(listed)) == len(listed)
    assert set(listed) == folders


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if not name.startswith(f"tilegrad-{tilegrad.__version__}.dist-info/")}
    expected = files_of("engine") | {f"{part}/{name}" for part in ("kernels", "bench") for name in files_of(part)}
    assert own == {f"tilegrad/{name}" for name in expected | {"py.typed"}} | {"tilegrad_keras.pth"}
    assert f"tilegrad-{tilegrad.__version__}.dist-info/licenses/LICENSE" in names


def test_its_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    folder = f"tilegrad-{tilegrad.__version__}.dist-info"
    said = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
    assert (said["Name"], said["Version"]) == ("tilegrad", tilegrad.__version__)
    assert (said["License-Expression"], said.get_all("License-File")) == ("MIT", ["LICENSE"])
    assert said["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert set(said.get_all("Provides-Extra")) == set(PROJECT["project"]["optional-dependencies"])
    assert said.get_payload().startswith("# tilegrad")
    assert archive.read(f"{folder}/top_level.txt").decode().split() == ["tilegrad"]
    commands = archive.read(f"{folder}/entry_points.txt").decode().split("\n")
    assert commands[:2] == ["[console_scripts]", "tilegrad = tilegrad.__main__:main"]


def test_it_is_installed_beside_other_packages_of_these_names(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    options = "--quiet --no-deps --no-index --no-compile --disable-pip-version-check --target".split()
    run(sys.executable, "-m", "pip", "install", *options, site, wheel, folder=tmp_path)
    (site / "kernels").mkdir()
    (site / "kernels" / "__init__.py").write_text("WHOSE = 'of another package'")
    work.mkdir()
    (work / "engine.py").write_text("WHOSE = 'of the user'")
    program = """
        import importlib.util
        import sys
        import engine, kernels
        import tilegrad as tg
        from tilegrad import nn, optim
        from tilegrad.nn import functional as F

        assert (engine.WHOSE, kernels.WHOSE) == ("of the user", "of another package")
        assert not hasattr(tg.kernels, "WHOSE") and tg.kernels.name() == "reference"
        assert importlib.util.find_spec("bench") is None
        model = nn.Linear(3, 2)
        F.cross_entropy(model(tg.ones(4, 3)), tg.zeros(4, dtype=tg.int64)).backward()
        optim.SGD(model.parameters(), lr=0.1).step()
        strangers = {name.partition(".")[0] for name in sys.modules} & {"bench", "tests", "examples"}
        assert not strangers, strangers
        print(tg.__file__, tg.__version__)
    """
    here = {"PYTHONPATH": str(site), "TILEGRAD_KERNELS": "reference"}
    said = run(sys.executable, "-c", textwrap.dedent(program), folder=work, **here)
    assert said.split() == [str(site / "tilegrad" / "__init__.py"), tilegrad.__version__]
    assert "matmul" in run(sys.executable, "-m", "tilegrad.bench", "--list", folder=work, **here)
    assert "usage" in run(sys.executable, "-m", "tilegrad.kernels.compile", "--help", folder=work, **here)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The Python of a virtual environment with the wheel, and with the packages of this one behind it."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    options = "--quiet --no-deps --no-index --no-compile --disable-pip-version-check".split()
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    (Path(site) / "before.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_keras_backend_in_the_environment_is_enough(environment, tmp_path):
    """An unchanged program, without an import of tilegrad's; another word there imports nothing at all."""
    program = "import sys, keras; print(keras.config.backend(), type(keras.ops.ones(2)).__module__)"
    here = {"KERAS_BACKEND": "tilegrad", "KERAS_HOME": str(tmp_path)}
    assert run(environment, "-c", program, folder=tmp_path, **here).split() == ["tilegrad", "tilegrad.tensor"]
    for word in ({}, {"KERAS_BACKEND": "torch"}):
        loaded = "import sys; print([name for name in sys.modules if name.split('.')[0] in ('tilegrad', 'numpy')])"
        assert run(environment, "-c", loaded, folder=tmp_path, **word).strip() == "[]"


def test_a_source_distribution_can_be_built_from(source, tmp_path):
    """It holds what the build itself imports."""
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    name = run(sys.executable, "-W", "ignore", "-c", build, folder=source).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        assert f"tilegrad-{tilegrad.__version__}/startup.py" in archive.getnames()


def test_the_version_is_said_once():
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    text = (ROOT / "engine" / "__init__.py").read_text()
    assert text.count(f'"{tilegrad.__version__}"') == 1


def test_the_links_are_made_again_where_python_has_run(tmp_path):
    """It leaves a folder of its own beside the sources, and one beside the links."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("engine/__pycache__", "kernels", "bench", ".links/tilegrad/__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "engine" / "tensor.py").touch()
    for _ in range(2):
        done = subprocess.run(
            ["make", "links", f"PYTHON={sys.executable}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / ".links/tilegrad").iterdir() if path.is_symlink()) == [
        "bench",
        "kernels",
        "tensor.py",
    ]
