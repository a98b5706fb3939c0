"""`~` in what users give is the home, in every flag and variable of ours that is a path."""

from pathlib import Path

import pytest

from tilegrad import kernels
from tilegrad.bench import arguments
from tilegrad.kernels.system.paths import user_path

ROOT = Path(kernels.__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_user_path(home):
    assert user_path("~/x") == home / "x"
    assert user_path("a/~/x") == Path("a/~/x")
    assert user_path("~no-such-user/x") == Path("~no-such-user/x")


def test_every_flag_that_is_a_path(home):
    for action in arguments._parser()._actions:
        assert action.type is not Path
        if action.type is user_path:
            assert vars(arguments._parser().parse_args([f"{action.option_strings[0]}=~/x"]))[action.dest] == home / "x"
    for folder in ("bench", "examples", "kernels", "engine"):
        for source in (ROOT / folder).rglob("*.py"):
            assert "type=Path" not in source.read_text(), source


def test_the_tuning_cache(home, monkeypatch):
    from tilegrad.kernels.launch import tuning_cache

    monkeypatch.setenv("TILEGRAD_CACHE", "~/tuned")
    assert tuning_cache.path() == home / "tuned" / "autotune.json"
