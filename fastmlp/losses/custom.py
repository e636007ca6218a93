"""A user's own loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import ClassVar

import numpy as np

from .. import user_functions
from .base import Loss, dense_targets
from .registry import LOSSES


def _as_they_are(logits):
    return logits


_Z, _Y = (grid.ravel() for grid in np.meshgrid(user_functions.POINTS, [0.25, 1.0]))


@dataclass(frozen=True)
class CustomLoss(Loss):
    """Your own l = sum_k term(z_k, y_k), with its slope dl/dz_k: plain functions of NumPy arrays, which the engine
    compiles as it does its own. See `CustomActivation` for how to write them.

    Parameters
    ----------
    term, slope : callable
        Functions of logits and their targets, elementwise: arrays in, an array of the same shape out.
    name : str
        Its name in messages and files, an identifier that no built-in loss has.
    output : callable
        What `predict` makes of the logits (n, K), in NumPy; by default they are returned as they are.
    check_derivative : bool
        Whether to compare the slope with differences of the term, now, for z in [-3, 3] and y = 1/4 and 1.

    Raises
    ------
    TypeError, ValueError
        `term` or `slope` is no plain function of arrays, or not finite everywhere; the slope is not that of the term;
        `name` is no identifier, or taken. When a fit compiles them: Numba cannot.

    Examples
    --------
    >>> import numpy as np
    >>> log_cosh = CustomLoss(lambda z, y: np.log(np.cosh(z - y)), lambda z, y: np.tanh(z - y), "log_cosh")
    >>> round(log_cosh.value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0])), 4)
    0.6625
    """

    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: Callable
    slope: Callable
    name: str = "custom"
    output: Callable = _as_they_are
    check_derivative: InitVar[bool] = True

    def __post_init__(self, check_derivative):
        user_functions.check_name(self, LOSSES)
        user_functions.check_function(self, "term", _Z, _Y)
        slope = user_functions.check_function(self, "slope", _Z, _Y)
        if check_derivative:
            user_functions.check_derivative(self, "term", "slope", slope, _Z, _Y)
        self.kernel  # noqa: B018  what it refers to can be told apart

    @property
    def kernel(self):
        return user_functions.kernel_family(self, self.term, self.slope)

    @property
    def samples(self):
        """Values by which a model file knows it again."""
        return self.term(_Z, _Y)

    def rows(self, logits, targets):
        z = np.asarray(logits, np.float64)
        return np.broadcast_to(self.term(z, dense_targets(targets, z.shape)), z.shape).sum(axis=1)

    def gradient(self, logits, targets):
        z = np.asarray(logits, np.float64)
        return self.slope(z, dense_targets(targets, z.shape)) + np.zeros(z.shape)
