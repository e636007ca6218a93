"""Piecewise-linear encodings of numbers: how far they are through each of many bins (Gorishniy, Rubachev and Babenko,
2022, "On Embeddings for Numerical Features in Tabular Deep Learning", equation 1).

A network bends slowly along one input; along the encoding of a number it bends wherever a bin begins.
"""

from __future__ import annotations

import numpy as np

ROWS = 4096  # encoded at a time: what lies in between stays small


def bin_edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Ascending edges of up to `n_bins` bins: quantiles, the least and the largest number among them.

    Where many rows have the same number, so that quantiles fall together, quantiles of the distinct numbers take their
    places. All are numbers that occur.

    >>> bin_edges(np.arange(101.0), 4).tolist(), bin_edges(np.array([0.0] * 97 + [1, 2, 3]), 4).tolist()
    ([0.0, 25.0, 50.0, 75.0, 100.0], [0.0, 1.0, 2.0, 3.0])
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1), method="lower"))
    missing = n_bins + 1 - len(edges)
    if missing:
        others = np.quantile(np.unique(values), np.linspace(0, 1, missing + 1), method="lower")
        edges = np.unique(np.concatenate([edges, others]))
    return edges


def encode(values: np.ndarray, edges: np.ndarray, means: np.ndarray, out: np.ndarray) -> None:
    """out[:, t] = clip((x - edges[t]) / (edges[t + 1] - edges[t]), 0, 1) - means[t], (n, number of bins); 0 where x is
    NaN."""
    with np.errstate(over="ignore"):
        factors = np.where(np.isfinite(np.diff(edges)), 1.0, 0.5)  # of huge numbers, whose differences would overflow
        begin = factors * edges[:-1]
        width = factors * edges[1:] - begin
    for first in range(0, len(values), ROWS):
        with np.errstate(over="ignore"):
            places = (factors * values[first : first + ROWS, None] - begin) / width
        np.clip(places, 0, 1, out=places)
        places -= means
        places[np.isnan(places)] = 0
        out[first : first + ROWS] = places


def fit_bins(values: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """(edges, means) for `encode`: of these numbers, none NaN, it gives columns whose means are 0."""
    edges = bin_edges(values, n_bins)
    total = np.zeros(len(edges) - 1)
    for first in range(0, len(values), ROWS):
        part = values[first : first + ROWS]
        places = np.empty((len(part), len(total)))
        encode(part, edges, np.zeros(len(total)), places)
        total += places.sum(axis=0)
    return edges, total / len(values)
