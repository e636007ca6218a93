"""X, y and weights as the engine reads them: contiguous where they must be, copied only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from . import losses

_AS_THEY_ARE = {np.dtype(name): name for name in ("float32", "float64", "uint8")}  # an array's `dtype.name` is slow


def source_of(X) -> tuple[str, dict]:
    """How the engine reads X: the name of its gather kernel's variant, and the places it refers to."""
    if isinstance(X, np.ndarray):
        return _AS_THEY_ARE[X.dtype], {"X": X, "X_stride": X.strides[0] if X.shape[0] > 1 else X.shape[1] * X.itemsize}
    return f"csr.{X.dtype.name}.{X.indices.dtype.name}", {
        "X": X.data,
        "X_stride": 0,
        "indices": X.indices,
        "indptr": X.indptr,
    }


DENSE = 0.1  # share of entries from which gathered rows are multiplied sooner than sparse ones


def most_entries(X, n_rows: int) -> int:
    """How many entries so many rows of CSR, as `engine_data` gives it, have at most; 0: rows should be gathered."""
    if isinstance(X, np.ndarray) or X.indptr[-1] > DENSE * X.shape[0] * X.shape[1]:
        return 0
    of_rows = np.diff(X.indptr)
    if n_rows < len(of_rows):
        of_rows = np.partition(of_rows, len(of_rows) - n_rows)[-n_rows:]
    return max(1, int(of_rows.sum(dtype=np.int64)))


def engine_data(X):
    """X as the engine can read it, copied only if it must be: rows of float32, float64 or uint8, or CSR of floats."""
    if isinstance(X, np.ndarray):
        if not X.dtype.isnative:
            X = X.astype(X.dtype.newbyteorder("="))
        if X.dtype not in _AS_THEY_ARE:
            X = X.astype(np.float64)
        row_major = X.strides[1] == X.itemsize or X.shape[1] == 1
        return X if row_major and X.strides[0] >= 0 else np.ascontiguousarray(X)
    X = X.tocsr()
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    X.check_format(full_check=True)  # the engine goes where the indices say
    index = X.indices.dtype if X.indices.dtype == X.indptr.dtype in (np.int32, np.int64) else np.dtype(np.int64)
    parts = X.data, X.indices.astype(index, copy=False), X.indptr.astype(index, copy=False)
    data, indices, indptr = map(np.ascontiguousarray, parts)  # SciPy keeps strided views
    return SimpleNamespace(shape=X.shape, data=data, indices=indices, indptr=indptr, dtype=data.dtype)


def engine_targets(loss, y, n_outputs: int, dtype: str, groups=None) -> tuple[str, np.ndarray]:
    """("codes", int64 (n,)) or ("dense", (n, K) of the dtype)."""
    y = np.asarray(y)
    if isinstance(loss, losses.SoftmaxCrossEntropy) and not (y.ndim == 2 and y.shape[1] == n_outputs and n_outputs > 1):
        return "codes", np.ascontiguousarray(y.reshape(-1), np.int64)
    y = loss.as_narrow(y, groups)
    with np.errstate(over="ignore"):
        dense = np.ascontiguousarray(y.reshape(-1, loss.target_columns(n_outputs)), dtype)
    if not np.isfinite(dense).all():
        raise ValueError(
            f"`y` holds numbers beyond {dtype}; scale it, or use float64: Sequential's dtype, or an estimator's X."
        )
    return "dense", dense


def engine_weights(sample_weight, dtype: str) -> tuple[np.ndarray | None, float]:
    """(weights in the dtype, the unit they are in): the unit is not 1 only where the dtype could not hold them."""
    if sample_weight is None:
        return None, 1.0
    weights = np.asarray(sample_weight, np.float64)
    positive = weights[weights > 0]
    in_range = positive.size == 0 or (positive.min() > 1e-30 and positive.max() < 1e30)
    unit = 1.0 if in_range else float(positive.max())
    return np.ascontiguousarray(weights / unit, dtype), unit


class DataSet(NamedTuple):
    """Rows, and what a loss takes of them, as the engine reads them."""

    X: Any  # as `engine_data` gives it
    kind: tuple[str, str | None, bool]  # how rows and targets are stored, whether there are weights: for a plan
    weights: np.ndarray | None
    unit: float  # of the weights
    externals: dict  # where an executor finds all of this


def data_set(X, y, sample_weight, groups, loss, n_outputs: int, dtype: str) -> DataSet:
    """These rows; without a loss they have neither targets nor weights."""
    X = engine_data(X)
    source, externals = source_of(X)
    if loss is None:
        return DataSet(X, (source, None, False), None, 1.0, externals)
    targets, y = engine_targets(loss, y, n_outputs, dtype, groups)
    weights, unit = engine_weights(loss.row_weights(y, groups) if loss.queries else sample_weight, dtype)
    externals |= {"y": y} | ({} if weights is None else {"sample_weight": weights})
    externals |= {"queries": groups} if loss.queries else {}
    return DataSet(X, (source, targets, weights is not None), weights, unit, externals)
