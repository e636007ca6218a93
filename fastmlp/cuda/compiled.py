"""Kernels' machine code in files beside the CPU's: a later process loads it, and does not compile."""

from __future__ import annotations

import pickle
import warnings
import zlib
from functools import lru_cache
from pathlib import Path

from ..engine import jit


def _hash_sources() -> str:
    """Of all files of this package."""
    return jit.hash_files(Path(__file__).parent.glob("*.py"))


_SOURCES = _hash_sources()  # of what this process imported, even if the files change while it runs


@lru_cache
def stamp() -> str:
    """A hash of everything that the machine code of all kernels depends on: the name of their folder."""
    from importlib.metadata import version

    from numba import cuda

    return jit.hash_facts(_SOURCES, jit.SOURCES, version("numba"), version("numba-cuda"), cuda.runtime.get_version())


def file_name(kernel, name: str, signature) -> str:
    """Of a kernel's file: of what it was made from, the types of its arguments, how it is compiled, and for what."""
    from numba import cuda

    options = sorted((key, value) for key, value in kernel.targetoptions.items() if isinstance(value, (int, str)))
    return jit.hash_facts(name, str(signature), options, cuda.get_current_device().compute_capability)


def keep_compiled(kernel, name: str) -> None:
    """Let a kernel, a dispatcher of numba-cuda's, look in files for what it would compile. `name` says all that its
    machine code depends on but for its arguments' types.

    Numba's own cache is no help: it tells closures from each other by what they hold pickled, and device functions have
    another number in every process. Nothing that goes wrong with files ends a fit: kernels are compiled then.
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
            try:
                content = jit.load_file(file_name(kernel, name, signature), stamp())
                if content is not None:
                    return _Kernel._rebuild(**pickle.loads(zlib.decompress(content)))
                jit.announce("CUDA kernels for this device, some ten seconds", stamp())
            except Exception as error:  # whatever a file of another environment can bring about
                warnings.warn(f"fastmlp: cannot load a CUDA kernel, {name} ({error}); compiling it.", stacklevel=2)
            return None

        def save_overload(self, signature, compiled):
            try:
                if _hash_sources() != _SOURCES:  # an upgrade under a running process: what it compiled is of both
                    return
                content = zlib.compress(pickle.dumps(compiled._reduce_states()), 1)
                jit.save_file(file_name(kernel, name, signature), content, stamp())
            except Exception as error:  # a kernel that cannot be pickled, sources out of reach...
                warnings.warn(f"fastmlp: cannot keep the CUDA kernel {name} ({error}).", stacklevel=2)

    kernel._cache = Files()
