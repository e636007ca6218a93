"""Data sets: found, unpacked, checked, downloaded, refused."""

import gzip
import hashlib
import http.client
import io
import urllib.error

import numpy as np
import pytest

from fastmlp import datasets


@pytest.fixture
def small(monkeypatch, tmp_path):
    """MNIST of a few rows: (arrays, packed files by name), with an empty cache and no FASTMLP_DATA and no network."""
    rng = np.random.default_rng(0)
    arrays, files = {}, {}
    for key, file in datasets.MNIST.items():
        shape = (5 if "train" in key else 3, *file.shape[1:])
        arrays[key] = rng.integers(0, 10, shape, dtype=np.uint8)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
        content = header + arrays[key].tobytes()
        files[file.name] = gzip.compress(content)
        monkeypatch.setitem(
            datasets.MNIST, key, datasets.IdxFile(file.name, shape, hashlib.sha256(content).hexdigest())
        )
    monkeypatch.delenv("FASTMLP_DATA", raising=False)
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")

    def no_network(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets.urllib.request, "urlopen", no_network)
    return arrays, files


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, packed in files.items():
        (folder / name).write_bytes(packed)
    return folder


def assert_small(loaded, arrays):
    (X_train, y_train), (X_test, y_test) = loaded
    assert X_train.dtype == np.uint8 and y_train.dtype == np.int64
    np.testing.assert_array_equal(X_train, arrays["X_train"].reshape(5, 784))
    np.testing.assert_array_equal(y_train, arrays["y_train"])
    np.testing.assert_array_equal(X_test, arrays["X_test"].reshape(3, 784))
    np.testing.assert_array_equal(y_test, arrays["y_test"])


@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_found_in_the_named_folder(small, subfolder, tmp_path, monkeypatch):
    arrays, files = small
    write(tmp_path / "data" / subfolder, files)
    monkeypatch.setenv("FASTMLP_DATA", str(tmp_path / "data"))
    assert_small(datasets.load_mnist(), arrays)


def test_found_in_the_cache(small, tmp_path):
    arrays, files = small
    write(tmp_path / "cache" / "mnist", files)
    assert_small(datasets.load_mnist(download=False), arrays)


def test_downloaded_from_the_second_mirror_and_kept(small, tmp_path, monkeypatch):
    arrays, files = small
    asked = []

    def second_mirror_only(url, timeout):
        asked.append(url)
        name = url.rsplit("/", 1)[1]
        if url.startswith(datasets.MNIST_MIRRORS[0]):
            return io.BytesIO(b"<html>not the file</html>")
        return io.BytesIO(files[name])

    monkeypatch.setattr(datasets.urllib.request, "urlopen", second_mirror_only)
    assert_small(datasets.load_mnist(), arrays)
    assert len(asked) == 8
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == sorted(files)
    assert_small(datasets.load_mnist(download=False), arrays)


def test_an_answer_that_breaks_off_sends_to_the_next_mirror(small, monkeypatch):
    arrays, files = small

    class BreaksOff(io.BytesIO):
        def read(self, n):
            raise http.client.IncompleteRead(b"half")

    def answer(url, timeout):
        return BreaksOff() if url.startswith(datasets.MNIST_MIRRORS[0]) else io.BytesIO(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(datasets.urllib.request, "urlopen", answer)
    assert_small(datasets.load_mnist(), arrays)


def test_a_cache_that_cannot_be_written_is_no_error(small, tmp_path, monkeypatch):
    arrays, files = small
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr(
        datasets.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(files[url.rsplit("/", 1)[1]])
    )
    assert_small(datasets.load_mnist(), arrays)


def test_nowhere_says_what_to_do(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"FASTMLP_DATA.*not set.*no network.*Put MNIST's four") as caught:
        datasets.load_mnist()
    assert str(tmp_path / "cache" / "mnist") in str(caught.value)
    with pytest.raises(FileNotFoundError, match="downloading was not allowed"):
        datasets.load_mnist(download=False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: b"",
        lambda packed: b"not gzip",
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\xff"),
        lambda packed: gzip.compress(gzip.decompress(packed) + bytes(1 << 20)),
    ],
    ids=["truncated", "empty", "not gzip", "one byte differs", "too long"],
)
def test_a_corrupt_file_is_not_used(small, spoil, tmp_path, monkeypatch):
    arrays, files = small
    name = datasets.MNIST["X_test"].name
    bad = write(tmp_path / "bad", {**files, name: spoil(files[name])})
    monkeypatch.setenv("FASTMLP_DATA", str(bad))
    with pytest.raises(ValueError, match=f"{name} is corrupt"):
        datasets.load_mnist()


def test_a_corrupt_file_in_the_cache_is_downloaded_again(small, tmp_path, monkeypatch):
    arrays, files = small
    name = datasets.MNIST["X_test"].name
    write(tmp_path / "cache" / "mnist", {**files, name: files[name][:-20]})
    with pytest.raises(ValueError, match="corrupt"):
        datasets.load_mnist(download=False)
    monkeypatch.setattr(
        datasets.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(files[url.rsplit("/", 1)[1]])
    )
    assert_small(datasets.load_mnist(), arrays)
    assert_small(datasets.load_mnist(download=False), arrays)


def test_the_real_files(data_folder):
    if not any(data_folder.rglob("train-images-idx3-ubyte.gz")):
        pytest.skip("FASTMLP_DATA has no MNIST")
    (X_train, y_train), (X_test, y_test) = datasets.load_mnist(download=False)
    assert X_train.shape == (60_000, 784) and X_test.shape == (10_000, 784)
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9] and np.bincount(y_test).tolist()[:2] == [980, 1135]


def test_digits():
    (X_train, y_train), (X_test, y_test) = datasets.load_digits()
    assert X_train.shape == (1437, 64) and X_test.shape == (360, 64)
    assert X_train.dtype == np.float32 and X_train.min() == 0 and X_train.max() == 1
    assert sorted(set(y_train)) == sorted(set(y_test)) == list(range(10))
    (again, _), _ = datasets.load_digits()
    np.testing.assert_array_equal(X_train, again)
