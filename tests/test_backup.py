"""A fit that was stopped, by whatever, and started again ends with the bits of one that was not."""

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import fastmlp
from fastmlp import (
    SGD,
    Adam,
    BackupAndRestore,
    BatchNorm,
    Callback,
    CosineDecay,
    CustomActivation,
    CustomLoss,
    Dense,
    Dropout,
    EarlyStopping,
    GradientNorms,
    MixUp,
    ReduceLROnPlateau,
    ReLU,
    Residual,
    Sequential,
    TimeBudget,
    backup as backup_module,
    load_model,
)
from fastmlp.serialization import ModelFileError

RNG = np.random.default_rng(0)
X, X_VAL = RNG.normal(size=(90, 5)).astype(np.float32), RNG.normal(size=(30, 5)).astype(np.float32)
Y, Y_VAL = ((X[:, 0] > 0) + (X[:, 1] > 0)).astype(int), ((X_VAL[:, 0] > 0) + (X_VAL[:, 1] > 0)).astype(int)
PLAIN = (Dense(9), ReLU(), Dense(3))
MANY = (MixUp(0.3), Dense(9), BatchNorm(), ReLU(), Residual(Dense(9), drop_rate=0.3), Dropout(0.2), Dense(3))


class Power(Exception):
    """The power went."""


class Fail(Callback):
    """An error after some epoch, or in the middle of the next."""

    def __init__(self, epoch, error=Power):
        self.epoch, self.error = epoch, error

    def on_epoch_end(self, training, epoch, logs):
        if epoch == self.epoch:
            raise self.error


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.safetensors"


def fit(*callbacks, layers=PLAIN, X=X, y=Y, dtype="float32", **options):
    """(model, history without times)."""
    model = Sequential(*layers, dtype=dtype)
    options = {"loss": "softmax_cross_entropy", "epochs": 8, "batch_size": 32, "verbose": 0} | options
    history = model.fit(X, y, callbacks=list(callbacks), **options)
    return model, {name: values for name, values in history.metrics.items() if name != "seconds"} | {
        "epochs": history.epochs
    }


def assert_equal(one, other):
    (model, history), (same, again) = one, other
    assert history == again
    for name, value in model.parameters.items():
        assert np.array_equal(value, same.parameters[name]), name


FITS = {
    "adam": {},
    "everything": {
        "layers": MANY,
        "optimizer": Adam(CosineDecay(0.01, steps=30), ema_decay=0.9, clip_norm=1.0),
        "validation_data": (X_VAL, Y_VAL),
        "class_weight": "balanced",
    },
    "float64, momentum": {"optimizer": SGD(0.05, momentum=0.9, nesterov=True), "dtype": "float64", "seed": 3},
    "csr": {"X": scipy.sparse.csr_matrix(np.maximum(X, 0))},
    "in order": {"shuffle": False, "batch_size": 90},
}


@pytest.mark.parametrize("stops", [(3,), (1, 2, 7)], ids=str)
@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_the_same_bits_and_history(options, stops, path):
    whole, backup = fit(GradientNorms(20), **options), BackupAndRestore(path, seconds=0)
    before = None
    for n_threads, stop in enumerate(stops, 1):
        with pytest.raises(Power):
            fit(GradientNorms(20), backup, Fail(stop), n_threads=n_threads, **options)
        assert backup.restored_epoch_ == before
        before = stop - 1 or None  # the epoch that failed is begun again
    assert_equal(fit(GradientNorms(20), backup, n_threads=2, **options), whole)
    assert backup.restored_epoch_ == before and not path.exists()


@pytest.mark.parametrize("restore_best", [True, False])
def test_callbacks_go_on_from_their_states(restore_best, path):
    """The best epoch comes before the stop, the reductions and the end after it."""

    def watch():
        stopping = EarlyStopping(patience=6, restore_best=restore_best)
        return stopping, ReduceLROnPlateau(factor=0.5, patience=2, min_delta=0.01)

    options = {"optimizer": Adam(0.03), "epochs": 60, "validation_data": (X_VAL, Y_VAL), "layers": MANY}
    options["optimizer"] = Adam(0.03, ema_decay=0.5)
    expected = watch()
    whole = fit(*expected, **options)
    assert expected[0].best_epoch_ < expected[0].stopped_epoch_ < 60 and expected[1].reduced_epochs_
    for stop in (expected[0].best_epoch_ + 2, expected[0].stopped_epoch_ - 1):
        backup = BackupAndRestore(path, seconds=0)
        with pytest.raises(Power):
            fit(*watch(), Fail(stop), backup, **options)
        callbacks = watch()
        assert_equal(fit(backup, *callbacks, **options), whole)
        assert backup.restored_epoch_ == stop - 1 and not path.exists()
        assert [vars(c) for c in callbacks] == [vars(c) for c in expected]


def test_a_callback_of_ones_own(path):
    class Count(Callback):
        seen = 0

        def on_epoch_end(self, training, epoch, logs):
            self.seen += 1
            logs["seen"] = self.seen

        def state(self, training):
            return {"seen": self.seen, "an array": np.arange(3)}

        def resume(self, training, state):
            assert state["an array"].tolist() == [0, 1, 2]
            self.seen = state["seen"]

    with pytest.raises(Power):
        fit(Count(), BackupAndRestore(path, seconds=0), Fail(4))
    model = Sequential(*PLAIN).build(5, seed=5)
    before = model.parameters
    with pytest.raises(ValueError, match="must have those of the backup .*Count, in their order; got none"):
        options = {"loss": "softmax_cross_entropy", "epochs": 8, "batch_size": 32, "verbose": 0}
        model.fit(X, Y, callbacks=[BackupAndRestore(path)], **options)
    assert all(np.array_equal(before[name], value) for name, value in model.parameters.items())
    _, history = fit(Count(), BackupAndRestore(path))
    assert history["seen"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_state_that_the_callback_goes_on_to_change(path):
    """Its list is the backup's only as it was then: what is written may be of an earlier epoch."""

    class Notes(Callback):
        def on_fit_begin(self, training):
            self.losses = []

        def on_epoch_end(self, training, epoch, logs):
            self.losses.append(logs["loss"])

        def state(self, training):
            return {"losses": self.losses}

        def resume(self, training, state):
            self.losses = list(state["losses"])

    plateau = {"factor": 0.5, "patience": 1, "monitor": "loss", "min_delta": 1.0}
    ends = []
    for stops in ([], [Fail(7)]):
        for fail in [*stops, None]:
            notes, reduce = Notes(), ReduceLROnPlateau(**plateau)
            callbacks = [notes, reduce, *([fail] if fail else []), *([BackupAndRestore(path)] if stops else [])]
            model = Sequential(*PLAIN)
            try:
                model.fit(X, Y, loss="softmax_cross_entropy", epochs=11, callbacks=callbacks, verbose=0)
            except Power:
                continue
        ends.append((notes.losses, reduce.reduced_epochs_, model.parameters["dense_0.weight"].tolist()))
    assert ends[0] == ends[1]


class Clip(Callback):
    """Sets parameters after some epochs."""

    def on_epoch_end(self, training, epoch, logs):
        if epoch in (2, 3):
            own = training.model.parameters
            training.model.set_parameters({name: np.clip(array, -0.1, 0.1) for name, array in own.items()})


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_parameters_that_a_callback_sets(stop, ema_decay, path):
    ends = []
    for stops in ([], [Fail(stop)]):
        for fail in [*stops, None]:
            backup, model = BackupAndRestore(path, seconds=0), Sequential(*PLAIN)
            callbacks = [Clip(), EarlyStopping("loss"), *([fail] if fail else []), *([backup] if stops else [])]
            options = {"optimizer": Adam(0.01, ema_decay=ema_decay), "epochs": 6, "callbacks": callbacks, "verbose": 0}
            try:
                model.fit(X, Y, loss="softmax_cross_entropy", **options)
            except Power:
                continue
        ends.append(model.parameters)
    assert all(np.array_equal(array, ends[1][name]) for name, array in ends[0].items())


class AtTheBeginning(Callback):
    """Sets what the fit begins with: only what a backup has may count when it goes on."""

    def on_fit_begin(self, training):
        training.learning_rate = 0.1
        training.model.set_parameters({"dense_0.bias": np.full(9, 0.1)})

    def on_epoch_end(self, training, epoch, logs):
        training.learning_rate *= 0.5


@pytest.mark.parametrize("rate", [0.01, CosineDecay(0.01, epochs=6)], ids=["a number", "a schedule"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_what_callbacks_set_when_the_fit_begins(ema_decay, rate, path):
    ends = []
    for stops in ([], [Fail(2)]):
        for fail in [*stops, None]:
            callbacks = [AtTheBeginning(), *([fail] if fail else []), *([BackupAndRestore(path, 0)] if stops else [])]
            model, options = Sequential(*PLAIN), {"optimizer": Adam(rate, ema_decay=ema_decay), "epochs": 6}
            try:
                history = model.fit(X, Y, loss="softmax_cross_entropy", callbacks=callbacks, verbose=0, **options)
            except Power:
                continue
        ends.append((history["learning_rate"], history["loss"], model.parameters["dense_0.weight"].tolist()))
    assert ends[0] == ends[1]


def test_a_schedule_that_a_callback_held_back_for_the_first_epoch(path):
    class WarmUp(Callback):
        def on_fit_begin(self, training):
            training.learning_rate = 1e-4

        def on_epoch_end(self, training, epoch, logs):
            training.learning_rate = training.optimizer.learning_rate

    rates = []
    for stops in ([], [Fail(2)]):
        for fail in [*stops, None]:
            callbacks = [WarmUp(), *([fail] if fail else []), *([BackupAndRestore(path, 0)] if stops else [])]
            options = {
                "optimizer": Adam(CosineDecay(0.01, epochs=6)),
                "epochs": 6,
                "callbacks": callbacks,
                "verbose": 0,
            }
            try:
                rates.append(Sequential(*PLAIN).fit(X, Y, loss="softmax_cross_entropy", **options)["learning_rate"])
            except Power:
                continue
    assert rates[0] == rates[1] and rates[0][0] == 1e-4 < rates[0][1]


def test_the_backup_is_there_until_every_callback_was_told_of_the_end(path):
    class SaveAtTheEnd(Callback):
        def on_fit_end(self, training, history):
            there.append(os.path.exists(path))
            if len(there) == 1:
                raise Power

    there = []
    options = {"loss": "softmax_cross_entropy", "epochs": 4, "verbose": 0}
    whole, model = Sequential(*PLAIN), Sequential(*PLAIN)
    whole.fit(X, Y, **options)
    with pytest.raises(Power):
        model.fit(X, Y, callbacks=[SaveAtTheEnd(), BackupAndRestore(path, 0)], **options)
    assert os.path.exists(path)
    backup, again = BackupAndRestore(path, 0), Sequential(*PLAIN)
    again.fit(X, Y, callbacks=[SaveAtTheEnd(), backup], **options)
    assert there == [True, True] and backup.restored_epoch_ == 3 and not os.path.exists(path)
    np.testing.assert_array_equal(again.parameters["dense_0.weight"], whole.parameters["dense_0.weight"])


@pytest.mark.parametrize("fitted_before", [False, True])
@pytest.mark.parametrize("same", [False, True], ids=["another process", "the same model"])
def test_a_model_that_was_fitted_before(same, fitted_before, path):
    options = {"loss": "softmax_cross_entropy", "batch_size": 16, "verbose": 0}
    begin = {"epochs": 3, **options}

    def new():
        model = Sequential(*MANY)
        if fitted_before:
            model.fit(X, Y, **begin)
        return model

    whole = new()
    whole.fit(X, Y, epochs=6, **options)
    model = new()
    model.fit(X, Y, epochs=6, callbacks=[BackupAndRestore(path), TimeBudget(1e-9)], **options)
    model = model if same else new()
    history = model.fit(X, Y, epochs=6, callbacks=[BackupAndRestore(path)], **options)
    assert len(history) == 6 and model._epochs == whole._epochs
    assert all(np.array_equal(array, model.parameters[name]) for name, array in whole.parameters.items())


def test_custom_functions(path):
    layer = CustomActivation(lambda z: z * z * z, lambda z: 3.0 * z * z, "cube")
    loss = CustomLoss(lambda z, y: (z - y) * (z - y), lambda z, y: 2.0 * (z - y), "square")
    options = {"layers": (Dense(4), layer, Dense(1)), "loss": loss, "y": Y.astype(float)}
    whole = fit(**options)
    with pytest.raises(Power):
        fit(BackupAndRestore(path, seconds=0), Fail(3), **options)
    assert_equal(fit(BackupAndRestore(path), **options), whole)


@pytest.fixture
def every_epoch(monkeypatch):
    """Take note after each, however short."""
    monkeypatch.setattr(backup_module, "_KEEP", 0.0)


def test_ctrl_c_in_the_middle_of_an_epoch(path, every_epoch):
    """That epoch begins again."""

    class Interrupt(Callback):
        def on_epoch_end(self, training, epoch, logs):
            if epoch == 3:
                steps = training._run_steps

                def interrupted(table, per_epoch):
                    steps(table[:1], per_epoch)
                    raise KeyboardInterrupt

                training._run_steps = interrupted

    backup = BackupAndRestore(path)
    with pytest.raises(KeyboardInterrupt):
        fit(backup, Interrupt())
    assert_equal(fit(backup), fit())
    assert backup.restored_epoch_ == 3


@pytest.mark.parametrize("seconds", [0, 10])
def test_ctrl_c_after_the_last_epoch(seconds, path, every_epoch):
    """Before the file is deleted, or while `EarlyStopping` ends the fit: the last epoch is done again, no other."""

    class Interrupt(Callback):
        def on_epoch_end(self, training, epoch, logs):
            if epoch == 8 or (stops and stops[0].stopped_epoch_):
                raise KeyboardInterrupt

    for stops in ([], [EarlyStopping("loss", patience=2, min_delta=100.0)]):
        expected = fit(*(EarlyStopping("loss", patience=2, min_delta=100.0) for _ in stops))
        with pytest.raises(KeyboardInterrupt):
            fit(*stops, BackupAndRestore(path, seconds), Interrupt())
        assert_equal(fit(*stops, BackupAndRestore(path, seconds)), expected)
        assert not path.exists()


def test_a_schedule_that_a_callback_set(path):
    class Schedule(Callback):
        def on_epoch_end(self, training, epoch, logs):
            if epoch == 2:
                training.learning_rate = CosineDecay(0.1, steps=20)

    with pytest.raises(Power):
        fit(Schedule(), BackupAndRestore(path, seconds=0), Fail(5))
    assert_equal(fit(Schedule(), BackupAndRestore(path)), fit(Schedule()))


def test_what_ends_a_fit_before_its_time_leaves_the_backup(path):
    """At the limit of a batch system, say."""

    class Stop(Callback):
        def on_epoch_end(self, training, epoch, logs):
            training.stop = epoch == 3

    fit(Stop(), BackupAndRestore(path))
    assert_equal(fit(BackupAndRestore(path)), fit())


def test_a_failure_to_write_or_delete_does_not_end_the_fit(path, monkeypatch):
    replace, unlink, calls = os.replace, os.unlink, []

    def sometimes(*arguments):
        calls.append(arguments)
        if 2 < len(calls) < 5:
            raise OSError(28, "No space left on device")
        return replace(*arguments)

    def never(place):
        if place == str(path):
            raise PermissionError(13, "Permission denied")
        return unlink(place)

    monkeypatch.setattr(os, "replace", sometimes)
    monkeypatch.setattr(os, "unlink", never)
    with pytest.warns(RuntimeWarning, match="could not be (written: .*No space left|deleted: .*denied)") as caught:
        whole = fit(BackupAndRestore(path, seconds=0))
    assert len(caught) == 3 and len(calls) == 8
    monkeypatch.undo()
    assert_equal(whole, fit())
    assert_equal(fit(BackupAndRestore(path)), whole)  # goes on from what was left there


def test_the_path_is_that_of_the_beginning(path, tmp_path, monkeypatch):
    """Whatever the current folder is later."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    backup = BackupAndRestore("fit.safetensors", seconds=0)

    class Change(Fail):
        def on_epoch_end(self, training, epoch, logs):
            os.chdir(tmp_path / "elsewhere")
            super().on_epoch_end(training, epoch, logs)

    with pytest.raises(Power):
        fit(Change(4), backup)
    assert path.exists() and not list((tmp_path / "elsewhere").iterdir())
    assert_equal(fit(BackupAndRestore(path)), fit())
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_of_a_link_the_path_is_where_it_leads_to(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(Power):
        fit(Fail(4), BackupAndRestore(link, seconds=0))
    assert path.exists() and link.is_symlink()
    assert_equal(fit(BackupAndRestore(link)), fit())
    assert not path.exists()


def test_unfinished_files_of_killed_processes_are_removed(path):
    old, new, other = (path.parent / name for name in (f".{path.name}.12.0123abcd", f".{path.name}.13.0123abcd", ".x"))
    for place in (old, new, other):
        place.write_bytes(b"half a fi")
    os.utime(old, (1e9, 1e9))
    os.utime(other, (1e9, 1e9))
    fit(BackupAndRestore(path))
    assert not old.exists() and new.exists() and other.exists()


def test_a_time_budget_leaves_the_backup(path):
    backup, done = BackupAndRestore(path, seconds=1e9), []
    for _ in range(8):
        model, history = fit(backup, TimeBudget(1e-9))
        done.append(len(history["epochs"]))
    assert done == [1, 2, 3, 4, 5, 6, 7, 8] and not path.exists()
    assert_equal((model, history), fit())
    # What stops for good has the last word.
    fit(backup, TimeBudget(1e-9), EarlyStopping("loss", patience=1, min_delta=100.0))
    fit(backup, TimeBudget(1e-9), EarlyStopping("loss", patience=1, min_delta=100.0))
    assert not path.exists()


def test_the_file_is_a_model(path):
    with pytest.raises(Power):
        fit(BackupAndRestore(path, seconds=0), Fail(5))
    model, _ = fit(epochs=4)
    assert np.array_equal(load_model(path).predict(X), model.predict(X))


def test_more_epochs_may_be_asked_for(path):
    with pytest.raises(Power):
        fit(BackupAndRestore(path, seconds=0), Fail(5))
    before = path.read_bytes()
    for epochs in (2, 4):
        with pytest.raises(ValueError, match=f"`epochs` must be above the 4 of the backup .*; got {epochs}"):
            fit(BackupAndRestore(path), epochs=epochs)
    assert path.read_bytes() == before
    assert_equal(fit(BackupAndRestore(path), epochs=11), fit(epochs=11))


def test_there_is_time_between_backups(path, monkeypatch):
    now, at = 1e6, []
    monkeypatch.setattr(time, "monotonic", lambda: now)

    class Clock(Callback):
        def on_epoch_end(self, training, epoch, logs):
            nonlocal now
            at.append(load_model_epoch(path))
            now += 1

    fit(Clock(), BackupAndRestore(path, seconds=2.5))
    assert at == [0, 0, 0, 3, 3, 3, 6, 6]


def load_model_epoch(path):
    from fastmlp.serialization import load_model_with_extra

    return load_model_with_extra(path)[1]["training"]["epoch"]


OTHERS = {
    "layers[0]": {"layers": (Dense(8), ReLU(), Dense(3))},
    "layers": {"layers": (Dense(3),)},
    "validation_data": {"validation_data": (X_VAL, Y_VAL)},
    "data (one row)": {"X": np.where(np.arange(90)[:, None] == 41, 0, X).astype(np.float32)},
    "dtype": {"dtype": "float64"},
    "loss": {"loss": "softmax_focal"},
    "optimizer": {"optimizer": Adam(2e-3)},
    "batch_size": {"batch_size": 31},
    "seed": {"seed": 1},
    "shuffle": {"shuffle": False},
    "data": {"X": X + np.eye(90, 5, dtype="f"), "y": Y},
    "data (y)": {"y": 2 - Y},
    "data (weights)": {"sample_weight": np.linspace(1, 2, 90)},
    "data (rows)": {"X": X[:-1], "y": Y[:-1]},
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_backup_of_another_fit_is_refused(name, path):
    with pytest.raises(Power):
        fit(BackupAndRestore(path, seconds=0), Fail(3))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"another fit: its {re.escape(name.split()[0])} was .*, now it is .*Delete"):
        fit(BackupAndRestore(path), **OTHERS[name])
    assert path.read_bytes() == before
    assert_equal(fit(BackupAndRestore(path)), fit())


def test_what_is_no_backup_is_refused_and_kept(path):
    model, _ = fit()
    model.save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is a model, not a backup of a fit"):
        fit(BackupAndRestore(path))
    assert path.read_bytes() == before
    path.write_bytes(before[:-9])
    untouched = Sequential(*PLAIN)
    with pytest.raises(ModelFileError, match="cut off"):
        untouched.fit(X, Y, loss="softmax_cross_entropy", callbacks=[BackupAndRestore(path)], verbose=0)
    assert path.read_bytes() == before[:-9] and not untouched.built


def test_a_place_that_cannot_be_written_is_an_error_before_the_first_epoch(tmp_path):
    epochs = []

    class Count(Callback):
        def on_epoch_end(self, training, epoch, logs):
            epochs.append(epoch)

    for place in (tmp_path / "missing" / "fit", tmp_path):
        with pytest.raises((OSError, ValueError)):
            fit(BackupAndRestore(place), Count())
    assert epochs == []


def test_an_error_in_the_first_epoch_leaves_nothing(path):
    """So that a second try, with the error mended, is no other fit."""
    with pytest.raises(ValueError, match="monitor"):
        fit(BackupAndRestore(path), EarlyStopping("val_los"))
    assert not path.exists() and list(path.parent.iterdir()) == []


@pytest.mark.parametrize("path", [None, 3, b"x", ""])
def test_bad_paths(path):
    with pytest.raises(TypeError, match="`path` must be the name of a file"):
        BackupAndRestore(path)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "1", None])
def test_bad_arguments(seconds):
    with pytest.raises((ValueError, TypeError), match="`seconds` must be"):
        BackupAndRestore("x", seconds=seconds)


def test_one_is_enough(path):
    with pytest.raises(ValueError, match="one BackupAndRestore at most"):
        fit(BackupAndRestore(path), BackupAndRestore(path))
    assert repr(BackupAndRestore(path)) == f"BackupAndRestore({str(path)!r}, seconds=10.0)"


KILLED = """
import sys
import numpy as np
from fastmlp import BackupAndRestore, Dense, Dropout, EarlyStopping, ReLU, Sequential
rng = np.random.default_rng(0)
X = rng.normal(size=(400, 6)).astype(np.float32)
y = (X[:, 0] * X[:, 1] > 0).astype(int)
callbacks = [EarlyStopping("loss", patience=1000)]
if sys.argv[1] != "none":
    callbacks.append(BackupAndRestore(sys.argv[1], seconds=0))
model = Sequential(Dense(16), ReLU(), Dropout(0.1), Dense(2))
print("ready", flush=True)
history = model.fit(X, y, loss="softmax_cross_entropy", optimizer="adam", epochs=300, callbacks=callbacks, verbose=0)
print([a.tobytes().hex() for a in model.parameters.values()], history["loss"])
"""


def test_a_process_that_is_killed_again_and_again(path):
    """A moment after one of its backups, wherever that is."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastmlp.__file__).parents[1])}

    def start(where):
        command = [sys.executable, "-c", KILLED, str(where)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout.readline() == "ready\n"
        return process

    def changed():
        try:
            return os.stat(path).st_mtime_ns
        except FileNotFoundError:
            return 0

    random, epochs = np.random.default_rng(1), []
    for _ in range(6):
        with start(path) as process:
            for _ in range(random.integers(2, 12)):  # the first is found, or from before the first epoch
                seen = changed()
                while changed() == seen and process.poll() is None:
                    time.sleep(0.0005)
            time.sleep(0.01 * random.random())
            process.kill()
        if not path.exists():  # we did not have a core until it was done
            break
        epochs.append(load_model_epoch(path))
    assert epochs == sorted(epochs) and 0 < epochs[0]
    with start(path) as process:
        result = process.stdout.read()
    with start("none") as process:
        assert process.stdout.read() == result
    # what a killed process was writing is hidden
    assert not [p for p in path.parent.iterdir() if not p.name.startswith(".")]
