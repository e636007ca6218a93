"""Kernels' machine code: compiled one by one when first needed, kept in files, loaded without Numba.

Numba compiles a kernel to LLVM IR; llvmlite turns it into an object file, which is kept under a name that holds a
hash of all sources of the engine, the versions of Numba and llvmlite and the processor, so that an upgrade never
runs old code. Later processes load the object: about a millisecond a kernel, and Numba is not even imported (Numba's
own cache needs its import and 0.3 s to set up, and does not notice changes in files that a kernel calls into).

Files carry a checksum. One that is damaged is recompiled with a warning; where none can be written, kernels live in
memory only. The folder is `FASTMLP_CACHE_DIR` or the user's cache; like any cache of code it must be the user's or
root's, and nobody else may write to it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from .. import user_functions
from ..simd import host_simd
from .contraction import contracted

_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)  # ctypes lets the GIL go while a kernel runs
_DIGEST = 32
_NUMBAS = ("numba_", "NRT_", "nrt_", "Py", "_Py")  # what is missing in a process that has not imported Numba
_lock = threading.RLock()


def _hold() -> None:
    _lock.acquire()


def _let_go() -> None:
    _lock.release()


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # A fork waits until no other thread compiles: that thread, and what it holds in Numba, does not exist in the child.
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_new_lock)
_addresses: dict[str, int] = {}
_functions: dict[str, object] = {}
_announced: set[str] = set()
_said: set[str] = set()


def hash_files(paths) -> str:
    """A hash of files' names and contents."""
    h = hashlib.blake2b(digest_size=12)
    for path in sorted(paths, key=lambda path: path.name):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def hash_facts(*facts) -> str:
    """A hash of what these values print as."""
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def _hash_sources() -> str | None:
    """Of all files that kernels are made from; None where there are none, as in programs of one file."""
    package = Path(__file__).parents[1]
    if not (package / "records.py").is_file():  # in an archive, or compiled
        from importlib.resources import files

        package = files(__package__.rpartition(".")[0])
    try:
        below = [path for name in ("engine", "losses") for path in (package / name).iterdir()]
        above = [path for path in package.iterdir() if path.name.partition(".")[0] in _ABOVE]
        sources = [path for path in (*below, *above) if path.name.endswith((".py", ".pyc"))]
        return hash_files(sources) if len(sources) > len(above) > 0 else None
    except OSError:
        return None


_ABOVE = ("activations", "masks", "records", "simd", "user_functions")
SOURCES = _hash_sources()  # of what this process imported, even if the files change while it runs


# Variables by which Numba makes other machine code
_SETTINGS = (
    "NUMBA_OPT", "NUMBA_DEBUGINFO", "NUMBA_DEBUGINFO_DEFAULT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE",
    "NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_INTEL_SVML",
)  # fmt: skip


@lru_cache
def stamp() -> str:
    """A hash of everything that machine code depends on."""
    from importlib.metadata import version

    settings = [(name, os.environ[name]) for name in _SETTINGS if name in os.environ]
    return hash_facts(SOURCES, version("numba"), version("llvmlite"), host_simd(), _cpu(), *settings)


@lru_cache
def _cpu() -> tuple[str, str]:
    """Name and features of the processor, as Numba chooses them."""
    import llvmlite.binding as llvm

    name = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if name == "generic":
        return name, features or ""
    if features is None:
        try:
            features = llvm.get_host_cpu_features().flatten()
        except RuntimeError:
            features = ""
    return name or llvm.get_host_cpu_name(), features


def has_fma() -> bool:
    """Whether the processor has fused multiply-adds: else they would be calls of a library's."""
    return platform.machine().lower() in ("arm64", "aarch64") or "+fma" in _cpu()[1].split(",")


def cache_folder(of: str | None = None) -> Path | None:
    """Where object files are kept, which nobody else may write to; None where nothing can be kept, or where it is not
    ours. The folder of this stamp, or of the host's kernels.
    """
    return _cache_folder(of)[0]


def _cache_folder(of: str | None) -> tuple[Path | None, str]:
    """The folder, or None and why there is none."""
    if SOURCES is None:
        return None, "the package's files cannot be read, by which what is kept is known"
    root = os.environ.get("FASTMLP_CACHE_DIR") or None
    try:
        if root is None:
            from platformdirs import user_cache_dir

            root = user_cache_dir("fastmlp", appauthor=False)
        folder = Path(root) / f"kernels-{of or stamp()}"
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)  # others may read: an image is made by root
            _remove_old(folder.parent)
        facts = folder.stat()
        if hasattr(os, "geteuid"):  # else somebody else could have put machine code there
            if facts.st_uid not in (0, os.geteuid()):
                return None, f"{folder} belongs to another user"
            if facts.st_mode & 0o022:
                return None, f"others may write to {folder}"
        if os.access(folder, os.W_OK | os.X_OK) or any(folder.iterdir()):
            return folder, ""
        return None, f"{folder} cannot be written"
    except (OSError, RuntimeError) as error:  # no home folder, or not ours
        return None, f"{error}"


def _remove_old(root: Path) -> None:
    """Delete the folders of other versions that nothing was added to and no process has read from for 90 days."""
    for folder in root.glob("kernels-*"):
        if time.time() - folder.stat().st_mtime > 90 * 86400:
            shutil.rmtree(folder, ignore_errors=True)


def address(name: str, dtype: str) -> int:
    """The address of a kernel's C function, compiled or loaded now if it was not yet.

    Parameters
    ----------
    name : str
        A key of `kernels.KERNELS`, or that of a user's function.
    dtype : str
        "float32" or "float64".
    """
    key = f"{name}-{dtype}"
    found = _addresses.get(key)
    if found is None:
        with _lock:
            found = _addresses.get(key)
            if found is None:
                found = _addresses[key] = _load(key) or _compile(name, dtype, key)
    return found


def is_missing(name: str, dtype: str) -> bool:
    """Whether a kernel would have to be compiled."""
    key = f"{name}-{dtype}"
    return key not in _addresses and not ((path := _file(key)) and path.exists())


def lock() -> threading.RLock:
    """What whoever compiles holds."""
    return _lock


def function(name: str, dtype: str):
    """The kernel as a function of four integers, callable from any Python thread; the GIL is released."""
    key = f"{name}-{dtype}"
    if key not in _functions:
        _functions[key] = _SIGNATURE(address(name, dtype))
    return _functions[key]


def _file(key: str, of: str | None = None) -> Path | None:
    folder = cache_folder(of)
    return folder / f"{key}.o" if folder else None


def _load(key: str) -> int | None:
    body = load_file(key)
    if body is None:
        return None
    symbol, _, object_code = body.partition(b"\0")
    return _link(symbol.decode(), object_code)


def load_file(key: str, of: str | None = None) -> bytes | None:
    """What `save_file` has kept under this name, in the folder of this stamp, or of the host's; None where there is
    nothing, with a warning if it is damaged.
    """
    path = _file(key, of)
    try:
        content = path.read_bytes() if path else None
    except FileNotFoundError:
        return None
    except OSError as error:
        warnings.warn(f"fastmlp: cannot read the compiled kernel {path} ({error}); compiling it again.", stacklevel=2)
        return None
    if content is None:
        return None
    _touch(path.parent)
    digest, body = content[:_DIGEST], content[_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        warnings.warn(f"fastmlp: the compiled kernel {path} is damaged; compiling it again.", stacklevel=2)
        return None
    return body


@lru_cache
def _touch(folder: Path) -> None:
    """It is in use: `_remove_old` goes by that."""
    with suppress(OSError):  # somebody else's
        os.utime(folder)


def save_file(key: str, body: bytes, of: str | None = None) -> None:
    """Keep a compiled kernel in such a folder, with a checksum; nothing happens where it cannot be written."""
    path = _file(key, of)
    if path is None:
        return
    try:
        if _hash_sources() != SOURCES:  # an upgrade under a running process: what it compiled is of both
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{key}-")
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(hashlib.blake2b(body, digest_size=_DIGEST).digest() + body)
            os.chmod(temporary, 0o644)  # as far as the folder lets others in
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:  # the next process compiles it again; of a read-only folder, `announce` has said so
        if error.errno == errno.ENOSPC:
            _say(f"what was compiled cannot be kept in {path.parent} ({error.strerror})")


def _compile(name: str, dtype: str, key: str) -> int:
    announce("kernels for this machine, a few seconds")
    with _interrupts_held():
        return _compile_now(name, dtype, key)


def _compile_now(name: str, dtype: str, key: str) -> int:
    import llvmlite.binding as llvm
    from numba import cfunc, types

    from .kernels import builder_of

    signature = types.void(*[types.intp] * 4)
    try:
        builder = builder_of(name)(dtype, host_simd())
        compiled = cfunc(signature, nopython=True, error_model="numpy", fastmath={"contract"})(builder)
    except Exception as error:  # a user's function can break Numba in any way
        user_functions.refuse(name, str(error), error)
    assembly = contracted(compiled.inspect_llvm()) if has_fma() else compiled.inspect_llvm()
    symbol, assembly = _entry(compiled.native_name, assembly)
    module = llvm.parse_assembly(assembly)
    foreign = [f.name for f in module.functions if f.is_declaration and f.name.startswith(_NUMBAS)]
    if foreign := [n for n in foreign if len(re.findall(rf'@"?{re.escape(n)}\b', assembly)) > 1]:  # declared and called
        user_functions.refuse(name, f"it needs {', '.join(foreign)}, which only Numba's runtime has")
    # Numba numbers functions by process, so the same names mean other functions in objects from another process: only
    # the entry may be visible to the linker
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != symbol:
            value.linkage = "internal"
    object_code = _target_machine(module.triple).emit_object(module)
    save_file(key, symbol.encode() + b"\0" + object_code)
    return _link(symbol, object_code)


@contextmanager
def _interrupts_held():
    """Hold Ctrl-C back for a moment: Numba loses it in its callbacks, or stays half imported for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted = []
    before = signal.signal(signal.SIGINT, lambda *_: noted.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if noted:
        signal.raise_signal(signal.SIGINT)  # now the program's own handler has it


def _entry(native_name: str, assembly: str) -> tuple[str, str]:
    """Replace Numba's C wrapper, which reports exceptions to Python, by one that does not: kernels do not raise, and
    code without Numba's runtime in it can be loaded without Numba."""
    inner = native_name.removeprefix("cfunc.")
    symbol = "fastmlp." + hashlib.blake2b(assembly.encode(), digest_size=12).hexdigest()
    assembly = re.sub(r'^define [^\n]*@"?cfunc\..*?^}\n', "", assembly, flags=re.M | re.S)
    quoted = '@"{}"'.format
    values = ", ".join(f"i64 %{x}" for x in "abcd")
    entry = (
        f"define void {quoted(symbol)}({values}) {{\n"
        "  %result = alloca ptr\n  %error = alloca ptr\n"
        f"  %status = call i32 {quoted(inner)}(ptr %result, ptr %error, {values})\n"
        "  ret void\n}\n"
    )
    return symbol, assembly + entry


def announce(what: str, of: str | None = None) -> None:
    """Say once in a process that there is this to compile, and for which folder: a first fit takes seconds instead of
    milliseconds.
    """
    if what not in _announced:
        _announced.add(what)
        where, why = _cache_folder(of)
        if where and not os.access(where, os.W_OK | os.X_OK):
            why = f"{where}, which has not all of it, cannot be written"
        then = f"each process does, for {why} (FASTMLP_CACHE_DIR)" if why else f"later runs start from {where}"
        _say(f"compiling {what}; {then}")


def _say(text: str) -> None:
    """Once in a process, where anybody can hear it."""
    if text not in _said and sys.stderr is not None:
        _said.add(text)
        with suppress(OSError, ValueError):  # nobody reads it any more, or the disk is full
            print(f"fastmlp: {text}", file=sys.stderr, flush=True)


@lru_cache
def _target_machine(triple: str):
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = _cpu()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, jit=True, codemodel="jitdefault"
    )


@lru_cache
def _engine():
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    if sys.platform == "win32" and not triple.endswith("-elf"):
        triple += "-elf"  # what LLVM's in-memory linker understands there
    machine = _target_machine(triple)
    module = llvm.parse_assembly("")
    module.triple = triple
    return llvm.create_mcjit_compiler(module, machine), machine  # the engine does not keep its machine alive


def _link(symbol: str, object_code: bytes) -> int:
    import llvmlite.binding as llvm

    engine, _ = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
    engine.finalize_object()
    found = engine.get_function_address(symbol)
    if not found:
        raise RuntimeError(f"the compiled kernel has no symbol {symbol}")
    return found
