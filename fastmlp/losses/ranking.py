"""Losses of queries: rows that are ranked among each other, such as the documents that a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Loss, numbered


def rows_of_queries(groups: np.ndarray) -> list[np.ndarray]:
    """The rows of each query, in the order of the queries' labels.

    >>> import numpy as np
    >>> [rows.tolist() for rows in rows_of_queries(np.array([7, 3, 7]))]
    [[1], [0, 2]]
    """
    codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


class _OfQueries(Loss):
    """A loss of queries: `value` is the mean of their losses, and a query's loss the sum of its rows' parts. Without
    `groups`, all rows are one query.
    """

    targets: ClassVar[str] = "finite numbers (n,): the relevance of each row, larger is better"
    queries: ClassVar[bool] = True

    def target_columns(self, n_outputs):
        if n_outputs != 1:
            raise ValueError(f"`loss`={self.name!r} needs Dense(1) as the last layer; got {n_outputs} outputs.")
        return 1

    def row_weights(self, targets: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
        """By what the kernel multiplies the parts of each row, (n,); None for 1."""
        return None

    def rows(self, logits, targets, groups=None):
        """The parts of the rows, float64, shape (n,)."""
        return self._rows_and_gradient(logits, targets, groups)[0]

    def gradient(self, logits, targets, groups=None):
        """The gradient of the sum of all queries' losses, float64, shape (n, 1)."""
        return self._rows_and_gradient(logits, targets, groups)[1].reshape(-1, 1)

    def value(self, logits, targets, sample_weight=None, groups=None):
        n_queries = 1 if groups is None else len(np.unique(groups))
        return float(self.rows(logits, targets, groups).sum() / n_queries)

    def _rows_and_gradient(self, logits, targets, groups):
        z, y = np.asarray(logits, np.float64).reshape(-1), np.asarray(targets, np.float64).reshape(-1)
        rows, gradient = np.zeros(len(z)), np.zeros(len(z))
        for own in rows_of_queries(np.zeros(len(z)) if groups is None else groups):
            rows[own], gradient[own] = self._query(z[own], y[own])
        return rows, gradient


@dataclass(frozen=True)
class RankNet(_OfQueries):
    """l = mean of log(1 + exp(-(z_i - z_j))) over the pairs of a query's rows with y_i > y_j; the loss of a batch is
    the mean over its queries. Burges et al., 2005.

    dl/dz_i = sum of -s sigmoid(-s (z_i - z_j)) / number of pairs, over the rows j of the query, s = sign(y_i - y_j).
    `fit(..., groups=)` says which query a row belongs to; `batch_size` counts queries. A query without pairs has a loss
    of 0; one of m rows costs m^2 exponentials. Output: z, the scores: larger is better.

    When to use: to rank by pairs: grades whose distances mean nothing, clicks.

    Raises
    ------
    ValueError
        When a fit begins: the last layer is not `Dense(1)`, `groups` are missing, or rows have weights.

    Examples
    --------
    >>> import numpy as np
    >>> round(RankNet().value(np.array([[2.0], [1.0], [5.0]]), [1, 0, 0], groups=[0, 0, 1]), 4)
    0.1566
    """

    name: ClassVar[str] = "ranknet"
    across: ClassVar = ("ranknet",)

    def as_narrow(self, y, groups=None):
        return numbered(y)

    def row_weights(self, targets, groups):
        """1 / number of pairs of the row's query; 0 where there are none."""
        y, weights = np.asarray(targets).reshape(-1), np.zeros(len(groups))
        for own in rows_of_queries(groups):
            equal = np.unique(y[own], return_counts=True)[1].astype(np.float64)
            n_pairs = (len(own) ** 2 - (equal**2).sum()) / 2
            weights[own] = 1 / n_pairs if n_pairs else 0.0
        return weights

    def _query(self, z, y):
        weight = self.row_weights(y, np.zeros(len(z)))[:, None]
        sign = np.sign(y[:, None] - y)
        x = -sign * (z[:, None] - z)
        terms = weight / 2 * np.where(sign == 0, 0.0, np.logaddexp(0, x))
        with np.errstate(over="ignore"):
            slopes = -weight * sign / (1 + np.exp(-x))
        return terms.sum(axis=1), slopes.sum(axis=1)


@dataclass(frozen=True)
class ListNet(_OfQueries):
    """l = -sum_i p_i log q_i over a query's rows, with p = softmax(y) and q = softmax(z); the loss of a batch is the
    mean over its queries. Cao et al., 2007.

    dl/dz_i = q_i - p_i. `fit(..., groups=)` says which query a row belongs to; `batch_size` counts queries. Output: z,
    the scores: larger is better.

    When to use: to rank a list as a whole, with relevances whose differences mean something.

    Raises
    ------
    ValueError
        When a fit begins: the last layer is not `Dense(1)`, `groups` are missing, or rows have weights.

    Examples
    --------
    >>> import numpy as np
    >>> round(ListNet().value(np.array([[2.0], [1.0], [5.0]]), [1, 0, 0], groups=[0, 0, 1]), 4)
    0.2911
    """

    name: ClassVar[str] = "listnet"
    across: ClassVar = ("listnet",)

    def as_narrow(self, y, groups=None):
        """Less the largest of its query, which is as good."""
        y = y.astype(np.float64)
        for own in rows_of_queries(np.zeros(len(y)) if groups is None else groups):
            y[own] -= y[own].max()
        return y

    def _query(self, z, y):
        y = y - y.max()
        log_q, p = z - np.logaddexp.reduce(z), np.exp(y - np.logaddexp.reduce(y))
        return -p * log_q, np.exp(log_q) - p
