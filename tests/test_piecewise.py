"""`PiecewiseLinearEncoder` and what it is made of."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPRegressor, PiecewiseLinearEncoder
from fastmlp.piecewise import bin_edges, encode, fit_bins

NUMBERS = st.one_of(  # of one size each: Fraction takes its time for others
    *(
        arrays(float, st.integers(1, 40), elements=st.one_of(st.floats(-most, most), st.integers(0, 3).map(float)))
        for most in (1.7e308, 1e6, 1e-320)
    )
)


@given(NUMBERS, st.integers(1, 12))
def test_edges_are_numbers_that_occur(values, n_bins):
    edges = bin_edges(values, n_bins)
    assert (np.diff(edges) > 0).all() and len(edges) <= n_bins + 1 and np.isin(edges, values).all()
    assert edges[0] == values.min() and edges[-1] == values.max()
    if len(np.unique(values)) <= 2:
        assert edges.tolist() == np.unique(values).tolist()


@given(NUMBERS, st.integers(1, 12))
def test_an_encoding_against_its_formula(values, n_bins):
    edges, means = fit_bins(values, n_bins)
    out = np.full((len(values), len(means)), np.nan)
    encode(values, edges, means, out)
    for t, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        places = [(Fraction(x) - Fraction(low)) / (Fraction(high) - Fraction(low)) for x in values]
        expected = np.array([float(min(max(place, 0), 1)) for place in places]) - means[t]
        np.testing.assert_allclose(out[:, t], expected, atol=1e-9)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-12)


def test_where_many_rows_have_one_number_the_others_get_bins():
    values = np.concatenate([np.zeros(950), np.arange(1.0, 51.0)])
    edges = bin_edges(values, 20)
    assert len(edges) > 15 and edges[1] < 10 and edges[-1] == 50


def test_long_columns_are_encoded_in_parts(rng):
    values = rng.normal(size=10_001)
    edges, means = fit_bins(values, 5)
    out = np.empty((len(values), 5))
    encode(values, edges, means, out)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(out + means, np.clip((values[:, None] - edges[:-1]) / np.diff(edges), 0, 1), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_missing_or_beyond(dtype):
    X = np.array([[1, 5], [2, 5], [np.nan, 5], [4, 5]], dtype)
    encoder = PiecewiseLinearEncoder(2).fit(X)
    assert [edges.tolist() for edges in encoder.edges_] == [[1, 2, 4], [5]]  # of a constant there is nothing to say
    out = encoder.transform(np.array([[np.nan, 5], [-9, 5], [9, np.nan]], dtype))
    assert out.dtype == dtype and out.shape == (3, 2)
    np.testing.assert_allclose(out + encoder.means_[0], [encoder.means_[0], [0, 0], [1, 1]], atol=1e-6)
    nothing = PiecewiseLinearEncoder().fit([[np.nan, 1.0], [np.nan, 2.0]])
    assert nothing.transform([[3.0, 2.0]]).tolist() == [[0.5]]


def test_bad_input():
    with pytest.raises(ValueError, match="`n_bins` must be an integer of at least 1; got 0"):
        PiecewiseLinearEncoder(0).fit([[1.0], [2.0]])
    with pytest.raises(ValueError, match="infinity"):
        PiecewiseLinearEncoder().fit([[1.0], [np.inf]])
    with pytest.raises(NotFittedError):
        PiecewiseLinearEncoder().transform([[1.0]])
    with pytest.raises(ValueError, match="X has 2 features"):
        PiecewiseLinearEncoder().fit([[1.0], [2.0]]).transform([[1.0, 2.0]])


def test_a_step_is_learned_through_it(rng):
    """The target jumps along a column: half of what is left without bins is gone with them."""
    X = rng.uniform(size=(1500, 2))
    y = np.floor(8 * X[:, 0]) % 2 + 0.1 * rng.normal(size=1500)
    options = {"hidden_layer_sizes": (32,), "batch_size": 32, "max_iter": 15, "random_state": 0}
    scores = []
    for scaling in (StandardScaler(), make_union(StandardScaler(), PiecewiseLinearEncoder(24))):
        model = make_pipeline(scaling, MLPRegressor(**options))
        with pytest.warns(ConvergenceWarning):  # so few epochs
            scores.append(model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]))
    assert 1 - scores[1] < 0.5 * (1 - scores[0]), scores
