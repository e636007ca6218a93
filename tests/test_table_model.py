"""`TableModel`: what `fastmlp train` saved, for rows in Python, as `fastmlp predict` takes those of a file."""

import csv
import io
import json

import numpy as np
import pytest

from fastmlp import Sequential, TableModel, load_model
from fastmlp.cli import main

pytest.importorskip("pyarrow")

ROWS = [
    {"length": 0.1 * k, "day": f"{1 + k % 28:02d}.03.2024", "colour": ("red", "blue", None)[k % 3], "paid": f"${k},000"}
    for k in range(1, 120)
]


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Files of a classification and of a regression by the same columns."""
    folder, files = tmp_path_factory.mktemp("tables"), {}
    for target in ("kind", "price"):
        rows = [row | {target: "ab"[k % 3 == 1] if target == "kind" else 100.0 + 5 * k} for k, row in enumerate(ROWS)]
        files[target] = str(folder / f"{target}.safetensors")
        code = main(
            ["train", write(folder / f"{target}.csv", rows), "--target", target, "--epochs", "3", "--quiet"]
            + ["--save", files[target]]
        )
        assert code == 0
    return files


@pytest.mark.parametrize("target", ["kind", "price"])
def test_rows_of_any_kind_are_predicted_as_the_command_does(trained, target, tmp_path, capsys):
    table = write(tmp_path / "rows.csv", ROWS[:40])
    options = ["--probabilities"] if target == "kind" else []
    assert main(["predict", trained[target], table, *options]) == 0
    expected = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    model = TableModel.load(trained[target])
    assert model.target == target and model.feature_names == list(ROWS[0])
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    days = [np.datetime64(f"2024-03-{row['day'][:2]}") for row in ROWS[:40]]
    frames = [[row | {"day": day} for row, day in zip(ROWS[:40], days, strict=True)]]
    frames += [
        table,
        ROWS[:40],
        pa.Table.from_pylist(ROWS[:40]),
        pa.RecordBatch.from_pylist(ROWS[:40]),
        pd.DataFrame(ROWS[:40]),
        tmp_path / "rows.csv",
    ]
    frames += [json.loads(json.dumps(ROWS[:40])), pd.DataFrame(ROWS[:40])[::-1][::-1][list(reversed(ROWS[0]))]]
    pl = pytest.importorskip("polars")
    frames += [pl.DataFrame(ROWS[:40]), pl.DataFrame(ROWS[:40]).with_columns(pl.col("colour").cast(pl.Categorical))]
    odd = pd.DataFrame(ROWS[:40]).assign(other=[1, "x"] * 20, colour=lambda frame: frame["colour"].astype("category"))
    frames += [odd, pd.concat([odd, odd[["other"]]], axis=1)]  # what is not needed may be anything
    for rows in frames:
        found = model.predict(rows)
        if target == "kind":
            assert model.classes.tolist() == ["a", "b"]
            assert found.tolist() == [row["prediction"] for row in expected]
            p = [[float(row[f"probability_{name}"]) for name in "ab"] for row in expected]
            np.testing.assert_allclose(model.predict_proba(rows), p, rtol=1e-5)
        else:
            assert model.classes is None
            np.testing.assert_allclose(found, [float(row["prediction"]) for row in expected], rtol=1e-6)
    one = model.predict(ROWS[:1])
    assert one.shape == (1,) and (target == "price" or one[0] == expected[0]["prediction"])


def test_what_is_unlike_the_training(trained):
    model = TableModel.load(trained["price"])
    with pytest.warns(UserWarning, match=r"column 'colour': 1 of 1 rows hold texts that were not learned \('green'\)"):
        model.predict([ROWS[0] | {"colour": "green"}])
    with pytest.warns(UserWarning, match="column 'length': 1 of 2 rows have no value"):
        model.predict([ROWS[0], ROWS[1] | {"length": None}])
    with pytest.raises(ValueError, match="column 'length' must hold numbers; got 'long' in row 2"):
        model.predict([ROWS[0], ROWS[1] | {"length": "long"}])
    with pytest.raises(ValueError, match=r"`rows`\[1\] has no 'day'"):
        model.predict([ROWS[0], {name: value for name, value in ROWS[1].items() if name != "day"}])
    with pytest.raises(ValueError, match="the table has no column 'paid'"):
        model.predict(pytest.importorskip("pandas").DataFrame(ROWS).drop(columns="paid"))
    with pytest.raises(ValueError, match="column 'length' must hold numbers; got 'x' in row 2"):
        model.predict(pytest.importorskip("pandas").DataFrame(ROWS[:2]).assign(length=[1, "x"]))
    assert np.isfinite(model.predict([ROWS[0] | {"length": 2**70}])).all()
    for value in ([1], {"a": 1}):
        with pytest.raises(TypeError, match="must hold numbers, texts or dates in '(length|colour)'"):
            model.predict([ROWS[0] | {"length" if value == [1] else "colour": value}])
    with pytest.raises(ValueError, match="the table has no column 'length', which the model was trained on"):
        model.predict(pytest.importorskip("pandas").DataFrame({"a": [1, 2]}))
    for rows in ([], pytest.importorskip("pandas").DataFrame(ROWS).head(0)):
        with pytest.raises(ValueError, match="`rows` must have at least one"):
            model.predict(rows)
    frame = pytest.importorskip("pandas").DataFrame(ROWS)
    with pytest.raises(ValueError, match="2 columns named 'paid'"):
        model.predict(pytest.importorskip("pandas").concat([frame, frame[["paid"]]], axis=1))
    with pytest.warns(UserWarning, match="not learned") as noted:
        model.predict([ROWS[0] | {"colour": "green"}])
    assert noted[0].filename == __file__
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    for rows in (ROWS[0], columns, [1.0, 2.0], np.zeros((20, 4)), None):
        with pytest.raises(
            TypeError, match="`rows` must be a data frame, a list of dictionaries or a path; got"
        ) as error:
            model.predict(rows)
        assert len(str(error.value)) < 400
    with pytest.raises(AttributeError, match="this model is a regression"):
        model.predict_proba(ROWS)


def test_a_lazy_frame_is_to_be_collected(trained):
    frame = pytest.importorskip("polars").LazyFrame(ROWS)
    with pytest.raises(TypeError, match=r"`rows` must hold its rows; got a LazyFrame: collect\(\) it first"):
        TableModel.load(trained["price"]).predict(frame)


def train(folder, rows, target="y", *options):
    """The model that the command makes of these rows."""
    file = str(folder / "m.safetensors")
    arguments = ["train", write(folder / "t.csv", rows), "--target", target, "--epochs", "2", "--quiet", *options]
    assert main([*arguments, "--save", file]) == 0
    return TableModel.load(file)


def assert_as_alone(model, rows):
    """What is valid alone is valid together, with the same predictions."""
    alone = [model.predict([row])[0] for row in rows]
    np.testing.assert_allclose(model.predict(rows), alone, rtol=1e-5)
    return alone


def test_times_of_one_request_may_be_written_otherwise(tmp_path):
    model = train(tmp_path, [{"d": f"2021-{k % 12 + 1:02}-{k % 28 + 1:02}", "y": k / 7} for k in range(200)])
    texts = ["2021-05-01", "2021-05-01T00:00:00Z", "2021-05-01 00:00:00 UTC", "2021-05-01T02:00:00.000000001+02:00"]
    assert len(set(assert_as_alone(model, [{"d": text} for text in texts]))) == 1
    with pytest.raises(ValueError, match=r"must hold dates \(%Y-%m-%d in training\); got '2021-13-01' in row 2"):
        model.predict([{"d": "2021-05-01"}, {"d": "2021-13-01"}])


def test_dates_of_one_request_are_in_the_order_that_was_learned(tmp_path):
    model = train(tmp_path, [{"d": f"{k % 12 + 1:02}/{k % 28 + 1:02}/2021", "y": k / 7} for k in range(200)])
    assert_as_alone(model, [{"d": text} for text in ("03/11/2022", "2022-03-11", "12/31/2021")])
    with pytest.warns(UserWarning, match="column 'd': dates taken for %d/%m/%Y; in training they were %m/%d/%Y"):
        model.predict([{"d": "31/10/2022"}, {"d": "13/11/2022"}])
    for other in ("31/10/2022", "10.31.2022", "31 Oct 2022"):
        for at in (0, 1):
            rows = [{"d": "03/11/2022"}, {"d": "2022-03-11"}]
            rows.insert(at, {"d": other})
            message = rf"must hold dates \(%m/%d/%Y in training\); got '{other}' in row {at + 1}"
            with pytest.raises(ValueError, match=message):
                model.predict(rows)


def test_numbers_of_one_request_may_be_written_otherwise(tmp_path):
    """With the mark that was learned, without, and with another."""
    model = train(tmp_path, [{"cost": f"${k},{k % 10}00", "y": k / 7} for k in range(1, 200)])
    with pytest.warns(UserWarning, match="column 'cost'"):
        alone = assert_as_alone(model, [{"cost": cost} for cost in ("$5,000", "5000", 5000, "5,000", "€5,000.0", 5e3)])
    assert len(set(alone)) == 1
    with pytest.warns(UserWarning, match="column 'cost': taken for numbers, without '€'"):
        model.predict([{"cost": "$5"}, {"cost": "€5"}])


def test_decimal_commas_of_one_request_beside_points(tmp_path):
    (tmp_path / "t.csv").write_text("x;y\n" + "".join(f"{k / 10:.1f};{k / 7}\n".replace(".", ",") for k in range(200)))
    file = str(tmp_path / "m.safetensors")
    assert main(["train", str(tmp_path / "t.csv"), "--target", "y", "--epochs", "2", "--quiet", "--save", file]) == 0
    alone = assert_as_alone(TableModel.load(file), [{"x": x} for x in ("1,5", "1.5", 1.5, "7", "1e9")])
    assert len(set(alone)) == 3


def test_true_and_false_are_no_other_numbers(tmp_path):
    model = train(tmp_path, [{"f": str(k % 3 == 0), "y": k % 3 + k / 70} for k in range(200)])
    values = (True, 1, "1", 1.0, "true", "True", False, 0, "FALSE", "0.0")
    assert len(set(assert_as_alone(model, [{"f": value} for value in values]))) == 2
    for value in (2, 7.5, -1, "2", "yes"):
        with pytest.raises(ValueError, match=f"column 'f' must hold true or false; got '{value}' in row 2"):
            model.predict([{"f": 1}, {"f": value}])


def test_true_among_texts_is_what_was_learned(tmp_path):
    texts = ["True", "False", "unknown"]
    model = train(tmp_path, [{"f": texts[k % 3], "y": k % 3 + k / 70} for k in range(200)])
    expected = model.predict([{"f": text} for text in texts[:2]])
    for values in ([True, False], ["true", "FALSE"]):
        assert model.predict([{"f": value} for value in values]).tolist() == expected.tolist()
    assert_as_alone(model, [{"f": value} for value in (True, False, "unknown")])


def test_rows_alone_are_read_as_the_file_of_the_training_was(tmp_path):
    """Where the file tells that points are between thousands, or where they are not; a row may not tell."""
    lines = [f"{k:,};${k:,};{k / 7:.3f};{k / 5:.1f}\n" for k in range(900, 1100)]
    rows = [line.strip().split(";") for line in lines]
    rows = [[a.replace(",", "."), b.replace(",", "."), c, d.replace(".", ",")] for a, b, c, d in rows]
    (tmp_path / "t.csv").write_text("a;b;c;y\n" + "".join(";".join(row) + "\n" for row in rows))
    file = str(tmp_path / "m.safetensors")
    assert main(["train", str(tmp_path / "t.csv"), "--target", "y", "--epochs", "2", "--quiet", "--save", file]) == 0
    model = TableModel.load(file)
    expected = model.predict(tmp_path / "t.csv")[95:110]
    records = [dict(zip("abc", row, strict=False)) for row in rows[95:110]]
    np.testing.assert_allclose(assert_as_alone(model, records), expected, rtol=1e-5)
    for record, prediction in zip(records, expected, strict=True):
        (tmp_path / "row.csv").write_text("a;b;c;y\n" + ";".join(record.values()) + ";0,5\n")
        assert model.predict(tmp_path / "row.csv") == pytest.approx(prediction, rel=1e-5)


def test_another_models_file(trained, tmp_path):
    path = tmp_path / "network.safetensors"
    network = load_model(trained["price"])
    Sequential(*network.layers).build(3).save(path)
    with pytest.raises(ValueError, match="was not trained on a table"):
        TableModel.load(path)
    network.save(path)  # knows its table again
    assert np.array_equal(TableModel.load(path).predict(ROWS), TableModel.load(trained["price"]).predict(ROWS))


def test_an_export_of_the_network_says_that_it_takes_encoded_columns(trained, tmp_path):
    pytest.importorskip("onnx")
    from fastmlp import export_onnx

    model = TableModel.load(trained["price"])
    with pytest.warns(UserWarning, match="X of this export is the encoded columns of a table, whose target is 'price'"):
        export_onnx(tmp_path / "model.onnx", model.network)
    with pytest.raises(TypeError, match=r"`model` must be .*got TableModel"):
        export_onnx(tmp_path / "model.onnx", model)
