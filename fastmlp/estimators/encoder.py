"""A transformer for the numbers of tables."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from .. import piecewise
from .._arrays import column_without_numbers, refuse_dates
from ..errors import check_count


class PiecewiseLinearEncoder(TransformerMixin, BaseEstimator):
    """Each number becomes how far it is through each of many bins:
    e_t(x) = clip((x - b_t) / (b_{t+1} - b_t), 0, 1) - m_t, where b are quantiles and m_t is the mean over the rows of
    the fit.

    When to use: before a network, for tables, whose targets often change at some numbers and not along all of a
    column, beside the standardised numbers. docs/recipes.md has what it gains on two tables.

    Parameters
    ----------
    n_bins : int, default=48
        Of a column, at most; one of k different numbers has k - 1 at most. No more than a sixtieth of the rows is a
        good rule.

    Attributes
    ----------
    edges_ : list of ndarray
        The edges b of each column's bins, ascending.
    means_ : list of ndarray
        The means m of what its bins give.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X was a data frame.

    Notes
    -----
    A column becomes as many as it has bins (none, if it is constant), float32 if X is that, else float64. NaN becomes 0
    in all of them, the mean; numbers beyond those of the fit are taken for the nearest of these. Where many rows have
    the same number, so that quantiles fall together, quantiles of the distinct numbers take their places.

    References
    ----------
    Gorishniy, Rubachev and Babenko, 2022, "On Embeddings for Numerical Features in Tabular Deep Learning", equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import PiecewiseLinearEncoder
    >>> X = np.arange(9.0).reshape(-1, 1)
    >>> encoder = PiecewiseLinearEncoder(n_bins=2).fit(X)
    >>> (encoder.transform([[0.0], [2.0], [4.0], [6.0], [8.0]]) + encoder.means_[0]).tolist()
    [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0]]
    """

    def __init__(self, n_bins=48):
        self.n_bins = n_bins

    def fit(self, X, y=None):
        """Choose the bins.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numbers, or NaN where one is missing.
        y : None
            Ignored.

        Returns
        -------
        PiecewiseLinearEncoder

        Raises
        ------
        ValueError, TypeError
            No numbers, infinity, or `n_bins` less than 1.

        Examples
        --------
        >>> from fastmlp import PiecewiseLinearEncoder
        >>> [edges.tolist() for edges in PiecewiseLinearEncoder(2).fit([[1.0, 0.0], [2.0, 0.0], [4.0, 1.0]]).edges_]
        [[1.0, 2.0, 4.0], [0.0, 1.0]]
        """
        n_bins = check_count(self.n_bins, "n_bins")
        X = self._check(X, reset=True)
        known = [column[~np.isnan(column)].astype(np.float64) for column in X.T]
        fitted = [piecewise.fit_bins(values if len(values) else np.zeros(1), n_bins) for values in known]
        self.edges_, self.means_ = (list(arrays) for arrays in zip(*fitted, strict=True))
        return self

    def transform(self, X):
        """The numbers' places in the bins.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, number of bins of all columns)

        Raises
        ------
        ValueError
            Another number of columns, other names, no numbers, or infinity.
        NotFittedError
            Before `fit`.

        Examples
        --------
        >>> from fastmlp import PiecewiseLinearEncoder
        >>> PiecewiseLinearEncoder(2).fit([[1.0], [2.0], [3.0]]).transform([[2.0]]).round(2).tolist()
        [[0.33, -0.33]]
        """
        check_is_fitted(self)
        X = self._check(X, reset=False)
        out, first = np.empty((len(X), sum(map(len, self.means_))), X.dtype), 0
        for column, edges, means in zip(X.T, self.edges_, self.means_, strict=True):
            piecewise.encode(column.astype(np.float64), edges, means, out[:, first : first + len(means)])
            first += len(means)
        return out

    def get_feature_names_out(self, input_features=None):
        """Names of the columns that `transform` gives: that of the number, and the bin's.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of X's columns; those of the fit where not given.

        Returns
        -------
        ndarray of str

        Raises
        ------
        ValueError
            Other names than those of the fit, or another number of them.

        Examples
        --------
        >>> from fastmlp import PiecewiseLinearEncoder
        >>> PiecewiseLinearEncoder(2).fit([[1.0], [2.0], [3.0]]).get_feature_names_out(["age"]).tolist()
        ['age_0', 'age_1']
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        bins = zip(names, self.means_, strict=True)
        return np.array([f"{name}_{t}" for name, means in bins for t in range(len(means))], dtype=object)

    def _check(self, X, reset: bool) -> np.ndarray:
        refuse_dates(X, "X")
        try:
            return validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        except (TypeError, ValueError):
            if what := column_without_numbers(X):
                raise ValueError(f"`X` must hold numbers; {what}.") from None
            raise

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
