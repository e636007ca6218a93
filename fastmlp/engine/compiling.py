"""Compiling on several cores: what a first fit lacks is compiled by child processes, too.

Numba compiles under a lock, so threads gain nothing. A child is a Python that compiles what it is told into the cache
and ends when nobody writes to it any more. Whatever goes wrong with one is no error: a kernel that it did not compile
is compiled where it is needed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import unknown_name
from ..simd import ITEMSIZE
from . import jit
from .threads import available_cores, starts

SECONDS = 3.0  # of compiling that are worth a process, which takes half of that to start
PATIENCE = 10.0  # seconds, and three times those that this process compiled, for a child's last kernel
_SLOW = {"weight_gradient": 4.0, "product": 3.0, "run": 2.0}
# Python puts the current folder first, which may hold anything: nothing is imported from there.
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from fastmlp.engine.compiling import serve; serve()"

Key = tuple[str, str]  # the name of a kernel and its dtype


def _seconds(key: Key) -> float:
    """Of compiling, roughly; of losses, too."""
    name, _ = key
    return _SLOW.get(name, 2.0 if name.endswith((".dense", ".codes")) else 0.5)


def prepare(keys: Iterable[Key], report: Callable[[Key, float], None] | None = None) -> None:
    """Compile the kernels that the cache lacks, with the help of child processes where that is much work.

    Children are told what to do one kernel at a time, the slowest first, while this process works on the same list.
    They are as many as cores that this process may use: none where it may use one or is itself one of many (joblib's
    workers and multiprocessing's), where no cache can be written, or where Python is embedded in another program.

    Parameters
    ----------
    keys : iterable of (name, dtype)
    report : callable, optional
        Called with the key and the seconds of each kernel that was compiled, from any thread.
    """
    keys = set(keys)
    if not any(map(_is_missing, keys)):  # the usual case takes microseconds
        return
    with jit.lock():  # another fit that starts meanwhile waits, and finds all of it
        waiting = deque(sorted(filter(_is_missing, keys), key=lambda key: (-_seconds(key), key)))
        n_processes = min(available_cores(), int(sum(map(_seconds, waiting)) / SECONDS))
        helpers = [_start(waiting, report) for _ in range(n_processes - 1)] if _may_start() else []
        helpers = [helper for helper in helpers if helper is not None]
        if not helpers:  # workers that start together begin in different places, and find what others have done
            waiting.rotate(7919 * os.getpid() % len(waiting))
        try:
            _work_through(waiting, [feeder for _, feeder in helpers], report)
        finally:
            for child, _ in helpers:
                child.kill()
            for _, feeder in helpers:
                feeder.join(1)  # it waits for its child, so that none is left as a zombie


def _is_missing(key: Key) -> bool:
    """Whether there is something to compile that a child can: a user's functions are only here."""
    return not key[0].startswith("custom.") and jit.is_missing(*key)


def _work_through(waiting: deque[Key], feeders: list[threading.Thread], report) -> None:
    started = time.monotonic()
    while (key := _next(waiting)) is not None:
        began = time.perf_counter()
        jit.address(*key)
        if report:
            report(key, time.perf_counter() - began)
    # Each child has one kernel left at most. One that hangs is not waited for.
    last = time.monotonic() + PATIENCE + 3 * (time.monotonic() - started)
    for feeder in feeders:
        while feeder.is_alive() and time.monotonic() < last:
            feeder.join(0.05)  # a longer wait could not be interrupted on Windows


def _next(waiting: deque[Key]) -> Key | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _may_start() -> bool:
    """Whether children can be started that this process can load code from. `sys.executable` may be a program that
    has Python in it, which would start once more."""
    folder = jit.cache_folder()
    is_python = Path(sys.executable or "").name.lower().startswith(("python", "pypy")) and not hasattr(sys, "frozen")
    multiprocessing = sys.modules.get("multiprocessing")  # a worker has it already
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        return False
    return is_python and folder is not None and os.access(folder, os.W_OK)


def _start(waiting: deque[Key], report) -> tuple[subprocess.Popen, threading.Thread] | None:
    """A child and the thread that tells it what to do; None where the system lets us have neither."""
    try:
        child = _child()
    except (OSError, ValueError):  # no right to, no memory, a path with a zero in it
        return None
    feeder = threading.Thread(target=_feed, args=(child, waiting, report), daemon=True)
    if starts(feeder):
        return child, feeder
    child.kill()
    child.communicate()
    return None


def _child() -> subprocess.Popen:
    """A child that waits for names of kernels; it imports what this process would."""
    path = [folder for folder in sys.path if isinstance(folder, str)]  # the import system, too, overlooks others
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, jit.stamp(), *path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _feed(child: subprocess.Popen, waiting: deque[Key], report) -> None:
    """Tell a child what to compile until there is nothing left, or it is gone."""
    try:
        with child:
            while (key := _next(waiting)) is not None:
                began = time.perf_counter()
                child.stdin.write(" ".join(key) + "\n")
                child.stdin.flush()
                if not child.stdout.readline():
                    return
                if report:
                    report(key, time.perf_counter() - began)
            child.kill()  # nothing to wait for
    except OSError:  # it went while it was written to
        pass


def serve() -> None:
    """What a child does: compile what is named on standard input, and say so on standard output.

    Ctrl-C is sent to all processes of a terminal; what to do about it is the parent's business.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if jit.stamp() != sys.argv[1]:  # sources that changed, another environment
        return
    for line in sys.stdin:
        jit.address(*line.split())
        print(flush=True)


def compile_all(dtypes=("float32",), verbose: bool = True) -> int:
    """Compile or load every kernel for these dtypes; return the number of those that were compiled."""
    from .kernels import KERNELS

    dtypes = (dtypes,) if isinstance(dtypes, str) else dtypes
    for dtype in dtypes:
        if dtype not in ITEMSIZE:
            raise unknown_name("dtypes", dtype, ITEMSIZE)
    keys = [(name, dtype) for dtype in dtypes for name in KERNELS]
    missing = {key for key in keys if jit.is_missing(*key)}
    reported = set()

    def compiled(key, seconds):
        reported.add(key)
        line(key, f"compiled in {seconds:.2f} s")

    def line(key, word):
        if verbose:
            print(f"{key[1]} {key[0]}: {word}\n", end="", flush=True)  # one write, for several threads do so

    prepare(missing, compiled)
    for key in keys:
        began = time.perf_counter()
        jit.address(*key)
        if key not in missing:
            line(key, "in the cache")
        elif key not in reported:  # a child died of it
            compiled(key, time.perf_counter() - began)
    return len(missing)
