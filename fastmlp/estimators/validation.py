"""The estimators' door: X, y and weights become arrays that the engine takes, or an error says what is bad and where.

scikit-learn's own checks do the work (names of features, dtypes, shapes, containers); the row and the column are ours.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import (
    _check_sample_weight,
    assert_all_finite,
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from .._arrays import column_without_numbers, refuse_dates, refuse_masked, row_and_column

# uint8 stays as it is: images are cast while the rows of a batch are gathered, at an eighth of float64's memory
DTYPES = (np.float64, np.float32, np.uint8)
_BLOCK = 4096  # rows searched at a time for the position of a bad value


def check_features(estimator, X, *, reset: bool, name: str = "X", dtypes=DTYPES, finite: bool = True):
    """X as a C-contiguous float or uint8 array or as CSR, finite, with the features that `estimator` knows.

    Parameters
    ----------
    estimator : BaseEstimator
        Its `n_features_in_` and `feature_names_in_` are set where `reset`, else compared.
    X : array-like or sparse of shape (n_samples, n_features)
        Copied only where its dtype or its order is another.
    reset : bool
        True where a fit starts anew.
    name : str
        The argument that messages name.
    dtypes : sequence of dtype
        What may stay as it is; anything else becomes the first of them.
    finite : bool
        Whether to look for NaN and infinity.

    Returns
    -------
    X : ndarray or csr_array or csr_matrix of shape (n_samples, n_features)

    Raises
    ------
    ValueError
        A wrong shape, other features than before, or NaN or infinity, with its row and column.
    """
    if not reset and _is_ready(estimator, X):
        if finite:
            check_finite(X, name, estimator)
        return X
    refuse_dates(X, name)
    refuse_masked(X, name)
    try:
        X = validate_data(
            estimator, X, reset=reset, accept_sparse="csr", dtype=dtypes, order="C", ensure_all_finite=False
        )
    except (ValueError, TypeError) as error:
        if (column := column_without_numbers(X)) is None:
            raise
        raise ValueError(f"`{name}` must hold numbers; {column}. Encode it first, or leave it out.") from error
    if issparse(X):
        X = X.astype(np.float32) if X.dtype == np.uint8 else X
        X.check_format(full_check=True)  # products go where the indices say
    if finite or issparse(X):
        check_finite(X, name, estimator)
    return X


def _is_ready(estimator, X) -> bool:
    """Whether X needs no work: for a row or two, scikit-learn's checks take three times as long as predicting."""
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype.type in (np.float32, np.float64)
        and X.dtype.isnative
        and X.flags.c_contiguous
        and X.shape[0] > 0
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
    )


def check_targets(y, X, estimator, *, numeric: bool, name: str = "y") -> np.ndarray:
    """y as a dense array (n,) or (n, k), as long as X and without NaN or infinity.

    Parameters
    ----------
    y : array-like or sparse of shape (n_samples,) or (n_samples, n_outputs)
        A single column is flattened, with scikit-learn's DataConversionWarning.
    X : ndarray or sparse of shape (n_samples, n_features)
    estimator : BaseEstimator
        Named in messages.
    numeric : bool
        Objects become float64 (regression), or stay (labels).
    name : str
        The argument that messages name.
    """
    if numeric:
        refuse_dates(y, name)
    refuse_masked(y, name)
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target {name} is None.")
    y = check_array(
        y,
        accept_sparse="csr",
        ensure_2d=False,
        dtype="numeric" if numeric else None,
        ensure_all_finite=False,
        input_name=name,
        estimator=estimator,
    )
    if issparse(y):
        y = y.toarray()
    if y.ndim != 2 or y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.dtype.kind == "O":
        _check_labels(y, name)
    check_finite(y, name, estimator)
    check_consistent_length(X, y)
    return y


def _check_labels(y, name: str) -> None:
    """Raise where a label of objects is missing, and where texts and others are mixed, which have no order."""
    kinds = set()
    for i, label in enumerate(y.ravel()):
        kind = "str" if isinstance(label, str) else type(label).__name__  # NumPy's strings are strings
        if kind in ("NoneType", "NAType"):  # None, pandas.NA
            raise ValueError(f"`{name}` must hold a label in every row; row {i * len(y) // y.size} holds {label}.")
        if label == label:  # not NaN, which `check_finite` finds
            kinds.add(kind)
    if "str" in kinds and len(kinds) > 1:
        raise TypeError(f"`{name}` must hold labels of one kind; it holds {', '.join(sorted(kinds))}.")


def check_weights(sample_weight, X, name: str = "sample_weight") -> np.ndarray | None:
    """Weights as float64 of shape (n_samples,), none negative, not all zero; None stays None."""
    if sample_weight is None:
        return None
    try:
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    except ValueError as error:
        message = str(error).replace("sample_weight", name)
        raise ValueError(message if name in message else f"`{name}`: {message}") from None
    if not weights.any():
        raise ValueError(f"Sample weights must contain at least one non-zero number; `{name}` has none.")
    return weights


def check_finite(array, name: str, estimator=None) -> None:
    """Raise scikit-learn's ValueError for NaN or infinity, with the row and the column of the first one added."""
    with np.errstate(over="ignore", invalid="ignore"):  # a sum that holds both infinities
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and np.isfinite(array.sum()):
            return  # scikit-learn's way takes as long as predicting a row
    try:
        with np.errstate(invalid="ignore"):
            assert_all_finite(array, estimator_name=type(estimator).__name__ if estimator else None, input_name=name)
    except ValueError as error:
        sentence, dot, advice = str(error).partition(".\n")
        sentence = sentence if dot else sentence.removesuffix(".")
        raise ValueError(f"{sentence}: {_where(array, is_nan='NaN' in sentence)}.{dot[1:]}{advice}") from None


def _where(array, is_nan: bool) -> str:
    """'the first is in row 3, column 5', counted from 0 as NumPy indexes."""
    if issparse(array):
        row, column = row_and_column(array, int(np.argmax(_bad(array.data, is_nan))))
        return f"the first is in row {row}, column {column}"
    for start in range(0, len(array), _BLOCK):  # a mask of a memory map that is larger than memory would not fit
        bad = _bad(np.asarray(array[start : start + _BLOCK]), is_nan)
        if bad.any():
            position = np.argwhere(bad)[0]
            column = f", column {position[1]}" if array.ndim == 2 else ""
            return f"the first is in row {start + position[0]}{column}"
    raise AssertionError("unreachable: scikit-learn found a value that is not finite")


def _bad(values, is_nan: bool):
    if values.dtype.kind == "f":
        return np.isnan(values) if is_nan else np.isinf(values)
    return values != values  # labels as objects


def hold_out(n: int, share: float, seed, strata, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows that are held out, of n: of `strata` as large a share of each value, where each has
    rows enough. `what` begins the error for a share that leaves nothing: "`validation_split` cannot hold out 2".
    """
    from sklearn.model_selection import train_test_split  # takes a while to import

    split = partial(train_test_split, np.arange(n), test_size=share, random_state=seed)
    try:
        try:
            rows, held_out = split(stratify=strata)
        except ValueError:  # a class with a single row, or more classes than rows are held out
            rows, held_out = split()
    except ValueError as error:
        raise ValueError(f"{what} of y: {error}") from error
    return rows, held_out
