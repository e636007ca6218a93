"""Losses of every row with all the others of its batch: embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import configs
from ..errors import check_range
from .base import Loss, numbered

BLOCK = 1024  # rows that an evaluation takes for a batch


class _AcrossRows(Loss):
    """A loss of every row with all the others of its batch. `rows` and `gradient` take what they get for one batch, and
    the gradient is that of the sum of its rows' losses; `value` takes blocks of 1024 rows, in order.
    """

    targets: ClassVar[str] = "integer labels (n,)"

    def target_columns(self, n_outputs):
        return 1

    def bad_targets(self, y, n_outputs):
        return y != np.floor(y)

    def as_narrow(self, y, groups=None):
        return numbered(y)

    def value(self, logits, targets, sample_weight=None, groups=None):
        starts = range(0, len(logits), BLOCK)
        rows = [self.rows(logits[i : i + BLOCK], np.asarray(targets)[i : i + BLOCK]) for i in starts]
        return float(np.average(np.concatenate(rows), weights=sample_weight))

    def rows(self, logits, targets):
        return self._rows_and_gradient(logits, targets)[0]

    def gradient(self, logits, targets):
        return self._rows_and_gradient(logits, targets)[1]

    @property
    def numbers(self):
        return (self.margin,)

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("margin", self.margin, 0, np.inf, low_open=True)


def _over(a, b):
    """a / b, and 0 where b is."""
    return np.divide(a, b, out=np.zeros_like(b), where=b > 0)


@dataclass(frozen=True)
class Contrastive(_AcrossRows):
    """l_i = mean over the batch's other rows j of d^2 / 2 for the same label, else max(0, margin - d)^2 / 2, with the
    Euclidean distance d = |z_i - z_j|. Output: z, the embedding. Hadsell, Chopra and LeCun, 2006.

    Of a pair, dl/dz_i = z_i - z_j for the same label, else -max(0, margin - d) / d (z_i - z_j), and 0 at d = 0. A batch
    of n rows costs n^2 distances. An evaluation takes blocks of 1024 rows, in order, for batches.

    When to use: embeddings whose distances themselves matter: same or not the same.

    Parameters
    ----------
    margin : float
        The distance at which rows of different labels no longer matter, above 0.

    Raises
    ------
    ValueError, TypeError
        `margin` is no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> Contrastive(margin=3.0).value(np.array([[0.0], [1.0], [2.0]]), np.array([0, 0, 1]))
    1.0
    """

    name: ClassVar[str] = "contrastive"
    across: ClassVar = ("contrastive",)
    margin: float = 1.0

    def _rows_and_gradient(self, logits, targets):
        z, y = np.asarray(logits, np.float64), np.asarray(targets).reshape(-1)
        rows, gradient, pairs = np.zeros(len(z)), np.zeros(z.shape), max(len(z) - 1, 1)
        for i in range(len(z)):
            away, alike = z[i] - z, y == y[i]
            distance = np.sqrt((away**2).sum(axis=1))
            near = np.maximum(self.margin - distance, 0)
            rows[i] = np.where(alike, distance**2, near**2).sum() / 2 / pairs
            gradient[i] = 2 * np.where(alike, 1, -_over(near, distance)) @ away / pairs
        return rows, gradient


@dataclass(frozen=True)
class Triplet(_AcrossRows):
    """l_i = max(0, margin + max_p |z_i - z_p| - min_n |z_i - z_n|): p is the farthest row of the same label in the
    batch, n the nearest of another (batch-hard). Output: z, the embedding. Hermans et al., 2017.

    0 for a row without a p or an n in its batch: batches should hold several rows of each of several labels. A loss
    that stays at the margin says that all rows fell into one point: try a smaller learning rate. Where l_i is above 0,
    dl_i/dz_i = (z_i - z_p) / |z_i - z_p| - (z_i - z_n) / |z_i - z_n|, and 0 for a distance of 0. A batch of n rows
    costs n^2 distances. An evaluation takes blocks of 1024 rows, in order, for batches.

    When to use: embeddings whose distances are compared: search, few-shot classes; the usual one, with eight
    outputs or more (in two for a picture it may collapse: take `Contrastive`).

    Parameters
    ----------
    margin : float
        By how much the nearest row of another label is to be farther than the farthest of the same, above 0.

    Raises
    ------
    ValueError, TypeError
        `margin` is no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> Triplet(margin=1.0).rows(np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1])).tolist()
    [0.0, 0.0, 0.0]
    """

    name: ClassVar[str] = "triplet"
    across: ClassVar = ("triplet.choose", "triplet.gradient")
    margin: float = 1.0

    def _rows_and_gradient(self, logits, targets):
        z, y = np.asarray(logits, np.float64), np.asarray(targets).reshape(-1)
        rows, gradient = np.zeros(len(z)), np.zeros(z.shape)
        for i in range(len(z)):
            distance, alike = np.sqrt(((z[i] - z) ** 2).sum(axis=1)), y == y[i]
            other, alike[i] = ~alike, False
            if not (alike.any() and other.any()):
                continue
            p, n = np.where(alike, distance, -1).argmax(), np.where(other, distance, np.inf).argmin()
            rows[i] = max(self.margin + distance[p] - distance[n], 0)
            for j, sign in ((p, 1.0), (n, -1.0)) if rows[i] > 0 else ():
                push = sign * (z[i] - z[j]) / (distance[j] or np.inf)
                gradient[i] += push
                gradient[j] -= push
        return rows, gradient
