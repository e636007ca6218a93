"""The executor's loop: the function that every worker runs."""

from __future__ import annotations

from numba import njit

from .. import records as R
from ..simd import Simd
from .elementary import INLINE
from .ir import (
    atomic_add,
    atomic_exchange,
    atomic_load,
    atomic_store,
    call,
    call_void,
    cycles,
    flush_denormals,
    int64_at,
    pause,
    restore_float_mode,
)

PAUSES, MOST_CYCLES = 1000, 2_500_000  # of a thread that waits for the next run before it goes to sleep


def serve(dtype: str, simd: Simd):
    """What a worker's thread does, when it was woken for a run: that, and then those that come within a
    millisecond.

    A thread that slept between runs of less than a millisecond would be woken on the caller's own core, and wait for
    it. Whoever has another run reserves it first, for only a thread that waits can be posted one.
    """

    @njit(**INLINE)
    def wait(mailbox, give_way):
        """Whether a run was posted."""
        turns, begun = 0, cycles()
        atomic_store(mailbox, R.WAITING)
        while atomic_load(mailbox) != R.POSTED:
            turns += 1
            tired = turns > PAUSES + atomic_load(mailbox + 8 * R.PATIENCE) or cycles() - begun > MOST_CYCLES
            if tired or atomic_load(mailbox + 8 * R.QUEUED) != 0:
                if atomic_exchange(mailbox, R.WAITING, R.ASLEEP) == R.WAITING:
                    return False
            if turns < PAUSES or give_way == 0:
                pause()
            else:
                call_void(give_way)
        atomic_store(mailbox, R.RUNNING)
        return True

    def serve(mailbox, function, arguments, give_way):
        m = int64_at(mailbox)
        atomic_store(mailbox, R.RUNNING)
        call(function, arguments, 0, 0, 0)
        while atomic_load(mailbox + 8 * R.PATIENCE) != 0 and wait(mailbox, give_way):
            call(m[R.MAIL_FUNCTION], m[R.MAIL_ARGUMENTS], 0, 0, 0)
        atomic_store(mailbox, R.ASLEEP)

    return serve


def exchange(dtype: str, simd: Simd):
    """Write `new` to an address if `old` is there."""

    def exchange(address, old, new, unused):
        atomic_exchange(address, old, new)

    return exchange


def run(dtype: str, simd: Simd):
    """Walk the phases of a program for so many steps, as worker RANK of N_WORKERS; the same function on every worker.

    A row phase gives each worker its rows of the batch, a few at a time through all of the phase's kernels. A tile
    phase gives it a share of each record's units (`sharing.py`), in pieces that it claims one by one, and when they are
    done those that another worker has not begun. A barrier ends each phase. What a kernel computes does not depend on
    who calls it, so neither do the bits.
    """
    unit, spins = simd.rows, 1000

    @njit(**INLINE)
    def wait_for(counter, value, give_way):
        turns = 0
        while atomic_load(counter) < value:
            turns += 1
            if turns < spins:
                pause()
            elif give_way != 0:
                call_void(give_way)  # the one awaited may have no core: let it have this one

    @njit(**INLINE)
    def barrier(control, passed, n_workers, give_way):
        atomic_add(control + 8 * R.ARRIVED, 1)
        wait_for(control + 8 * R.ARRIVED, passed + n_workers, give_way)
        return passed + n_workers

    @njit(**INLINE)
    def claimed(workers, owner, turn):
        return int64_at(workers)[owner] + 8 * (R.CLAIMED[0] + turn * (R.CLAIMED[1] - R.CLAIMED[0]))

    @njit(**INLINE)
    def run_tiles(record, n_records, own, total_records, begin, finish, worker, profile, timed):
        """Of the units that a worker owns of each of the phase's records, those that start between two costs."""
        before, shares = 0, int64_at(own)
        for k in range(n_records):
            this = record + k * R.RECORD * 8
            f = int64_at(this)
            start, units, cost = shares[k], shares[total_records + k], f[R.COST]
            first = min(units, max(0, (begin - before + cost - 1) // cost))
            last = min(units, max(0, (finish - before + cost - 1) // cost))
            begun = cycles() if timed else 0
            if first < last:
                call(f[R.ADDRESS], this, start + first, start + last, worker)
            if timed:
                int64_at(profile)[k] += cycles() - begun
            before += units * cost

    def run(arguments, lo, hi, unused):
        a = int64_at(arguments)
        rank, n_workers, control, worker, chunk = (
            a[R.RANK],
            a[R.N_WORKERS],
            a[R.RUN_CONTROL],
            a[R.RUN_WORKER],
            a[R.CHUNK],
        )
        w, phases = int64_at(worker), int64_at(a[R.PHASES])
        passed, done, stopped = int64_at(control)[R.ARRIVED_BEFORE], int64_at(control)[R.DONE], False
        profile, timed = int64_at(a[R.PROFILE]), a[R.PROFILE] != 0
        last_phase = (a[R.N_PHASES] - 1) * R.PHASE
        float_mode = flush_denormals()
        total_records = phases[last_phase + R.FIRST_RECORD] + phases[last_phase + R.N_RECORDS]
        for step in range(a[R.N_STEPS]):
            s = int64_at(a[R.STEPS] + step * R.STEP * 8)
            w[R.ROWS], w[R.INDEX], w[R.FIRST] = s[R.STEP_ROWS], s[R.STEP_INDEX], s[R.STEP_FIRST]
            w[R.SCALARS], w[R.STEP_LOSS] = s[R.STEP_SCALARS], s[R.STEP_LOSS_AT]
            w[R.KEY] = s[R.STEP_KEY]
            rows = s[R.STEP_ROWS]
            blocks = (rows + unit - 1) // unit
            start = min(rows, blocks * rank // n_workers * unit)
            stop = min(rows, blocks * (rank + 1) // n_workers * unit)
            # chunks of equal size: a small last one would read all weights for a few rows
            chunks = max(1, (stop - start + chunk - 1) // chunk)
            chunk_rows = ((stop - start + chunks - 1) // chunks + unit - 1) // unit * unit
            w[R.NEXT_ROW] = w[R.NEXT_END] = w[R.NEXT_OFFSET] = 0
            if step + 1 < a[R.N_STEPS]:
                s = int64_at(a[R.STEPS] + (step + 1) * R.STEP * 8)
                w[R.NEXT_INDEX], w[R.NEXT_FIRST] = s[R.STEP_INDEX], s[R.STEP_FIRST]
                w[R.NEXT_ROW], w[R.NEXT_END] = start, min(stop, s[R.STEP_ROWS])
            number = 0  # of the record, for the profile
            for phase in range(a[R.N_PHASES]):
                at = phase * R.PHASE
                record = a[R.PROGRAM] + phases[at + R.FIRST_RECORD] * R.RECORD * 8
                n_records = phases[at + R.N_RECORDS]
                turn = (step * a[R.N_PHASES] + phase) % 2
                if n_workers > 1:  # nobody looks at the other turn's count until the next barrier
                    atomic_store(claimed(a[R.WORKERS], rank, 1 - turn), 0)
                if phases[at + R.KIND] == R.ROW_PHASE:
                    low = start
                    while low < stop:
                        high = min(low + chunk_rows, stop)
                        for k in range(n_records):
                            this = record + k * R.RECORD * 8
                            begun = cycles() if timed else 0
                            call(int64_at(this)[R.ADDRESS], this, low, high, worker)
                            if timed:
                                profile[number + k] += cycles() - begun
                        low = high
                else:
                    # first the worker's own tiles, whose state is in its cache; then what others have not begun
                    here = a[R.PROFILE] + 8 * number
                    for k in range(n_workers):
                        owner = (rank + k) % n_workers
                        own = a[R.SHARES] + owner * a[R.SHARE_BYTES]
                        of_phase = 2 * total_records + phase
                        cost, pieces = int64_at(own)[of_phase], int64_at(own)[of_phase + a[R.N_PHASES]]
                        own += 8 * number
                        if n_workers == 1:
                            run_tiles(record, n_records, own, total_records, 0, cost, worker, here, timed)
                        else:
                            piece = atomic_add(claimed(a[R.WORKERS], owner, turn), 1)
                            while piece < pieces:
                                begin, finish = cost * piece // pieces, cost * (piece + 1) // pieces
                                run_tiles(record, n_records, own, total_records, begin, finish, worker, here, timed)
                                piece = atomic_add(claimed(a[R.WORKERS], owner, turn), 1)
                number += n_records
                if n_workers > 1:
                    begun = cycles() if timed else 0
                    passed = barrier(control, passed, n_workers, a[R.YIELD])
                    if timed:
                        profile[total_records] += cycles() - begun
                # read only after the phase that sets it: elsewhere a faster worker may already be in the next step's
                if phases[at + R.HAS_LOSS] != 0 and atomic_load(control + 8 * R.NOT_FINITE) != 0:
                    stopped = True  # before any parameter was touched: they are those of the last whole step
                    break
            if stopped:
                break
            if rank == 0:
                atomic_store(control + 8 * R.DONE, done + step + 1)
        restore_float_mode(float_mode)
        if n_workers > 1:  # the caller may free or change everything as soon as worker 0 returns
            atomic_add(control + 8 * R.LEFT, 1)
            if rank == 0:
                left = int64_at(control)[R.LEFT_BEFORE] + n_workers
                wait_for(control + 8 * R.LEFT, left, a[R.YIELD])
                # all of them are gone: nobody reads these before the next run
                atomic_store(control + 8 * R.ARRIVED_BEFORE, passed)
                atomic_store(control + 8 * R.LEFT_BEFORE, left)
                for owner in range(n_workers):  # the other turn's is written in the first phase of a run
                    atomic_store(claimed(a[R.WORKERS], owner, 0), 0)

    return run
