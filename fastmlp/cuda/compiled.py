"""Kernels' machine code in files beside the CPU's: a later process loads it, and does not compile."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zlib
from functools import lru_cache
from pathlib import Path

from ..engine import jit


def _hash_sources() -> str:
    """A hash of all files of this package."""
    h = hashlib.blake2b(digest_size=12)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


_SOURCES = _hash_sources()  # of what this process imported, even if the files change while it runs


@lru_cache
def _versions() -> tuple:
    """What machine code depends on beside the sources and the engine's own stamp."""
    from importlib.metadata import version

    from numba import cuda

    return _SOURCES, jit.stamp(), version("numba-cuda"), cuda.runtime.get_version()


def keep_compiled(kernel, name: str) -> None:
    """Let a kernel, a dispatcher of numba-cuda's, look in files for what it would compile. `name` says all that its
    machine code depends on but for its arguments' types.

    Numba's own cache is no help: it tells closures from each other by what they hold pickled, and device functions have
    another number in every process.
    """
    try:
        from numba.cuda.core.caching import NullCache
        from numba.cuda.dispatcher import _Kernel

        known = type(kernel._cache) is NullCache and callable(_Kernel._rebuild) and callable(_Kernel._reduce_states)
    except (ImportError, AttributeError):
        known = False
    if not known:  # another numba-cuda than those that this was written for: it compiles in every process
        return

    class Files(NullCache):
        """What a dispatcher asks before it compiles, and tells afterwards."""

        def load_overload(self, signature, target_context):
            loaded = _load(_key(name, signature), _Kernel._rebuild)
            if loaded is None:
                jit.announce("CUDA kernels for this device, some ten seconds")
            return loaded

        def save_overload(self, signature, compiled):
            _save(_key(name, signature), compiled)

    kernel._cache = Files()


def _key(name: str, signature) -> str:
    from numba import cuda

    facts = name, str(signature), cuda.get_current_device().compute_capability, _versions()
    return "cuda-" + hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _load(key: str, rebuild):
    content = jit.load_file(key)
    if content is None:
        return None
    try:
        return rebuild(**pickle.loads(zlib.decompress(content)))
    except Exception as error:  # whatever a file of another environment can bring about
        warnings.warn(f"fastmlp: cannot use the compiled kernel {key} ({error}); compiling it again.", stacklevel=2)
        return None


def _save(key: str, compiled) -> None:
    if _hash_sources() != _SOURCES:  # an upgrade under a running process: what it compiled is of both
        return
    try:
        jit.save_file(key, zlib.compress(pickle.dumps(compiled._reduce_states()), 1))
    except (pickle.PicklingError, RuntimeError, TypeError):  # Numba's word for a kernel that cannot be kept
        pass
