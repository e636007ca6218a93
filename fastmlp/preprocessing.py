"""Tables become what a network is trained on: a matrix of numbers and a target.

`fit_preprocess` decides from the training rows what becomes of every column, and `encode_features` and `encode_target`
do it, to these rows or others. What was decided is a plain dictionary that JSON can carry, so it travels inside the
model's file::

    {"features": [{"name": "age", "kind": "number", "fill": 37.0, "mean": 38.6, "scale": 13.6, "missing": False,
                   "edges": [17.0, 37.0, 90.0], "means": [0.74, 0.12], "sort": "number"},
                  {"name": "job", "kind": "text", "categories": ["Sales", "Tech", None]}],
     "target": {"name": "income", "task": "classification", "classes": ["<=50K", ">50K"]},
     "ignored": {"id": "every text is different"}}

A number is standardised; a missing one becomes the median, and gets a second column that tells, if any was missing in
training. Then come its places in bins (`piecewise`), of which there are fewer where rows are few, or numbers so many
that memory counts. A text is one-hot encoded, where missing (None) is a category of its own and an unseen one is all
zeros.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from . import piecewise
from .errors import unknown_name
from .tables import infer, kind_of, numbers

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CATEGORIES = 100  # of one text column; the rarer ones are treated as unseen
FARTHEST = 1e6  # standard deviations; rows that were trained on are within sqrt(n_rows), others may be anything
MAX_BINS, ROWS_A_BIN = 48, 64  # of a number
MAX_ENCODED = 2**28  # numbers in all bins of all rows that are trained on: a gibibyte in float32
MAX_INTEGER_CLASSES = 20  # more distinct integers than this are taken for a quantity, not for classes


def find_task(column: pa.ChunkedArray, task: str = "auto") -> str:
    """Whether a target asks for classification (text, bool, few whole numbers) or regression (other numbers)."""
    import pyarrow.compute as pc

    accepted = ("auto", "classification", "regression")
    if task not in accepted:
        raise unknown_name("task", task, accepted)
    if task != "auto":
        return task
    kind = kind_of(column)
    if kind is None:  # such as lists, whose distinct ones Arrow cannot count; `fit_preprocess` refuses them
        return "classification"
    is_integer = kind == "number" and "int" in str(column.type)
    n_distinct = pc.count_distinct(column).as_py()
    is_whole = kind == "number" and "double" in str(column.type) and _all_whole(column)
    few = n_distinct <= MAX_INTEGER_CLASSES and (is_integer or (is_whole and n_distinct <= len(column) // 2))
    return "classification" if kind == "text" or str(column.type) == "bool" or few else "regression"


def _all_whole(column: pa.ChunkedArray) -> bool:
    """Integers, which pandas writes with a point where some are missing."""
    import pyarrow.compute as pc

    return bool(pc.all(pc.equal(pc.floor(column), column)).as_py())


def fit_preprocess(table: pa.Table, target: str, task: str, drop: Collection[str] = ()) -> dict:
    """Decide from the training rows what becomes of every column.

    Parameters
    ----------
    table : pyarrow.Table
        The training rows, none without a target.
    target : str
        The column to learn.
    task : {"classification", "regression"}
    drop : names, default=()
        Columns to leave out.

    Returns
    -------
    dict
        As in this module's docstring.

    Raises
    ------
    ValueError
        The target is no target (constant, texts for a regression), or no other column tells anything.
    """
    features, ignored = [], {}
    used = [name for name in table.column_names if name != target and name not in drop]
    n_numbers = sum(kind_of(table[name]) == "number" for name in used)
    most = MAX_ENCODED // max(1, table.num_rows * n_numbers)
    n_bins = min(MAX_BINS, table.num_rows // ROWS_A_BIN, most)
    for name in table.column_names:
        if name == target:
            continue
        reason, feature = ("left out", None) if name in drop else _fit_feature(name, table[name], n_bins)
        if feature is None:
            ignored[name] = reason
        else:
            features.append(feature)
    if not features:
        why = "; ".join(f"{name!r}: {reason}" for name, reason in ignored.items()) or "there is no other"
        raise ValueError(f"no column but {target!r} can be learned from ({why}).")
    return {"features": features, "target": _fit_target(target, table[target], task), "ignored": ignored}


def encode_features(table: pa.Table, preprocess: dict, dtype: np.dtype | str = "float32") -> np.ndarray:
    """The network's input, (n_rows, n_columns). Order and number of the table's other columns do not matter.

    Raises
    ------
    ValueError
        A column is missing, or holds texts where numbers are expected, or an infinite number.
    """
    return next(encoded_blocks(table, preprocess, dtype, max(1, table.num_rows)))


def encoded_blocks(table: pa.Table, preprocess: dict, dtype: np.dtype | str, n_rows: int) -> Iterator[np.ndarray]:
    """`encode_features` of so many rows after the other: all of a large table would be many times larger."""
    features, there = preprocess["features"], set(table.column_names)
    for feature in features:
        if feature["name"] not in there:
            raise ValueError(f"the table has no column {feature['name']!r}, which the model was trained on.")
    columns = [_values(table[feature["name"]], feature) for feature in features]
    for start in range(0, max(1, table.num_rows), n_rows):
        rows = slice(start, min(start + n_rows, table.num_rows))
        X = np.zeros((rows.stop - start, sum(map(_width, features))), dtype=dtype)
        first = 0
        for feature, values in zip(features, columns, strict=True):
            last = first + _width(feature)
            encode = _encode_number if feature["kind"] == "number" else _encode_text
            encode(values[rows], feature, X[:, first:last])
            first = last
        yield X


def encode_target(table: pa.Table, preprocess: dict) -> np.ndarray:
    """The target of every row: for classification codes (int64, -1 for an unseen class), else standardised float64."""
    target = preprocess["target"]
    column = table[target["name"]]
    if target["task"] == "regression":
        return (numbers(column, target["name"]) - target["mean"]) / target["scale"]
    return _codes(column, target["classes"])


def decode_target(output: np.ndarray, preprocess: dict) -> np.ndarray:
    """Predictions in the target's own terms, from probabilities (n, n_classes) or a standardised regression (n, 1)."""
    target = preprocess["target"]
    if target["task"] == "regression":
        return output[:, 0].astype(np.float64) * target["scale"] + target["mean"]
    return np.array(target["classes"])[output.argmax(axis=1)]


def text_columns(preprocess: dict) -> list[str]:
    """The columns that `read_table` must leave as text for this preprocessing."""
    names = [feature["name"] for feature in preprocess["features"] if feature["kind"] == "text"]
    target = preprocess["target"]
    return names + [target["name"]] * isinstance(target.get("classes", [None])[0], str)


def _fit_feature(name: str, column: pa.ChunkedArray, n_bins: int) -> tuple[str, dict | None]:
    """(reason, None) for a column to ignore, else ("", what becomes of it)."""
    import pyarrow.compute as pc

    kind = kind_of(column)
    if kind is None:
        return f"columns of type {column.type} are not supported", None
    if name == "" or re.fullmatch(r"__index_level_\d+__", name):  # pandas calls its index so in Parquet
        return "it has no name (row numbers?)", None
    if column.null_count == len(column):
        return "all values are missing", None
    n_distinct = pc.count_distinct(column).as_py()
    if n_distinct == 1 and not column.null_count:
        return "all values are equal", None
    if kind == "text":
        if n_distinct == len(column) - column.null_count > len(column) / 2:  # where few have one, that may tell
            return "every text is different", None
        return "", {"name": name, "kind": "text", "categories": _categories(column)}
    values = numbers(column, name)
    missing = np.isnan(values)
    # The median; np.median would overflow for values near the largest float
    fill = sum(float(np.quantile(values[~missing], 0.5, method=side)) / 2 for side in ("lower", "higher"))
    filled = np.where(missing, fill, values)
    mean, scale = _mean_and_scale(filled)
    edges, means = piecewise.fit_bins(filled, n_bins) if n_bins > 1 else (np.zeros(0), np.zeros(0))
    if len(means) < 2:  # a flag's bin would tell what the standardised number does
        edges, means = edges[:0], means[:0]
    return "", {
        "name": name,
        "kind": "number",
        "fill": fill,
        "mean": mean,
        "scale": scale,
        "missing": bool(missing.any()),
        "edges": edges.tolist(),
        "means": means.tolist(),
        "sort": _sort(column),
    }


def _sort(column: pa.ChunkedArray) -> str:
    """Of numbers, of which texts may be read."""
    import pyarrow.types as types

    return "time" if types.is_temporal(column.type) else "flag" if types.is_boolean(column.type) else "number"


def _categories(column: pa.ChunkedArray) -> list[str | None]:
    """The most frequent texts in alphabetical order, then None if any is missing."""
    counts = column.drop_null().value_counts().to_pylist()
    counts.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    kept = sorted(entry["values"] for entry in counts[:MAX_CATEGORIES])
    return [*kept, None] if column.null_count else kept


def _fit_target(name: str, column: pa.ChunkedArray, task: str) -> dict:
    import pyarrow as pa

    kind = kind_of(column)
    if kind is None or pa.types.is_temporal(column.type):
        raise ValueError(f"the target {name!r} has type {column.type}; it must hold texts, numbers or true and false.")
    if task == "classification":
        classes = sorted(column.unique().to_pylist())
        if len(classes) < 2:
            raise ValueError(f"the target {name!r} must have at least two classes; every row holds {classes[0]!r}.")
        if (kind == "text" or pa.types.is_floating(column.type)) and len(classes) > max(len(column) // 2, 2):
            raise ValueError(
                f"the target {name!r} holds {len(classes)} {kind}s in {len(column)} rows: too many for classes"
                f"{'' if kind == 'text' else '; use --task regression'}."
            )
        return {"name": name, "task": task, "classes": classes}
    if kind == "text":
        raise ValueError(f"the target {name!r} holds texts such as {column[0].as_py()!r}; regression needs numbers.")
    values = numbers(column, name)
    if values.min() == values.max():
        raise ValueError(f"the target {name!r} is {values[0]:g} in every row: there is nothing to learn.")
    mean, scale = _mean_and_scale(values)
    return {"name": name, "task": task, "mean": mean, "scale": scale}


def _mean_and_scale(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (1 for a constant), without overflow for values near the largest float."""
    unit = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    scale = float((values / unit).std()) * unit
    return float((values / unit).mean()) * unit, scale if scale > 0 else 1.0


def _width(feature: dict) -> int:
    if feature["kind"] == "text":
        return len(feature["categories"])
    return 1 + feature["missing"] + len(feature.get("means", ()))


def _values(column: pa.ChunkedArray, feature: dict) -> np.ndarray:
    """Numbers, NaN where one is missing, or the codes of texts."""
    import pyarrow.compute as pc

    if feature["kind"] == "text":
        return _codes(column, feature["categories"])
    if kind_of(column) == "text" and feature.get("sort") == "flag":
        column = pc.replace_substring_regex(column, r"\.0*$", "")  # 1.0 beside true
    if kind_of(column) == "text" and _sort(inferred := infer(column)) == feature.get("sort", "number"):
        column = inferred  # of Parquet, where the model was of CSV
    return numbers(column, feature["name"])


def _encode_number(values: np.ndarray, feature: dict, out: np.ndarray) -> None:
    missing = np.isnan(values)
    values = np.where(missing, feature["fill"], values)
    # Both halves by the scale first: neither the difference of huge numbers nor the cast to float32 may overflow
    with np.errstate(over="ignore"):
        z = values / feature["scale"] - feature["mean"] / feature["scale"]
    np.clip(z, -FARTHEST, FARTHEST, out=z)
    out[:, 0] = z
    if feature["missing"]:
        out[:, 1] = missing
    if feature.get("means"):
        edges, means = np.array(feature["edges"]), np.array(feature["means"])
        piecewise.encode(values, edges, means, out[:, 1 + feature["missing"] :])


def _encode_text(codes: np.ndarray, feature: dict, out: np.ndarray) -> None:
    rows = np.flatnonzero(codes >= 0)
    out[rows, codes[rows]] = 1


def _code(value: pa.Scalar, lookup: pa.Array) -> int:
    """The place of one value in these, -1 where it is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.index(lookup, value.cast(lookup.type)).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return -1


def _codes(column: pa.ChunkedArray, values: list) -> np.ndarray:
    """The index of every entry in a list, -1 where it is not there; None is found like any other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lookup = pa.array(values)
    try:
        found = pc.index_in(column.cast(lookup.type), lookup)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # such as a text where the classes are numbers: one by one
        try:
            values = column.unique()
        except pa.ArrowNotImplementedError:  # lists
            return np.full(len(column), -1)
        codes = np.array([_code(value, lookup) for value in values], np.int64)
        return codes[pc.index_in(column, values).to_numpy()]
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)
