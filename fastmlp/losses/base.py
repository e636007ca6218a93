"""Losses from logits: each declared once, with its formula, its slope, its natural output and the targets it takes.

`term` and `slope` (one logit, one target) or `row` (the logits of a row together) are plain functions written with
NumPy's names: called on arrays they are the NumPy implementation, and the engine compiles the same code, with those
names bound to polynomials that vectorise. A loss's own numbers (`numbers`) are arguments: another one compiles nothing.

All are means over rows, weighted: L = sum_i w_i l_i / sum_i w_i, where l_i sums over the outputs of row i. The
gradients below are those of l_i. Logits Z have shape (n, K). Computation is in float64 here: this is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy import exp, where


def sigmoid(z):
    """1 / (1 + exp(-z)); never overflows."""
    e = exp(-abs(z))
    return where(z >= 0, 1, e) / (1 + e)


def sum_of(x, n):
    """x[0] + ... + x[n - 1]. In a loop by itself it lets the loops around it be vectorised."""
    return x[:n].sum(axis=0)


def max_of(x, n):
    """The largest of x[0] to x[n - 1]."""
    return x[:n].max(axis=0)


@dataclass(frozen=True)
class Loss:
    """A loss of the last layer's logits; see `LOSSES`."""

    term: ClassVar = None  # l_k(z_k, y_k, a, b) of a sum over outputs, and its slope; a and b are `numbers`
    slope: ClassVar = None
    name: ClassVar[str] = ""
    targets: ClassVar[str] = ""  # what y may be, in words
    classification: ClassVar[bool] = False
    codes: ClassVar[bool] = False  # whether y may be class numbers (n,) beside rows (n, K) that sum to 1
    mixable: ClassVar[bool] = False  # whether it is right for targets between those of two rows
    own_layer: ClassVar = None  # the layer that does what `output` does; a network is not to end with it

    across: ClassVar[tuple[str, ...]] = ()  # or kernels that see all rows of a batch, a barrier after each
    queries: ClassVar[bool] = False  # whether rows belong to queries: `groups` says to which, a batch has whole ones
    row: ClassVar = None  # or l(z, y, g, n, numbers) of whole rows: indexed by column; writes dl/dz into g

    @property
    def kernel(self) -> str:
        """What the names of its kernels begin with."""
        return self.name

    @property
    def numbers(self) -> tuple[float, ...]:
        """What the formulas' numbers are now, as `term`, `slope` and `row` take them."""
        return ()

    def target_columns(self, n_outputs: int) -> int:
        """How many columns the targets of so many outputs have; ValueError where `Dense(units)` does not fit."""
        return n_outputs

    def bad_targets(self, y: np.ndarray, n_outputs: int) -> np.ndarray:
        """Where finite targets are outside what the loss takes."""
        return (y < 0) | (y > 1) if self.classification else np.zeros(y.shape, bool)

    def as_narrow(self, y: np.ndarray, groups=None) -> np.ndarray:
        """Targets that mean the same to this loss and keep their differences in float32, where it can tell."""
        return y

    def best_class(self, logits: np.ndarray) -> np.ndarray:
        """The likeliest class of each row, (n,), where the targets are codes."""
        return logits.argmax(axis=1)

    def classes(self, logits: np.ndarray) -> np.ndarray:
        """The likeliest class of each row, (n,); or, where outputs are labels of their own, which of them, (n, K)."""
        n_outputs = logits.shape[1]
        if self.codes or (n_outputs > 1 and self.target_columns(n_outputs) == 1):
            return self.best_class(logits)
        return logits > 0

    def rows(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """l_i for every row, float64, shape (n,)."""
        if self.row is not None:
            return self._by_rows(logits, targets)[0]
        z = np.asarray(logits, np.float64)
        return self.term(z, dense_targets(targets, z.shape), *(*self.numbers, 0.0, 0.0)[:2]).sum(axis=1)

    def gradient(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """dl_i / dz_i, float64, shape (n, K)."""
        if self.row is not None:
            return self._by_rows(logits, targets)[1]
        z = np.asarray(logits, np.float64)
        return self.slope(z, dense_targets(targets, z.shape), *(*self.numbers, 0.0, 0.0)[:2])

    def _by_rows(self, logits, targets):
        z = np.asarray(logits, np.float64)
        y = dense_targets(targets, (len(z), self.target_columns(z.shape[1])))
        g = np.zeros(z.T.shape)
        return self.row(z.T, y.T, g, z.shape[1], self.numbers), g.T

    def output(self, logits: np.ndarray) -> np.ndarray:
        """What `predict` returns for these logits, in their dtype, shape (n, K): they themselves, by default."""
        return logits

    def value(
        self, logits: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None = None, groups=None
    ) -> float:
        """The weighted mean of the rows' losses; that of the queries' where rows belong to queries (`groups`).

        Parameters
        ----------
        logits : ndarray (n, K)
        targets : array-like (n,) or (n, K)
            As `targets`, the attribute, says; they are not checked.
        sample_weight : array-like (n,), optional
            Not all 0; the losses of queries leave it out.
        groups : array-like (n,), optional
            The query of each row, for the losses of queries.

        Returns
        -------
        float
            Computed in float64.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import SquaredError
        >>> SquaredError().value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0]), np.array([1.0, 3.0]))
        0.5
        """
        return float(np.average(self.rows(logits, targets), weights=sample_weight))

    def accuracy(self, logits: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """The (weighted) share of rows that are classified rightly: whose likeliest class is theirs, or, where outputs
        are labels of their own, whose outputs are all on the right side of 0.

        >>> from fastmlp import SoftmaxCrossEntropy
        >>> SoftmaxCrossEntropy().accuracy(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 0]))
        0.5
        """
        classes = self.classes(logits)
        if classes.ndim == 1:
            one_hot = targets.ndim == 2 and targets.shape[1] > 1
            right = classes == (targets.argmax(axis=1) if one_hot else targets.reshape(-1))
        else:
            right = (classes == (targets.reshape(logits.shape) > 0.5)).all(axis=1)
        return float(np.average(right, weights=sample_weight))


def numbered(y: np.ndarray) -> np.ndarray:
    """The numbers of labels, or of relevances, of which only the order counts.

    >>> numbered(np.array([[2**40], [2**40 + 1], [7]])).tolist()
    [[1], [2], [0]]
    """
    return np.unique(y, return_inverse=True)[1].reshape(y.shape)


def dense_targets(targets: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(targets, np.float64).reshape(shape)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    z = np.array(np.asarray(logits).T, np.float64, order="C")  # as in `Softmax`
    z -= z.max(axis=0)
    z -= np.log(np.exp(z).sum(axis=0))
    return np.ascontiguousarray(z.T)
