"""How the rows of a data set are cut into batches: so many rows each, or so many whole queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import records as R
from .losses.ranking import rows_of_queries


class Epochs(NamedTuple):
    """The batches of some epochs, one after the other."""

    order: np.ndarray | None  # rows of the data; None: as they lie there
    starts: np.ndarray  # of each batch: where it begins in `order`, or in the data
    sizes: np.ndarray  # its rows
    weights: np.ndarray  # what its sum of losses is divided by, float64

    def steps(self) -> np.ndarray:
        """A step for each batch, as an executor's `bind` takes them: (n_batches, records.STEP), int64."""
        steps = np.zeros((len(self.starts), R.STEP), np.int64)
        steps[:, R.STEP_ROWS] = self.sizes
        steps[:, R.STEP_FIRST if self.order is None else R.STEP_INDEX] = self.starts
        return steps


class RowBatches:
    """Batches of rows; the last of an epoch may be smaller.

    Parameters
    ----------
    n : int
        Rows.
    batch_size : int
        At most n counts.
    weights : ndarray (n,), optional
        Of the rows; 1 where not given.

    Attributes
    ----------
    n : int
        What is permuted in every epoch.
    n_batches, most_rows : int
        Batches of an epoch, and the most rows of one.

    Examples
    --------
    >>> batches = RowBatches(3, 2)
    >>> batches.epochs(np.array([[2, 0, 1]]), 1).sizes.tolist(), batches.n_batches
    ([2, 1], 2)
    """

    def __init__(self, n: int, batch_size: int, weights: np.ndarray | None = None):
        self.n, self.most_rows = n, int(min(batch_size, n))
        self.n_batches = -(-n // self.most_rows)
        self._starts = np.arange(0, n, self.most_rows)
        self._weights = None if weights is None else weights.astype(np.float64)

    def epochs(self, permutations: np.ndarray | None, epochs: int) -> Epochs:
        """The batches of epochs with these orders, (epochs, n); with None, in the data's order."""
        sizes, starts = np.minimum(self.most_rows, self.n - self._starts), self._starts
        if epochs > 1:
            sizes = np.tile(sizes, epochs)
            first = 0 if permutations is None else self.n * np.arange(epochs)[:, None]
            starts = (first + np.tile(starts, (epochs, 1))).ravel()
        if self._weights is None:
            weights = sizes.astype(np.float64)
        else:
            shuffled = [self._weights] * epochs if permutations is None else self._weights[permutations]
            weights = np.concatenate([np.add.reduceat(w, self._starts) for w in shuffled])
        return Epochs(permutations, starts, sizes, weights)


class QueryBatches:
    """Batches of whole queries, the rows of each together; the last of an epoch may have fewer queries.

    Parameters
    ----------
    groups : ndarray (n,)
        The query of each row.
    batch_size : int
        Queries of a batch; all, if there are fewer.

    Attributes
    ----------
    n : int
        Queries: what is permuted in every epoch.
    n_batches, most_rows : int
        Batches of an epoch, and the most rows that one can have, whatever the order.

    Examples
    --------
    >>> batches = QueryBatches(np.array([1, 0, 1, 1]), batch_size=1)
    >>> order, starts, sizes, weights = batches.epochs(np.array([[1, 0]]), 1)
    >>> order.tolist(), starts.tolist(), sizes.tolist(), weights.tolist()
    ([0, 2, 3, 1], [0, 3], [3, 1], [1.0, 1.0])
    """

    def __init__(self, groups: np.ndarray, batch_size: int):
        rows = rows_of_queries(groups)
        self.n = len(rows)
        self._rows, self._sizes = np.concatenate(rows), np.array([len(own) for own in rows])
        self._firsts = np.cumsum(self._sizes) - self._sizes
        per_batch = min(batch_size, self.n)
        self._starts = np.arange(0, self.n, per_batch)
        self._counts = np.minimum(per_batch, self.n - self._starts).astype(np.float64)
        self.n_batches = len(self._starts)
        self.most_rows = int(np.sort(self._sizes)[-per_batch:].sum())

    @classmethod
    def of_rows(cls, groups: np.ndarray, most_rows: int) -> QueryBatches:
        """Batches of up to about so many rows, of one query at least."""
        largest = np.unique(groups, return_counts=True)[1].max()
        return cls(groups, max(1, int(most_rows // largest)))

    def epochs(self, permutations: np.ndarray | None, epochs: int) -> Epochs:
        """The batches of epochs with these orders of the queries, (epochs, n); with None, by their labels."""
        orders = [np.arange(self.n)] * epochs if permutations is None else permutations
        sizes = [self._sizes[order] for order in orders]
        rows = [self._rows[_ranges(self._firsts[order], size)] for order, size in zip(orders, sizes, strict=True)]
        of_batches = np.concatenate([np.add.reduceat(size, self._starts) for size in sizes])
        starts = np.cumsum(of_batches) - of_batches
        return Epochs(np.concatenate(rows), starts, of_batches, np.tile(self._counts, epochs))


def _ranges(firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """first, first + 1, ... of every range, one after the other."""
    ends = np.cumsum(sizes)
    return np.repeat(firsts - (ends - sizes), sizes) + np.arange(ends[-1])
