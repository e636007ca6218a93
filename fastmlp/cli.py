"""The command line: `fastmlp train`, `fastmlp predict`, `fastmlp warmup`. What the commands do is in commands.py.

Exit codes: 0 done, 1 a failure while it ran (divergence, memory), 2 bad input, 130 Ctrl-C, 143 SIGTERM, which a fit
takes as it does Ctrl-C. An error is one line on stderr; a traceback is a bug of ours.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence

from . import __version__
from .devices import DEVICES, PRECISIONS


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which services and batch systems end a program."""


def _terminate(number, frame):
    raise Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : list of str, default=None
        The arguments after the program's name; None for those of this process.

    Returns
    -------
    int
        The exit code.

    Examples
    --------
    >>> main(["train", "digits", "--epochs", "0"])
    2
    """
    if argv is None and "PYTHONIOENCODING" not in os.environ:
        for stream in (sys.stdout, sys.stderr):  # a pipe on Windows has the code page, which lacks most letters
            if hasattr(stream, "reconfigure") and not stream.isatty():
                stream.reconfigure(encoding="utf-8")
    if argv is None:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # argparse: --help, --version, or bad arguments, already printed
        return int(stop.code or 0)
    except Terminated:
        return _fail("terminated", 143)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if _nobody_reads(error):  # `fastmlp predict ... | head`, which is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _fail(error, 2)
    except MemoryError as error:
        return _fail(f"out of memory: {error}" if str(error) else "out of memory", 1)
    except (ArithmeticError, RuntimeError) as error:
        return _fail(error, 1)


def _nobody_reads(error: Exception) -> bool:
    """Whether who read what is printed has gone. Windows says then that an argument was invalid, each time."""
    if sys.platform != "win32" or getattr(error, "errno", None) != errno.EINVAL:
        return isinstance(error, BrokenPipeError)
    try:
        print(flush=True)  # what could not be written is forgotten: a flush alone says nothing
    except OSError:
        return True
    return False


def _fail(reason: object, code: int) -> int:
    print("fastmlp:", " ".join(str(reason).split()), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp", description="Train multilayer perceptrons on images and tables.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="train | predict | warmup")
    _add_train(commands)
    _add_predict(commands)
    _add_warmup(commands)
    return parser


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network and say how good it is",
        description="Train a network on images (mnist, digits) or on a table, and score it on rows it has not seen.",
        allow_abbrev=False,
    )
    parser.set_defaults(command=_command("train"))
    parser.add_argument("data", help="mnist, digits, or a table: .csv, .tsv (.gz too) or .parquet")
    network = parser.add_argument_group("network and training")
    network.add_argument("--hidden", type=_widths, default=(128, 64), metavar="N,N", help="widths, or none (128,64)")
    network.add_argument("--epochs", type=_at_least(1), help="10 for images; 30 for tables, of which the best is kept")
    network.add_argument(
        "--batch-size", type=_at_least(1), metavar="N", help="rows per step (a tenth of the rows, 8 to 128)"
    )
    network.add_argument(
        "--learning-rate", type=_positive, metavar="X", help="Adam's (0.001), or for tables the cycle's highest (0.004)"
    )
    network.add_argument("--seed", type=_at_least(0), default=0, help="equal seeds give equal models (0)")
    network.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    network.add_argument("--threads", type=_at_least(1), metavar="N", help="by measurement, if not given")
    network.add_argument(
        "--device", choices=DEVICES, default="cpu", help="an NVIDIA GPU with cuda; see docs/cuda.md (cpu)"
    )
    network.add_argument("--precision", choices=PRECISIONS, help="of a GPU's matrix products (that of --dtype)")
    network.add_argument(
        "--class-weight", choices=("balanced",), help="let every class count as much, however few its rows are"
    )
    network.add_argument("--save", metavar="FILE", help="write the model, also after Ctrl-C: model.safetensors")
    network.add_argument("--backup", metavar="FILE", help="back up while training; if stopped, go on from there")
    network.add_argument("--quiet", action="store_true", help="no progress bar")
    table = parser.add_argument_group("tables")
    table.add_argument("--target", metavar="COLUMN", help="the column to learn; of texts, only empty ones are missing")
    table.add_argument("--task", choices=("auto", "classification", "regression"), help="by the target, if not given")
    table.add_argument("--drop", action="append", default=[], metavar="COLUMN", help="leave a column out; repeatable")
    table.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text or number that stands for a missing value, beside ?, NA, None and the like; repeatable",
    )
    table.add_argument("--test-size", type=_share, metavar="X", help="share of rows held out (0.2)")


def _add_predict(commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="use a model that was trained on a table",
        description="Predict every row of a table, and score the predictions if the table has the target.",
        allow_abbrev=False,
    )
    parser.set_defaults(command=_command("predict"))
    parser.add_argument("model", help="what `fastmlp train TABLE --save` wrote")
    parser.add_argument("table", help="a table with the columns it was trained on, in any order")
    parser.add_argument("--output", metavar="FILE", help="write a CSV file here instead of printing it")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="COLUMN", help="write a column of the table, too; repeatable"
    )
    parser.add_argument("--probabilities", action="store_true", help="add a column for each class")


def _add_warmup(commands) -> None:
    parser = commands.add_parser(
        "warmup",
        help="compile everything now, so that no later fit has to",
        description="Compile the kernels into the cache, so that no later fit has to wait for them.",
        allow_abbrev=False,
    )
    parser.set_defaults(command=_command("warmup"))
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append", help="repeatable (both)")


def _command(name: str):
    """A function of commands.py, imported when it is called: `fastmlp --help` shall not wait for NumPy."""

    def run(arguments: argparse.Namespace) -> None:
        from . import commands

        getattr(commands, name)(arguments)

    return run


def _at_least(least: int):
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}; got {text!r}.")
        return int(text)

    return convert


def _widths(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise argparse.ArgumentTypeError(f'must be widths such as "128,64", or "none"; got {text!r}.')
    return widths


def _positive(text: str) -> float:
    return _number(text, lambda value: 0 < value < float("inf"), "a number above 0")


def _share(text: str) -> float:
    return _number(text, lambda value: 0 <= value < 1, "in [0, 1)")


def _number(text: str, accepts, accepted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"must be {accepted}; got {text!r}.")
    return value
