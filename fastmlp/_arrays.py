"""Checks of arrays at `Sequential`'s door: shapes, and where a value is not finite. NumPy only, so that it costs
nothing.
"""

from __future__ import annotations

from numbers import Real

import numpy as np

from .errors import check_count, check_range

_BLOCK = 4096  # rows looked at together


def is_sparse(X) -> bool:
    """Whether X is a SciPy sparse matrix or array, without importing SciPy."""
    return type(X) is not np.ndarray and type(X).__module__.startswith("scipy.sparse")


def check_X(X, argument: str = "X", n_features: int | None = None, finite: bool = True):
    """X as a 2-D array of numbers or a CSR matrix, finite, of at least one row. Without `finite`, an array is not
    searched for what is not.

    Raises
    ------
    TypeError, ValueError
        Not numbers, not two-dimensional, no rows, another number of columns, or NaN or infinity (with its row and
        column).
    """
    if is_sparse(X):
        if X.ndim != 2:
            raise ValueError(f"`{argument}` must have shape (n_samples, n_features); got shape {X.shape}.")
        if X.dtype.kind not in "biuf":
            raise TypeError(f"`{argument}` must hold real numbers; got dtype {X.dtype}.")
        X = X.tocsr()
        X.check_format(full_check=True)
        check_finite(X, argument)
    else:
        refuse_masked(X, argument)
        given = X
        try:
            X = np.asarray(X)  # a memory map becomes a view of itself
        except ValueError as error:  # rows of several lengths
            raise ValueError(f"`{argument}` must have shape (n_samples, n_features): {error}") from None
        if X.dtype.kind == "O":
            if hasattr(given, "__next__"):
                what = f"must be an array; got {given!r}"
                raise TypeError(f"`{argument}` {what}. Batch by batch, rows go to `train_on_batch`.")
            refuse_dates(given, argument)
            try:
                X = X.astype(np.float64)
            except (TypeError, ValueError) as error:
                columns, what = _columns(given), column_without_numbers(given)
                if not columns or what:
                    raise TypeError(
                        f"`{argument}` must hold numbers; {what or f'got dtype object ({error})'}."
                    ) from None
                X = np.column_stack([values.astype(np.float64) for _, values in columns])  # what is missing is NaN
        if X.dtype.kind not in "biuf":
            raise TypeError(f"`{argument}` must hold real numbers; got dtype {X.dtype}.")
        if X.ndim != 2:
            hint = ""
            if X.ndim == 1:
                one_row = n_features is not None and X.shape == (n_features,)
                hint = f" For a single {'row' if one_row else 'column'} use {argument}"
                hint += ".reshape(1, -1)." if one_row else ".reshape(-1, 1)."
            elif X.ndim > 2:
                hint = f" A row for each image, say, is {argument}.reshape(len({argument}), -1)."
            raise ValueError(f"`{argument}` must have shape (n_samples, n_features); got shape {X.shape}.{hint}")
    if X.shape[0] < 1 or X.shape[1] < 1:
        raise ValueError(f"`{argument}` must have at least one row and one column; got shape {X.shape}.")
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(f"`{argument}` must have n_features={n_features} columns; got {X.shape[1]}.")
    if finite and not is_sparse(X):
        check_finite(X, argument)
    return X


def check_outputs(output, n: int, n_outputs: int) -> np.ndarray:
    """The number of a logit for each row."""
    if np.ndim(output) == 0:
        return np.full(n, check_count(output, "output", n_outputs - 1, least=0))
    numbers = np.asarray(output)
    if numbers.shape != (n,) or numbers.dtype.kind not in "iu":
        got = f"{numbers.dtype} of shape {numbers.shape}"
        raise ValueError(f"`output` must be an integer, or one for each of the {n} rows; got {got}.")
    bad = (numbers < 0) | (numbers >= n_outputs)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"`output` must be in [0, {n_outputs - 1}]; got {numbers[row]} in row {row}.")
    return numbers


def column_names(X) -> tuple[str, ...] | None:
    """Those of a data frame; None for what has no names."""
    names = getattr(X, "columns", None)
    names = None if names is None else tuple(names)
    return names if names and all(isinstance(name, str) for name in names) else None


def check_columns(X, expected: tuple[str, ...] | None, argument: str = "X") -> None:
    """ValueError where X and the rows of the fit have names of columns, and others, or in another order."""
    names = None if expected is None else column_names(X)
    if names is None or names == expected:
        return
    unknown, missing = [n for n in names if n not in expected], [n for n in expected if n not in names]
    if not unknown and not missing:
        k = next(k for k, (name, other) in enumerate(zip(names, expected, strict=False)) if name != other)
        what = f"{names[k]!r} where {expected[k]!r} was, in column {k}"
    else:
        what = "; ".join(
            f"{word} {', '.join(map(repr, of[:5]))}" for word, of in (("new:", unknown), ("without", missing)) if of
        )
    raise ValueError(f"`{argument}` must have the columns of the fit, in their order; got {what}.")


def check_order_of_columns(X, expected: tuple[str, ...] | None) -> None:
    """ValueError where X has the columns of an earlier fit in another order; it may have others, of other data."""
    names = None if expected is None else column_names(X)
    if names is not None and sorted(names) == sorted(expected):
        check_columns(X, expected)


def column_without_numbers(X) -> str | None:
    """The first column of a data frame that cannot become floats, with its dtype and why; None if all can."""
    for column, values in _columns(X):
        try:
            values.astype(np.float64)
        except (ValueError, TypeError) as error:
            return f"column {str(column)!r} has dtype {X[column].dtype} ({error})"
    return None


def _columns(frame) -> list[tuple]:
    """The columns of a data frame and their values; nothing for what is none, or of a kind that is not known."""
    try:
        columns = list(frame.columns)
        return [(c, np.asarray(frame[c])) for c in columns] if len(set(columns)) == len(columns) else []
    except Exception:  # whatever somebody's class raises
        return []


def refuse_dates(X, name: str) -> None:
    """ValueError where X, an array, lists or a data frame, holds dates or times, whose numbers depend on their unit. Of
    what has no dtype that tells, the first row is looked at.
    """
    try:
        if hasattr(X, "columns"):  # by the frame's dtypes: looking at a thousand columns takes as long as predicting
            dates = next((column for column, dtype in zip(X.columns, X.dtypes, strict=True) if _is_date(dtype)), None)
            what = None if dates is None else f"column {str(dates)!r}"
        else:
            what = "it" if _is_date(getattr(X, "dtype", None)) or _first_kind(X) in ("m", "M") else None
    except Exception:  # of another kind than arrays and frames: what comes next looks at it
        return
    if what:
        raise ValueError(
            f"`{name}` must hold numbers; {what} holds dates or times. Encode them first, or leave them out."
        )


def _is_date(dtype) -> bool:
    """Of NumPy, pandas (with a zone, too) or polars."""
    kind = getattr(dtype, "kind", None)
    return kind in ("m", "M") if kind else hasattr(dtype, "is_temporal") and dtype.is_temporal()


def _first_kind(X) -> str:
    """NumPy's letter for the first item of lists or of an array of objects."""
    if getattr(getattr(X, "dtype", None), "kind", "O") != "O":
        return ""
    first = np.asarray(X[:1])
    return np.asarray(first.ravel()[:1].tolist()).dtype.kind if first.dtype.kind == "O" else first.dtype.kind


def refuse_masked(array, argument: str) -> None:
    """TypeError for a masked array: NumPy's functions see what its mask hides."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"`{argument}` must not be a masked array; fill it (`{argument}.filled(...)`) or drop rows.")


def check_finite(array, argument: str) -> None:
    """ValueError naming the first row and column of an array, or of CSR, that is NaN or infinite."""
    values = array.data if is_sparse(array) else array
    if values.dtype.kind != "f" or (values.size < _BLOCK and np.isfinite(values).all()):
        return
    for start in range(0, values.shape[0], _BLOCK):
        block = values[start : start + _BLOCK]
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(block.sum()):
                continue  # nearly always: no temporary
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            where, value = (start + bad[0][0], *bad[0][1:]), block[tuple(bad[0])]
            where = row_and_column(array, where[0]) if is_sparse(array) else where
            place = f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
            what = "NaN" if np.isnan(value) else "infinity"
            raise ValueError(f"`{argument}` must be finite; got {what} in {place}.")


def row_and_column(X, entry: int) -> tuple[int, int]:
    """Where an entry of CSR is, by its number."""
    return int(np.searchsorted(X.indptr, entry, "right")) - 1, int(X.indices[entry])


def check_came_of(X, values: np.ndarray, are_probabilities: bool = False) -> None:
    """ValueError where a number of X is infinite in the narrower dtype of these logits, as far as that matters; or of
    probabilities made of them, which an infinite one makes 0, 1 or NaN."""
    if X.dtype.itemsize <= values.dtype.itemsize:
        return
    fine = values.min() > 0 and values.max() < 1 if are_probabilities else np.isfinite(values).all()
    if not fine:
        check_fits(X, values.dtype)


def check_fits(X, dtype: np.dtype, argument: str = "X") -> None:
    """ValueError naming the first number of X that is infinite in a narrower dtype: what came of it is not finite."""
    values = X.data if is_sparse(X) else X
    if values.dtype.kind != "f" or not (bad := np.abs(values) > np.finfo(dtype).max).any():
        return
    where = np.argwhere(bad)[0]
    place = "" if is_sparse(X) else f" in row {where[0]}, column {where[1]}"
    raise ValueError(f"`{argument}` must be within {dtype.name}'s range; got {values[tuple(where)]:g}{place}.")


def check_weights(weights, n: int, argument: str = "sample_weight", some: bool = True) -> np.ndarray | None:
    """Weights as float64 (n,), finite, not negative, and, with `some`, not all zero; None stays None."""
    if weights is None:
        return None
    weights = _array(weights, argument)
    if weights.dtype.kind not in "biuf" or weights.shape != (n,):
        raise ValueError(f"`{argument}` must be {n} numbers, one per row; got shape {weights.shape}, {weights.dtype}.")
    weights = weights.astype(np.float64)
    check_finite(weights, argument)
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        hint = " Losses times numbers of any sign: loss='given_gradient'." if argument == "sample_weight" else ""
        raise ValueError(f"`{argument}` must not be negative; got {weights[row]:g} in row {row}.{hint}")
    if some and not weights.any():
        raise ValueError(f"`{argument}` must not be zero everywhere.")
    return weights


def check_groups(groups, n: int, loss, sample_weight=None, argument: str = "groups") -> np.ndarray | None:
    """The query of each row as codes (n,), int64, for losses of queries; None for the others.

    Raises
    ------
    ValueError
        A loss of queries without groups or with weights of rows, groups for another loss, or not one label for each
        row.
    """
    if groups is None:
        if loss.queries:
            raise ValueError(f"`{argument}` must say which query each row belongs to for loss={loss.name!r}; got None.")
        return None
    if not loss.queries:
        raise ValueError(f"`{argument}` is for losses of queries ('ranknet', 'listnet'); got loss={loss.name!r}.")
    if sample_weight is not None:
        raise ValueError(f"`sample_weight` must be None for loss={loss.name!r}: every query counts the same.")
    groups = _array(groups, argument)
    if groups.shape != (n,):
        raise ValueError(f"`{argument}` must have one label for each of {n} rows; got shape {groups.shape}.")
    check_finite(groups, argument)
    try:
        return np.unique(groups, return_inverse=True)[1].astype(np.int64)
    except TypeError as error:
        raise TypeError(f"`{argument}` must have labels of one kind, which can be sorted ({error}).") from None


def _array(values, argument: str) -> np.ndarray:
    refuse_masked(values, argument)
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"`{argument}` must be an array: {error}") from None


def class_labels(y: np.ndarray, loss) -> np.ndarray | None:
    """The class of each row (n,), by targets that the loss takes; None where it has not one for each."""
    labels = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
    several = y.size > len(y) and not loss.codes
    return None if not loss.classification or several or (labels != np.floor(labels)).any() else labels


def class_weights(class_weight, y: np.ndarray, loss, n_outputs: int) -> np.ndarray:
    """The weight of each row by its class, float64 (n,).

    >>> from fastmlp.losses import Hinge
    >>> class_weights("balanced", np.array([0, 0, 0, 1]), Hinge(), 1).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    labels = class_labels(y, loss)
    if labels is None:
        raise ValueError(f"`class_weight` needs one class per row; got loss={loss.name!r} and targets of {y.shape}.")
    if isinstance(class_weight, str) and class_weight == "balanced":
        _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return (len(labels) / (len(counts) * counts))[place]
    if not isinstance(class_weight, dict):
        raise TypeError(f"`class_weight` must be a dictionary class -> weight, or 'balanced'; got {class_weight!r}.")
    weights = np.ones(len(labels))
    for label, weight in class_weight.items():
        if not isinstance(label, Real):
            raise TypeError(f"`class_weight` must have numbers for classes, as y has; got {label!r}.")
        known = 0 <= label < n_outputs if loss.codes else not loss.bad_targets(np.array([[label]]), n_outputs).any()
        if not known:
            raise ValueError(f"`class_weight` must have classes that y can hold, {loss.targets}; got {label!r}.")
        check_range(f"class_weight[{label!r}]", weight, 0, np.inf)
        weights[labels == label] = weight
    return weights


_FROM_LABELS = " np.unique(y, return_inverse=True) gives classes and codes, from 0 on."


def check_targets(y, n: int, n_outputs: int, loss, argument: str = "y") -> np.ndarray:
    """Targets of the shape and in the range that the loss takes."""
    y = y.toarray() if is_sparse(y) else _array(y, argument)
    expected = f"`{argument}` must be {loss.targets}, for {n} rows and K={n_outputs} outputs"
    if y.dtype.kind not in "biuf":
        hint = (
            _FROM_LABELS if loss.classification else f" {argument}.astype(float) makes numbers of texts that are such."
        )
        hint = hint if y.dtype.kind in "OSU" else ""
        raise TypeError(f"{expected}; got dtype {y.dtype}.{hint}")
    columns = loss.target_columns(n_outputs)
    if y.ndim == 2 and y.shape == (n, columns) and not (loss.codes and n_outputs == 1):
        pass
    elif y.shape in ((n,), (n, 1)) and (loss.codes or columns == 1):
        y = y.reshape(n)
    else:
        wanted = f", not ({n}, {columns})" if y.shape == (n,) and columns > 1 else ""
        raise ValueError(f"{expected}; got shape {y.shape}{wanted}.")
    check_finite(y, argument)
    if loss.codes and y.ndim == 1:
        with np.errstate(invalid="ignore"):
            codes = y.astype(np.int64)
        bad = (codes != y) | (codes < 0) | (codes >= n_outputs)
        if bad.any():
            row = int(np.argmax(bad))
            hint = " For one output use loss='binary_cross_entropy'." if n_outputs == 1 else _FROM_LABELS
            raise ValueError(f"{expected}; got {y[row].item()!r} in row {row}.{hint}")
        return codes
    bad = loss.bad_targets(y, n_outputs)
    if bad.any():
        where = np.argwhere(bad)[0]
        raise ValueError(f"{expected}; got {y[tuple(where)].item()!r} in row {where[0]}.")
    if loss.codes and (bad := abs(y.sum(axis=1) - 1) > 1e-3).any():
        row = int(np.argmax(bad))
        raise ValueError(f"{expected}; row {row} sums to {y[row].sum():g}, not to 1.")
    return y
