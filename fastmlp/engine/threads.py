"""How many workers a fit uses, and the threads that run them.

A team belongs to one fit: worker 0 is the calling thread, the others are Python threads that wait for work, started
when first needed. So fits can run concurrently, and nothing survives a fork. A fit's threads wait a second for the next
fit or prediction, then they end.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import repeat
from queue import Empty, SimpleQueue
from time import perf_counter

import numpy as np

from .. import records as R
from . import jit

PATIENCE = 4000  # how often a thread that waits for the next run gives its core away: a millisecond
OF_THREADS = [("serve", "float32"), ("exchange", "float32")]  # kernels; no dtype matters to them


def usable_cores() -> int:
    """Cores that this process may use: its affinity and the control group's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota()))


def available_cores() -> int:
    """Usable cores, or fewer where NUMBA_NUM_THREADS or OMP_NUM_THREADS ask for it (joblib sets them for its
    workers).
    """
    cores = usable_cores()
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            cores = min(cores, int(value))
            break
    return cores


LOOK = 0.1  # seconds
_seen = -LOOK, 0


def cores_of_late() -> int:
    """`available_cores`, of which a look costs as much as a tenth of a small prediction: as they were in the last tenth
    of a second.
    """
    global _seen
    now = perf_counter()
    if now - _seen[0] > LOOK:
        _seen = now, available_cores()
    return _seen[1]


@lru_cache
def _quota() -> int:
    """Whole cores of the control group's CPU quota (version 2 or 1), rounded up; many without one."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()[:2]
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as f, open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as g:
                quota, period = f.read().strip(), g.read().strip()
        except OSError:
            return sys.maxsize
    if quota in ("max", "-1"):
        return sys.maxsize
    return max(1, -(-int(quota) // int(period)))


@lru_cache
def yield_address() -> int:
    """The C function by which a waiting worker gives its core away; 0 where there is none."""
    try:
        if sys.platform == "win32":
            function = ctypes.WinDLL("kernel32").SwitchToThread
        else:
            function = ctypes.CDLL(None).sched_yield
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


def starts(thread: threading.Thread) -> bool:
    """Start a thread; whether the system had one to give.

    Whoever starts a thread waits for it with a lock. Ctrl-C there makes Python release that lock once too often: the
    RuntimeError of that would hide it.
    """
    handled = sys.exc_info()[1]
    try:
        thread.start()
    except RuntimeError as error:
        if error.args == ("can't start new thread",):
            return False
        if error.__context__ is handled:  # a signal's handler raised this one
            raise
        raise error.__context__ from None
    return True


_call = partial.__call__


class Team:
    """Runs one kernel on several workers at once, worker 0 on the calling thread."""

    def __init__(self):
        self._helpers: list[_Helper] = []
        self._reference = weakref.ref(self)
        self._pid, self._cores = os.getpid(), usable_cores()

    def has(self, helper: _Helper) -> bool:
        return helper in self._helpers

    def prepare(self, n_workers: int) -> int:
        """Have the threads for so many workers running; fewer where the system gives no more. Returns for how many."""
        if self._pid != os.getpid():  # threads do not survive a fork
            self._helpers, self._pid = [], os.getpid()
        for k in range(n_workers - 1):
            if not self._has_helper(k):
                self._helpers[k:] = []
                return k + 1
        return n_workers

    def run(self, address: int, function, arguments: list[int]) -> None:
        """A kernel, given by its address and as `jit.function`, with arguments[k] on worker k; returns when worker 0
        does, which waits for the others by itself.
        """
        calls = []
        patience = PATIENCE if len(arguments) <= self._cores else 0
        try:
            for helper, own in zip(self._helpers, arguments[1:], strict=False):
                calls.append(helper.call(address, own, patience))
            calls.append(partial(function, arguments[0], 0, 0, 0))
            # Signals are handled between bytecodes. This line has none between its calls, so Ctrl-C cannot start some
            # workers and keep worker 0 from joining them at the barrier.
            deque(map(_call, calls), maxlen=0)
        except BaseException:
            for helper in self._helpers:
                helper.let_go()
            raise

    def _has_helper(self, k: int) -> bool:
        """Have helper k running, if the system allows. It is listed before it starts: Ctrl-C may come at any point, and
        `close` must find it.
        """
        if k < len(self._helpers):
            if self._helpers[k].is_alive():
                return True
            self._helpers[k].jobs.put(None)  # its start was interrupted: if it starts after all, it ends at once
        helper = _Helper.idle() or _Helper()
        helper.team = self._reference
        self._helpers[k : k + 1] = [helper]
        return helper.is_alive() or starts(helper)

    def close(self) -> None:
        """Leave the threads to others, or let them end. Whenever Ctrl-C comes, each has one owner."""
        for helper in self._helpers:
            helper.let_go()
        dead = [helper for helper in self._helpers if not helper.is_alive()]
        for helper in dead:
            helper.jobs.put(None)
        self._helpers = [helper for helper in self._helpers if helper not in dead]
        _IDLE.extend(map(self._helpers.pop, repeat(-1, len(self._helpers))))  # no bytecode between pop and append


LINGER = 1.0  # seconds that a thread without a team waits for another: starting one takes 0.1 ms
LOST = 3  # times in a row that a thread has waited so long and belonged to nobody: Ctrl-C came while it changed hands


def _nobody() -> None:
    """No team, as a reference says it."""


class _Helper(threading.Thread):
    """A thread that does a team's jobs: from its queue, or from its mailbox while it still waits in `serve`."""

    def __init__(self):
        super().__init__(name="fastmlp-worker", daemon=True)
        self.jobs: SimpleQueue = SimpleQueue()
        self.team: Callable[[], Team | None] = _nobody
        memory = np.zeros(2 * R.MAILBOX, np.int64)  # the half that has cache lines of its own
        first = -memory.ctypes.data % (8 * R.MAILBOX) // 8
        self._mailbox = memory[first : first + R.MAILBOX]
        self._at = self._mailbox.ctypes.data
        self._exchange = jit.function("exchange", "float32")

    def call(self, function: int, arguments: int, patience: int) -> partial:
        """What starts the thread on this, with a call in which no signal is handled; without it, `let_go`. The thread
        then waits for another so long as it may give its core away so often.
        """
        box = self._mailbox
        for _ in range(100):
            self._exchange(self._at, R.WAITING, R.RESERVED, 0)
            state = box[R.STATE]
            if state == R.RESERVED or state == R.ASLEEP:
                break  # else it is just about to wait
        box[R.PATIENCE] = patience
        if state == R.RESERVED:
            box[R.MAIL_FUNCTION], box[R.MAIL_ARGUMENTS] = function, arguments
            return partial(self._exchange, self._at, R.RESERVED, R.POSTED, 0)
        box[R.QUEUED] = 1
        return partial(self.jobs.put, (self._at, function, arguments, yield_address()))

    def _has_a_team(self) -> bool:
        """Whether the last team that took it has it still."""
        team = self.team()
        return team is not None and team.has(self)

    def let_go(self) -> None:
        """Nothing is going to be posted."""
        if self._mailbox[R.STATE] == R.RESERVED:  # by its owner, who calls this
            self._exchange(self._at, R.RESERVED, R.WAITING, 0)

    @staticmethod
    def idle() -> _Helper | None:
        """One that no team has; nobody else gets it."""
        while True:
            try:
                helper = _IDLE.pop()
            except IndexError:
                return None
            if helper.is_alive():  # or it was left behind by a fork
                return helper

    def run(self) -> None:
        lost = 0
        while True:
            try:
                job = self.jobs.get(timeout=LINGER)
            except Empty:
                try:
                    _IDLE.remove(self)
                except ValueError:  # it has a team
                    lost = 0 if self._has_a_team() else lost + 1
                    if lost < LOST:
                        continue
                return
            lost = 0
            if job is None:
                return
            self._mailbox[R.QUEUED] = 0
            jit.function("serve", "float32")(*job)


_IDLE: list[_Helper] = []  # `pop`, `append` and `remove` are atomic


class Chooser:
    """The number of workers for the next slice of work, chosen by measuring; the bits do not depend on it.

    Each candidate is tried on a few short slices, or on two where a step, the least of a slice, is long; then the
    fastest runs, and now and then another is measured again, for other processes come and go. A candidate that was far
    slower is tried again more rarely, and so is one whose trial cost much time. What was measured more than `STALE`
    seconds ago does not count any more once there is something newer. A trial of more workers goes on for `WAKE`
    seconds while it loses: the system may put a thread that has slept on the caller's own core, for six milliseconds,
    and trials that ended sooner found half a core each time.
    """

    SLICE = 0.04  # seconds of compiled work between two looks at the keyboard
    TRIAL, FIRST_TRIALS = 0.002, 3  # seconds of a trial slice, and how many of them at first
    STALE, WAKE = 1.0, 0.01
    PRICE = 0.01  # of the time is what trials that lost may cost
    LONG = 2e7  # operations of a step from which on all cores are tried first: a short fit may have no other step

    def __init__(self, n_threads: int | None, flops_per_step: float):
        most = available_cores()
        if n_threads is not None:
            # more workers than cores only wait for each other; the result is the same (tests ask for them all the same)
            oversubscribe = os.environ.get("FASTMLP_OVERSUBSCRIBE", "0") != "0"
            self.candidates = [n_threads if oversubscribe else min(n_threads, usable_cores())]
        elif flops_per_step < 2e5:  # a step of a microsecond or two is not worth a barrier
            self.candidates = [1]
        else:
            self.candidates = sorted({1, most, *(2**k for k in range(1, most.bit_length()) if 2**k <= most)})
        self._order = self.candidates[:: -1 if flops_per_step > self.LONG else 1]
        self.cost = dict.fromkeys(self.candidates, 0.0)  # seconds per row, recent; 0 before it was measured
        self.trials = dict.fromkeys(self.candidates, 0)
        self.least = dict.fromkeys(self.candidates, float("inf"))  # seconds of a slice
        self.wait = dict.fromkeys(self.candidates, 0.25)  # seconds until the next trial, grows while it loses
        self.last = dict.fromkeys(self.candidates, perf_counter())  # when it was measured: breaks count, too
        self._trial = 0, 0.0  # of so many workers, for so long, that goes on; or of 0

    @property
    def best(self) -> int:
        tried = [c for c in self.candidates if self.trials[c]]
        return min(tried, key=self.cost.__getitem__) if tried else self.candidates[0]

    def next(self) -> tuple[int, bool]:
        """(workers, whether this is a trial): a trial's slice should take about `TRIAL` seconds."""
        if len(self.candidates) == 1:
            return self.candidates[0], False
        for candidate in self._order:
            enough = 2 if self.least[candidate] > self.FIRST_TRIALS * self.TRIAL else self.FIRST_TRIALS
            if self.trials[candidate] < enough:
                return candidate, True
        if self._trial[0]:
            return self._trial[0], True
        best, now = self.best, perf_counter()
        for candidate in self.candidates:
            if candidate != best and now - self.last[candidate] > self.wait[candidate]:
                return candidate, True
        return best, False

    def slice(self, rows: np.ndarray) -> tuple[int, int]:
        """(workers, how many of the coming steps, of so many rows each) of the next slice."""
        workers, is_trial = self.next()
        seconds = self.TRIAL if is_trial else self.SLICE
        cost = self.cost[workers] or self.cost[self.best]  # as if it were as fast as the best, before it was tried
        if cost == 0:
            return workers, 1
        most = int(seconds / cost)  # rows; no step has none
        return workers, max(1, int(np.searchsorted(np.cumsum(rows[: most + 1]), most, side="right")))

    def measured(self, workers: int, seconds: float, rows: int) -> None:
        """Take note of a slice."""
        if not rows:
            return
        cost, before, now = seconds / rows, self.cost[workers], perf_counter()
        tried = seconds + (self._trial[1] if self._trial[0] == workers else 0.0)
        # the first slice of a candidate starts its threads and warms its caches
        if self.trials[workers] <= 1 or now - self.last[workers] - seconds > self.STALE:
            self.cost[workers] = cost
        elif self.trials[workers] < self.FIRST_TRIALS or tried > seconds:
            self.cost[workers] = min(cost, before)
        else:
            self.cost[workers] = 0.5 * (cost + before)
        self.trials[workers] += 1
        self.least[workers] = min(self.least[workers], seconds)
        self.last[workers] = now
        self._trial = (workers, tried) if workers > self.best and tried < self.WAKE else (0, 0.0)
        if workers != self.best:
            slower = self.cost[workers] / self.cost[self.best]
            # by the least slice: one in which the process was stopped for a while would put the next trial off for good
            trial = max(self.least[workers], self.WAKE if workers > self.best else 0.0)
            self.wait[workers] = max(min(4.0, 0.25 * slower**2), trial * (1 - 1 / slower) / self.PRICE)


class ShortRuns:
    """Chooses for runs that are much shorter than a trial: some in a row are a trial, for threads that have slept since
    the last one make the first runs longer than those that follow.
    """

    TRIAL = 0.01  # seconds: a thread that was woken may share the caller's core for six milliseconds

    def __init__(self, chooser: Chooser):
        self._chooser = chooser
        self._begin()

    def _begin(self) -> None:
        self._workers, _ = self._chooser.next()
        self._seconds: list[float] = []
        self._total = 0.0

    def next(self) -> int:
        """How many workers."""
        return self._workers

    def measured(self, seconds: float) -> None:
        """Take note of a run."""
        self._seconds.append(seconds)
        self._total += seconds
        n = len(self._seconds)
        if n >= 5 and self._total >= self.TRIAL:  # the median, for the process may have been stopped for a while
            self._chooser.measured(self._workers, n * sorted(self._seconds)[n // 2], n)
            self._begin()
