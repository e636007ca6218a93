"""Progress: silent, lines or a bar; never in the way of a fit."""

import io
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from fastmlp import Dense, ReLU, Sequential, progress
from fastmlp.progress import LineProgress, LiveProgress, describe, epoch_line, progress_callbacks


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ClosedPipe(Terminal):
    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


class Training:
    step, steps_per_epoch = 0, 3


def run(callbacks, epochs, seconds_per_epoch=0.0):
    training = Training()
    for callback in callbacks:
        callback.on_fit_begin(training)
    for epoch in range(1, epochs + 1):
        if seconds_per_epoch:
            time.sleep(seconds_per_epoch)
        training.step += 3
        for callback in callbacks:
            callback.on_epoch_end(training, epoch, {"loss": 1 / epoch, "val_accuracy": 0.9, "seconds": 0.01})
    for callback in callbacks:
        callback.on_fit_end(training, None)


def use_stdout(monkeypatch, stdout):
    """Let the module see another stdout (pytest puts its own into `sys` between a fixture and the test)."""
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stdout=stdout, modules=sys.modules))
    return stdout


@pytest.fixture
def terminal(monkeypatch):
    """stdout as a terminal 100 columns wide, whatever CI has set."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    return use_stdout(monkeypatch, Terminal())


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.fixture
def soon(monkeypatch):
    """The bar appears at once, so that the tests need not wait."""
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.001)
    monkeypatch.setattr(progress, "REFRESHES_PER_SECOND", 100)


def test_describe_and_epoch_line():
    logs = {"loss": 0.123456, "val_loss": float("nan"), "learning_rate": 0.1, "seconds": 2.0}
    assert describe(logs, 3_000) == "loss 0.1235  val_loss nan  1.5 k samples/s"
    assert describe({"loss": 1.0, "seconds": 0.0}, 3_000) == "loss 1"
    assert epoch_line(7, 100, {"loss": 1.0}, 1) == "epoch   7/100  loss 1"


@pytest.mark.parametrize("rate, text", [(1, "1"), (999, "999"), (1e3, "1 k"), (2.5e6, "2.5 M"), (3e9, "3 G")])
def test_samples_per_second(rate, text):
    assert describe({"seconds": 1.0}, rate) == f"{text} samples/s"


@pytest.mark.parametrize("verbose", ["on", 3, -1, None, "1"])
def test_unknown_verbose(verbose):
    with pytest.raises(ValueError, match="`verbose` must be 'auto', 0, 1 or 2"):
        progress_callbacks(verbose, 1, 1)


@pytest.mark.parametrize(
    "verbose, kind", [("auto", None), (0, None), (False, None), (1, LineProgress), (True, LineProgress)]
)
def test_what_shows_without_a_terminal(verbose, kind, monkeypatch):
    use_stdout(monkeypatch, io.StringIO())
    assert [type(c) for c in progress_callbacks(verbose, 5, 10)] == [kind] * (kind is not None)


@pytest.mark.parametrize("verbose, kind", [("auto", LiveProgress), (0, None), (1, LiveProgress), (2, LineProgress)])
def test_what_shows_on_a_terminal(verbose, kind, terminal):
    assert [type(c) for c in progress_callbacks(verbose, 5, 10)] == [kind] * (kind is not None)


def test_workers_are_silent(terminal, monkeypatch):
    import multiprocessing

    monkeypatch.setattr(multiprocessing.current_process(), "_config", {}, raising=False)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "LokyProcess-1")
    assert progress_callbacks("auto", 5, 10) == []


@pytest.mark.parametrize("stdout", [None, object()])
def test_odd_stdout_is_silent(stdout, monkeypatch):
    use_stdout(monkeypatch, stdout)
    assert progress_callbacks("auto", 5, 10) == []


def test_lines(monkeypatch):
    stdout = use_stdout(monkeypatch, io.StringIO())
    run(progress_callbacks(1, 10, 50), 10)
    lines = stdout.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "epoch  1/10  loss 1  val_accuracy 0.9  5 k samples/s"


def test_a_short_fit_prints_one_line_and_does_not_import_rich():
    code = (
        "import io, sys, test_progress as t\n"
        "sys.stdout = t.Terminal()\n"
        "t.run(t.progress_callbacks('auto', 20, 50), 20)\n"
        "text, sys.stdout = sys.stdout.getvalue(), sys.__stdout__\n"
        "assert text == 'epoch 20/20  loss 0.05  val_accuracy 0.9  5 k samples/s\\n', text\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'rich']\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_the_bar(terminal, soon):
    pytest.importorskip("rich.progress")
    run(progress_callbacks("auto", 5, 50), 5, seconds_per_epoch=0.03)
    text = terminal.getvalue()
    assert "epoch 5/5  loss 0.2  val_accuracy 0.9  5 k samples/s" in text
    assert text.count("\x1b[2K") >= 1  # drawn over itself
    assert text.endswith("\x1b[?25h")  # the cursor is back
    assert not progress._terminal.locked()


def test_the_bar_moves_within_a_long_epoch(terminal, soon):
    pytest.importorskip("rich.progress")
    training, callback = Training(), LiveProgress(1, 10)
    training.step = 300  # goes on from an earlier fit
    callback.on_fit_begin(training)
    try:
        wait_until(lambda: "━" * 12 in terminal.getvalue())  # 12 cells of one colour
        assert not set("╸╺") & set(terminal.getvalue())
        training.step += 2  # of three
        wait_until(lambda: set("╸╺") & set(terminal.getvalue()))  # two colours meet
    finally:
        callback.on_fit_end(training, None)


def test_the_bar_of_a_real_fit(terminal, soon, rng):
    pytest.importorskip("rich.progress")
    X, y = rng.normal(size=(20_000, 100)).astype("f4"), rng.integers(0, 10, 20_000)
    model = Sequential(Dense(256), ReLU(), Dense(10))
    for fits in (1, 2):
        model.fit(X, y, loss="softmax_cross_entropy", epochs=2, batch_size=512, verbose="auto")
        assert terminal.getvalue().count("epoch 2/2  loss") >= fits
    assert terminal.getvalue().endswith("\x1b[?25h")


def test_lines_where_rich_is_missing(terminal, soon, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    run(progress_callbacks("auto", 50, 50), 50, seconds_per_epoch=0.005)
    lines = terminal.getvalue().splitlines()
    assert 2 <= len(lines) <= 50 and lines[-1].startswith("epoch 50/50  loss 0.02")
    assert len(set(lines)) == len(lines) and "\x1b" not in terminal.getvalue()


def test_of_two_concurrent_fits_one_shows(terminal, soon):
    first, second = LiveProgress(3, 10), LiveProgress(3, 10)
    first.on_fit_begin(Training())
    run([second], 3, seconds_per_epoch=0.01)
    first.on_fit_end(Training(), None)
    assert "epoch 3/3" not in terminal.getvalue()
    run([second], 3)
    assert "epoch 3/3" in terminal.getvalue()


def test_a_fit_that_ends_in_its_first_epoch(terminal, soon):
    run(progress_callbacks("auto", 3, 10), 0)
    assert "epoch" not in terminal.getvalue() or "epoch 1/3" in terminal.getvalue()
    assert not progress._terminal.locked()


@pytest.mark.parametrize("verbose", ["auto", 1])
def test_a_closed_pipe_does_not_end_the_fit(monkeypatch, soon, verbose):
    use_stdout(monkeypatch, ClosedPipe())
    run(progress_callbacks(verbose, 5, 10), 5, seconds_per_epoch=0.01)
    run([LineProgress(5, 10)], 5)
    assert not progress._terminal.locked()


def test_no_thread_is_left(terminal):
    before = threading.active_count()
    for _ in range(5):
        run(progress_callbacks("auto", 20, 10), 20)
    assert threading.active_count() == before


def test_gradient_norms_are_not_in_the_line():
    assert progress.describe({"loss": 0.5, "gradient_norm_dense_0": 1.0, "seconds": 0.0}, 10) == "loss 0.5"
