"""CSV and Parquet files as tables whose missing values are null and whose columns have types.

What becomes of the columns is decided in preprocessing.py.
"""

from __future__ import annotations

import codecs
import gzip
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_ALMOST_A_NUMBER = r"^([^\w\s]{1,2}\s?[\d.,]*\d|\d[\d.,]*\s?[^\w\s]{1,2}|\d{1,3}(,\d{3})+(\.\d+)?)$"
MISSING = ("", "?", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "NULL", "null", "None")


def read_table(path: str | os.PathLike, text_columns: Collection[str] = ()) -> pa.Table:
    """Read a CSV (also .tsv, gzipped) or Parquet file; texts are trimmed, and empty, "?", "NA" and the like are null.

    Parameters
    ----------
    path : path
        Ends in .csv, .csv.gz, .tsv, .tsv.gz, .parquet or .pq. A CSV file has a header and is UTF-8; its columns may be
        separated by comma, semicolon, tab or bar. Where semicolons do, "1,5" is a number.
    text_columns : names, default=()
        Columns of a CSV file that stay text though they look like numbers ("007").

    Returns
    -------
    pyarrow.Table
        Columns of int64, float64, bool, timestamp or string for CSV; Parquet's own types otherwise.

    Raises
    ------
    ImportError
        PyArrow is not installed.
    FileNotFoundError, ValueError
        There is no such file, or it is no table.

    Examples
    --------
    >>> read_table("houses.csv").column_names  # doctest: +SKIP
    ['rooms', 'age', 'price']
    """
    path, pa = Path(path), _pyarrow()
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"a table's name must end in one of {', '.join(SUFFIXES)}; got {str(path)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        delimiter = None if is_parquet else _delimiter(path)
        table = _read_parquet(path) if is_parquet else _read_csv(path, delimiter)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        advice = ". Save it in UTF-8." if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"{str(path)!r} cannot be read as a table: {error}{advice}") from error
    names = table.column_names
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise ValueError(f"{str(path)!r} has {count} columns named {name!r}.")
    if table.num_rows == 0:
        raise ValueError(f"{str(path)!r} has no rows.")
    columns = {name: _clean(table[name]) for name in names}
    if not is_parquet:
        comma = delimiter == ";"
        columns |= {name: infer(column, comma) for name, column in columns.items() if name not in text_columns}
    return pa.table(columns)


def kind_of(column: pa.ChunkedArray) -> str | None:
    """What a column is to a network: "number", "text", or None for types such as lists."""
    import pyarrow.types as types

    if types.is_string(column.type) or types.is_large_string(column.type):
        return "text"
    numeric = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_temporal)
    return "number" if types.is_null(column.type) or any(is_type(column.type) for is_type in numeric) else None


def numbers(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """The column as float64, NaN for missing; dates and times as microseconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"), safe=False)
        if pa.types.is_time(column.type):
            column = column.cast(pa.time64("us"), safe=False)
        if pa.types.is_temporal(column.type) or pa.types.is_boolean(column.type):
            column = column.cast(pa.int64())
        if kind_of(column) == "text":
            is_text = pc.fill_null(pc.invert(pc.match_substring_regex(column, _NUMBER)), False).to_numpy()
            if is_text.any():
                row = int(is_text.argmax())
                raise ValueError(f"column {name!r} must hold numbers; got {column[row].as_py()!r} in row {row + 1}.")
        values = column.cast(pa.float64(), safe=kind_of(column) == "text").to_numpy()
    except pa.ArrowInvalid as error:
        raise ValueError(f"column {name!r} must hold numbers: {error}") from error
    values = np.asarray(values, dtype=np.float64)
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise ValueError(f"column {name!r} holds an infinite number in row {infinite[0] + 1}.")
    return values


def stray_text(column: pa.ChunkedArray) -> str | None:
    """The first text that is no number in a column that holds mostly numbers, or such as "$1.50", "7 %" and "1,000",
    which are none either; else None.
    """
    import pyarrow.compute as pc

    if kind_of(column) != "text":
        return None
    texts = column.drop_null()
    is_number = pc.match_substring_regex(texts, _NUMBER)
    others = texts.filter(pc.invert(is_number))
    almost = texts.filter(pc.match_substring_regex(texts, _ALMOST_A_NUMBER))
    stray = others if 0 < len(others) < len(texts) / 2 else almost if len(almost) > len(texts) / 2 else []
    return stray[0].as_py() if len(stray) else None


def _pyarrow():
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('tables need PyArrow: pip install "fastmlp[table]"') from error
    return pyarrow


def _read_parquet(path: Path) -> pa.Table:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:  # parquet.read_table fails where two columns have one name
        return file.read()


def _delimiter(path: Path) -> str:
    """What separates the columns of a CSV file: the most frequent candidate in its header."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as lines:
        header = lines.readline(1 << 20)
    if header.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{str(path)!r} must be UTF-8 to be read as a table; it is UTF-16.")
    return max(",;\t|", key=header.decode(errors="replace").count)


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    """Every column as text: PyArrow would infer types from the first megabyte and fail on what comes later."""
    from pyarrow import csv, string

    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as blocks:
        names = blocks.schema.names
    convert = csv.ConvertOptions(column_types={name: string() for name in names})
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _clean(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Trim texts; null for what stands for a missing value, NaN among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if str(column.type) == "string_view":  # for which PyArrow has few functions
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.is_in(column, pa.array(MISSING, column.type)), pa.scalar(None, column.type), column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    return column


def infer(column: pa.ChunkedArray, decimal_comma: bool = False) -> pa.ChunkedArray:
    """A text column as the first type that all its values fit (int64 if all are missing)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return _clean(column.cast(kind))  # "-nan" is NaN
        except pa.ArrowInvalid:
            pass
    pattern = r"^[+-]?\d*,?\d+([eE][+-]?\d+)?$"
    if decimal_comma and pc.all(pc.match_substring_regex(column, pattern)).as_py():
        return pc.replace_substring(column, ",", ".").cast(pa.float64())
    return column
