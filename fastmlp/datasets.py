"""Data sets to try fastmlp on: MNIST, found on disk or downloaded, and the digits that scikit-learn brings along.

Files are looked for in the folder named by the environment variable FASTMLP_DATA, then in the user's cache, and are
downloaded into that cache where neither has them. Whatever their way, they are used only when their checksum is right.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np

Split = tuple[np.ndarray, np.ndarray]


class IdxFile(NamedTuple):
    """A file in MNIST's IDX format: what it must hold once unpacked."""

    name: str
    shape: tuple[int, ...]
    sha256: str


MNIST = {
    "X_train": IdxFile(
        "train-images-idx3-ubyte.gz",
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "y_train": IdxFile(
        "train-labels-idx1-ubyte.gz",
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "X_test": IdxFile(
        "t10k-images-idx3-ubyte.gz",
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "y_test": IdxFile(
        "t10k-labels-idx1-ubyte.gz",
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
TIMEOUT_SECONDS = 5.0


def load_mnist(*, download: bool = True) -> tuple[Split, Split]:
    """MNIST's handwritten digits: 28 x 28 grey values, in their original order.

    Parameters
    ----------
    download : bool, default=True
        Whether files that are neither in FASTMLP_DATA (or its subfolder `mnist`) nor in the cache may be downloaded.

    Returns
    -------
    (X_train, y_train), (X_test, y_test)
        Images uint8 of shape (60000, 784) and (10000, 784), read-only; labels int64.

    Raises
    ------
    FileNotFoundError
        A file is nowhere to be had; the message says what to do.
    ValueError
        A file in FASTMLP_DATA is corrupt. (One in the cache is downloaded again.)

    Examples
    --------
    >>> (X_train, y_train), (X_test, y_test) = load_mnist()  # doctest: +SKIP
    >>> X_train.shape, X_train.dtype  # doctest: +SKIP
    ((60000, 784), dtype('uint8'))
    """
    arrays = {key: _load_idx(file, download) for key, file in MNIST.items()}
    images = {key: array.reshape(len(array), -1) for key, array in arrays.items() if key.startswith("X")}
    labels = {key: array.astype(np.int64) for key, array in arrays.items() if key.startswith("y")}
    return (images["X_train"], labels["y_train"]), (images["X_test"], labels["y_test"])


def load_digits() -> tuple[Split, Split]:
    """scikit-learn's bundled 8 x 8 digits, scaled to [0, 1] and split at random (always the same way).

    Returns
    -------
    (X_train, y_train), (X_test, y_test)
        Images float32 of shape (1437, 64) and (360, 64); labels int64.

    Examples
    --------
    >>> (X_train, y_train), (X_test, y_test) = load_digits()
    >>> X_train.shape, X_train.dtype, float(X_train.max())
    ((1437, 64), dtype('float32'), 1.0)
    """
    from sklearn.datasets import load_digits as bundled

    X, y = bundled(return_X_y=True)
    X, y = (X / 16).astype(np.float32), y.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[: len(X) * 4 // 5], order[len(X) * 4 // 5 :]
    return (X[train], y[train]), (X[test], y[test])


def cache_folder() -> Path:
    """Where downloaded files are kept, for example ~/.cache/fastmlp/data."""
    from platformdirs import user_cache_path

    return user_cache_path("fastmlp", appauthor=False) / "data"


def _load_idx(file: IdxFile, download: bool) -> np.ndarray:
    """The file's array, uint8, from the first place that has it."""
    named = os.environ.get("FASTMLP_DATA")
    if named:
        for path in (Path(named) / file.name, Path(named) / "mnist" / file.name):
            if path.is_file():
                return _parse(_unpack(path.read_bytes(), file), file, path)
    cached = cache_folder() / "mnist" / file.name
    if cached.is_file():
        try:
            return _parse(_unpack(cached.read_bytes(), file), file, cached)
        except ValueError:
            if not download:
                raise
    if download:
        return _download(file, cached)
    raise _not_found(file, "downloading was not allowed")


def _unpack(packed: bytes, file: IdxFile) -> bytes:
    """The gzip file's content, or b"" where it is no gzip file; never much more than the file should hold."""
    expected = 4 + 4 * len(file.shape) + int(np.prod(file.shape))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            return stream.read(expected + 1)
    except (OSError, EOFError, zlib.error):
        return b""


def _parse(content: bytes, file: IdxFile, path: Path | str) -> np.ndarray:
    """The array in an IDX file: 4 magic bytes, the sizes as big-endian int32, the values."""
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(
            f"{path} is corrupt: it does not hold MNIST's {file.name} (its SHA-256 differs). Delete it or replace it "
            "by a good copy."
        )
    header = 4 + 4 * len(file.shape)
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(file.shape)


def _download(file: IdxFile, target: Path) -> np.ndarray:
    """Fetch the file from the first mirror that has it whole, and keep it."""
    reasons = []
    for mirror in MNIST_MIRRORS:
        try:
            with urllib.request.urlopen(mirror + file.name, timeout=TIMEOUT_SECONDS) as response:
                packed = response.read(16 << 20)  # the largest has 10 MB
            array = _parse(_unpack(packed, file), file, mirror + file.name)
        except (OSError, ValueError, HTTPException) as error:  # URLError and time-outs are OSErrors
            reasons.append(f"{mirror}: {getattr(error, 'reason', error)}")
            continue
        _keep(packed, target)
        return array
    raise _not_found(file, "; ".join(reasons))


def _keep(packed: bytes, target: Path) -> None:
    """Write atomically: another process sees the whole file or none. A cache that cannot be written is no error."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            part = Path(folder) / target.name
            part.write_bytes(packed)
            os.replace(part, target)
    except OSError:
        pass


def _not_found(file: IdxFile, reason: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"MNIST's {file.name} was found neither in the folder named by FASTMLP_DATA "
        f"({os.environ.get('FASTMLP_DATA') or 'not set'}) nor in {cache_folder() / 'mnist'}, and could not be "
        f"downloaded ({reason}). Put MNIST's four .gz files into one of these folders."
    )
