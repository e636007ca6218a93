"""Tables: reading, what becomes of every column, and what is refused."""

import gzip
import json
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fastmlp import preprocessing, tables
from fastmlp.preprocessing import decode_target, encode_features, encode_target, find_task, fit_preprocess
from fastmlp.tables import read_table

pa = pytest.importorskip("pyarrow", reason='PyArrow is not installed: pip install "fastmlp[table]"')
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def csv_file(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


HOUSES = "rooms,age,sea,price\n3,10.5,near,100\n5,,far,250\n4,30,?,180\n4,20,near,190\n"


# Reading


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "T.CSV"])
def test_types_are_found_and_missing_is_null(csv_file, name):
    table = read_table(csv_file(HOUSES, name))
    assert [str(table.schema.field(column).type) for column in table.column_names] == [
        "int64",
        "double",
        "string",
        "int64",
    ]
    assert table["age"].to_pylist() == [10.5, None, 30.0, 20.0]
    assert table["sea"].to_pylist() == ["near", "far", None, "near"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_separators(csv_file, delimiter):
    table = read_table(csv_file(HOUSES.replace(",", delimiter), "t.tsv" if delimiter == "\t" else "t.csv"))
    assert table.column_names == ["rooms", "age", "sea", "price"] and table.num_rows == 4


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"Loan, amount";"Term, months";y\n1;2;3\n', ["Loan, amount", "Term, months", "y"]),
        ("Loan, amount, EUR;y\n1,5;2\n", ["Loan, amount, EUR", "y"]),
        ('a|b\n"1,2;3,4;5,6"|2\n', ["a", "b"]),
        ("a,b;c;d\n1,2\n3,4\n", ["a", "b;c;d"]),
        ("only\n1\n", ["only"]),
        ('a;b\n1;"\n' + "1;2\n" * 50_000, ["a", "b"]),  # a quote that is never closed
    ],
)
def test_the_separator_is_what_the_rows_share(csv_file, text, names):
    assert read_table(csv_file(text)).column_names == names


def test_texts_are_trimmed_and_quoted_line_breaks_kept(csv_file):
    table = read_table(csv_file('a, b\n 1 , x \n2,"y\nz"\n'))
    assert table["a"].to_pylist() == [1, 2] and table[" b"].to_pylist() == ["x", "y\nz"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(csv_file):
    assert read_table(csv_file("\ufeffa,b\n1,2\n")).column_names == ["a", "b"]


def test_a_text_far_below_makes_a_text_column(csv_file):
    """PyArrow's own inference looks at the first megabyte only."""
    table = read_table(csv_file("a,b\n" + "1,2\n" * 600_000 + "x,2\ny,2\n"))
    assert str(table["a"].type) == "string" and str(table["b"].type) == "int64"


def test_bool_and_time(csv_file):
    table = read_table(csv_file("a,b,c\ntrue,2020-01-02,\nfalse,2020-01-03 12:00:00,\n"))
    assert [str(column.type) for column in table.columns] == ["bool", "timestamp[us]", "int64"]


DAYS = ["2015-01-02", "2015-12-25", "2016-02-29"]


@pytest.mark.parametrize("time", ["", " %H:%M", " %H:%M:%S", " %I:%M %p"])
@pytest.mark.parametrize("date", tables.DATES)
def test_dates_of_every_format(csv_file, tmp_path, date, time):
    import datetime

    days = [datetime.datetime.fromisoformat(f"{day} 13:00") for day in DAYS]
    expected = [day if time else day.replace(hour=0) for day in days]
    texts = [day.strftime(date + time) for day in days]
    path = csv_file("d|n\n" + "|1\n".join([*texts, ""]) + "|1\n")
    parquet.write_table(pa.table({"d": texts}), tmp_path / "t.parquet")
    for table in (read_table(path), read_table(tmp_path / "t.parquet")):
        assert table["d"].to_pylist()[:3] == expected
        how = tables.how_read(table).get("d", {})
        assert how in ({}, {"date": date + time})  # ISO 8601 is not worth a word


def test_dates_in_two_orders(csv_file):
    ambiguous = csv_file("d,n\n01/02/2015,1\n03/04/2015,2\n")
    table = read_table(ambiguous)
    assert tables.how_read(table) == {"d": {"date": "%m/%d/%Y", "or": "%d/%m/%Y"}}
    assert [day.month for day in table["d"].to_pylist()] == [1, 3]
    table = read_table(ambiguous, learned={"d": {"date": "%d/%m/%Y"}})
    assert tables.how_read(table) == {"d": {"date": "%d/%m/%Y"}}
    assert [day.month for day in table["d"].to_pylist()] == [2, 4]
    table = read_table(csv_file("d,n\n25/02/2015,1\n30/04/2015,2\n"), learned={"d": {"date": "%m/%d/%Y"}})
    assert tables.how_read(table) == {"d": {"date": "%d/%m/%Y"}}
    table = read_table(csv_file("d,n\n25/02/2015,1\n03/04/2015,2\n"), learned={"d": {"date": "%m/%d/%Y"}})
    assert table["d"].to_pylist() == ["25/02/2015", "03/04/2015"]  # of which the second is what was learned


@pytest.mark.parametrize(
    "texts",
    [
        ["1.2.3", "1.2.4"],  # versions
        ["1.2.24", "3.4.25"],
        ["25/12/2015", "12/25/2015"],
        ["2015-01", "2015-02"],
        ["12:30", "13:30"],
        ["May", "June"],
        [None, None],
    ],
)
def test_texts_that_are_no_dates(tmp_path, csv_file, texts):
    assert str(tables.infer(pa.chunked_array([pa.array(texts, pa.string())])).type) in ("string", "int64")
    parquet.write_table(pa.table({"d": pa.array(texts, pa.string())}), tmp_path / "t.parquet")
    for path in (tmp_path / "t.parquet", csv_file("d,n\n" + "".join(f"{text or ''},1\n" for text in texts))):
        assert read_table(path)["d"].to_pylist() == texts


def test_texts_of_parquet_are_dates_but_no_numbers(tmp_path):
    parquet.write_table(pa.table({"d": DAYS, "n": ["007", "8", "-"]}), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table["d"].to_pylist()[2].month == 2 and table["n"].to_pylist() == ["007", "8", "-"]
    assert read_table(tmp_path / "t.parquet", ["d"])["d"].to_pylist() == DAYS
    assert read_table(tmp_path / "t.parquet", missing=["8"])["n"].to_pylist() == ["007", None, "-"]
    known = read_table(tmp_path / "t.parquet", learned={"n": {"missing": "-"}})
    assert known["n"].to_pylist() == [7, 8, None]
    parquet.write_table(pa.table({"n": ["$1,000", "$5"]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["n"].to_pylist() == ["$1,000", "$5"]
    assert read_table(tmp_path / "t.parquet", learned={"n": {"mark": "$"}})["n"].to_pylist() == [1000, 5]


@pytest.mark.parametrize(
    ("texts", "expected", "how"),
    [
        (["$1,036", "$5", "-$2.50"], [1036, 5, -2.5], {"mark": "$"}),
        (["7%", "12.5 %", ""], [7, 12.5, None], {"mark": "%"}),
        (["1,036", "5", "1,000,000.5"], [1036, 5, 1e6 + 0.5], {"mark": ","}),
        (["1 €", "20 €"], [1, 20], {"mark": "€"}),
        (["-", "1", "2"], [None, 1, 2], {"missing": "-"}),
        (["unknown", "$1", "$1,000"], [None, 1, 1000], {"mark": "$", "missing": "unknown"}),
        (["7%", "8", "9"], ["7%", "8", "9"], {}),
        (["$1", "€1"], ["$1", "€1"], {}),
        (["1,00", "2"], [1, 2], {"decimal": ","}),
        (["1,036.5", "1,5"], ["1,036.5", "1,5"], {}),
        (["0", "1", "2", "3+"], ["0", "1", "2", "3+"], {}),  # a category that tells something
        (["-", "x", "1", "2", "3"], ["-", "x", "1", "2", "3"], {}),
        (["-", "1"], ["-", "1"], {}),
    ],
)
def test_marked_numbers_and_a_stray_text(csv_file, texts, expected, how):
    path = csv_file("a|b\n" + "".join(f"{text}|0\n" for text in texts))
    table = read_table(path)
    assert table["a"].to_pylist() == expected and tables.how_read(table) == ({"a": how} if how else {})
    assert read_table(path, ["a"])["a"].to_pylist() == [text or None for text in texts]


def test_a_point_between_thousands_where_semicolons_separate(csv_file):
    table = read_table(csv_file("a;b\n1.000,5;1,5\n2;-\n3;7\n"))
    assert table["a"].to_pylist() == [1000.5, 2, 3] and table["b"].to_pylist() == [1.5, None, 7]
    assert tables.how_read(table) == {"a": {"mark": ".", "decimal": ","}, "b": {"missing": "-", "decimal": ","}}


@pytest.mark.parametrize(
    ("texts", "expected", "how"),
    [
        (["1.003", "998", "-1.000.000"], [1003, 998, -1_000_000], {"mark": ".", "decimal": ","}),
        (["1.003", "998,5", "2.500"], [1003, 998.5, 2500], {"mark": ".", "decimal": ","}),
        (["1.003", "-", "998", "7"], [1003, None, 998, 7], {"mark": ".", "decimal": ",", "missing": "-"}),
        (["1.003", "1.5"], [1.003, 1.5], {"decimal": "."}),
        (["0.998", "1.003"], [0.998, 1.003], {"decimal": "."}),
        (["1003", "998"], [1003, 998], {}),
    ],
)
def test_points_between_thousands_where_the_file_has_decimal_commas(csv_file, texts, expected, how):
    table = read_table(csv_file("x;y\n" + "".join(f"{text};1,50 €\n" for text in texts)))
    assert table["x"].to_pylist() == expected and tables.how_read(table).get("x", {}) == how


def test_points_before_three_digits_where_nothing_tells_what_they_are(csv_file, tmp_path):
    path = csv_file("x;y\n1.003;1.5\n998;2\n")
    assert read_table(path)["x"].to_pylist() == [1.003, 998]
    known = {"x": {"mark": "."}}
    assert read_table(path, learned=known)["x"].to_pylist() == [1003, 998]
    assert read_table(csv_file("x,y\n1.003,2\n"), learned=known)["x"].to_pylist() == [1.003]  # whose commas are others
    parquet.write_table(pa.table({"x": ["1.003", "998", "1.5"]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", learned=known)["x"].to_pylist() == [1003, 998, 1.5]


def test_classes_that_look_missing(csv_file):
    path = csv_file("n,c\nNA,None\n1,mild\n2,\n3,NA\n")
    assert read_table(path)["c"].to_pylist() == [None, "mild", None, None]
    table = read_table(path, target="c")
    assert table["c"].to_pylist() == ["None", "mild", None, "NA"] and table["n"].to_pylist() == [None, 1, 2, 3]
    assert read_table(path, target="c", missing=["NA"])["c"].to_pylist() == ["None", "mild", None, None]
    assert read_table(path, target="n")["n"].to_pylist() == [None, 1, 2, 3]  # of numbers, "NA" is none
    rest = csv_file("n,c\n1,1\n2,2\n3,other\n")
    assert read_table(rest, target="c")["c"].to_pylist() == ["1", "2", "other"]  # of a target, it may be a class
    assert read_table(rest)["c"].to_pylist() == [1, 2, None]


def test_columns_of_another_sort_are_refused():
    days = pa.chunked_array([["02/01/2015", "13/13/2015"]])
    numbers = pa.chunked_array([[20150102, 20150103]])
    for column, sort, learned, message in [
        (days, "time", {"date": "%m/%d/%Y"}, r"must hold dates \(%m/%d/%Y in training\); got '13/13/2015' in row 2"),
        (days, "time", {}, r"must hold dates \(%Y-%m-%d in training\); got '02/01/2015' in row 1"),
        (numbers, "time", {}, "must hold dates .* got '20150102' in row 1"),
        (pa.chunked_array([["True", None, "yes"]]), "flag", {}, "must hold true or false; got 'yes' in row 3"),
        (pa.chunked_array([[0, 7]]), "flag", {}, "must hold true or false; got '7' in row 2"),
        (pa.chunked_array([[1.0, None, 0.5]]), "flag", {}, "must hold true or false; got '0.5' in row 3"),
        (pa.chunked_array([["1.0", "2"]]), "flag", {}, "must hold true or false; got '2' in row 2"),
        (numbers.cast("timestamp[us]"), "number", {}, "must hold numbers; got '1970-01-01 .*' in row 1"),
        (numbers.cast("timestamp[us]"), "flag", {}, "must hold true or false"),
    ]:
        with pytest.raises(ValueError, match=f"column 'd' {message}"):
            tables.check_sort(column, "d", sort, learned)
    for column, sort in [
        (pa.chunked_array([pa.nulls(2, pa.int64())]), "time"),
        (pa.chunked_array([[0, 1]]), "flag"),
        (pa.chunked_array([["True", None]]), "flag"),
        (pa.chunked_array([[1.0, None, 0.0]]), "flag"),
        (pa.chunked_array([["1.0", "0"]]), "flag"),
        (pa.chunked_array([[True]]), "number"),
        (days, "number"),  # which says it better
    ]:
        tables.check_sort(column, "d", sort, {})


def test_times_with_a_zone(csv_file):
    table = read_table(csv_file("a\n2020-01-02T03:00:00Z\n2020-01-02T03:00:00+01:00\n"))
    values = tables.numbers(table["a"], "a")
    assert values[0] - values[1] == 3600e6


def test_times_as_arrow_does_not_read_them(csv_file):
    import datetime

    texts = [
        *("2020-01-02", "2020-01-02 03:00", "2020-01-02T04:00:00.5+01:00", "2020-01-02 03:00:00 UTC"),
        *("2020-01-02 03:00:00.123456789", "2020-01-02 03:00:00.1234567Z"),
    ]
    at_three = datetime.datetime(2020, 1, 2, 3)
    expected = [at_three.replace(hour=0), at_three, at_three.replace(microsecond=500_000), at_three]
    expected += [at_three.replace(microsecond=123_456)] * 2
    table = read_table(csv_file("d,n\n" + "".join(f"{text},1\n" for text in texts)))
    assert table["d"].to_pylist() == expected and tables.how_read(table) == {}
    for bad in ("2020-02-30 03:00 UTC", "2020-01-02 24:00:00 UTC", "2020-01-02UTC", "2020-01-02 03:00+99"):
        assert read_table(csv_file(f"d,n\n{bad},1\n{texts[0]},2\n"))["d"].to_pylist() == [bad, texts[0]]


@given(st.datetimes(), st.sampled_from(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%fZ"]))
def test_iso_8601_as_arrow_reads_it(time, date_format):
    text = pa.chunked_array([[f"{time.year:04}" + time.strftime(date_format[2:])]])  # %Y may be of fewer digits
    expected = text.cast(pa.timestamp("us", "UTC") if "Z" in date_format else pa.timestamp("us"))
    assert tables._iso_times(text) == expected.cast(pa.timestamp("us"))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_decimal_commas(csv_file, delimiter):
    text = "a;b\n1,5;x\n-,25;1,5\n?;2\n3;y\n".replace(";", delimiter)
    table = read_table(csv_file(text))
    assert table["a"].to_pylist() == [1.5, -0.25, None, 3] and table["b"].to_pylist() == ["x", "1,5", "2", "y"]
    assert read_table(csv_file(text), text_columns=["a"])["a"].to_pylist() == ["1,5", "-,25", None, "3"]


def test_a_comma_before_three_digits(csv_file, tmp_path):
    """It may be that of a fraction, or stand between thousands."""
    for delimiter, other, known, expected in [
        (";", "2", {}, 1.036),
        ("|", "2", {}, 1036),
        ("|", "2,5", {}, 1.036),
        ("|", "0,125", {}, 1.036),
        ("|", "2", {"decimal": ","}, 1.036),
        (",", "2", {"decimal": ","}, 1036),
    ]:
        path = csv_file(f"a{delimiter}b\n" + f'"1,036"{delimiter}{other}\n' * 3)
        assert read_table(path, learned={"a": known})["a"].to_pylist() == [expected] * 3
    parquet.write_table(pa.table({"a": ["1,036"]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", learned={"a": {"decimal": ","}})["a"].to_pylist() == [1.036]


@pytest.mark.parametrize(
    ("values", "stray"),
    [
        (["1", "-2.5", "3e4", ".5", None, "n. a."], "n. a."),
        (["1", "2"], None),
        (["1", "a", "b"], None),
        ([1, 2], None),
        (["$1.50", "$ 2", "-"], "$1.50"),
        (["7 %", "12.5%"], "7 %"),
        (["1,000", "12,000.5", "700"], "1,000"),
        (["2024-01-01", "2024/01/02"], None),
        (["12:30", "a1", "1a", "1,00"], None),
    ],
)
def test_a_text_among_numbers_is_found(values, stray):
    assert tables.stray_text(pa.chunked_array([values])) == stray


@pytest.mark.parametrize(
    ("values", "stray"),
    [
        (["2024-01-01", "2024-13-45", "2024-01-03T10:00Z"], "2024-13-45"),
        (["0000-00-00", None, "2024-01-01", "2024-01-02"], "0000-00-00"),
        (["31/01/2024", "01/02/2024", "31/02/2024", "02/03/2024", "28/03/2024"], "31/02/2024"),
        (["1-Jan-24", "2-Feb-24", "soon"], "soon"),
        (["1-Jan-24", "2-Feb-24"], None),
        (["2024-01-01", "a", "b"], None),
        (["2024-01-01", "03/04/2024"], None),
        (["a", "b", "12:30"], None),
        (["1.2.24", "1.2.25", "x"], None),
        ([None, None], None),
        ([1, 2], None),
    ],
)
def test_a_text_among_dates_is_found(values, stray):
    column = pa.chunked_array([pa.array(values, pa.string() if values[0] is None else None)])
    assert tables.stray_date(column) == stray


def test_named_columns_stay_text(csv_file):
    assert read_table(csv_file("zip,n\n007,007\n"), text_columns=["zip"]).to_pylist() == [{"zip": "007", "n": 7}]


def test_parquet(tmp_path):
    column = pa.array(["a", "?", None]).dictionary_encode()
    table = pa.table({"x": pa.array([1.5, float("nan"), 2], pa.float32()), "kind": column, "list": [[1], [2], []]})
    parquet.write_table(table, tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table["x"].to_pylist() == [1.5, None, 2.0] and table["kind"].to_pylist() == ["a", None, None]


def test_columns_of_views(tmp_path):
    strings = pytest.importorskip("pyarrow", "16").array([" a", "?", "b"], pa.string_view())
    parquet.write_table(pa.table({"x": strings}), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.take([2, 1, 0])["x"].to_pylist() == ["b", None, "a"]


def test_equal_names_in_parquet(tmp_path):
    parquet.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="2 columns named 'a'"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "t.csv", "cannot be read as a table"),
        ("a,b\n", "t.csv", "has no rows"),
        ("a,b\n1,2\n3\n", "t.csv", "Expected 2 columns, got 1"),
        ("a,b,a\n1,2,3\n", "t.csv", "2 columns named 'a'"),
        ("a,b\n1,2\n", "t.parquet", "cannot be read as a table"),
        ("a,b\n1,2\n", "t.xlsx", r"must end in one of \.csv"),
    ],
)
def test_refused_files(csv_file, text, name, message):
    with pytest.raises(ValueError, match=message):
        read_table(csv_file(text, name))


def test_broken_files(tmp_path):
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(HOUSES.encode() * 1000)[:-30])
    (tmp_path / "latin.csv").write_bytes("a\nKöln\n".encode("latin-1"))
    (tmp_path / "header.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    (tmp_path / "utf16.csv").write_bytes(HOUSES.encode("utf-16"))
    for name, message in [
        ("cut.csv.gz", "cannot be read as a table"),
        ("latin.csv", "cannot be read as a table: .* Save it in UTF-8"),
        ("header.csv", "header.csv' cannot be read as a table: .* Save it in UTF-8"),
        ("utf16.csv", "must be UTF-8 .*; it is UTF-16"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_table(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere\.csv'"):
        read_table(tmp_path / "nowhere.csv")


def test_without_pyarrow_the_error_names_the_install_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "fastmlp\[table\]"'):
        read_table("t.csv")


# What becomes of the columns


def preprocess_of(table, target="y", task="regression", **options):
    preprocess = fit_preprocess(table, target, task, **options)
    assert json.loads(json.dumps(preprocess)) == preprocess, "it must survive JSON unchanged"
    return preprocess


def test_a_table_by_hand():
    table = pa.table({"n": [1.0, None, 3.0, 5.0], "t": ["b", "a", None, "b"], "y": [0.0, 2.0, 2.0, 4.0]})
    preprocess = preprocess_of(table)
    filled = np.array([1.0, 3.0, 3.0, 5.0])  # 3 is the median of 1, 3 and 5
    expected = np.column_stack([(filled - 3) / filled.std(), [0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0]])
    X = encode_features(table, preprocess, "float64")
    np.testing.assert_allclose(X, expected, rtol=1e-15)
    y = encode_target(table, preprocess)
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-15)
    np.testing.assert_allclose(decode_target(y[:, None], preprocess), [0, 2, 2, 4])
    assert encode_features(table, preprocess).dtype == np.float32


def test_other_rows_in_another_order_with_more_columns():
    table = pa.table({"n": [1, 2, 3], "t": ["a", "b", "b"], "y": [1, 2, 3]})
    preprocess = preprocess_of(table)
    other = pa.table({"more": [0, 0, 0], "t": ["b", "new", None], "n": [2, None, 3]})
    X = encode_features(other, preprocess, "float64")
    z = (3 - 2) / np.std([1, 2, 3])
    np.testing.assert_allclose(X, [[0, 0, 1], [0, 0, 0], [z, 0, 0]], atol=1e-15)


def test_numbers_get_bins_where_rows_are_many_and_memory_allows(monkeypatch):
    n = np.arange(640)
    columns = {"a": n, "b": pa.array(n, mask=n % 10 == 0), "flag": n % 2, "text": np.array(["x", "y"])[n % 2], "y": n}
    table = pa.table(columns)
    bins = {f["name"]: len(f.get("means", ())) for f in preprocess_of(table)["features"]}
    assert bins == {"a": 10, "b": 10, "flag": 0, "text": 0}  # of two numbers a bin tells what the number does
    preprocess = preprocess_of(table)
    X = encode_features(table, preprocess, "float64")
    assert X.shape == (640, 11 + 12 + 1 + 2)
    np.testing.assert_allclose(X[:, :23].mean(axis=0), [0] * 12 + [0.1] + [0] * 10, atol=1e-9)
    assert np.unique(X[:, 1]).size == 64 and (np.diff(X[:, 1:11].sum(axis=1)) > 0).all()
    blocks = list(preprocessing.encoded_blocks(table, preprocess, "float64", 100))
    assert [len(block) for block in blocks] == [100] * 6 + [40] and np.array_equal(np.concatenate(blocks), X)
    assert len(preprocess_of(table.slice(0, 127))["features"][0]["means"]) == 0
    monkeypatch.setattr(preprocessing, "MAX_ENCODED", 640 * 3 * 3)
    assert len(preprocess_of(table)["features"][0]["means"]) == 3
    assert len(preprocess_of(table, drop=["b"])["features"][0]["means"]) == 4  # what is left out takes no memory
    for feature in preprocess["features"]:  # a file of a model without bins
        feature.pop("edges", None), feature.pop("means", None)
    assert encode_features(table, preprocess).shape == (640, 6)


def test_a_missing_column_is_named():
    preprocess = preprocess_of(pa.table({"age": [1, 2], "job": [3, 4], "y": [1, 2]}))
    with pytest.raises(ValueError, match="no column 'job'"):
        encode_features(pa.table({"age": [1]}), preprocess)


def test_texts_where_numbers_are_expected_name_column_and_value():
    preprocess = preprocess_of(pa.table({"age": [1, 2], "y": [1, 2]}))
    with pytest.raises(ValueError, match="column 'age' must hold numbers; got 'old' in row 2"):
        encode_features(pa.table({"age": ["7", "old"]}), preprocess)
    X = encode_features(pa.table({"age": ["2", None]}), preprocess)  # numbers that are stored as text will do
    np.testing.assert_allclose(X[:, 0], [1, 0])


def test_texts_of_parquet_where_the_model_was_trained_on_csv(csv_file, tmp_path):
    """ "True", a time and numbers are texts there, if they were in the data frame."""
    text = "flag,day,size,y\n" + "".join(f"{i % 2 == 0},2024-01-{i + 1:02},{i}.5,{i}\n" for i in range(9))
    table = read_table(csv_file(text))
    preprocess = preprocess_of(table)
    texts = [line.split(",") for line in text.splitlines()]
    columns = {name: [row[k] for row in texts[1:]] for k, name in enumerate(texts[0])}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    np.testing.assert_array_equal(
        encode_features(read_table(tmp_path / "t.parquet"), preprocess), encode_features(table, preprocess)
    )


def test_texts_of_parquet_that_are_no_numbers(csv_file):
    preprocess = preprocess_of(read_table(csv_file("x,y\n1.5,2\n2.5,3\n3.5,4\n")))
    for word in ("true", "2024-01-01", "12:30"):
        with pytest.raises(ValueError, match=f"column 'x' must hold numbers; got '{word}' in row 1"):
            encode_features(pa.table({"x": [word, word]}), preprocess)


@pytest.mark.parametrize("word", ["-nan", "NAN", "+nan"])
def test_every_nan_is_missing(csv_file, word):
    table = read_table(csv_file(f"x,y\n1.5,2\n{word},3\n2.5,{word}\n"))
    assert [table[name].null_count for name in ("x", "y")] == [1, 1]
    assert table["x"].to_pylist() == [1.5, None, 2.5]


def test_an_infinite_number_names_column_and_row():
    with pytest.raises(ValueError, match="column 'x' holds an infinite number in row 2"):
        fit_preprocess(pa.table({"x": [1, np.inf, 3], "y": [1, 2, 3]}), "y", "regression")


def test_columns_that_tell_nothing_are_ignored():
    table = pa.table(
        {
            "constant": [1, 1, 1],
            "one text": ["a", "a", "a"],
            "empty": pa.nulls(3),
            "no text": pa.nulls(3, pa.string()),
            "id": ["a1", "a2", "a3"],
            "id of most": ["a1", None, "a3"],
            "list": [[1], [2], [3]],
            "": [0, 1, 2],
            "__index_level_0__": [4, 5, 6],
            "unwanted": [1, 2, 3],
            "x": [1, 2, 3],
            "y": [1, 2, 3],
        }
    )
    preprocess = preprocess_of(table, drop=["unwanted"])
    assert [feature["name"] for feature in preprocess["features"]] == ["x"]
    assert set(preprocess["ignored"]) == set(table.column_names) - {"x", "y"}
    assert encode_features(table.select(["x"]), preprocess).shape == (3, 1)
    with pytest.raises(ValueError, match=r"no column but 'y' can be learned from \('constant': all values are equal"):
        fit_preprocess(table.select(["constant", "y"]), "y", "regression")


def test_a_few_texts_tell_where_there_is_one():
    table = pa.table({"remark": ["late", None, None, "broken"], "y": [1, 2, 3, 4]})
    assert preprocess_of(table)["features"][0]["categories"] == ["broken", "late", None]


def test_a_constant_with_missing_values_leaves_its_indicator():
    table = pa.table({"x": [7, None, 7], "y": [1, 2, 3]})
    np.testing.assert_array_equal(encode_features(table, preprocess_of(table)), [[0, 0], [0, 1], [0, 0]])


def test_the_most_frequent_texts_are_kept(monkeypatch):
    monkeypatch.setattr(preprocessing, "MAX_CATEGORIES", 2)
    table = pa.table({"t": ["a", "b", "b", "c", "c", None], "y": range(6)})
    preprocess = preprocess_of(table)
    assert preprocess["features"][0]["categories"] == ["b", "c", None]
    assert encode_features(table, preprocess).sum(axis=1).tolist() == [0, 1, 1, 1, 1, 1]


def test_huge_numbers_do_not_overflow():
    table = pa.table({"x": [-1e308, 1e308, 0.0], "y": [1e-300, 2e-300, 3e-300]})
    preprocess = preprocess_of(table)
    assert np.isfinite(encode_features(table, preprocess)).all()
    np.testing.assert_allclose(encode_target(table, preprocess), [-1.2247, 0, 1.2247], atol=1e-4)


def test_times_mean_the_same_whatever_their_unit():
    seconds = [0, 86_400, 172_800]
    table = pa.table({"when": pa.array(seconds, pa.timestamp("s")), "y": [1, 2, 3]})
    preprocess = preprocess_of(table)
    expected = encode_features(table, preprocess)
    for other in (pa.array([0, 1, 2], pa.date32()), pa.array([s * 10**9 for s in seconds], pa.timestamp("ns", "UTC"))):
        np.testing.assert_array_equal(encode_features(pa.table({"when": other}), preprocess), expected)


def test_times_of_day_bools_and_decimals(tmp_path):
    from decimal import Decimal

    table = pa.table(
        {
            "time": pa.array([0, 3600, 7200], pa.time32("s")),
            "flag": [True, False, None],
            "amount": [Decimal("1.5"), Decimal("2.5"), None],
            "y": [1, 2, 3],
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert encode_features(table, preprocess_of(table)).shape == (3, 5)


# The target


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b", "a"], "classification"),
        ([True, False, None], "classification"),
        ([0, 1, 1], "classification"),
        (range(20), "classification"),
        (range(21), "regression"),
        ([0.0, 1.0, 1.0, 0.0, None], "classification"),  # as pandas writes integers beside a missing one
        ([98000.0, 75000.0, 98000.0, 83000.0, 99000.0], "regression"),
        ([0.0, 1.5, 1.0], "regression"),
    ],
)
def test_the_task_is_found(values, task):
    column = pa.chunked_array([pa.array(values)])
    assert find_task(column) == task
    assert find_task(column, "regression") == "regression"
    with pytest.raises(ValueError, match="Did you mean 'classification'"):
        find_task(column, "clasification")


@pytest.mark.parametrize("classes", [["no", "yes"], [-1, 4], [False, True], [0.5, 1.5]])
def test_classes_keep_their_type(classes):
    values = [classes[1], classes[0], classes[1], classes[1]]
    table = pa.table({"x": [1, 2, 3, 4], "y": values})
    preprocess = preprocess_of(table, task="classification")
    codes = encode_target(table, preprocess)
    assert codes.tolist() == [1, 0, 1, 1] and codes.dtype == np.int64
    assert decode_target(np.eye(2)[codes], preprocess).tolist() == values


def test_an_unseen_class_has_no_code():
    preprocess = preprocess_of(pa.table({"x": range(4), "y": ["a", "b", "a", "b"]}), task="classification")
    assert encode_target(pa.table({"y": ["b", "new"]}), preprocess).tolist() == [1, -1]
    preprocess = preprocess_of(pa.table({"x": [1, 2, 3], "y": [1, 2, 1]}), task="classification")
    assert encode_target(pa.table({"y": ["one", "2"]}), preprocess).tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (["a", "a"], "classification", "at least two classes; every row holds 'a'"),
        (["a", "b", "c"], "classification", "3 texts in 3 rows: too many for classes"),
        ([1.5, 2.5, 3.5], "classification", "3 numbers in 3 rows: too many for classes"),
        (["a", "b"], "regression", "holds texts such as 'a'; regression needs numbers"),
        ([2.5, 2.5], "regression", "2.5 in every row"),
        ([[1], [2]], "classification", "must hold texts, numbers or true and false"),
    ],
)
def test_targets_that_are_none(values, task, message):
    with pytest.raises(ValueError, match=message):
        fit_preprocess(pa.table({"x": range(len(values)), "y": values}), "y", task)


def test_text_columns_of_a_preprocessing():
    table = pa.table({"n": [1, 2, 3, 4], "t": ["a", "b", "b", "a"], "y": ["0", "1", "1", "0"]})
    assert preprocessing.text_columns(preprocess_of(table, task="classification")) == ["t", "y"]
    table = table.set_column(2, "y", [[0, 1, 1, 0]])
    assert preprocessing.text_columns(preprocess_of(table, task="classification")) == ["t"]


def test_adult(data_folder):
    if not (data_folder / "adult_train.csv.gz").is_file():
        pytest.skip("FASTMLP_DATA has no adult_train.csv.gz")
    table = read_table(data_folder / "adult_train.csv.gz")
    preprocess = preprocess_of(table, "income", find_task(table["income"]))
    assert preprocess["target"]["classes"] == ["<=50K", ">50K"]
    bins = sum(len(feature.get("means", ())) for feature in preprocess["features"])
    assert encode_features(table, preprocess).shape == (32_561, 108 + bins) and 6 * 30 < bins <= 6 * 48
    assert [feature["name"] for feature in preprocess["features"] if None in feature.get("categories", ())] == [
        "workclass",
        "occupation",
        "native_country",
    ]


def test_california(data_folder):
    if not (data_folder / "california_housing.csv.gz").is_file():
        pytest.skip("FASTMLP_DATA has no california_housing.csv.gz")
    table = read_table(data_folder / "california_housing.csv.gz")
    assert find_task(table["median_house_value"]) == "regression"
    preprocess = preprocess_of(table, "median_house_value")
    X = encode_features(table, preprocess)
    assert X.shape == (20_640, 392) and np.isfinite(X).all()
    names = [feature["name"] for feature in preprocess["features"]]
    before = sum(1 + len(feature["means"]) for feature in preprocess["features"][: names.index("total_bedrooms")])
    assert X[:, before + 1].sum() == 207  # where one is missing
    assert tables.kind_of(table["ocean_proximity"]) == "text"


COLUMNS = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=6, max_size=6),
    st.lists(st.none() | st.floats(allow_infinity=False), min_size=6, max_size=6),
    st.lists(st.none() | st.booleans(), min_size=6, max_size=6),
    st.lists(st.none() | st.sampled_from(["a", "b ", "?", "7", "1e5", "", '"', "a,b", "x\ny"]), min_size=6, max_size=6),
    st.lists(st.none() | st.dates(), min_size=6, max_size=6),
)


@given(st.lists(COLUMNS, min_size=1, max_size=4), st.sampled_from(["csv", "parquet"]))
def test_any_table_becomes_finite_numbers_also_when_read_again(tmp_path, columns, kind):
    from pyarrow import csv

    table = pa.table({**{f"c{k}": column for k, column in enumerate(columns)}, "y": [0.5, 1.5, 2.5, 0, 1, 2]})
    path = tmp_path / f"t.{kind}"
    (csv.write_csv if kind == "csv" else parquet.write_table)(table, path)
    table = read_table(path)
    assert table.num_rows == 6
    try:
        with mock.patch.object(preprocessing, "ROWS_A_BIN", 1):  # else these were too few for bins
            preprocess = preprocess_of(table.slice(0, 4))
    except ValueError as error:
        assert "no column but 'y' can be learned from" in str(error)
        return
    X = encode_features(table, preprocess)
    assert X.shape[0] == 6 and np.isfinite(X).all()
    again = encode_features(read_table(path, preprocessing.text_columns(preprocess)), preprocess)
    np.testing.assert_array_equal(again, X)


def test_days_that_no_month_has_are_no_dates(tmp_path):
    for texts, is_date in ((["31/02/2024", "3/4/2024"], False), (["29/02/2024", "03/4/2024"], True)):
        (tmp_path / "t.csv").write_text("day,x\n" + "".join(f"{text},1\n" for text in texts))
        assert (read_table(tmp_path / "t.csv")["day"].type != "string") == is_date
