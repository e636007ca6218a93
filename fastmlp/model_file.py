"""A model file: tensors and a JSON configuration in the safetensors layout, whole and unchanged or refused.

The layout is safetensors' own: 8 bytes with the header's length, a JSON header, the tensors. Its `__metadata__` is::

    {"format": "fastmlp", "version": "1", "config": JSON, "digest": blake2b-256, hexadecimal}

The digest covers the configuration and each tensor's name, dtype, shape and bytes, which safetensors itself does not.
It guards against damage, not against forgery. Nothing in such a file can be executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import time

import numpy as np

FORMAT, VERSION = "fastmlp", "1"
MAX_HEADER_BYTES = 32 << 20  # names of classes and features live there; the parameters do not
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
_OTHERS = [
    (b"\x80", "a pickle, which could execute anything"),
    (b"PK", "a zip archive"),
    (b"\x93NUMPY", "an .npy array"),
]


class ModelFileError(ValueError):
    """The file is not a model file of fastmlp, or not a whole one."""


def can_hold(dtype: np.dtype) -> bool:
    """Whether a tensor may have this dtype."""
    return dtype.name in _DTYPES


def write(path: str | os.PathLike, config: dict, tensors: dict[str, np.ndarray]) -> None:
    """Write the file atomically: whoever reads `path`, even after a crash, sees the old file or the whole new one.

    Parameters
    ----------
    path : str or path
    config : dict
        Anything that JSON can hold.
    tensors : dict of str to ndarray
        See `can_hold`.

    Raises
    ------
    ValueError
        `path` is something else than a file, or the configuration is larger than `read` accepts.
    OSError
        It cannot be written; an older file at `path` is untouched.
    """
    text = json.dumps(config)
    little = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in sorted(tensors.items())}
    metadata = {"format": FORMAT, "version": VERSION, "config": text, "digest": _digest(text, little)}
    header: dict = {"__metadata__": metadata}
    end = 0
    # Widest items first: each tensor is then aligned within the file, and 8 divides the header.
    in_order = sorted(little.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, array in in_order:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > MAX_HEADER_BYTES:
        raise ValueError(f"names and settings take {len(head)} bytes; a model file holds {MAX_HEADER_BYTES} of them.")
    data = [memoryview(array).cast("B") for _, array in in_order if array.size]
    replace(os.path.realpath(path), [len(head).to_bytes(8, "little"), head, *data])


def replace(path: str, parts: list) -> None:
    """Put the parts into a new file beside `path`, no link, onto the disk, and only then under its name."""
    folder, name = os.path.split(path)
    old_mode = None
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise ValueError(f"`path` must be a file or a new name; got {path!r}.")
        old_mode = stat.S_IMODE(os.stat(path).st_mode)
    temporary = os.path.join(folder, f".{name[:32]}.{os.getpid()}.{os.urandom(4).hex()}")  # see `remove_leftovers`
    try:
        with open(temporary, "xb") as file:
            if old_mode is not None:
                os.chmod(temporary, old_mode)
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            # nobody knows the temporary one; a full disk names none
            raise OSError(error.errno, error.strerror, path) from None
        raise
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # the new name has to reach the disk too, where folders can be synced
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove_leftovers(path: str) -> None:
    """Delete the unfinished files of processes that were killed while they wrote `path`: nobody has written to them
    for a minute."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(f".{name[:32]}.") + r"\d+\.[0-9a-f]{8}")
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if pattern.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > 60:
                os.unlink(entry.path)


def read(path: str | os.PathLike) -> tuple[dict, dict[str, np.ndarray]]:
    """The configuration and the tensors of a file that `write` wrote.

    Sizes are compared with the file's before anything of that size is allocated.

    Raises
    ------
    ModelFileError
        Not safetensors, cut off, changed since it was written, another version, not fastmlp's.
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        _refuse(size < 10, path, f"it is cut off or empty: {size} bytes")
        if length > MAX_HEADER_BYTES:
            kind = next((kind for magic, kind in _OTHERS if start.startswith(magic)), None)
            found = f"it looks like {kind}" if kind else f"its header would have {length} bytes"
            raise ModelFileError(f"cannot load {os.fspath(path)!r}: not a safetensors file; {found}.")
        _refuse(8 + length > size, path, f"it is cut off: its header ends at byte {8 + length} of {size}")
        head = file.read(length)
        header = _json(head, path, "its header")
        metadata = header.get("__metadata__")
        ours = isinstance(metadata, dict) and metadata.get("format") == FORMAT
        _refuse(not ours, path, "it was not written by fastmlp")
        version = metadata.get("version")
        other = f"it has version {version!r} of the format; this fastmlp reads version {VERSION!r}"
        _refuse(version != VERSION, path, other)
        end = 8 + length + _data_bytes(header, path)
        _refuse(end > size, path, f"it is cut off: its tensors end at byte {end} of {size}")
        file.seek(0)
        data = file.read()
    tensors = _tensors(data, path)
    text = metadata.get("config")
    _refuse(not isinstance(text, str), path, "it has no configuration")
    _refuse(_digest(text, tensors) != metadata.get("digest"), path, "it was changed or damaged: the digest differs")
    return _json(text, path, "its configuration"), tensors


def _refuse(condition: bool, path, reason: str) -> None:
    if condition:
        raise ModelFileError(f"cannot load {os.fspath(path)!r}: {reason}.")


def _json(text: bytes | str, path, what: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"cannot load {os.fspath(path)!r}: {what} is not JSON ({error}).") from None
    _refuse(not isinstance(value, dict), path, f"{what} is not a JSON object")
    return value


def _data_bytes(header: dict, path) -> int:
    """Where the tensors end by their own account."""
    try:
        ends = [int(spec["data_offsets"][1]) for name, spec in header.items() if name != "__metadata__"]
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        _refuse(True, path, "its header does not say where the tensors are")
    return max(ends, default=0)


def _tensors(data: bytes, path) -> dict[str, np.ndarray]:
    """Checked by safetensors: known dtypes, shapes that fit the bytes, no gaps, no overlaps, no rest."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(f"cannot load {os.fspath(path)!r}: not a sound safetensors file ({error}).") from None


def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32)
    for name, array in sorted(tensors.items()):
        digest.update(repr((name, array.dtype.name, array.shape)).encode("utf-8", "surrogatepass"))
        if array.size:
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()
