"""Errors that are worth a name of their own; everything else is a `ValueError` or `TypeError` with a full sentence."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable

import numpy as np

# Names that others use, or that a person tries first, and ours
_MEANT = {
    **dict.fromkeys(("categorical_crossentropy", "sparse_categorical_crossentropy"), "softmax_cross_entropy"),
    **dict.fromkeys(("cross_entropy", "crossentropy", "softmax", "nll", "log_loss"), "softmax_cross_entropy"),
    **dict.fromkeys(("binary_crossentropy", "bce", "logistic_loss"), "binary_cross_entropy"),
    **dict.fromkeys(("mse", "mean_squared_error", "l2"), "squared_error"),
    **dict.fromkeys(("mae", "mean_absolute_error", "l1"), "absolute_error"),
    **{f"xavier_{kind}": f"glorot_{kind}" for kind in ("uniform", "normal")},
    **{f"kaiming_{kind}": f"he_{kind}" for kind in ("uniform", "normal")},
}


class DivergenceError(ArithmeticError):
    """Training produced a loss or parameters that are not finite.

    Attributes
    ----------
    epoch : int
        The epoch (counted from 1) in which it happened.
    """

    def __init__(self, message: str, epoch: int):
        super().__init__(message)
        self.epoch = epoch

    def __reduce__(self):
        return type(self), (self.args[0], self.epoch)


def unknown_name(argument: str, value: object, accepted: Iterable[str | None]) -> ValueError:
    """The error for a name that is not known: lists what is accepted and suggests the nearest.

    >>> print(unknown_name("activation", "rellu", ["relu", "tanh"]))
    `activation` must be one of 'relu', 'tanh'; got 'rellu'. Did you mean 'relu'?
    """
    accepted = list(accepted)
    message = f"`{argument}` must be one of {', '.join(map(repr, accepted))}; got {value!r}."
    names = {str(name).lower(): name for name in accepted if name is not None}
    given = str(value).lower()
    meant = _MEANT.get(given, "") if _MEANT.get(given) in names else given
    nearest = difflib.get_close_matches(meant, names, n=1)
    return ValueError(message + (f" Did you mean {names[nearest[0]]!r}?" if nearest else ""))


def check_path(path) -> None:
    """Raise TypeError unless it is the name of a file."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"`path` must be the name of a file; got {path!r}.")


def check_flag(argument: str, value: bool) -> None:
    """Raise unless it is True or False.

    >>> check_flag("use_bias", "relu")
    Traceback (most recent call last):
    TypeError: `use_bias` must be True or False; got 'relu'.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{argument}` must be True or False; got {value!r}.")


def check_range(
    argument: str, value: float, low: float, high: float, *, low_open: bool = False, high_closed: bool = False
) -> None:
    """Raise unless low <= value < high; `low_open` and `high_closed` change which ends belong to it.

    >>> check_range("momentum", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: `momentum` must be in [0, 1); got 1.5.
    """
    try:
        if np.ndim(value) or isinstance(value, (bool, np.bool_)):
            raise TypeError
        inside = (low < value if low_open else low <= value) and (value <= high if high_closed else value < high)
    except (TypeError, ValueError):
        raise TypeError(f"`{argument}` must be a number; got {value!r}.") from None
    if not inside:
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{']' if high_closed else ')'}"
        raise ValueError(f"`{argument}` must be in {interval}; got {value!r}.")


def check_epsilon(value, high: float = np.inf) -> None:
    """Raise unless it is a number that float32 holds as one above 0, also where a step multiplies it by something."""
    check_range("epsilon", value, 1e-30, high)


def check_threads(n_threads) -> int | None:
    """The number of threads, or None for one that is chosen by measuring.

    >>> check_threads(2), check_threads(None)
    (2, None)
    """
    return None if n_threads is None else check_count(n_threads, "n_threads")


def check_count(value, argument: str, most: int | None = None, *, least: int = 1) -> int:
    """The integer; raise unless it is one of at least `least` and at most `most`.

    >>> check_count(0, "epochs")
    Traceback (most recent call last):
    ValueError: `epochs` must be an integer of at least 1; got 0.
    """
    accepted = f"an integer of at least {least}" if most is None else f"an integer in [{least}, {most}]"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"`{argument}` must be {accepted}; got {value!r}.") from None
    if count < least or (most is not None and count > most):
        raise ValueError(f"`{argument}` must be {accepted}; got {value!r}.")
    return count
