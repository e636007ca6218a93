"""The progress of a fit: a live bar on a terminal (rich), else plain lines; silent when nobody looks.

A small network trains 20 epochs in 10 ms, less than rich takes to import. So nothing is imported or drawn before a fit
has run for `SHOW_AFTER` seconds, and a thread does it that looks a few times a second; an epoch costs the fit a store.
"""

from __future__ import annotations

import sys
import threading

from .callbacks import Callback

SHOW_AFTER = 0.25  # seconds
REFRESHES_PER_SECOND = 4
_terminal = threading.Lock()  # of several concurrent fits, one shows its progress


def progress_callbacks(verbose: str | int, epochs: int, n_samples: int) -> list[Callback]:
    """The callbacks that `verbose` asks for: a list of none or one.

    Parameters
    ----------
    verbose : {"auto", 0, 1, 2}
        0 is silent. "auto" shows a bar on a terminal and is silent elsewhere and in worker processes. 1 shows a bar on
        a terminal, and one line per epoch elsewhere (a log file, a notebook), 2 such lines everywhere.
    epochs : int
        How many the fit will run at most.
    n_samples : int
        Rows per epoch, for the samples per second.

    Raises
    ------
    ValueError
        Another `verbose`.

    Examples
    --------
    >>> progress_callbacks(0, epochs=5, n_samples=100)
    []
    """
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"`verbose` must be 'auto', 0, 1 or 2; got {verbose!r}.")
    if verbose == 0 or sys.stdout is None:  # pythonw has no stdout
        return []
    if verbose != 2 and _is_terminal() and not _is_worker_process():
        return [LiveProgress(epochs, n_samples)]
    return [LineProgress(epochs, n_samples)] if verbose != "auto" else []


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # someone's own object, or a closed file
        return False


def _is_worker_process() -> bool:
    multiprocessing = sys.modules.get("multiprocessing")  # a worker has it already; do not import it to find out
    return multiprocessing is not None and multiprocessing.current_process().name != "MainProcess"


def _samples_per_second(rate: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= limit:
            return f"{rate / limit:.3g} {unit} samples/s"
    return f"{rate:.3g} samples/s"


def describe(logs: dict, n_samples: int) -> str:
    """The metrics of one epoch in one line.

    >>> describe({"loss": 0.25, "val_accuracy": 0.9, "learning_rate": 1e-3, "seconds": 0.5}, n_samples=60_000)
    'loss 0.25  val_accuracy 0.9  120 k samples/s'
    """
    left_out = ("seconds", "learning_rate", "gradient_norm_")
    parts = [f"{name} {value:.4g}" for name, value in logs.items() if not name.startswith(left_out)]
    if logs.get("seconds", 0) > 0:
        parts.append(_samples_per_second(n_samples / logs["seconds"]))
    return "  ".join(parts)


def epoch_line(epoch: int, epochs: int, logs: dict, n_samples: int) -> str:
    """As `describe`, with the epoch before it, aligned from line to line."""
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {describe(logs, n_samples)}"


def _print(line: str) -> None:
    try:
        print(line, file=sys.stdout, flush=True)
    except (OSError, ValueError, AttributeError):  # a closed pipe or file, an object without `flush`: no end of a fit
        pass


class LineProgress(Callback):
    """One plain line per epoch."""

    def __init__(self, epochs: int, n_samples: int):
        self.epochs, self.n_samples = epochs, n_samples

    def on_epoch_end(self, training, epoch, logs):
        _print(epoch_line(epoch, self.epochs, logs, self.n_samples))


class LiveProgress(Callback):
    """A live bar by rich, drawn by a thread; plain lines, a few a second, where rich is missing.

    A fit that ends before the bar would appear prints the line of its last epoch. Of several concurrent fits one shows
    its progress; the others are silent.
    """

    def __init__(self, epochs: int, n_samples: int):
        self.epochs, self.n_samples = epochs, n_samples
        self._last = None  # (epoch, logs), written by the fit and read by the drawing thread
        self._shown = None  # the epoch of the last line, or of the bar
        self._ended = threading.Event()
        self._thread = None

    def on_fit_begin(self, training):
        if _terminal.acquire(blocking=False):
            self._first_step = training.step
            self._thread = threading.Thread(target=self._draw_until_end, args=(training,), daemon=True)
            self._thread.start()

    def on_epoch_end(self, training, epoch, logs):
        self._last = epoch, logs

    def on_fit_end(self, training, history):
        if self._thread is None:
            return
        try:
            self._ended.set()
            if self._thread.ident is not None:  # None: Ctrl-C came while it started
                self._thread.join()
            if self._last is not None and self._shown != self._last[0]:
                self._print_line()
        finally:
            _terminal.release()

    def _draw_until_end(self, training):
        if self._ended.wait(SHOW_AFTER):
            return
        try:
            self._draw_bar(training)
        except ImportError:
            while not self._ended.wait(1 / REFRESHES_PER_SECOND):
                if self._last is not None and self._shown != self._last[0]:
                    self._print_line()
        except (OSError, ValueError):  # the terminal went away
            pass

    def _print_line(self):
        epoch, logs = self._last
        _print(epoch_line(epoch, self.epochs, logs, self.n_samples))
        self._shown = epoch

    def _draw_bar(self, training):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        class QuietConsole(Console):
            def on_broken_pipe(self):  # rich's own points stdout at /dev/null and raises SystemExit
                self.quiet = True

        text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        left = TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5))
        bar_of_12 = BarColumn(bar_width=12, table_column=Column(min_width=12))
        first, steps_per_epoch = self._first_step, training.steps_per_epoch
        with Progress(bar_of_12, left, text, console=QuietConsole(file=sys.stdout), auto_refresh=False) as bar:
            task = bar.add_task("", total=self.epochs, text="")
            ended = False
            while not ended:
                ended = self._shown is not None and self._ended.wait(1 / REFRESHES_PER_SECOND)
                epoch, logs = self._last or (0, {})
                line = epoch_line(epoch, self.epochs, logs, self.n_samples) if epoch else f"epoch 1/{self.epochs}"
                # the workers count their steps, so the bar moves within a long epoch too; L-BFGS takes several in one
                completed = epoch if steps_per_epoch == 1 else (training.step - first) / steps_per_epoch
                bar.update(task, completed=completed, text=line, refresh=True)
                self._shown = epoch
