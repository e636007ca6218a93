"""What lies on the device for a whole fit, beside the data: a plan's records and buffers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numba import cuda

from .. import records as R
from ..plan import Kernel, Plan, Ref, Step
from . import narrow
from .device import CONTROL, SIMD, TILES

# Fields of places that a record need not have
OPTIONAL = {
    "product": (R.INIT,),
    "weight_gradient": (R.WT,),
    "sparse_gradient": (R.WT,),
    "update": (R.WT,),
    "max_norm": (R.WT,),
    "row_norm": (R.SHIFT,),
    "collect": (R.SW,),
    **dict.fromkeys(("activity_penalty", "activity_gradient"), (R.SW,)),
    **dict.fromkeys(("mixup", "cutmix"), (R.FROM_WEIGHTS, R.TO_WEIGHTS)),
}


# Bytes that products may read behind the workspace: a tile's rows behind the last of a matrix
_TILES = [*chain(*TILES.values()), *narrow.FEW_ROWS.values(), *narrow.MANY_ROWS.values()]
BEHIND = max(tile.rows for tile in _TILES) * 2 * SIMD.vector_bytes


@dataclass(frozen=True)
class Memory:
    """Arrays on the device. Items are the plan's, where nothing else is said."""

    control: Any  # int64: the words that device.py names
    table: Any  # int64: the plan's records, a row for each
    numbers: Any  # float64: the records' NUMBER
    of_loss: Any  # float64: the loss's own numbers
    work: Any  # the plan's workspace
    state: Any  # parameters, and behind them the optimiser's slots
    transposed: Any  # copies of weights
    row_losses: Any  # float64: of each row of the batch
    squares: Any  # float64: sums over columns of gradients, for `clip_norm`; the last is the coefficient
    chosen: Any  # int64: two for each row of the batch, of losses across rows
    shares: Any  # of gradients, summed over parts of the batch's rows


def allocate(plan: Plan, n_in_shares: int, state=None) -> Memory:
    """All of it, 0 where the plan gives no numbers; `state` may be another executor's."""
    steps = [step for phase in plan.phases for step in phase.steps]
    table = np.array([[_field(step, index) for index in range(R.RECORD)] for step in steps], np.int64)
    n_squares = sum(step.fields[R.N_SUMS] for step in steps if step.kernel == "clip_norm")  # of one such record or none
    n_chosen = 2 * plan.batch_size if any(step.kernel == "collect" for step in steps) else 1
    if state is None:
        n = plan.sizes["parameters"] // plan.item
        state = cuda.to_device(np.zeros((1 + plan.n_slots) * n, plan.dtype))
    return Memory(
        control=cuda.to_device(np.zeros(CONTROL, np.int64)),
        table=cuda.to_device(table),
        numbers=cuda.to_device(np.ascontiguousarray(table[:, R.NUMBER]).view(np.float64)),
        of_loss=cuda.to_device(np.array([*plan.numbers, 0.0, 0.0])),
        work=_zeros(plan, plan.sizes["workspace"] + BEHIND),
        state=state,
        transposed=_zeros(plan, plan.sizes["transposed"]),
        row_losses=cuda.to_device(np.zeros(plan.batch_size)),
        squares=cuda.to_device(np.zeros(n_squares + 1)),
        chosen=cuda.to_device(np.zeros(n_chosen, np.int64)),
        shares=cuda.device_array(max(1, n_in_shares), plan.dtype),
    )


def _field(step: Step, index: int) -> int:
    """A record's number: places are bytes from the start of their buffer, and -1 is none."""
    value = step.fields.get(index, 0)
    if isinstance(value, Kernel):
        return 0
    if isinstance(value, Ref):
        return value.offset
    optional = index == R.SW if step.has_loss else index in OPTIONAL.get(step.kernel, ())
    return -1 if optional else value


def _zeros(plan: Plan, n_bytes: int):
    """Of the plan's dtype; one for a buffer that the plan does not use."""
    return cuda.to_device(np.zeros(max(1, n_bytes // plan.item), plan.dtype))
