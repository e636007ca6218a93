"""A model applied to many rows by the engine: logits, or the mean loss."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable

import numpy as np

from . import records as R
from ._arrays import check_came_of
from .batches import QueryBatches, RowBatches
from .devices import executor_of
from .engine.executor import Executor
from .engine.threads import Chooser, ShortRuns, available_cores, cores_of_late
from .inputs import data_set, engine_data, most_entries, source_of
from .layers import Dense
from .losses import BLOCK
from .lowering import forward_plan, loss_plan
from .prediction import KEPT_BYTES
from .simd import host_simd

ROWS, BYTES = 1024, 2**26  # of a step: fewer rows where they are long


class Evaluation:
    """A model applied to one data set: logits, the mean loss, or, with a loss and `logits`, both at once. With `state`,
    it sees another executor's parameters.
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
        logits=False,
        n_threads=None,
        state=None,
        guard=0,
        device="cpu",
    ):
        data = data_set(X, y, sample_weight, groups, loss, model.n_outputs, model.dtype.name)
        n, n_features = data.X.shape
        rows = max(1, min(ROWS, n, BYTES // (model.dtype.itemsize * n_features)))
        if loss is not None and loss.queries:
            batches = QueryBatches.of_rows(groups, rows)
        else:
            batches = RowBatches(n, BLOCK if loss is not None and loss.across else rows)
        source, targets, weighted = data.kind
        common = {"n_features": model.n_features, "batch_size": batches.most_rows, "source": source}
        common |= {"dtype": model.dtype.name, "guard": guard, "entries": most_entries(data.X, batches.most_rows)}
        common["simd"], make_executor = executor_of(device)
        if loss is None or logits:
            data.externals["output"] = self.output = np.empty((n, model.n_outputs), model.dtype)
        if loss is None:
            plan = forward_plan(model.layers, **common)
        else:
            plan = loss_plan(model.layers, loss, targets, weighted=weighted, logits=logits, **common)
        of_rows = weighted and not loss.queries
        self.total = float(data.weights.astype(np.float64).sum() if of_rows else batches.n)
        self.executor = make_executor(plan, data.externals, state)
        if state is None:
            self.executor.pack(model._arrays)
        self._chooser = Chooser(1 if device == "cuda" else n_threads, plan.flops)
        self._steps = Steps(self.executor, batches)

    def logits(self) -> np.ndarray:
        """(n, K), a copy."""
        self._steps.run(self._chooser)
        return self.output.copy()

    def loss(self) -> float:
        """The weighted mean of the rows' losses; with `logits`, these are in `output` afterwards."""
        return float(self._steps.run(self._chooser).sum() / self.total)

    def close(self) -> None:
        """Let the worker threads end."""
        self.executor.close()


class Steps:
    """The steps that take an executor through a data set once: `all`, a row each, as its `run` takes them."""

    def __init__(self, executor, batches):
        self._executor = executor
        epoch = batches.epochs(None, 1)
        self.all = epoch.steps()
        n = len(self.all)
        self._bound = epoch.order, np.ones((n, 1, R.N_SCALARS)), np.zeros(n)  # they stay alive
        executor.bind(self.all, *self._bound)

    def run(self, chooser: Chooser, at_once: int = 0) -> np.ndarray:
        """The sum of the rows' losses of each step; NaN of one that was stopped. So many steps first are run at once,
        by as many workers as there may be: what is soon over has no time for trials.
        """
        steps, sums, at = self.all, self._bound[2], 0
        at_once = min(at_once, len(steps))
        while at < len(steps):
            if at < at_once:
                workers, count = chooser.candidates[-1], at_once - at
            else:
                workers, count = chooser.slice(steps[at:, R.STEP_ROWS])
            # a loss that is not finite is an answer here, not an error: go on with the next step
            done, seconds = self._executor.run(steps[at : at + count], workers)
            if done < count:
                sums[at + done] = np.nan
                done += 1
            chooser.measured(workers, seconds, int(steps[at : at + done, R.STEP_ROWS].sum()))
            at += done
        return sums


# Predictions ---------------------------------------------------------------------------------------------------------

WIDE = 16  # outputs
FEW_ROWS = 32  # a plan of its own: where a network is large, its products are shared out by columns
MOST_KEPT = 128  # networks that are kept set up
AT_ONCE = 8e9  # operations that all workers have done before a trial of fewer would pay: some 0.04 s
_kept: list[Predictor] = []  # nobody uses them just now; `append`, `remove` and `pop` are atomic


def predictions(
    layers,
    n_features: int,
    arrays: dict,
    X,
    dtype: np.dtype,
    loss=None,
    n_threads: int | None = None,
    *,
    refuse: Callable,
    owner,
) -> np.ndarray:
    """The logits of any rows, or what a loss makes of them, by the engine, on the CPU; what was set up for a network is
    kept for its next rows.

    Parameters
    ----------
    layers : tuple of Layer
        The same tuple next time, not only an equal one, where they are the same network.
    n_features : int
    arrays : dict
        Its parameters by name; not changed afterwards, another dict is taken for others.
    X : array (n, n_features) or CSR
        Of an array, the engine finds what is not finite while it reads it.
    dtype : dtype
        Of the parameters and of all arithmetic.
    loss : Loss, optional
    n_threads : int, optional
    refuse : function
        Called with such an X, raises.
    owner : object
        The model: what is kept for it goes when it does.

    Returns
    -------
    array (n, K)
    """
    rows = engine_data(X)
    source, places = source_of(rows)
    n = rows.shape[0]
    key = n_features, source, dtype, n <= FEW_ROWS, _last_layer(loss, layers), host_simd()
    predictor = _taken(layers, key) or Predictor(layers, key, most_entries(rows, ROWS), owner)
    output = places["output"] = np.empty((n, predictor.n_outputs), dtype)
    if not predictor.run(arrays, places, n, n_threads):
        refuse(X)
    if predictor.lasts and predictor.owner() is not None:
        _keep(predictor)
    check_came_of(X, output, predictor.ends_with_output)
    return output if loss is None or predictor.ends_with_output else loss.output(output)


def _last_layer(loss, layers):
    """The layer that makes the loss's outputs of the logits, where the engine is to do it, or None: NumPy takes longer
    for many outputs, of a few a kernel more to compile would.
    """
    last = layers[-1]
    return loss.own_layer if loss is not None and isinstance(last, Dense) and last.units >= WIDE else None


def _taken(layers, key: tuple) -> Predictor | None:
    """One that nobody else gets until it is kept again; what fails is not."""
    for predictor in tuple(_kept):
        if predictor.layers is layers and predictor.key == key:
            try:
                _kept.remove(predictor)
            except ValueError:  # another thread, or a signal's handler, has just taken it
                continue
            return predictor
    return None


def _keep(predictor: Predictor) -> None:
    """For the next rows, unless it is too large; those that were used longest ago make room for it."""
    if predictor.n_bytes > KEPT_BYTES:
        return
    _kept.append(predictor)
    while len(_kept) > MOST_KEPT or sum([p.n_bytes for p in _kept]) > KEPT_BYTES:
        try:
            _kept.pop(0)
        except IndexError:  # another thread makes room, too
            return


def _forget(owner: weakref.ref) -> None:
    """What was kept for a model that is no more; what is in use now is not kept again."""
    for predictor in tuple(_kept):
        if predictor.owner is owner:
            with contextlib.suppress(ValueError):  # another thread has taken it
                _kept.remove(predictor)


class Predictor:
    """A network set up for the logits of any rows that are stored alike.

    Attributes
    ----------
    layers, key : tuple
        The network; columns of X, how its rows are stored, the dtype of the parameters, whether rows are `FEW_ROWS` at
        most, a layer behind the network's or None, the host's vectors.
    n_outputs : int
    ends_with_output : bool
        Whether there is that layer, so that what it computes are no logits.
    n_bytes : int
        Its memory, with the model's arrays, which it knows again.
    owner : weakref
        To the model that it was made for.
    lasts : bool
        Whether it may serve other rows: its plan depends neither on the entries of sparse ones, nor on what a user's
        function refers to.
    """

    def __init__(self, layers, key: tuple, entries: int, owner):
        self.layers, self.key, (n_features, source, dtype, self._few, last, simd) = layers, key, key
        self.ends_with_output = last is not None
        self.owner = weakref.ref(owner, _forget)
        rows = FEW_ROWS if self._few else max(1, min(ROWS, BYTES // (dtype.itemsize * n_features)))
        common = {"n_features": n_features, "batch_size": rows, "source": source, "dtype": dtype.name, "simd": simd}
        layers = layers if last is None else (*layers, last)
        self._plan = forward_plan(layers, entries=entries, n_workers=available_cores(), check=True, **common)
        self.n_outputs = self._plan.n_outputs
        self.n_bytes = self._plan.n_bytes + self._plan.sizes["parameters"]
        self.lasts = not (self._plan.has_own_functions or source.startswith("csr"))
        self._executor: Executor | None = None
        self._packed: dict | None = None
        self._n, self._steps = 0, None
        self._chooser, self._short, self._chosen_for = None, None, None

    def run(self, arrays: dict, places: dict, n: int, n_threads: int | None) -> bool:
        """Fill the "output" of `places`, for the n rows there; whether they were finite."""
        if self._executor is None:
            self._executor = Executor(self._plan, places)
        else:
            self._executor.take(places)
        if arrays is not self._packed:
            self._executor.pack(arrays)
            self._packed = arrays
        self._executor.all_were_finite = True
        if n != self._n:
            if self._n and max(n, self._n) <= self._plan.batch_size:
                self._steps.all[0, R.STEP_ROWS] = n
            else:
                self._steps = Steps(self._executor, RowBatches(n, self._plan.batch_size))
            self._n = n
        # what was measured holds for about as many rows; a few are one step, however many
        chosen_for = n_threads, cores_of_late(), 0 if self._few else n.bit_length()
        if chosen_for != self._chosen_for:
            self._chooser, self._chosen_for = Chooser(n_threads, self._plan.flops), chosen_for
            self._short = ShortRuns(self._chooser)
        steps, at_once = self._steps.all, max(1, int(AT_ONCE / self._plan.flops))
        try:
            if self._plan.flops * n < Chooser.LONG * self._plan.batch_size:
                self._short.measured(self._executor.run(steps, self._short.next())[1])
            elif len(steps) <= at_once:  # all workers, and soon over
                self._executor.run(steps, self._chooser.candidates[-1])
            else:
                self._steps.run(self._chooser, at_once)
        finally:
            self._executor.close()
            self._executor.let_go()
        return self._executor.all_were_finite
