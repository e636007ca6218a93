"""A model applied to many rows by the engine: logits, or the mean loss."""

from __future__ import annotations

import numpy as np

from . import records as R
from .batches import QueryBatches, RowBatches
from .devices import executor_of
from .engine.threads import Chooser
from .inputs import engine_data, engine_targets, engine_weights, most_entries, source_of
from .losses import BLOCK
from .lowering import forward_plan, loss_plan

ROWS, BYTES = 1024, 2**26  # of a step: fewer rows where they are long


class Evaluation:
    """A model applied to one data set: logits, or the mean loss. With `state`, it sees another executor's
    parameters.
    """

    def __init__(
        self,
        model,
        X,
        y=None,
        sample_weight=None,
        groups=None,
        *,
        loss=None,
        n_threads=None,
        state=None,
        guard=0,
        device="cpu",
    ):
        X = engine_data(X)
        dtype, self.n, self.K = model.dtype.name, X.shape[0], model.n_outputs
        rows = max(1, min(ROWS, self.n, BYTES // (model.dtype.itemsize * X.shape[1])))
        if loss is not None and loss.queries:
            batches = QueryBatches.of_rows(groups, rows)
        else:
            batches = RowBatches(self.n, BLOCK if loss is not None and loss.across else rows)
        source, externals = source_of(X, dtype)
        common = {"n_features": model.n_features, "batch_size": batches.most_rows, "source": source, "dtype": dtype}
        common |= {"guard": guard, "entries": most_entries(X, batches.most_rows)}
        common["simd"], make_executor = executor_of(device)
        if loss is None:
            self.output = np.empty((self.n, self.K), dtype)
            plan = forward_plan(model.layers, **common)
            externals["output"] = self.output
            self.total = float(self.n)
        else:
            targets, y = engine_targets(loss, y, self.K, dtype, groups)
            weights, _ = engine_weights(loss.row_weights(y, groups) if loss.queries else sample_weight, dtype)
            plan = loss_plan(model.layers, loss, targets, weighted=weights is not None, **common)
            externals |= {"y": y} | ({} if weights is None else {"sample_weight": weights})
            externals |= {"queries": groups} if loss.queries else {}
            self.total = float(batches.n if weights is None or loss.queries else weights.astype(np.float64).sum())
        self._externals = externals
        self.executor = make_executor(plan, externals, state)
        if state is None:
            self.executor.pack(model._arrays)
        self._chooser = Chooser(1 if device == "cuda" else n_threads, plan.flops)

        order, starts, sizes, _ = batches.epochs(None, 1)
        self._steps = np.zeros((len(starts), R.STEP), np.int64)
        self._steps[:, R.STEP_ROWS] = sizes
        self._steps[:, R.STEP_FIRST if order is None else R.STEP_INDEX] = starts
        self._bound = order, np.ones((len(starts), 1, R.N_SCALARS)), np.zeros(len(starts))  # they stay alive
        self.executor.bind(self._steps, *self._bound)

    def _run(self) -> np.ndarray:
        """The sum of the rows' losses of each step."""
        steps, sums, at = self._steps, self._bound[2], 0
        while at < len(steps):
            workers, count = self._chooser.slice(steps[at:, R.STEP_ROWS])
            # a loss that is not finite is an answer here, not an error: go on with the next step
            done, seconds = self.executor.run(steps[at : at + count], workers)
            if done < count:
                sums[at + done] = np.nan
                done += 1
            self._chooser.measured(workers, seconds, int(steps[at : at + done, R.STEP_ROWS].sum()))
            at += done
        return sums

    def logits(self) -> np.ndarray:
        """(n, K), a copy."""
        self._run()
        return self.output.copy()

    def loss(self) -> float:
        """The weighted mean of the rows' losses."""
        return float(self._run().sum() / self.total)

    def close(self) -> None:
        """Let the worker threads end."""
        self.executor.close()
