"""A model being fitted to one data set: epochs, the order of rows, and the state between epochs."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import numpy as np

from . import losses, masks, optimizers, records as R, schedules
from .batches import Epochs, QueryBatches, RowBatches
from .devices import executor_of
from .engine import jit
from .engine.threads import Chooser
from .errors import DivergenceError, check_range
from .evaluation import Evaluation
from .inputs import DataSet, data_set, most_entries
from .layers import Dense, named
from .lowering import training_plan
from .plan import Plan

MOST_ROWS_AHEAD = 2**22  # whose order is drawn while a device is busy: 6 ms in small epochs, 40 in one
AHEAD, AHEAD_ROWS = 64, 2**16  # epochs that are prepared at a time, and their rows in all, where nothing is scheduled
# Seconds between two checks that the parameters are finite, of which the last good ones are kept: where those are few,
# so many for each byte (a check and a copy took 0.5 % of the time of 784-128-64-10)
CHECK, CHECK_A_BYTE = 0.25, 3e-8
COPIED_A_STEP = 2**18  # bytes that a step of a loop of the user's own may copy, so that there is a way back


class Prepared(NamedTuple):
    """What the steps of some epochs need, made before they run; the executor reads these arrays."""

    epoch: int  # the first
    step: int  # its first
    rate: float | schedules.Schedule
    n: int
    steps: np.ndarray  # (n_steps, records.STEP)
    order: np.ndarray | None
    scalars: np.ndarray
    weights: np.ndarray  # of each step
    divisors: np.ndarray  # of each step's sum over rows
    sums: np.ndarray  # of each step's losses; written


class Training:
    """One model being fitted to one data set.

    Used by `Sequential.fit` and by the estimators; values of X and y have been checked by then.

    Parameters
    ----------
    model : Sequential
        Built; its parameters are the start, and are replaced by `save_parameters` and on leaving a `with` block.
    X : ndarray (n, n_features) of float32, float64 or uint8, or a CSR matrix
        Read row by row; not copied. Read-only memory maps are fine.
    y : ndarray
        Targets as the loss takes them.
    loss, optimizer : object or str
    batch_size : int
        Rows; the last batch of an epoch is smaller where it does not divide n. Queries for losses of queries.
    sample_weight : ndarray (n,), optional
    groups : ndarray (n,), optional
        The query of each row, for losses of queries.
    seed : int
        Key of the order of rows and of the dropout in each epoch.
    n_threads : int, optional
        Workers; by default chosen by measuring. The result does not depend on it, to the bit.
    shuffle : bool
    l2 : float
        Adds l2 / (2 sum of the batch's weights) * ||W||^2 (scikit-learn's alpha), by its gradient.
    study : bool
        For a look at gradients: no layer of dropout acts, none is frozen.
    state : dict, optional
        `Training.state` of an earlier fit: goes on from there.
    epochs_before : int
        Of earlier fits: orders of rows, masks and the like go on from there.
    device : {"cpu", "cuda"}
        What `devices.choose` chose.
    precision : {None, "tf32x3", "tf32", "bf16"}
        Of products on "cuda"; the CPU's have the model's dtype. Those of evaluations have it everywhere, as prediction.
    weight_of_row : float, optional
        What a step divides its rows' weighted losses by, for each of them: the mean weight, so that a step is on
        average that of all rows, however few a batch has. By default their own weights' mean, as scikit-learn does.

    Attributes
    ----------
    model : Sequential
        With the parameters of the last step done, or their average where there is one. Parameters that are set in it
        between two epochs are those that the fit goes on with.
    epoch, step : int
        Whole epochs and steps done.
    learning_rate : float
        The rate of the last step done, or of the first before there is one. May be set between epochs, to a number or
        to a schedule, and holds from the next step on: a number ends a schedule.
    schedule : Schedule or None
        What the rate follows; None where it is a number.
    step_losses : ndarray, float64
        The mean loss of each batch in the epoch of the last step done, before the update and without penalties.
    stop : bool
        A callback sets it to end the fit.
    """

    def __init__(
        self,
        model,
        X,
        y,
        *,
        loss,
        optimizer,
        batch_size,
        sample_weight=None,
        groups=None,
        seed=0,
        n_threads=None,
        shuffle=True,
        l2=0.0,
        state=None,
        study=False,
        epochs_before=0,
        device="cpu",
        precision=None,
        weight_of_row=None,
        _guard=0,
    ):
        self._model, self.loss, self.optimizer = model, losses.get(loss), optimizers.get(optimizer)
        self._rate, self.n_threads = self.optimizer.learning_rate, n_threads
        self.seed, self.shuffle, self.l2, self.stop = seed, shuffle, l2, False
        self.weight_of_row = weight_of_row
        self.epoch = self._steps_before = 0
        self.epochs_before = epochs_before
        data = self._read(X, y, sample_weight, groups, batch_size)
        source, targets, weighted = self.stored_as = data.kind
        self.device = device
        simd, make_executor = executor_of(device)
        options = {"simd": simd, "guard": _guard, "precision": precision if device == "cuda" else None}
        options |= {"entries": most_entries(data.X, self._batches.most_rows), "l2": l2 != 0, "study": study}
        self.plan = self._planned(source, targets, weighted=weighted, **options)
        matrices = {p.name: p.matrix for p in self.plan.parameters}
        dense = [(name, layer) for name, layer in named(model.layers) if isinstance(layer, Dense)]
        self._penalised = [(layer, matrices[f"{name}.weight"]) for name, layer in dense if layer.l1 or layer.l2]
        self.executor = make_executor(self.plan, data.externals)
        self._take(model._arrays)
        self._chooser = Chooser(1 if device == "cuda" else n_threads, self.plan.flops)
        self._last_finite = self.snapshot()
        self._unchecked = 0.0  # seconds
        self._patience = CHECK if device == "cuda" else min(CHECK, CHECK_A_BYTE * self._last_finite.nbytes)
        self._before: tuple[np.ndarray, int, int] | None = None  # what `one_step` goes back to, and its number
        self._evaluations = {}
        self._prepared: Prepared | None = None
        self._drawn: tuple[tuple[int, int], Epochs] | None = None  # the batches of epochs that come next
        if state is not None:
            self._resume(state)

    def _planned(self, source: str, targets: str, **options) -> Plan:
        model, common = self._model, {"batch_size": self._batches.most_rows, "source": source}
        common |= {"n_features": model.n_features, "dtype": model.dtype.name}
        return training_plan(model.layers, self.loss, targets, self.optimizer, **common, **options)

    def _read(self, X, y, sample_weight, groups, batch_size: int) -> DataSet:
        """Take note of these rows."""
        self._data = X, y, sample_weight, groups
        data = data_set(X, y, sample_weight, groups, self.loss, self._model.n_outputs, self._model.dtype.name)
        self.n_samples, self._weight_unit = data.X.shape[0], data.unit
        if self.loss.queries:
            self._batches = QueryBatches(groups, batch_size)
        else:
            self._batches = RowBatches(self.n_samples, batch_size, data.weights)
        self._externals = data.externals  # the arrays stay alive
        return data

    def feed(self, X, y, sample_weight=None, groups=None) -> bool:
        """Go on with these rows, all in one batch, on the CPU; False where the plan does not fit them: they are stored
        otherwise, there are more of them than of any before, or they are sparse ones that are multiplied as they are,
        whose last bits depend on the most entries that the plan has room for.
        """
        data = self._read(X, y, sample_weight, groups, X.shape[0])
        fits = self._batches.most_rows <= self.plan.batch_size and not self.loss.queries
        sparse = most_entries(data.X, self._batches.most_rows) or self.plan.entries
        if data.kind != self.stored_as or not fits or sparse:
            return False
        self.executor.take(data.externals)
        self._prepared = self._drawn = None
        return True

    def can_take(self, optimizer: optimizers.Optimizer) -> bool:
        """Whether the next step may be this optimiser's: `go_on_with` it then."""
        present = self.optimizer
        return optimizer == present or (optimizer.structure == present.structure and optimizer.goes_on_from(present))

    def go_on_with(self, optimizer: optimizers.Optimizer, seed: int) -> None:
        """Other numbers of an optimiser of the same structure, from the next step on."""
        if seed == self.seed and optimizer == self.optimizer:
            return
        self.optimizer, self.seed, self._rate = optimizer, seed, optimizer.learning_rate
        self._prepared = self._drawn = None

    @property
    def places(self) -> list:
        """Where each parameter lies."""
        return [(p.name, p.matrix) for p in self.plan.parameters]

    def take_over(self, other: Training, epochs_before: int) -> None:
        """Go on from where another one of the same model is, with the same places, whose optimiser has the same
        structure.
        """
        other._take_what_was_set()
        other.look_at_slots()
        np.copyto(self.executor.state, other.executor.state)
        self.executor.refresh()
        self.epoch, self.epochs_before = 0, epochs_before
        self._steps_before = other.step - self.executor.steps_done
        self._written, self._before, self._last_finite, self._unchecked = other._written, None, self._vectors, 0.0
        self._prepared = self._drawn = None

    def begin_again(self, seed: int) -> None:
        """The next step is the first of a fit with this seed."""
        self.seed, self.epoch, self._steps_before = seed, 0, -self.executor.steps_done
        self._prepared = self._drawn = None

    def let_go(self) -> None:
        """Keep the rows alive no longer, and let the worker threads end: until the next `feed`."""
        self._data, self._externals = None, {}
        self.executor.let_go()
        self.executor.close()

    @property
    def model(self):
        self.save_parameters()
        return self._model

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from these parameters, and an average that begins with them."""
        self.executor.pack(arrays)
        if self._average is not None:
            self._average[:] = self.executor.parameters
            self.executor.refresh()
        self._written = arrays

    def has(self, arrays: dict[str, np.ndarray]) -> bool:
        """Whether these are the parameters that it has."""
        return self._written is arrays

    def start_from_model(self) -> None:
        """Go on from the model's parameters as they are now, whoever wrote into them, as a new fit does."""
        self._take(self._model._arrays)
        self._last_finite, self._unchecked = self._vectors, 0.0

    def _take_what_was_set(self) -> None:
        """Where somebody else has set the model's parameters."""
        arrays = self._model._stored
        if arrays is not self._written:
            if not self.is_sound:  # before what `one_step` goes back to is forgotten
                self._written = arrays
                self._diverged(self.epoch, "a gradient")
            present = self.executor.unpack(self._kept)  # the model may have older ones of those that were not set
            self._take({n: a if a is not self._written.get(n) else present[n] for n, a in arrays.items()})
            self._written, self._last_finite, self._before = arrays, self._vectors, None

    # Epochs ----------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Whole steps done, after an interrupt too."""
        return self._steps_before + self.executor.steps_done

    @property
    def total_weight(self) -> float:
        """Of all rows; each weighs 1 without `sample_weight`."""
        weights = self._data[2]
        return float(self.n_samples if weights is None else np.sum(weights, dtype=np.float64))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch: ceil(n_samples / batch_size), or of queries."""
        return self._batches.n_batches

    @property
    def step_losses(self) -> np.ndarray:
        if self._prepared is None:
            return np.empty(0)
        done = self.step - self._prepared.step
        began = max(done - 1, 0) // self.steps_per_epoch * self.steps_per_epoch
        with np.errstate(invalid="ignore"):  # a batch whose rows weigh nothing
            return self._prepared.sums[began:done] / self._prepared.weights[began:done]

    @property
    def schedule(self) -> schedules.Schedule | None:
        """What the learning rate follows; None where it is a number."""
        return self._rate if isinstance(self._rate, schedules.Schedule) else None

    @property
    def learning_rate(self) -> float:
        return float(self.rates(np.array([max(self.step - 1.0, 0.0)]))[0])

    @learning_rate.setter
    def learning_rate(self, value) -> None:
        schedules.check_rate("training.learning_rate", value)
        self._rate = value if isinstance(value, schedules.Schedule) else float(value)

    def rates(self, step: np.ndarray) -> np.ndarray:
        """The learning rates of steps, counted from 0 over the whole fit, as far as is known now; float64."""
        return schedules.rates(self._rate, step, self.steps_per_epoch)

    def run(self, epochs: int = 1, look_at_slots: bool = True) -> np.ndarray:
        """Train for so many epochs; the mean loss of the rows in each, before the updates that they led to.

        Parameters
        ----------
        epochs : int
        look_at_slots : bool
            Whether to look in the end if the optimiser's state is finite, as it is done every now and then.

        Returns
        -------
        losses : ndarray (epochs,), float64
            With the penalties of layers, without that of `l2`. A penalty is that of the weights before the step where
            an epoch is one step, else the mean of those before and after the epoch.

        Raises
        ------
        DivergenceError
            A loss or a parameter is not finite; the last finite parameters are kept.
        KeyboardInterrupt
            The parameters are those of the last whole step.
        """
        self._take_what_was_set()
        out = np.empty(epochs)
        done = 0
        while done < epochs:
            together = self.epochs_together(epochs - done)
            before = self._penalty()
            out[done : done + together] = self._run_epochs(together)
            out[done] += before if self.steps_per_epoch == 1 else (before + self._penalty()) / 2
            done += together
        if not self.executor.all_finite("everything" if look_at_slots else "parameters"):
            self._check_parameters(self.epoch)
        return out

    @property
    def is_sound(self) -> bool:
        """Whether the optimiser's state is finite, at which `one_step` does not look after each step."""
        return self._before is None or self.executor.all_finite("slots")

    def look_at_slots(self) -> None:
        """DivergenceError where they are not finite: before others go on from them."""
        if not self.is_sound:
            self._diverged(self.epoch, "a gradient")

    def one_step(self) -> float:
        """`run` for one step of a loop that may go on after an error: where it diverges, parameters, optimiser's state
        and count of steps are those before it, or, of large networks, some steps before it.
        """
        self._take_what_was_set()
        state = self.executor.state
        steps = 1 + state.nbytes // COPIED_A_STEP  # between two copies
        if self._before is None or self.step >= self._before[1] + steps:
            copy = np.empty_like(state) if self._before is None else self._before[0]
            np.copyto(copy, state)
            self._before = copy, self.step, self.epoch
        return float(self.run(1, look_at_slots=self.step + 1 == self._before[1] + steps)[0])

    def epochs_together(self, most: int) -> int:
        """How many epochs make one call: tiny ones share a slice. A power of two, so that mostly as many follow: what a
        device has of them stays in its place, and the orders that were drawn ahead are those that are needed.
        """
        if self._penalised:
            return 1
        seconds = self._chooser.cost[self._chooser.best] * self.n_samples
        fitting = max(1, min(64, int(Chooser.SLICE / seconds))) if seconds else 1  # unknown yet
        return max(1, min(most, 1 << fitting.bit_length() - 1))

    def _run_epochs(self, epochs: int) -> np.ndarray:
        n_batches, prepared = self.steps_per_epoch, self._prepared
        done = 0 if prepared is None else self.epoch - prepared.epoch
        if (
            prepared is None
            or not 0 <= done <= prepared.n - epochs
            or prepared.rate != self._rate
            or prepared.step + done * n_batches != self.step  # Ctrl-C came in the middle of an epoch
        ):
            # where somebody looks at each epoch, twice as many as the last time, if those were used
            used = prepared is not None and done == prepared.n and prepared.rate == self._rate
            ahead = 2 * prepared.n if used and epochs == 1 and self._prepares_ahead else 0
            prepared = self._prepare(max(epochs, min(ahead, AHEAD, AHEAD_ROWS // self.n_samples)))
            self._prepared = prepared
            done = 0
        own = slice(done * n_batches, (done + epochs) * n_batches)
        self._run_steps(prepared.steps[own], epochs)
        self.epoch += epochs
        sums, divisors = (
            of_steps[own].reshape(epochs, -1).sum(axis=1) for of_steps in (prepared.sums, prepared.divisors)
        )
        return sums / divisors

    @property
    def _prepares_ahead(self) -> bool:
        """Not where numbers follow schedules, which may leave their range in an epoch that never comes, nor on a
        device, which captures its graph again when arrays grow."""
        others = [getattr(self.optimizer, f.name) for f in fields(self.optimizer) if f.name != "learning_rate"]
        others += [group.dropout for group in self.plan.groups]
        scheduled = any(isinstance(number, schedules.Schedule) for number in [self._rate, *others])
        return not scheduled and self.device != "cuda"

    def _prepare(self, epochs: int) -> Prepared:
        """The next epochs' order of rows, steps and numbers, known to the executor."""
        batches, n_batches = self._batches_of(self.epoch, epochs), self.steps_per_epoch
        order, steps, weights = batches.order, batches.steps(), batches.weights
        divisors = self._divisors(batches.sizes, weights)
        scalars = self._scalars(divisors)
        sums = np.zeros(len(steps))
        if self.plan.random:
            for k in range(epochs):
                keys = masks.step_keys(self.seed, self.epochs_before + self.epoch + k, n_batches)
                steps[k * n_batches : (k + 1) * n_batches, R.STEP_KEY] = keys
        self.executor.bind(steps, order, scalars, sums)
        return Prepared(self.epoch, self.step, self._rate, epochs, steps, order, scalars, weights, divisors, sums)

    def _divisors(self, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """What each step's sum over rows is divided by, in the unit of the engine's weights."""
        if self.weight_of_row is None or self._externals.get("sample_weight") is None or self.loss.queries:
            return weights
        return sizes * (self.weight_of_row / self._weight_unit)

    def _scalars(self, divisors: np.ndarray) -> np.ndarray:
        """The numbers of the next steps, a row for each group of layers: (n_steps, n_groups, N_SCALARS), float64."""
        scalars = np.zeros((len(divisors), len(self.plan.groups), R.N_SCALARS))
        with np.errstate(divide="ignore"):
            inverse = np.where(divisors > 0, 1 / divisors, 0.0)  # a batch of weight 0 has a gradient of 0
        step = self.step + np.arange(len(divisors), dtype=np.float64)
        rates, optimizer = self.rates(step), self.optimizer.at(step, self.steps_per_epoch)
        bounds = [c for c in (optimizer.clip_value, optimizer.clip_norm) if c is not None]
        for k, group in enumerate(self.plan.groups):
            s, rate = scalars[:, k], rates * group.learning_rate_multiplier
            s[:, R.SCALE] = inverse
            s[:, R.L2], s[:, R.L1] = self.l2 / self._weight_unit * inverse + 2 * group.l2, group.l1
            s[:, R.CLIP] = bounds[0] if bounds else 0.0
            s[:, R.DECAY] = 1 - rate * optimizer.weight_decay
            if optimizer.ema_decay is not None:
                s[:, R.AVERAGE] = (1 - optimizer.ema_decay) / (1 - optimizers.power(optimizer.ema_decay, step + 1))
            if group.dropout is not None:
                s[:, R.DROPOUT] = schedules.rates(group.dropout, step, self.steps_per_epoch)
                check_range("rate", float(s[:, R.DROPOUT].max()), 0, 1)
            rule = optimizer.scalars(rate, step + 1)
            s[:, R.RULE : R.RULE + rule.shape[1]] = rule
            if group.mixing is not None:
                epochs = range(len(s) // self.steps_per_epoch)
                numbers = np.concatenate([self._mixtures(group.mixing, epoch) for epoch in epochs])
                s[:, R.SHARE : R.SHARE + numbers.shape[1]] = numbers
        return scalars

    def _mixtures(self, mixing, epoch: int) -> np.ndarray:
        """The numbers of each batch of an epoch, counted from the present one, of a layer that mixes rows."""
        key = np.random.SeedSequence(self.seed, spawn_key=(3, self.epochs_before + self.epoch + epoch))
        return mixing.draw(np.random.Generator(np.random.Philox(key)), self.steps_per_epoch)

    def _run_steps(self, steps: np.ndarray, epochs: int) -> None:
        at, steps_per_epoch = 0, self.steps_per_epoch
        following = self.epoch + epochs, epochs
        while at < len(steps):
            workers, count = self._chooser.slice(steps[at:, R.STEP_ROWS])
            done, taken = self.executor.run(steps[at : at + count], workers, lambda: self._draw_ahead(*following))
            self._chooser.measured(workers, taken, int(steps[at : at + done, R.STEP_ROWS].sum()))
            at += done
            self._unchecked += taken
            if done < count:
                self._diverged(1 + self.epoch + at // steps_per_epoch, "the loss")
            if self._unchecked > self._patience:
                self._check_parameters(1 + self.epoch + (at - 1) // steps_per_epoch)

    def _check_parameters(self, epoch: int) -> None:
        """Raise if a parameter is not finite, else remember them all. (A copy after every slice took 4 % of the
        time.)
        """
        if not self.executor.all_finite("parameters"):
            self._diverged(epoch, "a parameter")
        if not self.executor.all_finite("slots"):
            self._diverged(epoch, "a gradient")
        self._last_finite[0] = self.executor.parameters
        if self._average is not None:
            self._last_finite[1] = self._average
        self._unchecked = 0.0

    def _diverged(self, epoch: int, what: str):
        if self._before is None:
            when, kept = f"training diverged in epoch {epoch}", "The last finite parameters are kept."
            self.executor.slots[:] = 0
            self.restore(self._last_finite)  # finite parameters may be far off by now, too
        else:
            state, step, first = self._before
            back, self.epoch = epoch - first - 1, first  # each step is an epoch
            steps = f"{back} step{'s' if back > 1 else ''} " if back else ""
            when = f"step {step + back + 1} diverged"
            kept = f"Parameters and optimiser are as they were {steps}before it."
            self.executor.state[:] = state
            self.executor.refresh()
            self._steps_before = step - self.executor.steps_done
        self.save_parameters()
        raise DivergenceError(f"{when}: {what} is no longer finite. {kept} {self._remedy}", epoch)

    @property
    def _remedy(self) -> str:
        standardised = "inputs" if self.loss.classification else "inputs and targets"
        return (
            f"Try a smaller learning_rate (now {self.learning_rate:g}), standardised {standardised}, or a larger "
            "batch_size."
        )

    def _batches_of(self, first: int, epochs: int) -> Epochs:
        """The batches of these epochs: those that `_draw_ahead` has ready, or new ones."""
        drawn, self._drawn = self._drawn, None  # new ones may take its place
        if drawn is not None and drawn[0] == (first, epochs):
            return drawn[1]
        return self._batches.epochs(self._permutations(first, epochs), epochs)

    def _permutations(self, first: int, epochs: int) -> np.ndarray | None:
        """Of the rows, or queries, in these epochs: each depends on the seed and the epoch's number only."""
        if not self.shuffle or self._batches.n_batches == 1:  # one batch holds all: their order means nothing
            return None
        permute = jit.function("permutation", self.plan.dtype)
        order = self.executor.room_for_order((epochs, self._batches.n))
        key = int(np.random.SeedSequence(self.seed, spawn_key=(1,)).generate_state(1, np.uint64).view(np.int64)[0])
        for k in range(epochs):
            permute(order[k].ctypes.data, self._batches.n, key, self.epochs_before + first + k)
        return order

    def _draw_ahead(self, first: int, epochs: int) -> None:
        """Have the batches of these epochs ready, which probably come next: for while a device is busy with those
        before. Not for so many rows that the last epoch of a fit would wait for an order that nobody needs.
        """
        if epochs * self.n_samples <= MOST_ROWS_AHEAD and (self._drawn is None or self._drawn[0] != (first, epochs)):
            self._drawn = (first, epochs), self._batches_of(first, epochs)

    # Looking at the model --------------------------------------------------------------------------------------------

    def loss_of(self, X, y, sample_weight=None, groups=None) -> float:
        """The mean loss of other rows under the present parameters. The arrays must not change during the fit: what the
        engine made of them is kept for the next epoch. Penalties of layers are included, and with an average, it is the
        average's loss."""
        self._take_what_was_set()
        return self._evaluation("loss", X, y, sample_weight, groups).loss() + self._penalty(of_kept=True)

    def metrics_of(self, X, y, sample_weight=None, groups=None) -> dict[str, float]:
        """ "loss", as `loss_of`, and of a classification "accuracy", in one pass through the rows."""
        if not self.loss.classification:
            return {"loss": self.loss_of(X, y, sample_weight, groups)}
        self._take_what_was_set()
        evaluation = self._evaluation("loss and logits", X, y, sample_weight, groups)
        loss = evaluation.loss() + self._penalty(of_kept=True)
        return {"loss": loss, "accuracy": self.loss.accuracy(evaluation.output, y, sample_weight)}

    def logits(self, X) -> np.ndarray:
        """The last layer's values for other rows, (n, K)."""
        self._take_what_was_set()
        return self._evaluation("logits", X).logits()

    def _evaluation(self, kind: str, X, *data):
        key = (kind, id(X), *map(id, data))
        if key not in self._evaluations:
            if len(self._evaluations) > 8:  # someone evaluates new arrays all the time: keep none of them
                self._close_evaluations()
            loss = None if kind == "logits" else self.loss
            state = self.executor.shared(None if self._average is None else -1)
            options = {"n_threads": self.n_threads, "state": state, "guard": self.plan.guard, "device": self.device}
            options |= {"loss": loss, "logits": kind != "loss"}
            evaluation = Evaluation(self._model, X, *data, **options)
            self._evaluations[key] = (evaluation, (X, *data))  # the arrays stay alive, so their ids stay theirs
        return self._evaluations[key][0]

    def sample(self, n: int) -> tuple:
        """X, y, the weights and the groups (or None) of n rows, spread evenly over the training data; of all, if they
        are fewer. Of whole queries, one at least, where rows belong to queries.
        """
        if self.loss.queries:
            rows = QueryBatches.of_rows(self._data[3], n).epochs(None, 1)
            rows = rows.order[: rows.sizes[0]]
        else:
            weights = self._data[2]
            some = np.arange(self.n_samples) if weights is None else np.flatnonzero(weights)  # others teach nothing
            rows = some[np.unique(np.linspace(0, len(some) - 1, min(n, len(some))).astype(np.intp))]
        return tuple(array if array is None else array[rows] for array in self._data)

    def _penalty(self, of_kept: bool = False) -> float:
        """The penalties of all layers: of the parameters that steps see, or of those that the model gets."""
        if not self._penalised:  # no look at the parameters, which may lie on a device
            return 0.0
        vector = self._kept if of_kept else self.executor.parameters
        return sum(layer.penalty(m.within(vector)) for layer, m in self._penalised)  # padding is 0

    def weight_squares(self) -> float:
        """||W||^2 summed over the dense layers, without biases: what an L2 penalty multiplies."""
        total, vector = 0.0, self.executor.parameters
        for p in self.plan.parameters:
            if len(p.shape) == 2:  # padding is zero
                with np.errstate(over="ignore"):
                    total += float(np.square(p.matrix.within(vector), dtype=np.float64).sum())
        return total

    def gradient(self) -> dict[str, np.ndarray]:
        """Named arrays of the first slot: the gradient, where the optimiser's rule is "store_gradient"."""
        stored = self.executor.unpack(self.executor.slots[0])
        return {p.name: stored[p.name] for p in self.plan.parameters if p.learned}

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def _average(self) -> np.ndarray | None:
        """The moving average of the parameters, a slot; None without `ema_decay`."""
        return None if self.optimizer.ema_decay is None else self.executor.slots[-1]

    @property
    def _kept(self) -> np.ndarray:
        """What the model gets: the average where there is one, else the parameters."""
        return self.executor.parameters if self._average is None else self._average

    @property
    def _vectors(self) -> np.ndarray:
        """The parameters and, where there is one, their average: (1 or 2, length)."""
        return np.stack([self.executor.parameters, *([] if self._average is None else [self._average])])

    def snapshot(self) -> np.ndarray:
        """The parameters now, and their average, for `restore`."""
        self._take_what_was_set()
        return self._vectors

    def restore(self, snapshot: np.ndarray) -> None:
        """Set the parameters to those of a snapshot."""
        self._take_what_was_set()
        self.executor.parameters[:] = snapshot[0]
        if self._average is not None:
            self._average[:] = snapshot[1]
        self.executor.refresh()

    def by_name(self, snapshot: np.ndarray) -> list[dict[str, np.ndarray]]:
        """A snapshot as arrays by name, which do not depend on this machine's vectors."""
        return [self.executor.unpack(vector) for vector in snapshot]

    def from_names(self, named: list[dict[str, np.ndarray]]) -> np.ndarray:
        """The snapshot that `by_name` unpacked."""
        snapshot = np.zeros_like(self._vectors)
        for vector, arrays in zip(snapshot, named, strict=True):
            self.executor.pack_into(vector, arrays)
        return snapshot

    def save_parameters(self) -> None:
        """Write the parameters, or their average, back into the model, unless it was given others."""
        self._take_what_was_set()
        self._model._arrays = self._written = self.executor.unpack(self._kept)

    @property
    def state(self) -> dict:
        """Everything but the parameters that a later fit needs to go on as if it had not stopped.

        "learning_rate" is None while a schedule runs: a later fit's optimiser has it. "parameters" are those that the
        steps see, where the model gets their average, which is the last of the slots; else None.
        """
        self._take_what_was_set()
        rate = None if self.schedule else self.learning_rate
        slots = [self.executor.unpack(slot) for slot in self.executor.slots]
        parameters = None if self._average is None else self.executor.unpack(self.executor.parameters)
        counts = {"epoch": self.epoch, "step": self.step, "learning_rate": rate}
        return {**counts, "slots": slots, "parameters": parameters}

    def resume(self, state: dict, parameters: dict[str, np.ndarray]) -> None:
        """Be as the fit was that had this state and whose model had these parameters, whatever was set since."""
        self._rate = self.optimizer.learning_rate
        self.model.set_parameters(parameters)
        self._take_what_was_set()
        self._resume(state)
        self._last_finite = self.snapshot()

    def _resume(self, state: dict) -> None:
        if len(state["slots"]) != self.plan.n_slots:
            raise ValueError(
                f"`state` has {len(state['slots'])} optimiser slots, but {self.optimizer!r} needs {self.plan.n_slots}."
            )
        self.epoch, self._steps_before = state["epoch"], state["step"]
        if state["learning_rate"] is not None:
            self.learning_rate = state["learning_rate"]
        begins = self._average is not None and state["parameters"] is None  # an average, for parameters were set
        slots = state["slots"][:-1] if begins else state["slots"]
        for slot, arrays in zip(self.executor.slots, slots, strict=not begins):
            self.executor.pack_into(slot, arrays)
        self.executor.refresh()
        if self._average is not None and not begins:
            self.executor.pack(state["parameters"])
            self._last_finite = self.snapshot()

    def close(self) -> None:
        """Let the worker threads end."""
        self.executor.close()
        self._close_evaluations()

    def _close_evaluations(self) -> None:
        for evaluation, _ in self._evaluations.values():
            evaluation.close()
        self._evaluations.clear()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.save_parameters()
        finally:
            self.close()
