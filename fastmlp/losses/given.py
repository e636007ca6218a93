"""A loss of which only the gradient is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Loss


def given_term(z, y, a, b):
    return y * z


def given_slope(z, y, a, b):
    return y + 0.0 * z


@dataclass(frozen=True)
class GivenGradient(Loss):
    """l = sum_k y_k z_k; dl/dz = y: the targets are the gradient. Output: z.

    When to use: what no loss here computes, such as a mixture density, a generator's loss from its discriminator, or
    the sum of several losses.

    Compute G = dL/dZ, (n, K), from `model.logits(X)` yourself, and train on
    `model.train_on_batch(X, n * G, loss="given_gradient")`: a batch's loss is the mean over its rows, hence the n. The
    value itself means nothing. With `BatchNorm`, take `logits(X, training=True)`; with dropout or noise too, and the
    same seed for `model.gradients(X, n * G, "given_gradient", training=True, seed=seed)`, of which
    `model.apply_gradients` is the step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import Dense, Sequential
    >>> model, X = Sequential(Dense(1), dtype="float64").build(2), np.eye(2)
    >>> G = model.logits(X) - 1.0  # of half the sum of squares around 1
    >>> _, gradients = model.gradients(X, len(X) * G, loss="given_gradient")
    >>> bool(np.allclose(gradients["dense_0.weight"], X.T @ G))
    True
    """

    name: ClassVar[str] = "given_gradient"
    targets: ClassVar[str] = "dL/dZ times the number of rows, finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(given_term)
    slope: ClassVar = staticmethod(given_slope)
