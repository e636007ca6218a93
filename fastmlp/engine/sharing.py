"""Which tiles each worker has as its own."""

from __future__ import annotations

import numpy as np

from ..plan import Plan


def shares_of(plan: Plan, n_workers: int) -> np.ndarray:
    """What every worker owns of the tile phases: an equal share of the units of each record, the same in every step, so
    that parameters, slots and copies stay in one core's cache.

    Returns
    -------
    ndarray (n_workers, 2 n_records + 2 n_phases) of int64
        A worker's first unit of each record and how many it has, then for each phase their cost and in how many pieces
        they are claimed. The same layout whatever a phase is over; row phases have no units.
    """
    steps = [step for phase in plan.phases for step in phase.steps]
    ends = np.multiply.outer(np.arange(n_workers + 1), [step.units for step in steps]) // n_workers
    units, costs = np.diff(ends, axis=0), np.array([step.cost for step in steps])
    starts = np.cumsum([0, *(len(phase.steps) for phase in plan.phases)])[:-1]
    cost, most = np.add.reduceat(units * costs, starts, axis=1), np.add.reduceat(units, starts, axis=1)
    return np.concatenate([ends[:-1], units, cost, np.minimum(pieces_of(cost), most)], axis=1).astype(np.int64)


def pieces_of(cost):
    """In how many pieces a worker's tiles of that cost are claimed: more where they are long, so that nobody waits long
    for the last."""
    return np.clip(cost // 25_000, 8, 32)
