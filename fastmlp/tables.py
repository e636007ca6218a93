"""CSV and Parquet files as tables whose missing values are null and whose columns have types.

What becomes of the columns is decided in preprocessing.py.
"""

from __future__ import annotations

import codecs
import csv as csv_module
import gzip
import io
import os
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_ALMOST_A_NUMBER = r"^([^\w\s]{1,2}\s?[\d.,]*\d|\d[\d.,]*\s?[^\w\s]{1,2}|\d{1,3}(,\d{3})+(\.\d+)?)$"
MISSING = ("", "?", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "NULL", "null", "None")
# Beside ISO 8601, which Arrow knows. Where two orders of day and month fit, the first is taken.
DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%m/%d/%Y", "%d/%m/%Y"),
    *("%m-%d-%Y", "%d-%m-%Y", "%d-%b-%y", "%m/%d/%y", "%d/%m/%y"),
)
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WRITTEN = dict.fromkeys("mHMS", r"\d{1,2}") | {"I": "(?:0?[1-9]|1[0-2])", "p": "[ap]m"}
_WRITTEN |= {"Y": r"\d{4}", "y": r"\d{2}", "b": f"(?:{'|'.join(_MONTHS)})"}
_WRITTEN["d"] = r"(?P<day>\d{1,2})"
_FORMATS = [date + time for date in DATES for time in TIMES]
_ISO = (
    r"^(?P<date>\d{4}-\d\d-\d\d)(?:[T ](?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?)?"
    r"(?P<zone>Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?$"
)


def read_table(
    path: str | os.PathLike,
    text_columns: Collection[str] = (),
    *,
    target: str | None = None,
    missing: Collection[str] = (),
    learned: Mapping[str, Mapping[str, str]] | None = None,
) -> pa.Table:
    """Read a CSV (also .tsv, gzipped) or Parquet file; texts are trimmed, and empty, "?", "NA" and the like are null.

    A column of dates may be in any format of `DATES` that all its values fit. Of a CSV file, numbers may be written
    such as "$1,036" or "7%", and a single text without digits among numbers or dates, such as "-", is null.

    Parameters
    ----------
    path : path
        Ends in .csv, .csv.gz, .tsv, .tsv.gz, .parquet or .pq. A CSV file has a header and is UTF-8; its columns may be
        separated by comma, semicolon, tab or bar. Where commas do not, "1,5" is a number, and beside a column of such
        "1.003" is 1003. "1,003" is 1.003 where semicolons do, or beside such; else it is 1003.
    text_columns : names, default=()
        Columns that stay text though they look like numbers ("007") or dates.
    target : str, default=None
        A column of which, if it is text, only empty cells are missing: "None" may be a class.
    missing : texts, default=()
        What else is null, in every column. A number is so in columns of numbers however it is written there.
    learned : dict, default=None
        `how_read` of another table, whose formats and missing texts are preferred.

    Returns
    -------
    pyarrow.Table
        Columns of int64, float64, bool, timestamp or string for CSV; Parquet's own types otherwise, except for dates
        in texts.

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
    options = {"text_columns": text_columns, "target": target, "missing": missing, "learned": learned}
    return read_columns(*read_unchanged(path), **options)


def table_of(frame, names: Collection[str]) -> pa.Table:
    """These columns of a data frame, as far as it has them."""
    pa = pyarrow()
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if isinstance(frame, pa.Table):
        return frame.select([name for name in names if name in frame.column_names])
    if hasattr(frame, "collect"):
        raise TypeError(f"`rows` must hold its rows; got a {type(frame).__name__}: collect() it first.")
    if not hasattr(frame, "columns"):
        got = reprlib.repr(frame)  # which leaves out most of a large one
        raise TypeError(f"`rows` must be a data frame, a list of dictionaries or a path; got {got}.")
    there, columns = Counter(frame.columns), {}
    for name in names:
        if there[name] > 1:
            raise ValueError(f"`rows` has {there[name]} columns named {name!r}.")
        if there[name]:
            columns[name] = column_of(frame[name], name)
    return pa.table(columns)


def column_of(values, name: str) -> pa.Array:
    """A list, or a column of a data frame, as one of a table; of texts, where values are of several types."""
    pa = pyarrow()
    try:
        column = values.to_arrow() if hasattr(values, "to_arrow") else pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError):  # the last of numpy.datetime64 in days
        column = pa.array([None if value is None or value != value else str(value) for value in values])
    if pa.types.is_nested(column.type):
        got = reprlib.repr(column[0].as_py())
        raise TypeError(f"`rows` must hold numbers, texts or dates in {name!r}; got {got} in row 1.")
    return column


def read_columns(
    table: pa.Table, delimiter: str | None, *, text_columns: Collection[str], target, missing, learned
) -> pa.Table:
    """`read_table` of columns as they stand, as texts of CSV or (`delimiter` is None) with types."""
    pa, fields, columns = pyarrow(), [], []
    known = {name: (learned or {}).get(name, {}) for name in table.column_names}
    cleaned = {name: _clean(table[name], (*MISSING, *missing, how.get("missing", ""))) for name, how in known.items()}
    is_read = {name: kind_of(values) == "text" and name not in text_columns for name, values in cleaned.items()}
    commas = any(_has_decimal_commas(cleaned[name], delimiter) for name in known if is_read[name])
    for name, values in cleaned.items():
        how = {}
        if is_read[name]:
            decimal = known[name].get("decimal")
            comma = delimiter != "," and (delimiter == ";" or commas or decimal == ",")
            groups = delimiter != "," and ((commas and decimal != ".") or known[name].get("mark") == ".")
            writing = _Writing(comma, groups, known[name], mixed=learned is not None)
            read = _read_texts if name == target or (delimiter is None and not known[name]) else _read_most
            if delimiter is None and learned is None:  # texts that are learned from in a data frame are meant as such
                read = _read_times
            values, how = read(values, writing)
            values = _clean(values, missing)
        if name == target and kind_of(values) == "text":
            values = _clean(table[name], ("", *missing))
        columns.append(values)
        fields.append(pa.field(name, values.type, metadata=how))
    return pa.table(columns, schema=pa.schema(fields))


def how_read(table: pa.Table) -> dict[str, dict[str, str]]:
    """How `read_table` took the columns whose texts are not read as they stand.

    "date" is their format and "or" another one that fits as well, "mark" what was beside numbers, "decimal" what
    is before fractions where it may be a comma, "missing" the text that was taken for a missing value.
    """
    fields = {field.name: field.metadata for field in table.schema if field.metadata}
    return {
        name: {key.decode(): value.decode() for key, value in metadata.items()} for name, metadata in fields.items()
    }


def read_unchanged(path: str | os.PathLike) -> tuple[pa.Table, str | None]:
    """A table as the file has it, and what separates its columns: CSV as texts; Parquet with its types, and None."""
    path, pa = Path(path), pyarrow()
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
    return table, delimiter


def with_leading_zeros(table: pa.Table, unchanged: pa.Table, name: str) -> pa.Table:
    """The table with the texts of a column of integers if some are such as "01": as classes they are no numbers.

    Where both "01" and "1" are there, they are one class, and stay numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts, column = unchanged[name], table[name]
    if kind_of(texts) != "text" or not pa.types.is_integer(column.type):
        return table
    texts = pc.if_else(column.is_valid(), pc.utf8_trim_whitespace(texts), pa.scalar(None, texts.type))
    is_code = pc.any(pc.match_substring_regex(texts, r"^0\d+$")).as_py()
    if not is_code or pc.count_distinct(texts).as_py() > pc.count_distinct(column).as_py():
        return table
    return table.set_column(table.column_names.index(name), name, texts)


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


def check_sort(column: pa.ChunkedArray, name: str, sort: str, learned: Mapping[str, str]) -> None:
    """Raise unless a column holds times, flags or numbers, as in training; other texts are left to `numbers`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text, is_time = kind_of(column) == "text", pa.types.is_temporal(column.type)
    if sort == "time":
        fits, what = is_time, f"dates ({learned.get('date', '%Y-%m-%d')} in training)"
    elif sort == "flag":
        fits, what = not is_time and pc.all(is_flag(column)).as_py(), "true or false"
    else:
        fits, what = not is_time, "numbers"
    if fits or column.null_count == len(column):
        return
    valid = column.is_valid()
    if is_text and sort == "time":
        valid = pc.and_(valid, _learned_times(column, learned).is_null())
    elif sort == "flag" and not is_time:
        valid = pc.and_(valid, pc.invert(is_flag(column)))
    row = max(0, pc.index(valid, True).as_py())
    raise ValueError(f"column {name!r} must hold {what}; got {str(column[row])!r} in row {row + 1}.")


def is_flag(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether every number, or text, is true or false; null where it is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind_of(column) == "text":
        return pc.match_substring_regex(column, r"^(?i:true|false|[01](\.0*)?)$")
    column = column.cast(pa.float64())
    return pc.or_(pc.equal(column, 0), pc.equal(column, 1))


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


def stray_date(column: pa.ChunkedArray) -> str | None:
    """The first text that is no date in a column that holds mostly dates, of one format; else None."""
    import pyarrow.compute as pc

    if kind_of(column) != "text":
        return None
    texts = column.drop_null()
    some = [text for text in texts.slice(0, 100).to_pylist() if re.search(r"\d\D*\d\D*\d", text)]
    found = []
    for date_format in (None, *_FORMATS):
        pattern = r"^\d{4}-\d\d-\d\d" if date_format is None else _written(date_format)
        if 2 * sum(re.search(pattern, text) is not None for text in some) > min(len(texts), 100):
            found.append(_iso_times(texts) if date_format is None else _times(texts, date_format))
    times = min(found, key=lambda times: times.null_count, default=None)
    if times is None or times.null_count >= len(texts) / 2:
        return None
    strays = texts.filter(pc.is_null(times))
    return strays[0].as_py() if len(strays) else None


def pyarrow():
    """The package, or the error that says how to get it."""
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
    """What separates the columns of a CSV file: what makes the most of its header, and as many of the next rows."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        head = file.read(1 << 20)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{str(path)!r} must be UTF-8 to be read as a table; it is UTF-16.")
    text = head.decode("utf-8-sig", errors="replace")

    def columns(delimiter: str) -> tuple[bool, int]:
        try:
            rows = list(islice(filter(None, csv_module.reader(io.StringIO(text, ""), delimiter=delimiter)), 20))
        except csv_module.Error:  # such as a quote that is never closed
            return False, text.partition("\n")[0].count(delimiter) + 1
        widths = [len(row) for row in rows] or [0]
        return min(widths) == max(widths) > 1, widths[0]

    return max(",;\t|", key=columns)


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    """Every column as text: PyArrow would infer types from the first megabyte and fail on what comes later."""
    from pyarrow import csv, string

    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as blocks:
        names = blocks.schema.names
    convert = csv.ConvertOptions(column_types={name: string() for name in names})
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _clean(column: pa.ChunkedArray, missing: Collection[str] = MISSING) -> pa.ChunkedArray:
    """Trim texts; null for what stands for a missing value, NaN among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):  # by hand, for not every type of texts can be cast
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        texts = "string" in str(column.type.value_type)
        decoded = [(c.dictionary.cast(pa.string()) if texts else c.dictionary).take(c.indices) for c in chunks]
        column = pa.chunked_array(decoded, None if decoded else column.type.value_type)
    if str(column.type) == "string_view":  # for which PyArrow has few functions
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.is_in(column, pa.array(missing, column.type)), pa.scalar(None, column.type), column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        found = _numbers_among(missing, column.type)
        column = column.cast(pa.float64())
        is_missing = pc.or_(pc.is_nan(column), pc.is_in(column, found.cast(pa.float64())))
        return pc.if_else(is_missing, pa.scalar(None, pa.float64()), column)
    if pa.types.is_integer(column.type) and len(found := _numbers_among(missing, column.type)):
        return pc.if_else(pc.is_in(column, found), pa.scalar(None, column.type), column)
    return column


def _numbers_among(texts: Collection[str], of_type: pa.DataType) -> pa.Array:
    """What the texts are as numbers of a type, where it has them: -999 is also "-999.0", and 0.1 one of float32."""
    import pyarrow as pa

    found = []
    for text in (text for text in texts if re.search(_NUMBER, text)):
        for number in (text, float(text)):  # an integer may be too large for a float, and "-999.0" is no text of one
            try:
                found.append(pa.scalar(number).cast(of_type).as_py())
                break
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a fraction in integers, -999 in unsigned ones
                pass
    return pa.array(found, of_type)


def infer(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A text column as the first type that all its values fit (int64 if all are missing)."""
    import pyarrow as pa

    for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return _clean(column.cast(kind))  # "-nan" is NaN
        except pa.ArrowInvalid:
            pass
    if re.match(r"\d{4}-", _first(column)) and (times := _iso_times(column)).null_count == column.null_count:
        return times
    return column


@dataclass(frozen=True)
class _Writing:
    """How numbers and dates are written in a file, as far as it is known."""

    comma: bool  # before a fraction: 1,5
    groups: bool  # a point before each three digits, though it could be that of a fraction: 1.003
    learned: Mapping[str, str]  # `how_read` in training
    mixed: bool  # in each row otherwise: those of a prediction come together by chance


def _has_decimal_commas(texts: pa.ChunkedArray, delimiter: str | None) -> bool:
    """Whether a column holds numbers, some with a comma before a fraction: "1,5"; beside semicolons "1,036", too."""
    import pyarrow.compute as pc

    if delimiter in (None, ",") or not pc.any(pc.match_substring(texts, ",")).as_py():
        return False
    texts = _clean(texts, [_stray_word(texts)])
    return _all_match(texts, _marked(",", ".")) and (delimiter == ";" or not _all_match(texts, _marked(".", ",")))


def _all_match(texts: pa.ChunkedArray, pattern: str) -> bool:
    import pyarrow.compute as pc

    return pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py()


def _stray_word(texts: pa.ChunkedArray) -> str | None:
    """The only text without digits, if most others have some: it may stand for a missing value."""
    import pyarrow.compute as pc

    words = texts.filter(pc.invert(pc.match_substring_regex(texts, r"\d")))
    few = 0 < len(words) < (len(texts) - texts.null_count) / 2
    return words[0].as_py() if few and pc.count_distinct(words).as_py() == 1 else None


def _read_most(texts: pa.ChunkedArray, writing: _Writing) -> tuple[pa.ChunkedArray, dict]:
    """`_read_texts`, where a stray word is null."""
    values, how = _read_texts(texts, writing)
    if kind_of(values) != "text" or (word := _stray_word(texts)) is None:
        return values, how
    values, how = _read_texts(_clean(texts, [word]), writing)
    return (texts, {}) if kind_of(values) == "text" else (values, {**how, "missing": word})


def _read_texts(texts: pa.ChunkedArray, writing: _Writing) -> tuple[pa.ChunkedArray, dict]:
    """A text column as the first type that all its values fit, dates and marked numbers among them, and `how_read`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain, how = _plain(texts, writing)
    values = infer(plain)
    if kind_of(values) == "text":
        values, how = _read_dates(texts, writing)
    if kind_of(values) == "text":
        values, how = _read_marked(plain, writing)
    if kind_of(values) == "text":
        return texts, {}
    if writing.comma and not pa.types.is_temporal(values.type):
        commas, points = (pc.any(pc.match_substring(texts, mark)).as_py() for mark in ",.")
        if commas or (points and "mark" in how):
            how = how | {"decimal": ","}
        elif points and writing.groups:
            how = how | {"decimal": "."}
    return values, how


def _read_times(texts: pa.ChunkedArray, writing: _Writing) -> tuple[pa.ChunkedArray, dict]:
    """`_read_texts` of Parquet, where only times are kept as texts for want of care."""
    import pyarrow.types as types

    values = infer(texts)
    if kind_of(values) == "text":
        return _read_dates(texts, writing)
    return (values if types.is_timestamp(values.type) else texts), {}


def _plain(texts: pa.ChunkedArray, writing: _Writing) -> tuple[pa.ChunkedArray, dict]:
    """Texts such as "1.003" and "1,5" as "1003" and "1.5", where they are written so, and `how_read`."""
    import pyarrow.compute as pc

    how = {}
    if writing.groups:
        grouped = pc.match_substring_regex(texts, r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$")
        fractions = pc.match_substring_regex(texts, r"^[+-]?\d*\.\d*([eE][+-]?\d+)?$")
        learned = writing.learned.get("mark") == "."
        if pc.any(grouped).as_py() and (learned or not pc.any(pc.and_not(fractions, grouped)).as_py()):
            texts, how = pc.if_else(grouped, pc.replace_substring(texts, ".", ""), texts), {"mark": "."}
    if writing.comma and (writing.mixed or _all_match(texts, r"^[+-]?\d*,?\d+([eE][+-]?\d+)?$")):
        fractions = pc.match_substring_regex(texts, r"^[+-]?\d*,\d+([eE][+-]?\d+)?$")
        texts = pc.if_else(fractions, pc.replace_substring(texts, ",", "."), texts)
    return texts, how


def _read_dates(texts: pa.ChunkedArray, writing: _Writing) -> tuple[pa.ChunkedArray, dict]:
    """A text column as times if all its values fit one format, else as it is.

    One that was learned is taken if all fit it, or ISO 8601; others only if none does, for 03/11 beside 31/10 is a day
    in another order, or a wrong one.
    """
    if "date" in writing.learned:
        times = _learned_times(texts, writing.learned)
        if times.null_count == texts.null_count:
            return times, {"date": writing.learned["date"]}
        if times.null_count < len(texts):
            return texts, {}
    found, first = {}, _first(texts)
    for date_format in _FORMATS:
        if re.search(_written(date_format), first):
            times = _times(texts, date_format)
            if times.null_count == texts.null_count:
                found[date_format] = times
    if not found:
        return texts, {}
    first, *others = found
    return found[first], {"date": first, **({"or": others[0]} if others else {})}


def _learned_times(texts: pa.ChunkedArray, learned: Mapping[str, str]) -> pa.ChunkedArray:
    """What the texts say by the format that was learned or by ISO 8601; null for any other."""
    import pyarrow.compute as pc

    times = _iso_times(texts)
    return pc.coalesce(times, _times(texts, learned["date"])) if "date" in learned else times


def _times(texts: pa.ChunkedArray, date_format: str) -> pa.ChunkedArray:
    """What the texts say by this format; null where they are written otherwise, or there is no such day.

    Arrow's own reader knows neither names of months nor AM and PM on Windows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(texts, _written(date_format))
    if "%b" in date_format:
        for number, name in enumerate(_MONTHS, 1):
            texts = pc.replace_substring_regex(texts, rf"(?i)\b{name}\b", f"{number:02d}")
        date_format = date_format.replace("%b", "%m")
    if "%p" in date_format:
        later = pc.match_substring_regex(texts, "(?i)pm$")
        plain, date_format = pc.replace_substring_regex(texts, "(?i) [ap]m$", ""), date_format.replace("%I", "%H")
        times = pc.strptime(plain, date_format.replace(" %p", ""), "us", error_is_null=True)
        hours = pc.add(pc.if_else(later, 12, 0), pc.if_else(pc.equal(pc.hour(times), 12), -12, 0))
        times = pc.add(times, pc.multiply(pc.cast(hours, pa.int64()), 3_600_000_000).cast(pa.duration("us")))
    else:
        times = pc.strptime(texts, date_format, "us", error_is_null=True)
    same_day = pc.equal(pc.struct_field(parts, "day").cast(pa.int64()), pc.day(times))
    return pc.if_else(same_day, times, pa.scalar(None, times.type))  # Arrow makes the 2nd of March of 31/02


@cache
def _written(date_format: str) -> str:
    """The pattern of texts in this format, which Arrow's reader would not ask for: "1.2.24" is no year 24."""
    pattern = re.sub(r"%(.)", lambda part: _WRITTEN[part[1]], re.escape(date_format).replace(r"\%", "%"))
    return f"^(?i:{pattern})$"


def _iso_times(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """What the texts say by ISO 8601, in UTC where they have a zone; null for any other.

    Arrow's own reader, faster where it will do, takes no column with and without zones, nor " UTC" and nanoseconds.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.replace_substring_regex(pc.replace_substring_regex(texts, " ?UTC$", "Z"), r"(\.\d{6})\d{1,3}", r"\1")
    parts = pc.extract_regex(texts, _ISO)
    is_day = _times(pc.struct_field(parts, "date"), "%Y-%m-%d").is_valid()
    has_zone, none = pc.not_equal(pc.struct_field(parts, "zone"), ""), pa.scalar(None, texts.type)
    local, zoned = (pc.if_else(pc.and_(is_day, of_these), texts, none) for of_these in (pc.invert(has_zone), has_zone))
    return pc.coalesce(local.cast(pa.timestamp("us")), zoned.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")))


def _first(texts: pa.ChunkedArray) -> str:
    """The first value that is there, which mostly tells what there is no need to look for."""
    return next((text.as_py() for text in texts if text.is_valid), "")


def _read_marked(texts: pa.ChunkedArray, writing: _Writing) -> tuple[pa.ChunkedArray, dict]:
    """Texts such as "$1,036" or "7 %" as numbers, if all bear the same mark or are mixed; else as they are."""
    import pyarrow.compute as pc

    point, group = (",", ".") if writing.comma else (".", ",")
    is_marked, is_number = (pc.match_substring_regex(texts, pattern) for pattern in (_marked(point, group), _NUMBER))
    if writing.mixed:
        is_marked = pc.and_not(is_marked, is_number)
    marks = pc.unique(pc.replace_substring_regex(texts.filter(is_marked), r"[\d.,+\-\s]", "")).to_pylist()
    fits = pc.or_(is_marked, is_number) if writing.mixed else is_marked
    if not pc.all(fits).as_py() or (len(marks) != 1 and not writing.mixed):
        return texts, {}
    plain = pc.replace_substring(pc.replace_substring_regex(texts, rf"[$€£¥%\s{group}]", ""), point, ".")
    mark = min(marks, key=lambda mark: (mark == "", mark == writing.learned.get("mark")))  # what is new is to be said
    return infer(pc.if_else(is_marked, plain, texts)), {"mark": mark or group}


def _marked(point: str, group: str) -> str:
    """The pattern of numbers that may bear a mark, such as "$1,036.50" or "7 %"; "0,036" is no group."""
    money, whole = "[$€£¥]", rf"\d+|[1-9]\d{{0,2}}([{group}]\d{{3}})+"
    return rf"^([+-]?{money}?|{money}[+-]) ?(({whole})([{point}]\d*)?|[{point}]\d+) ?({money}|%)?$"
