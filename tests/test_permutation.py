"""The order of rows: equal to the twin's, a permutation, as likely as any other, new in every epoch."""

import numpy as np
import pytest
import reference
from hypothesis import given, strategies as st

from fastmlp import SGD, Dense, Sequential
from fastmlp.engine import jit
from fastmlp.training import Training

SEEDS = st.integers(0, 2**32 - 1)


def orders(n, seed, epochs, first=0, dtype="float32"):
    X, y = np.zeros((n, 1), dtype), np.zeros(n, dtype)
    model = Sequential(Dense(1), dtype=dtype).build(1, seed=0)
    with Training(model, X, y, loss="squared_error", optimizer=SGD(0.0), batch_size=1, seed=seed) as training:
        return training._permutations(first, epochs)


def kernel(n, key, epoch):
    out = np.full(n + 1, -7, np.int64)
    jit.function("permutation", "float32")(out.ctypes.data, n, key, epoch)
    assert out[n] == -7  # nothing is written behind it
    return out[:n]


@given(st.integers(2, 300), SEEDS, st.integers(0, 10**6))
def test_equals_the_twin(n, seed, epoch):
    actual = orders(n, seed, 2, epoch)
    for k in range(2):
        np.testing.assert_array_equal(actual[k], reference.shuffled(n, seed, epoch + k))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_does_not_depend_on_the_dtype(dtype):
    np.testing.assert_array_equal(orders(1000, 3, 1, dtype=dtype)[0], reference.shuffled(1000, 3, 0))


@given(st.integers(0, 5000), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62))
def test_is_a_permutation(n, key, epoch):
    np.testing.assert_array_equal(np.sort(kernel(n, key, epoch)), np.arange(n))


@given(st.integers(20, 300), SEEDS)
def test_epochs_and_seeds_differ(n, seed):
    first, second = orders(n, seed, 2)
    assert (first != second).any() and (first != orders(n, seed + 1, 1)[0]).any()


def chi_squared(counts, expected):
    """How many standard deviations the statistic lies above or below its mean, the number of degrees of freedom."""
    freedom = counts.size - 1 if counts.ndim == 1 else (len(counts) - 1) ** 2
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_every_order_of_four_rows_is_as_likely():
    """By epochs of one seed, and by seeds."""
    for pairs in (((11, epoch) for epoch in range(48_000)), ((key, 0) for key in range(48_000))):
        numbers = [kernel(4, key, epoch) @ [64, 16, 4, 1] for key, epoch in pairs]
        counts = np.unique(numbers, return_counts=True)[1]
        assert len(counts) == 24 and abs(chi_squared(counts, 2000)) < 4


def test_every_row_is_as_likely_at_every_place():
    places = np.zeros((50, 50))
    for epoch in range(20_000):
        places[np.arange(50), kernel(50, 5, epoch)] += 1
    assert abs(chi_squared(places, 400)) < 4


def test_neighbours_are_independent():
    """What follows a row is as likely to be any other; a shuffle by too few bits would not show that."""
    pairs = np.zeros((30, 30))
    for epoch in range(20_000):
        order = kernel(30, 17, epoch)
        pairs[order[:-1], order[1:]] += 1
    off = pairs[~np.eye(30, dtype=bool)]
    assert np.diag(pairs).sum() == 0 and abs(chi_squared(off, 20_000 / 30)) < 4
