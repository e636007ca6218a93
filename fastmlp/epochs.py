"""The epochs of a fit, with what looks at them: callbacks, validation, a backup."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence

import numpy as np


def check_callbacks(callbacks: Sequence) -> tuple:
    """The `BackupAndRestore` among them, or None, and a list of the others."""
    from .callbacks import Callback

    if not isinstance(callbacks, (list, tuple)) or not all(isinstance(c, Callback) for c in callbacks):
        raise TypeError(f"`callbacks` must be a list of Callback objects; got {callbacks!r}.")
    hooks = [name for name in dir(Callback) if name.startswith("on_")]
    for callback in callbacks:
        for name in dir(callback):
            if name.startswith("on_"):
                _check_hook(callback, name, hooks)
    if not callbacks:
        return None, []
    from .backup import BackupAndRestore

    backups = [c for c in callbacks if isinstance(c, BackupAndRestore)]
    if len(backups) > 1:
        raise ValueError(f"`callbacks` must have one BackupAndRestore at most; got {callbacks!r}.")
    return (backups or [None])[0], [c for c in callbacks if c not in backups]


def _check_hook(callback, name: str, hooks: list[str]) -> None:
    """TypeError for a method that nobody calls, or that does not take what it is called with."""
    from .callbacks import Callback

    if name not in hooks:
        batch = " The losses of an epoch's batches are in training.step_losses." if "batch" in name else ""
        raise TypeError(f"`callbacks`: nobody calls {name} of {callback!r}; there are {', '.join(hooks)}.{batch}")
    expected = list(inspect.signature(getattr(Callback, name)).parameters)[1:]
    given = inspect.signature(getattr(callback, name))
    try:
        given.bind(*expected)
    except TypeError:
        raise TypeError(
            f"`callbacks`: {name} of {callback!r} is called with ({', '.join(expected)}); it takes {given}."
        ) from None


def run_epochs(training, history, epochs: int, callbacks, validation, backup) -> None:
    """Train until `epochs` are done, counted from the beginning of the fit, or a callback ends it.

    Parameters
    ----------
    training : Training
    history : History
        Every epoch is recorded in it.
    epochs : int
    callbacks : list of Callback
    validation : (X, y, sample_weight, groups) or None
    backup : BackupAndRestore or None
    """
    if callbacks or validation or backup:
        _one_by_one(training, history, epochs, callbacks, validation, backup)
    else:
        _together(training, history, epochs)


def _together(training, history, epochs: int) -> None:
    """Nobody looks between epochs: many small ones are one call."""
    done = 0
    while done < epochs:
        started = time.perf_counter()
        together = training.epochs_together(epochs - done)
        values = training.run(together)
        seconds = (time.perf_counter() - started) / together
        last = training.step - 1.0 - training.steps_per_epoch * np.arange(together)[::-1]  # of each epoch
        for value, rate in zip(values, training.rates(last), strict=True):
            done += 1
            history.record(done, {"loss": value, "learning_rate": rate, "seconds": seconds})


def _one_by_one(training, history, epochs: int, callbacks, validation, backup) -> None:
    def run():
        try:
            if backup:
                backup.begin(training, history, callbacks)
            while training.epoch < epochs and not training.stop:
                _one(training, history, callbacks, validation)
                if backup and training.epoch < epochs and not training.stop:
                    backup.after_epoch(training, history, callbacks)
            if backup:
                backup.end(training, history, callbacks, epochs)
        except BaseException:
            if backup:
                backup.fail()
            raise

    try:
        tell(callbacks, training, history, run)
    except BaseException:
        if backup:
            backup.fail()
        raise
    if backup:
        backup.finish()


def _one(training, history, callbacks, validation) -> None:
    """An epoch, and what follows it."""
    epoch, started = training.epoch + 1, time.perf_counter()
    look(training, history, callbacks, validation, epoch, float(training.run(1)[0]), started)


def tell(callbacks: list, training, history, run: Callable[[], None]) -> None:
    """Tell each callback of the fit's begin, `run`, and tell each that knows of the begin of the end."""
    begun: list = []
    training.stop = False
    try:
        for callback in callbacks:
            callback.on_fit_begin(training)
            begun.append(callback)
        run()
    finally:
        _end(begun, training, history)


def look(training, history, callbacks, validation, epoch: int, loss: float, started: float, rate: bool = True) -> None:
    """Measure the network after an epoch, tell each callback, and record what they and the epoch have to say; `rate`:
    there is a learning rate.
    """
    logs = {"loss": loss}
    if validation:
        logs |= {f"val_{name}": value for name, value in training.metrics_of(*validation).items()}
    if rate:
        logs["learning_rate"] = training.learning_rate
    logs["seconds"] = time.perf_counter() - started
    try:
        for callback in callbacks:
            callback.on_epoch_end(training, epoch, logs)
    finally:  # with what callbacks added to the logs
        history.record(epoch, logs)


def _end(callbacks: list, training, history) -> None:
    """Tell each of them, whatever another raises."""
    if callbacks:
        try:
            callbacks[0].on_fit_end(training, history)
        finally:
            _end(callbacks[1:], training, history)
