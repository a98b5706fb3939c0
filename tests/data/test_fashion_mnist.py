"""Fashion-MNIST: from a folder, from the cache, and into it from mirrors on a server of this machine."""

import gzip
import hashlib
import os

import numpy as np
import pytest

from tilegrad.data import fashion_mnist, fashion_mnist_sources, fetch, mnist, mnist_sources, write_idx
from tilegrad.data.idx import encode_idx

IMAGES = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
LABELS = np.array([9, 0, 0, 3], np.uint8)
FILES = {"train-images-idx3-ubyte": encode_idx(IMAGES), "train-labels-idx1-ubyte": encode_idx(LABELS)}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    for name in "TILEGRAD_DATA", "TILEGRAD_FASHION_DATA":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist_sources, "SOURCES", ())
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    write_idx(tmp_path / "data" / "train-images-idx3-ubyte", IMAGES)
    write_idx(tmp_path / "data" / "train-labels-idx1-ubyte", LABELS)
    return tmp_path / "data"


def assert_is_small(got):
    np.testing.assert_array_equal(got[0], IMAGES, strict=True)
    np.testing.assert_array_equal(got[1], LABELS, strict=True)


def test_folder(folder):
    assert_is_small(fashion_mnist(folder))


def test_its_variable_is_not_mnists(folder, monkeypatch):
    monkeypatch.setattr(fashion_mnist_sources, "SOURCES", ())
    monkeypatch.setenv("TILEGRAD_DATA", str(folder))
    with pytest.raises(RuntimeError, match="^fashion_mnist: no source has the files(.|\n)*TILEGRAD_FASHION_DATA to it"):
        fashion_mnist()
    monkeypatch.setenv("TILEGRAD_FASHION_DATA", str(folder))
    assert_is_small(fashion_mnist())


@pytest.mark.parametrize(("arguments", "message"), [((None, "half"), "split is 'half'"), ((3,), "root is int")])
def test_errors_begin_with_its_name(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^fashion_mnist: {message}"):
        fashion_mnist(*arguments)


def test_from_a_mirror_into_a_cache_of_its_own(server, monkeypatch, empty_cache):
    url, files, requests = server
    files.update({f"/fashion/{name}.gz": gzip.compress(raw) for name, raw in FILES.items()})
    sha256 = {name: hashlib.sha256(raw).hexdigest() for name, raw in FILES.items()}
    monkeypatch.setattr(fashion_mnist_sources, "SHA256", sha256)
    monkeypatch.setattr(fashion_mnist_sources, "SOURCES", (fetch.mirror(f"{url}/gone"), fetch.mirror(f"{url}/fashion")))
    for _ in range(2):
        assert_is_small(fashion_mnist())
    assert requests == [
        "HEAD /gone/train-images-idx3-ubyte.gz",
        "HEAD /fashion/train-images-idx3-ubyte.gz",
        "GET /fashion/train-images-idx3-ubyte.gz",
        "GET /fashion/train-labels-idx1-ubyte.gz",
    ]
    assert sorted(os.listdir(empty_cache / "fashion-mnist")) == sorted(FILES)
    with pytest.raises(RuntimeError, match="mnist: no source"):
        mnist()


def test_other_files_are_not_fashion_mnist(server, monkeypatch, empty_cache):
    url, files, _ = server
    files.update({f"/{name}.gz": gzip.compress(raw) for name, raw in FILES.items()})
    monkeypatch.setattr(fashion_mnist_sources, "SOURCES", (fetch.mirror(url),))
    with pytest.raises(RuntimeError, match="train-images-idx3-ubyte: expected sha256 c59f468a"):
        fashion_mnist()
    assert os.listdir(empty_cache / "fashion-mnist") == []


def test_its_files_are_not_mnists():
    assert fashion_mnist_sources.SHA256.keys() == mnist_sources.SHA256.keys()
    assert not set(fashion_mnist_sources.SHA256.values()) & set(mnist_sources.SHA256.values())
    assert all(len(bytes.fromhex(digest)) == 32 for digest in fashion_mnist_sources.SHA256.values())
