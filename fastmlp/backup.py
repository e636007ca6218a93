"""A fit that survives its process: backed up between epochs, and gone on with as if it had not stopped."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import time

import numpy as np

from ._arrays import is_sparse
from .activations import CustomActivation
from .callbacks import Callback, TimeBudget
from .errors import check_range
from .layers import flatten
from .losses import CustomLoss
from .serialization import load_model_with_extra, save_model

_ROWS = 256  # of the data, by which a backup knows them again


class BackupAndRestore(Callback):
    """Back up a fit between epochs, and go on from the backup when the same fit is started again.

    The parameters, the optimiser's state, the history and the states of the other callbacks come back, so the fit ends
    with the bits that it would have had without a stop, for any number of threads. After Ctrl-C, an error or a
    `TimeBudget`, the backup holds the last whole epoch, after the end of the process that of the last backup. It is
    deleted when the fit has come to its end.

    The file is replaced at once or not at all, and `load_model` loads the model in it.

    Parameters
    ----------
    path : str or path
        The file; its folder must exist.
    seconds : float
        The least time between two backups, which take about as long as saving the model; 0 makes one after every epoch.

    Attributes
    ----------
    restored_epoch_ : int or None
        The epoch that the last fit went on from; None where it began anew.

    Raises
    ------
    ValueError, TypeError
        `seconds` is not a finite number of at least 0. When the fit begins: the backup is one of another fit (other
        layers, loss, optimiser, batch size, seed or data, or callbacks with a state), it has done all epochs already,
        or `callbacks` has two of these.
    ModelFileError
        When the fit begins: the file is no model file, or damaged.
    OSError
        The file cannot be written, when the fit begins or later.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastmlp import Adam, Dense, ReLU, Sequential, TimeBudget
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> def fit(*callbacks):
    ...     model = Sequential(Dense(8), ReLU(), Dense(1))
    ...     history = model.fit(X, X**2, loss="squared_error", epochs=4, callbacks=callbacks, verbose=0)
    ...     return model.predict(X), len(history)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     backup = BackupAndRestore(os.path.join(folder, "fit.safetensors"))
    ...     _, done = fit(backup, TimeBudget(1e-9))  # one epoch
    ...     predicted, done_in_all = fit(backup)
    >>> done, backup.restored_epoch_, done_in_all
    (1, 1, 4)
    >>> np.array_equal(predicted, fit()[0])
    True
    """

    def __init__(self, path, seconds=10.0):
        check_range("seconds", seconds, 0, math.inf)
        self.path, self.seconds = os.fspath(path), seconds
        self.restored_epoch_ = self._found = self._latest = None

    def __repr__(self):
        return f"BackupAndRestore({self.path!r}, seconds={self.seconds!r})"

    def find(self, model, data: tuple, epochs: int, **settings) -> dict | None:
        """Set the model's parameters to those of the backup, if there is one; the training's state, or None.

        `data` are the arrays of the fit, `settings` what else its bits depend on.
        """
        settings = {"layers": model.layers, "dtype": model.dtype.name, "loss": model.loss} | settings
        self._fit = {name: repr(value) for name, value in settings.items()} | {"data": _describe(data)}
        self.restored_epoch_ = self._found = self._latest = None
        if not os.path.exists(self.path):
            return None
        declared = [*flatten(model.layers), model.loss]
        custom = {own.name: own for own in declared if isinstance(own, (CustomActivation, CustomLoss))}
        found, extra = load_model_with_extra(self.path, custom)
        self._refuse_another(extra if isinstance(extra, dict) and "training" in extra else None)
        done = extra["training"]["epoch"]
        if done >= epochs:
            raise ValueError(f"`epochs` must be above the {done} of the backup {self.path!r}; got {epochs}.")
        model.set_parameters(found.parameters)
        self._found, self.restored_epoch_ = extra, done
        return extra["training"]

    def _refuse_another(self, backup: dict | None) -> None:
        rest = "Delete it, or give another `path`."
        if backup is None:
            raise ValueError(f"`path` {self.path!r} is a model, not a backup of a fit. {rest}")
        for name, value in self._fit.items():
            if (before := backup["fit"].get(name)) != value:
                raise ValueError(
                    f"`path` {self.path!r} is the backup of another fit: its {name} was {before}, now it is {value}. "
                    + rest
                )

    def begin(self, training, history, callbacks) -> None:
        """Give the history and the other callbacks what the backup has of them, or make a first backup."""
        self._latest, self._written, self._last = None, training.epoch, time.monotonic()
        if self._found is None:
            self._keep(training, history, callbacks)
            self._write()  # a path that cannot be written is an error now
            return
        found, self._found = self._found, None
        with_state = [c for c in callbacks if c.state(training)]
        names, saved = [type(c).__name__ for c in with_state], [name for name, _ in found["callbacks"]]
        if names != saved:
            raise ValueError(
                f"`callbacks` must have those of the backup {self.path!r}, {', '.join(saved) or 'none with a state'}, "
                f"in their order; got {', '.join(names) or 'none with a state'}."
            )
        for callback, (_, state) in zip(with_state, found["callbacks"], strict=True):
            callback.resume(training, state)
        history.epochs[:] = found["epochs"].tolist()
        history.metrics.update({name: values.tolist() for name, values in found["metrics"].items()})

    def after_epoch(self, training, history, callbacks) -> None:
        """Take note of everything, and write it if it is time."""
        self._keep(training, history, callbacks)
        if time.monotonic() - self._last >= self.seconds:
            self._write()

    def _keep(self, training, history, callbacks) -> None:
        training.save_parameters()
        states = [(type(c).__name__, c.state(training)) for c in callbacks]
        extra = {
            "fit": self._fit,
            "training": training.state,
            "callbacks": [[name, state] for name, state in states if state],
            "epochs": np.array(history.epochs, np.int64),
            "metrics": {name: np.array(values) for name, values in history.metrics.items()},
        }
        self._latest = copy.copy(training.model), extra  # its arrays are replaced by later ones, not written to

    def _write(self) -> None:
        model, extra = self._latest
        save_model(self.path, model, extra=extra)
        self._last, self._written = time.monotonic(), extra["training"]["epoch"]

    def end(self, training, callbacks, epochs: int) -> None:
        """The fit has come to its end, or its time is over."""
        stopped = [c for c in callbacks if getattr(c, "stopped_epoch_", None) is not None]
        if training.epoch < epochs and stopped and all(isinstance(c, TimeBudget) for c in stopped):
            self._write()
        else:
            self._delete()

    def fail(self) -> None:
        """Ctrl-C or an error: write the last whole epoch. What is from before the first would be in the way of a second
        try that mends the error."""
        if self._latest is None:  # it is as it was found
            return
        epoch = self._latest[1]["training"]["epoch"]
        if epoch == 0:
            self._delete()
        elif epoch > self._written:
            with contextlib.suppress(OSError):  # the first error says more
                self._write()

    def _delete(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _describe(data: tuple) -> str:
    """Shapes, dtypes and a digest of some rows of X, y, weights and groups."""
    digest, n = hashlib.blake2b(digest_size=8), data[0].shape[0]
    rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS)).astype(np.intp))
    for array in data:
        if array is None:
            digest.update(b"none")
            continue
        some = array[rows]
        for part in (some.indptr, some.indices, some.data) if is_sparse(some) else (some,):
            digest.update(repr((part.dtype.str, part.shape)).encode() + np.ascontiguousarray(part).tobytes())
    return f"{data[0].dtype} {data[0].shape}, digest {digest.hexdigest()}"
