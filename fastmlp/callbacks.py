"""Callbacks: what a person may want to do between two epochs."""

from __future__ import annotations

import csv
import inspect
import io
import math
import os
import re
import time
import warnings
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

from ._arrays import check_X
from .errors import check_count, check_flag, check_path, check_range, unknown_name
from .hints import Hinted
from .history import as_number

if TYPE_CHECKING:
    from .history import History
    from .training import Training

_LARGER_IS_BETTER = {"acc", "accuracy", "score", "auc", "auroc", "r2", "f1", "precision", "recall", "ndcg"}
_SMALLER_IS_BETTER = {"loss", "error", "mse", "rmse", "mae", "deviance", "entropy", "distance", "norm", "seconds"}
_OF_A_FIT = ("epoch", "loss", "val_loss", "learning_rate", "seconds")  # metrics of every fit
_MISLEADING = {"neg", "negative", "brier"}  # the negative of an error, a score that is one


class Callback:
    """Override what you need; `training` is the fit's `fastmlp.training.Training`, and `training.stop = True` ends it.

    Also of use: `training.model`, a `Sequential` with the present parameters, to save, to predict with or to set
    parameters in; `training.learning_rate`, which can be set, to a number, which ends a schedule, or to a schedule;
    `training.epoch` and `training.step`, what was done; `training.step_losses`, the mean loss of each of the epoch's
    batches.

    `on_fit_end` is called whatever ends the fit: its last epoch, `training.stop`, Ctrl-C or an error.

    Examples
    --------
    >>> class Halve(Callback):
    ...     def on_epoch_end(self, training, epoch, logs):
    ...         training.learning_rate /= 2
    >>> class SaveBest(Callback):
    ...     def on_fit_begin(self, training):
    ...         self.best = float("inf")
    ...
    ...     def on_epoch_end(self, training, epoch, logs):
    ...         if logs["val_loss"] < self.best:
    ...             self.best = logs["val_loss"]
    ...             training.model.save("best.safetensors")
    """

    def on_fit_begin(self, training: Training) -> None:
        """Before the first epoch."""

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        """After each epoch, counted from 1, with its metrics by name: `logs["loss"]`, `logs["val_loss"]`, ...

        What a callback adds to `logs` is a metric, too: of the `History`, and for the callbacks after it.
        """

    def on_fit_end(self, training: Training, history: History) -> None:
        """After the last epoch, with the `History` of the fit."""

    def state(self, training: Training) -> dict[str, Any]:
        """What `BackupAndRestore` keeps of this callback after an epoch: numbers, strings, arrays, lists of those."""
        return {}

    def resume(self, training: Training, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; called after `on_fit_begin`."""


class _Declared(Callback):
    """A callback whose arguments are its attributes."""

    def __repr__(self):
        values = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if hasattr(self, name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


class _Watching(_Declared):
    """What callbacks that wait for a metric to improve share: `monitor`, `patience`, `min_delta` and `mode`."""

    _saved: tuple[str, ...]  # the attributes that are its state

    def __init__(self, monitor, patience, min_delta, mode):
        if not isinstance(monitor, str):
            raise TypeError(f"`monitor` must be the name of a metric, such as 'val_loss'; got {monitor!r}.")
        check_count(patience, "patience")
        check_range("min_delta", min_delta, 0, math.inf)
        if mode not in ("auto", "min", "max"):
            raise unknown_name("mode", mode, ["auto", "min", "max"])
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode

    def _value(self, logs) -> float:
        if self.monitor not in logs:
            if self.monitor.startswith("val_") and "val_loss" not in logs:
                known = ", ".join(map(repr, logs))
                raise ValueError(
                    f"`monitor`={self.monitor!r} needs `validation_data` in fit, or a callback before this one that "
                    f"adds it; there is {known}."
                )
            raise unknown_name("monitor", self.monitor, logs)
        return float(logs[self.monitor])

    def _improved(self, value: float) -> bool:
        self._larger_is_better  # noqa: B018  raises in the first epoch where it is not known
        if math.isnan(value):
            return False
        if self.best_ is None:
            return True
        return value > self.best_ + self.min_delta if self._larger_is_better else value < self.best_ - self.min_delta

    @property
    def _larger_is_better(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        words = re.split(r"[^a-z0-9]+", self.monitor.lower())
        known = [word for word in words if word in _LARGER_IS_BETTER | _SMALLER_IS_BETTER]
        if not known or _MISLEADING.intersection(words):
            raise ValueError(f"`mode` must be 'min' or 'max' for monitor={self.monitor!r}, whose name does not tell.")
        return known[-1] in _LARGER_IS_BETTER

    def state(self, training: Training) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._saved}

    def resume(self, training: Training, state: dict[str, Any]) -> None:
        for name in self._saved:
            setattr(self, name, state[name])


class EarlyStopping(Hinted, _Watching):
    """Stop when a metric has not improved for `patience` epochs, and go back to the best parameters.

    An improvement is `value < best - min_delta` ("min") or `value > best + min_delta` ("max"). NaN is never one, so an
    epoch whose metric is NaN counts as the worst.

    Parameters
    ----------
    monitor : str
        The metric, one of the fit's logs.
    patience : int
        Stop after so many epochs in a row without an improvement; at least 1.
    min_delta : float
        The least change that counts, at least 0.
    restore_best : bool
        Leave the model with the parameters of the best epoch, also after Ctrl-C or a divergence.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better. "auto" goes by the last word of the name that tells: "min" for a loss or an
        error, "max" for an accuracy, score, AUC, R2, F1, precision, recall or NDCG. Where none does, it is an error.

    Attributes
    ----------
    best_ : float or None
        The best value; None before the first epoch that was not NaN.
    best_epoch_ : int or None
        Its epoch, counted from 1.
    stopped_epoch_ : int or None
        The epoch after which it stopped the fit; None if it did not.

    Raises
    ------
    ValueError, TypeError
        A parameter out of its range; at the end of the first epoch, when the fit does not report `monitor`.

    Examples
    --------
    >>> EarlyStopping(patience=5)
    EarlyStopping(monitor='val_loss', patience=5, min_delta=0.0, restore_best=True, mode='auto')
    """

    _saved = ("best_", "best_epoch_", "_waited")

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str = "auto",
    ):
        super().__init__(monitor, patience, min_delta, mode)
        check_flag("restore_best", restore_best)
        self.restore_best = restore_best
        self._forget()

    def _forget(self):
        self.best_ = self.best_epoch_ = self.stopped_epoch_ = None
        self._best_parameters = None
        self._waited = 0

    def on_fit_begin(self, training: Training) -> None:
        self._forget()

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        value = self._value(logs)
        if self._improved(value):
            self.best_, self.best_epoch_, self._waited = value, epoch, 0
            if self.restore_best:
                self._best_parameters = training.snapshot()
            return
        self._waited += 1
        if self._waited >= self.patience:
            self.stopped_epoch_ = epoch
            training.stop = True

    def on_fit_end(self, training: Training, history: History) -> None:
        if self._best_parameters is not None:
            training.restore(self._best_parameters)
            self._best_parameters = None  # the callback may live on in someone's list; the arrays need not

    def state(self, training: Training) -> dict[str, Any]:
        best = self._best_parameters
        return super().state(training) | {"best_parameters": None if best is None else training.by_name(best)}

    def resume(self, training: Training, state: dict[str, Any]) -> None:
        super().resume(training, state)
        best = state["best_parameters"]
        self._best_parameters = None if best is None else training.from_names(best)


class ReduceLROnPlateau(_Watching):
    """Multiply the learning rate by `factor` when a metric has not improved for `patience` epochs.

    Then it waits for `patience` epochs again. An improvement is what `EarlyStopping` takes for one.

    Parameters
    ----------
    monitor : str
        The metric, one of the fit's logs.
    factor : float
        By what the rate is multiplied, in (0, 1).
    patience : int
        Lower the rate after so many epochs in a row without an improvement; at least 1.
    min_lr : float
        The rate is never set below this; at least 0.
    min_delta : float
        The least change that counts, at least 0.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better, as in `EarlyStopping`.

    Attributes
    ----------
    best_ : float or None
        The best value; None before the first epoch that was not NaN.
    reduced_epochs_ : list of int
        The epochs after which it lowered the rate.

    Raises
    ------
    ValueError, TypeError
        A parameter out of its range; when the fit begins, where its optimiser follows a schedule, which the first
        reduction would end; at the end of the first epoch, when the fit does not report `monitor`.

    Examples
    --------
    >>> ReduceLROnPlateau(factor=0.5, patience=3)
    ReduceLROnPlateau(monitor='val_loss', factor=0.5, patience=3, min_lr=0.0, min_delta=0.0, mode='auto')
    """

    _saved = ("best_", "reduced_epochs_", "_waited")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        mode: str = "auto",
    ):
        super().__init__(monitor, patience, min_delta, mode)
        check_range("factor", factor, 0, 1, low_open=True)
        check_range("min_lr", min_lr, 0, math.inf)
        self.factor, self.min_lr = factor, min_lr
        self._forget()

    def _forget(self):
        self.best_, self.reduced_epochs_, self._waited = None, [], 0

    def on_fit_begin(self, training: Training) -> None:
        if training.schedule is not None:
            raise ValueError(
                f"ReduceLROnPlateau needs an optimizer whose `learning_rate` is a number; got {training.schedule!r}."
            )
        self._forget()

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        value = self._value(logs)
        if self._improved(value):
            self.best_, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            self._waited = 0
            rate = training.learning_rate
            lower = max(rate * self.factor, self.min_lr)
            if lower < rate:
                training.learning_rate = lower
                self.reduced_epochs_.append(epoch)


class ModelCheckpoint(_Watching):
    """Save the model after every epoch, or after each that is better than all before it.

    The file has the network's parameters after that epoch, as `Sequential.save` writes them (with `ema_decay` their
    average), and is replaced at once or not at all; `load_model` reads it. To go on with a fit that was stopped, take
    `BackupAndRestore`, which keeps the optimiser's state too.

    Parameters
    ----------
    path : str or path
        The file, whose folder must exist. "epoch" and the names of metrics in braces become their values, for a file of
        each epoch: "{epoch:03d}-{val_loss:.3f}.safetensors".
    monitor : str
        The metric, one of the fit's logs.
    save_best_only : bool
        Save only after an epoch whose metric is better than that of each before it, as `EarlyStopping` compares them.
    min_delta : float
        The least change that counts, at least 0.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better, as in `EarlyStopping`.

    Attributes
    ----------
    best_ : float or None
        The best value; None before the first epoch that was not NaN, and without `save_best_only`.
    saved_ : str or None
        The file written last in this fit.

    Raises
    ------
    ValueError, TypeError
        A parameter out of its range; at the end of the first epoch, when the fit does not report what `monitor`, or a
        name in the path, asks for.
    OSError
        When the fit begins, there is no such folder; later, the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import Dense, Sequential
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     best = ModelCheckpoint(os.path.join(folder, "best.safetensors"), monitor="loss", save_best_only=True)
    ...     _ = Sequential(Dense(1)).fit(
    ...         [[1.0], [2.0]], [1.0, 2.0], loss="squared_error", epochs=3, callbacks=[best], verbose=0
    ...     )
    ...     os.listdir(folder)
    ['best.safetensors']
    """

    _saved = ("best_",)

    def __init__(
        self,
        path: str | PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        min_delta: float = 0.0,
        mode: str = "auto",
    ):
        super().__init__(monitor, 1, min_delta, mode)
        check_path(path)
        check_flag("save_best_only", save_best_only)
        self.path, self.save_best_only = os.path.abspath(path), save_best_only  # the same, should the folder change
        self.best_ = self.saved_ = None

    def on_fit_begin(self, training: Training) -> None:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"`path`={self.path!r} of ModelCheckpoint: there is no folder {folder!r}.")
        self.best_ = self.saved_ = None

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        if self.save_best_only:
            value = self._value(logs)
            if not self._improved(value):
                return
            self.best_ = value
        try:
            path = self.path.format(epoch=epoch, **logs)
        except (KeyError, IndexError, ValueError) as error:
            known = ", ".join(map(repr, ["epoch", *logs]))
            raise ValueError(f"`path`={self.path!r} of ModelCheckpoint: {error!r}; it may name {known}.") from None
        training.model.save(path)
        self.saved_ = path


class CSVLogger(_Declared):
    """Write every epoch's metrics as a line of a CSV file, at once: to look at a long fit while it runs, or after it.

    The columns are "epoch", counted from 1 in each fit, and the metrics by name, as they are when this callback's turn
    comes: it stands behind those that add some. What an epoch does not have is left empty. Numbers have all their
    digits. A file that cannot be written is warned of, and the fit goes on; so does a file that somebody deletes, with
    all its lines.

    Parameters
    ----------
    path : str or path
        The file, whose folder must exist; one for each fit. What it had is replaced at the end of the first epoch.
    append : bool
        Keep what it has, a table with a column "epoch", and go on behind it. (A fit that `BackupAndRestore` goes on
        with has the file as it was at the backup, in any case.)

    Raises
    ------
    ValueError, TypeError
        No name of a file, or `append` neither True nor False; when the fit begins, something that is no file, or none
        to go on with.
    OSError
        When the fit begins, there is no such folder, or the file to go on with cannot be read.

    Warns
    -----
    RuntimeWarning
        The file cannot be written, a full disk, say. The next epoch tries again, with all lines.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import Dense, Sequential
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "fit.csv")
    ...     _ = Sequential(Dense(1)).fit(
    ...         [[1.0], [2.0]], [1.0, 2.0], loss="squared_error", epochs=3, callbacks=[CSVLogger(path)], verbose=0
    ...     )
    ...     with open(path) as file:
    ...         lines = file.read().splitlines()
    >>> lines[0], len(lines)
    ('epoch,loss,learning_rate,seconds', 4)
    """

    def __init__(self, path: str | PathLike[str], append: bool = False):
        check_path(path)
        check_flag("append", append)
        self.path, self.append = os.path.abspath(path), append  # the same, should the folder change
        self._names: list[str] = []
        self._rows: list[list] = []
        self._size = -1  # bytes of the file where it has all that; else it is written anew

    def on_fit_begin(self, training: Training) -> None:
        folder = os.path.dirname(os.path.realpath(self.path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"`path`={self.path!r} of CSVLogger: there is no folder {folder!r}.")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise ValueError(f"`path`={self.path!r} of CSVLogger must be a file or a new name.")
        (self._names, self._rows), self._size = self._read() if self.append else ([], []), -1

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        row = {"epoch": 0} | {name: as_number(name, value) for name, value in logs.items()} | {"epoch": epoch}
        if new := [name for name in row if name not in self._names]:
            self._names, self._size = [*self._names, *new], -1
        self._rows.append([row.get(name, "") for name in self._names])
        try:
            self._write()
        except OSError as error:
            self._size = -1
            warnings.warn(f"CSVLogger could not write {self.path!r}: {error}.", RuntimeWarning, stacklevel=2)

    def state(self, training: Training) -> dict[str, Any]:
        return {"text": self._text()}

    def resume(self, training: Training, state: dict[str, Any]) -> None:
        self._names, *self._rows = csv.reader(io.StringIO(state["text"], newline=""))
        self._size = -1

    def _write(self) -> None:
        """The last line, behind the others where they are there."""
        from .model_file import replace

        if self._size >= 0 and os.path.isfile(self.path) and os.path.getsize(self.path) == self._size:
            data = _csv([self._rows[-1]]).encode()
            with open(self.path, "ab") as file:
                file.write(data)
            self._size += len(data)
        else:
            data = self._text().encode()
            replace(os.path.realpath(self.path), [data])
            self._size = len(data)

    def _text(self) -> str:
        return _csv([self._names, *(row + [""] * (len(self._names) - len(row)) for row in self._rows)])

    def _read(self) -> tuple[list[str], list[list]]:
        """The names and the rows of a file to go on with, if there is one."""
        what = f"`path`={self.path!r} of CSVLogger must be a table in UTF-8 to go on with"
        try:
            with open(self.path, newline="", encoding="utf-8-sig") as file:
                names, *rows = [row for row in csv.reader(file) if row] or [[]]
        except FileNotFoundError:
            return [], []
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{what}; it is none: {error}.") from None
        if names and names.count("epoch") != 1:
            raise ValueError(f"{what}, with a column 'epoch'; its columns are {', '.join(map(repr, names))}.")
        for k, row in enumerate(rows):
            if len(row) != len(names):
                raise ValueError(f"{what}; row {k} has {len(row)} fields, not {len(names)}: {row}.")
        return names, rows


def _csv(rows: list[list]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class GradientNorms(_Declared):
    """Add the norm of each layer's weight gradient to every epoch's metrics: "gradient_norm_dense_0", and so on.

    The norm is Euclidean, of the loss's gradient by the weights W of a layer, after the epoch, with the layers'
    penalties and without dropout and augmentation. It is that of the mean loss over one batch, the same in each epoch:
    rows spread evenly over the training data. Norms that fall from layer to layer towards the first one show that
    gradients vanish.

    Parameters
    ----------
    n_rows : int
        Rows of the batch, at least 1; a forward and a backward pass of them is what an epoch costs more.

    Raises
    ------
    ValueError, TypeError
        `n_rows` is no integer of at least 1.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> history = Sequential(Dense(1)).fit(
    ...     [[1.0], [2.0]], [1.0, 2.0], loss="squared_error", epochs=3, callbacks=[GradientNorms()], verbose=0
    ... )
    >>> len(history["gradient_norm_dense_0"])
    3
    """

    def __init__(self, n_rows: int = 256):
        check_count(n_rows, "n_rows")
        self.n_rows = n_rows

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        from .gradients import batch_gradients, weight_norms

        X, y, *rest = training.sample(self.n_rows)
        options = {"n_threads": training.n_threads, "weight_of_row": training.weight_of_row}
        _, gradients = batch_gradients(training.model, X, y, training.loss, *rest, **options)
        logs |= {f"gradient_norm_{layer}": norm for layer, norm in weight_norms(gradients).items()}


class TrainingAccuracy(_Declared):
    """Add the share of training rows that are classified rightly to every epoch's metrics, as "accuracy".

    It is that of the network after the epoch, as "val_accuracy" is, without dropout and augmentation; Keras's is the
    mean over the batches while the network changes.

    Parameters
    ----------
    n_rows : int
        Rows that are looked at, at least 1, spread evenly over the training data: a prediction of them is what an epoch
        costs more.

    Raises
    ------
    ValueError, TypeError
        `n_rows` is no integer of at least 1; when the fit begins, its loss is not one of classes.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> history = Sequential(Dense(1)).fit(
    ...     [[-1.0], [2.0]], [0, 1], loss="binary_cross_entropy", epochs=3, callbacks=[TrainingAccuracy()], verbose=0
    ... )
    >>> len(history["accuracy"])
    3
    """

    def __init__(self, n_rows: int = 2048):
        check_count(n_rows, "n_rows")
        self.n_rows = n_rows

    def on_fit_begin(self, training: Training) -> None:
        if not training.loss.classification:
            raise ValueError(f"`callbacks`: TrainingAccuracy needs a loss of classes; got loss={training.loss.name!r}.")
        self._rows = training.sample(self.n_rows)[:3]

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        X, y, weights = self._rows
        logs["accuracy"] = training.loss.accuracy(training.logits(X), y, weights)

    def on_fit_end(self, training: Training, history: History) -> None:
        self._rows = None


class Metrics(Callback):
    """Add what functions such as scikit-learn's metrics say of these rows to every epoch's metrics.

    A callback behind it may watch them: `EarlyStopping("val_r2")`, `ModelCheckpoint(path, "val_auc")`.

    Parameters
    ----------
    X, y : array-like
        Rows and their targets, as for the fit; none of its own.
    functions : dict of str to callable
        By the name of the metric: each is called with y and what the network makes of X after the epoch, and returns a
        number.
    of : {"outputs", "classes"}
        "outputs": what `predict` returns, such as probabilities; a single column as (n,). "classes": the likeliest
        class of each row, or, with an output for each label, which of them are there.

    Raises
    ------
    ValueError, TypeError
        `functions` is no dictionary of functions, or has the name of one of a fit's own metrics; `of` is another word;
        when the fit begins, X has another number of columns, or, with "classes", the loss is not one of classes; after
        an epoch, what is returned is no number.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.metrics import r2_score
    >>> from fastmlp import SGD, Dense, Sequential
    >>> X = np.linspace(-1, 1, 100).reshape(-1, 1)
    >>> metrics = Metrics(X[::2], 3 * X[::2, 0], {"val_r2": r2_score})
    >>> history = Sequential(Dense(1)).fit(
    ...     X[1::2], 3 * X[1::2], loss="squared_error", optimizer=SGD(0.2), epochs=50, callbacks=[metrics], verbose=0
    ... )
    >>> round(history["val_r2"][-1], 3)
    1.0
    """

    def __init__(self, X: Any, y: Any, functions: dict[str, Callable[[Any, Any], float]], of: str = "outputs"):
        if not isinstance(functions, dict) or not functions or not all(map(callable, functions.values())):
            raise TypeError(f"`functions` must be a dictionary name -> function of (y, prediction); got {functions!r}.")
        for name in functions:
            if not isinstance(name, str) or name in _OF_A_FIT:
                raise ValueError(f"`functions` must have names beside {', '.join(map(repr, _OF_A_FIT))}; got {name!r}.")
        if of not in ("outputs", "classes"):
            raise unknown_name("of", of, ["outputs", "classes"])
        self.X, self.y, self.functions, self.of = X, y, functions, of

    def __repr__(self):
        return f"Metrics(X, y, {list(self.functions)}, of={self.of!r})"

    def on_fit_begin(self, training: Training) -> None:
        check_X(self.X, "X of Metrics", training.model.n_features)
        if self.of == "classes" and not training.loss.classification:
            raise ValueError(f"`of`='classes' needs a loss of classes; got loss={training.loss.name!r}.")

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        model = training.model
        values = model.predict(self.X) if self.of == "outputs" else model.loss.classes(model.logits(self.X))
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.dtype == bool:
            values = values.astype(int)
        for name, function in self.functions.items():
            value = function(self.y, values)
            try:
                logs[name] = float(value)
            except (TypeError, ValueError):
                raise TypeError(f"`functions`[{name!r}] must return a number; got {value!r}.") from None


class TimeBudget(_Declared):
    """Stop after the epoch in which the time ran out, counted from the beginning of the fit.

    Parameters
    ----------
    seconds : float
        Wall-clock time, above 0. At least one epoch is done.

    Attributes
    ----------
    stopped_epoch_ : int or None
        The epoch after which it stopped the fit; None if it did not.

    Raises
    ------
    ValueError, TypeError
        `seconds` is not a finite number above 0.

    Examples
    --------
    >>> TimeBudget(60)
    TimeBudget(seconds=60)
    """

    def __init__(self, seconds: float):
        check_range("seconds", seconds, 0, math.inf, low_open=True)
        self.seconds = seconds
        self.stopped_epoch_ = None

    def on_fit_begin(self, training: Training) -> None:
        self.stopped_epoch_, self._end = None, time.monotonic() + self.seconds

    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        if time.monotonic() >= self._end:
            self.stopped_epoch_ = epoch
            training.stop = True
