"""Which tiles each worker has as its own."""

from __future__ import annotations

import numpy as np

from ..plan import Plan


def shares_of(plan: Plan, n_workers: int) -> np.ndarray:
    """What every worker owns of the tile phases: an equal share of the units of each record, the same in every step, so
    that parameters, slots and copies stay in one core's cache. Units that are left over go to who has least to do.

    Returns
    -------
    ndarray (n_workers, 2 n_records + 2 n_phases) of int64
        A worker's first unit of each record and how many it has, then for each phase their cost and in how many pieces
        they are claimed. Row phases have no units.
    """
    firsts, counts, costs, pieces = [], [], [], []
    for phase in plan.phases:
        cost, units = np.zeros((2, n_workers), np.int64)
        for step in phase.steps:
            each, left = divmod(step.units, n_workers)
            own = np.full(n_workers, each)
            own[np.argsort(cost, kind="stable")[:left]] += 1
            firsts.append(np.cumsum(own) - own)
            counts.append(own)
            cost += own * step.cost
            units += own
        costs.append(cost)
        pieces.append(np.minimum(pieces_of(cost), units))
    return np.array([*firsts, *counts, *costs, *pieces], np.int64).T.copy()


def pieces_of(cost: np.ndarray) -> np.ndarray:
    """In how many pieces tiles of that cost are claimed: more where they are long, so that nobody waits long for the
    last.
    """
    return np.clip(cost // 25_000, 8, 32)
