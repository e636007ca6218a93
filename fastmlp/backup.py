"""A fit that survives its process: backed up between epochs, and gone on with as if it had not stopped."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import time
import warnings

import numpy as np

from . import model_file, schedules
from ._arrays import is_sparse
from .activations import CustomActivation
from .callbacks import Callback, TimeBudget
from .errors import check_path, check_range
from .layers import flatten
from .losses import CustomLoss
from .serialization import load_model_with_extra, save_model

_KEEP = 0.1  # seconds between two looks at everything, of which the last is written after Ctrl-C
_CHUNK = 2**24  # bytes of the data that are hashed at a time


class BackupAndRestore(Callback):
    """Back up a fit between epochs, and go on from the backup when the same fit is started again.

    The parameters, the optimiser's state, the history and the states of the other callbacks come back, so the fit ends
    with the bits that it would have had without a stop, for any number of threads. What the model's parameters are when
    the fit is started again does not matter.

    The file is there after Ctrl-C, an error or the end of the process, once an epoch is done (else begin with a new
    model), and where a callback ended the fit before its last epoch. It is deleted when all epochs are done, or
    `EarlyStopping` has ended the fit. Each fit needs a path of its own. The file is replaced at once or not at all, and
    `load_model` loads the model in it. Where this callback stands among the others does not matter.

    Parameters
    ----------
    path : str or path
        The file; its folder must exist.
    seconds : float
        The least time between two backups, which take about as long as saving the model; 0 makes one after every epoch.
        After Ctrl-C or an error, the newest state is written as well: that of the last epoch, or one at most a tenth of
        a second older.

    Attributes
    ----------
    restored_epoch_ : int or None
        The epoch that the last fit went on from; None where it began anew.

    Raises
    ------
    ValueError, TypeError
        `path` is no path, `seconds` is not a finite number of at least 0. When the fit begins: the backup is one of
        another fit (layers, dtype, loss, optimiser, batch size, shuffle, seed, device, precision, data, weights,
        groups or validation data, or callbacks with a state), it has as many epochs as are asked for, or `callbacks`
        has two of these.
    ModelFileError
        When the fit begins: the file is no model file, or damaged.
    OSError
        When the fit begins: the file cannot be written.

    Warns
    -----
    RuntimeWarning
        Later, it cannot be written or deleted; the fit goes on.

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

    def __init__(self, path: str | os.PathLike[str], seconds: float = 10.0):
        check_path(path)
        check_range("seconds", seconds, 0, math.inf)
        self.path, self.seconds = os.path.realpath(path), seconds  # the same, should the current folder change
        self.restored_epoch_ = self._found = self._latest = None
        self._done = False

    def __repr__(self):
        return f"BackupAndRestore({self.path!r}, seconds={self.seconds!r})"

    # What `Sequential.fit` and the loop over epochs call -----------------------------------------------------------

    def find(self, model, data: tuple, validation: tuple | None, epochs: int, callbacks, **settings) -> dict | None:
        """Set the model's parameters to those of the backup, if there is one; the training's state, or None.

        `data` are the arrays of the fit, `settings` what else its bits depend on.
        """
        self._fit = {"layers": [repr(layer) for layer in model.layers], "dtype": model.dtype.name}
        self._fit |= {name: repr(value) for name, value in {"loss": model.loss, **settings}.items()}
        self._fit |= {"data": _describe(data), "validation_data": validation and _describe(validation)}
        self.restored_epoch_ = self._found = self._latest = None
        self._done = False
        model_file.remove_leftovers(self.path)
        if not os.path.exists(self.path):
            return None
        declared = [*flatten(model.layers), model.loss]
        custom = {own.name: own for own in declared if isinstance(own, (CustomActivation, CustomLoss))}
        found, extra = load_model_with_extra(self.path, custom)
        self._refuse_another(extra if isinstance(extra, dict) and "training" in extra else None, callbacks)
        done = extra["training"]["epoch"]
        if done >= epochs:
            raise ValueError(f"`epochs` must be above the {done} of the backup {self.path!r}; got {epochs}.")
        model.set_parameters(found.parameters)
        model._epochs = found._epochs
        self._found, self.restored_epoch_ = (extra, found.parameters), done
        return extra["training"]

    def _refuse_another(self, backup: dict | None, callbacks) -> None:
        rest = "Delete it, or give another `path`."
        if backup is None:
            raise ValueError(f"`path` {self.path!r} is a model, not a backup of a fit. {rest}")
        for name, now in self._fit.items():
            before = backup["fit"].get(name, "None")  # an option that was not there yet
            if before != now:
                if isinstance(now, list) and len(before) == len(now):  # the first that differs tells more than all
                    k = [a == b for a, b in zip(before, now, strict=True)].index(False)
                    name, before, now = f"{name}[{k}]", before[k], now[k]
                was = f"its {name} was {before}, now it is {now}"
                raise ValueError(f"`path` {self.path!r} is the backup of another fit: {was}. {rest}")
        names, saved = [type(c).__name__ for c in _with_state(callbacks)], [name for name, _ in backup["callbacks"]]
        if names != saved:
            raise ValueError(
                f"`callbacks` must have those of the backup {self.path!r}, {', '.join(saved) or 'none with a state'}, "
                f"in their order; got {', '.join(names) or 'none with a state'}."
            )

    def begin(self, training, history, callbacks) -> None:
        """Give the history and the other callbacks what the backup has of them, or make a first backup."""
        self._written, self._last, self._looked = training.epoch, time.monotonic(), -math.inf
        if self._found is None:
            self._keep(training, history, callbacks)
            self._write()  # a path that cannot be written is an error now
            return
        (found, parameters), self._found = self._found, None
        training.resume(found["training"], parameters)  # callbacks may have set others when the fit began
        for callback, (_, state) in zip(_with_state(callbacks), found["callbacks"], strict=True):
            callback.resume(training, state)
        if found["schedule"] is not None:
            training.learning_rate = schedules.from_config(found["schedule"])
        history.epochs[:] = found["epochs"].tolist()
        history.metrics.update({name: values.tolist() for name, values in found["metrics"].items()})

    def after_epoch(self, training, history, callbacks) -> None:
        """Take note of everything, if it is some time since, and write it if it is time."""
        now = time.monotonic()
        if now - self._looked >= min(_KEEP, self.seconds):
            self._keep(training, history, callbacks)
            self._looked = now
        if now - self._last >= self.seconds:
            self._try_to_write()

    def _keep(self, training, history, callbacks) -> None:
        own = training.schedule if training.schedule != training.optimizer.learning_rate else None  # a callback's
        extra = {
            "fit": self._fit,
            "training": training.state,
            "schedule": None if own is None else schedules.to_config(own),
            "callbacks": [[type(c).__name__, copy.deepcopy(c.state(training))] for c in _with_state(callbacks)],
            "epochs": np.array(history.epochs, np.int64),
            "metrics": {name: np.array(values) for name, values in history.metrics.items()},
        }
        self._latest = copy.copy(training.model), extra  # its arrays are replaced by later ones, not written to

    def _write(self) -> None:
        model, extra = self._latest
        save_model(self.path, model, extra=extra)
        self._last, self._written = time.monotonic(), extra["training"]["epoch"]

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            warnings.warn(f"the backup {self.path!r} could not be written: {error}.", RuntimeWarning, stacklevel=2)
            self._last = time.monotonic()

    def end(self, training, history, callbacks, epochs: int) -> None:
        """The loop has come to its end: by the number of epochs, or because a callback says so."""
        self._done = True
        stopped = [c for c in callbacks if getattr(c, "stopped_epoch_", None) is not None]
        if training.epoch < epochs and all(isinstance(c, TimeBudget) for c in stopped):
            self._keep(training, history, callbacks)
            self._try_to_write()
            self._done = False

    def finish(self) -> None:
        """All callbacks have been told of the end."""
        if self._done:
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
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            warnings.warn(f"the backup {self.path!r} could not be deleted: {error}.", RuntimeWarning, stacklevel=2)


def _with_state(callbacks) -> list[Callback]:
    return [c for c in callbacks if type(c).state is not Callback.state]


def _describe(data: tuple) -> str:
    """Shape and dtype of X, and a digest of all arrays: X, y, weights and groups, or None for those that are not."""
    digest = hashlib.blake2b(digest_size=8)
    for array in data:
        if array is None:
            digest.update(b"none")
            continue
        for part in (array.indptr, array.indices, array.data) if is_sparse(array) else (array,):
            digest.update(repr((part.dtype.str, part.shape)).encode())
            rows = max(1, _CHUNK // max(1, part.nbytes // len(part))) if part.size else 1
            for start in range(0, len(part), rows):
                digest.update(np.ascontiguousarray(part[start : start + rows]))
    return f"{data[0].dtype} {data[0].shape}, digest {digest.hexdigest()}"
