"""A network that `fastmlp train` has trained on a table, with what becomes of the table's columns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .preprocessing import decode_target, encoded_blocks, text_columns
from .tables import MISSING, check_sort, column_of, how_read, pyarrow, read_columns, read_table, table_of

if TYPE_CHECKING:
    import pyarrow as pa

    from .sequential import Sequential

ROWS = 2**16  # predicted at a time


class TableModel:
    r"""A trained network that takes rows of tables as they come: what `fastmlp train table.csv --save file` has saved.

    Numbers are standardised and binned, texts one-hot encoded, as the training's rows; predictions are turned back.
    Columns are found by their names; others do not matter. What is unlike the training, such as a text that was not
    learned, is a UserWarning.

    Attributes
    ----------
    network : Sequential
        It takes the encoded columns; a regression's outputs are standardised.
    feature_names : list of str
        The columns that it needs.
    target : str
        The column that it predicts.
    classes : ndarray or None
        Of a classification, in the order of `predict_proba`'s columns.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp.cli import main
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table, file = os.path.join(folder, "table.csv"), os.path.join(folder, "model.safetensors")
    ...     with open(table, "w") as f:
    ...         print("size,price", *(f"{k},{k}" for k in range(99)), sep="\n", file=f)
    ...     code = main(["train", table, "--target", "price", "--save", file, "--quiet"])  # doctest: +ELLIPSIS
    ...     model = TableModel.load(file)
    regression of 'price': ...
    >>> model.feature_names
    ['size']
    >>> model.predict([{"size": 50}, {"size": 7}]).shape
    (2,)
    """

    def __init__(self, network: Sequential, preprocess: dict):
        self.network, self._preprocess = network, preprocess

    @classmethod
    def load(cls, path: str | os.PathLike) -> TableModel:
        """The model in a file of `fastmlp train`.

        Raises
        ------
        ModelFileError, OSError
            As in `load_model`.
        ValueError
            The model is not of a table.
        """
        from .serialization import load_model_with_extra

        network, extra = load_model_with_extra(path)
        if "preprocess" not in (extra or {}):
            raise ValueError(
                f"{os.fspath(path)!r} was not trained on a table by `fastmlp train`: its columns are unknown."
            )
        return cls(network, extra["preprocess"])

    def __repr__(self):
        return f"TableModel({self.target!r} of {len(self.feature_names)} columns, {self.network!r})"

    @property
    def feature_names(self) -> list[str]:
        return [feature["name"] for feature in self._preprocess["features"]]

    @property
    def target(self) -> str:
        return self._preprocess["target"]["name"]

    @property
    def classes(self) -> np.ndarray | None:
        classes = self._preprocess["target"].get("classes")
        return None if classes is None else np.array(classes)

    def predict(self, rows: Any) -> np.ndarray:
        """Classes or numbers, (n,), in the target's own terms.

        Parameters
        ----------
        rows : data frame, list of dict, or path
            A frame of pandas, polars or PyArrow; records such as a request's JSON, each with all columns, None where a
            value is missing; or the path of a CSV or Parquet file, read as `fastmlp predict` does.

        Raises
        ------
        ValueError, TypeError
            A column is missing, or of another kind than in training, or some of its dates are in another format than
            there, and not all: the message names it, and the row.

        Warns
        -----
        UserWarning
            Texts that were not learned; missing values where training had none; dates in another format; numbers with
            another mark, or without the one they bore.
        """
        return decode_target(self._outputs_of(rows), self._preprocess)

    def predict_proba(self, rows: Any) -> np.ndarray:
        """Probabilities of `classes`, (n, n_classes); parameters, errors and warnings as in `predict`.

        Raises
        ------
        AttributeError
            The model is a regression.
        """
        if self.classes is None:
            raise AttributeError("`predict_proba` is for classifications; this model is a regression.")
        return self._outputs_of(rows)

    def _outputs_of(self, rows: Any) -> np.ndarray:
        table, notes = self.read(rows) if isinstance(rows, (str, os.PathLike)) else self._taken(rows), []
        outputs = self.outputs(self.like_training(table, notes.append))
        for text in notes:
            warnings.warn(text, stacklevel=3)
        return outputs

    def _taken(self, rows: Any) -> pa.Table:
        if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            for k, row in enumerate(rows):
                if lacking := [name for name in self.feature_names if name not in row]:
                    raise ValueError(f"`rows`[{k}] has no {lacking[0]!r}; None says that a value is missing.")
            columns = {name: column_of([row[name] for row in rows], name) for name in self.feature_names}
            table = pyarrow().table(columns)
        else:
            table = table_of(rows, [*self.feature_names, self.target])
        if table.column_names and not table.num_rows:  # where all columns lack, that is to be said
            raise ValueError("`rows` must have at least one; got none.")
        return read_columns(table, None, **self._how_to_read)

    @property
    def _how_to_read(self) -> dict:
        preprocess = self._preprocess
        return {
            "text_columns": text_columns(preprocess),
            "target": self.target if set(preprocess["target"].get("classes", ())) & set(MISSING) else None,
            "missing": preprocess.get("missing", ()),
            "learned": preprocess.get("read", {}),
        }

    def read(self, path: str | os.PathLike) -> pa.Table:
        """A file's table, with its columns taken as they were in training."""
        return read_table(path, **self._how_to_read)

    def outputs(self, table: pa.Table) -> np.ndarray:
        """What the network says of every row, (n, K)."""
        network = self.network
        blocks = encoded_blocks(table, self._preprocess, network.dtype, ROWS)
        return np.concatenate([network.predict(X).reshape(len(X), network.n_outputs) for X in blocks])

    def like_training(self, table: pa.Table, note: Callable[[str], None]) -> pa.Table:
        """The table with texts as they were learned; what is unlike the training is an error, or a note."""
        preprocess = self._preprocess
        there, learned, target = set(table.column_names), preprocess.get("read", {}), preprocess["target"]
        features = [feature for feature in preprocess["features"] if feature["name"] in there]
        say_how_read(table, [feature["name"] for feature in features], learned, note)
        for feature in features:
            name = feature["name"]
            if "sort" in feature:  # which texts lack, and files of older versions
                check_sort(table[name], name, feature["sort"], learned.get(name, {}))
            if feature["kind"] == "text":
                table = _with_learned_texts(table, name, feature["categories"], note)
            missing, rows = table[name].null_count, table.num_rows
            if missing and not (None in feature["categories"] if feature["kind"] == "text" else feature["missing"]):
                note(f"column {name!r}: {missing:,} of {rows:,} rows have no value; in training, all had one")
        if target["name"] in there and isinstance(target.get("classes", [None])[0], str):
            table = _with_learned_texts(table, target["name"], target["classes"], note)
        return table


def _with_learned_texts(table: pa.Table, name: str, learned: list, note: Callable[[str], None]) -> pa.Table:
    """The table with texts as they were learned: "1" for "1.0", as pandas writes integers beside a missing one, and
    "True", as it writes true, for that of JSON or of Arrow.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column, known = table[name].cast(pa.string()), pa.array(learned, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, of which none was learned
        return table
    whole = pc.replace_substring_regex(column, r"^([+-]?\d+)\.0+$", r"\1")
    column = pc.if_else(pc.is_in(column, known), column, pc.if_else(pc.is_in(whole, known), whole, column))
    for word in (text for text in learned if str(text).lower() in ("true", "false")):
        same = pc.and_not(pc.equal(pc.utf8_lower(column), word.lower()), pc.is_in(column, known))
        column = pc.if_else(same, word, column)
    unseen = column.filter(pc.invert(pc.is_in(column, known))).drop_null()
    if len(unseen):
        texts = unseen.unique().to_pylist()
        some = ", ".join(map(repr, texts[:3])) + ", ..." * (len(texts) > 3)
        note(f"column {name!r}: {len(unseen):,} of {len(column):,} rows hold texts that were not learned ({some})")
    return table.set_column(table.column_names.index(name), name, column)


def say_how_read(table: pa.Table, names: list[str], learned: dict, note: Callable[[str], None]) -> None:
    """Which columns were not read as they stand, where that is news."""
    read = how_read(table)
    for name in names:
        how, known = read.get(name, {}), learned.get(name, {})
        date, other, mark = how.get("date"), how.get("or"), how.get("mark")
        if date and known.get("date", date) != date:
            note(f"column {name!r}: dates taken for {date}; in training they were {known['date']}")
        elif other:
            note(f"column {name!r}: dates taken for {date}, but {other} fits as well; 2024-12-31 would be clear")
        if "missing" in how:
            note(f"column {name!r}: {how['missing']!r} taken for a missing value")
        if mark and mark != known.get("mark"):
            note(f"column {name!r}: taken for numbers, without {mark!r}")
        elif not mark and known.get("mark", ",") not in ",." and table[name].null_count < table.num_rows:
            note(f"column {name!r}: the numbers bore {known['mark']!r} in training, here they do not")
