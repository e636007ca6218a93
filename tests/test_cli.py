"""The command line: what it prints, writes and exits with."""

import copy
import csv
import errno
import io
import os
import re
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

import fastmlp
from fastmlp import cli, commands, datasets
from fastmlp.cli import main
from fastmlp.serialization import load_model_with_extra

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends none to another process")
needs_pyarrow = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("pyarrow"),
    reason='PyArrow is not installed: pip install "fastmlp[table]"',
)


@pytest.fixture
def run(capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def flowers(tmp_path):
    """A table with a number, a text and missing values, and a target that both tell: (path, rows)."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        length, colour = rng.normal(), str(rng.choice(["red", "blue", "?"]))
        kind = "rose" if (length > 0) == (colour == "red") else "lily"
        rows.append({"length": f"{length:.3f}", "colour": colour, "row": "7", "kind": kind})
    for row in rows[::40]:
        row["length"] = ""
    return write_csv(tmp_path / "flowers.csv", rows), rows


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


# Images


def test_train_digits(run):
    code, out, err = run("train", "digits", "--seed", 3)
    assert code == 0, err
    assert "digits: 1,437 rows; network 64-128-64-10, Adam, batches of 128" in out
    assert "epoch  1/10" in out and "epoch 10/10" in out
    assert float(re.search(r"test accuracy ([\d.]+)% on 360 images", out)[1]) > 94
    assert re.search(r"trained in [\d.]+ s, [\d,]+ samples per second", out)


def test_options_reach_the_network(run, tmp_path):
    path = tmp_path / "model.safetensors"
    options = ["--epochs", 2, "--batch-size", 5000, "--hidden", "7,3", "--dtype", "float64", "--threads", 1]
    code, out, err = run("train", "digits", "--quiet", "--save", path, *options, "--learning-rate", 0.01)
    assert code == 0, err
    assert "64-7-3-10" in out and "batches of 1437" in out and "epoch" not in out and f"saved {path}" in out
    model = fastmlp.load_model(path)
    assert model.dtype == np.float64 and [shape[0] for shape in map(np.shape, model.parameters.values())] == [
        64, 7, 7, 3, 3, 10
    ]  # fmt: skip
    run("train", "digits", "--quiet", "--hidden", "none", "--epochs", 1, "--save", path)
    assert list(fastmlp.load_model(path).parameters) == ["dense_0.weight", "dense_0.bias"]


def test_mnist_falls_back_to_digits_and_says_so(run, monkeypatch):
    def nowhere():
        raise FileNotFoundError("MNIST was not found.")

    monkeypatch.setattr(datasets, "load_mnist", nowhere)
    code, out, err = run("train", "mnist", "--epochs", 1)
    assert code == 0 and out.startswith("digits:")
    assert "MNIST was not found.\nTraining on scikit-learn's bundled digits instead." in err


def test_corrupt_mnist_is_an_error(run, monkeypatch, tmp_path):
    (tmp_path / datasets.MNIST["X_train"].name).write_bytes(b"not gzip")
    monkeypatch.setenv("FASTMLP_DATA", str(tmp_path))
    code, out, err = run("train", "mnist")
    assert (code, out) == (2, "") and "is corrupt" in err


def test_mnist(run, data_folder):
    if not any(data_folder.rglob("train-images-idx3-ubyte.gz")):
        pytest.skip("FASTMLP_DATA has no MNIST")
    code, out, _ = run("train", "mnist", "--epochs", 3)
    assert code == 0 and "mnist: 60,000 rows; network 784-128-64-10" in out
    assert float(re.search(r"test accuracy ([\d.]+)% on 10,000 images", out)[1]) > 96


# Tables


@needs_pyarrow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_classification_from_table_to_predictions(run, flowers, tmp_path, dtype):
    path, rows = flowers
    model, output = tmp_path / "model.safetensors", tmp_path / "out.csv"
    options = ["--learning-rate", 0.01, "--dtype", dtype, "--quiet", "--save", model]
    code, out, err = run("train", path, "--target", "kind", *options)
    assert code == 0, err
    assert "classification of 'kind'" in out and "ignored 'row': all values are equal" in out
    accuracy, majority = map(float, re.search(r"accuracy ([\d.]+)% on 80 rows \(.*: ([\d.]+)%\), bal", out).groups())
    assert accuracy > 90 > 75 > majority

    shuffled = [{"new": "x", "colour": row["colour"], "length": row["length"]} for row in rows]
    code, out, err = run("predict", model, write_csv(tmp_path / "new.csv", shuffled), "--output", output)
    assert (code, out, err) == (0, "", "")
    predicted = [row["prediction"] for row in csv.DictReader(output.read_text().splitlines())]
    assert np.mean([a == row["kind"] for a, row in zip(predicted, rows, strict=True)]) > 0.9

    code, out, err = run("predict", model, path, "--probabilities")
    printed = list(csv.DictReader(out.splitlines()))
    assert [row["prediction"] for row in printed] == predicted
    assert all(abs(float(row["probability_rose"]) + float(row["probability_lily"]) - 1) < 1e-5 for row in printed)
    score = r"accuracy 9\d\.\d+% on 400 rows \(the most frequent class: 5\d\.\d+%\)"
    assert re.fullmatch(score + r", balanced accuracy 9\d\.\d+%, ROC AUC 0\.9\d+\n", err)


@needs_pyarrow
def test_a_regression_in_the_targets_units(run, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 500)
    rows = [{"x": str(value), "price": str(1e6 + 1e5 * value**2)} for value in x]
    rows[7]["price"] = ""
    model, path = tmp_path / "model.safetensors", write_csv(tmp_path / "t.csv", rows)
    code, out, _ = run("train", path, "--target", "price", "--quiet", "--learning-rate", 0.01, "--save", model)
    assert code == 0 and "regression of 'price'" in out and "left out 1 rows without a 'price'" in out
    r2, error = map(float, re.search(r"held-out R2 ([\d.]+), root mean squared error ([\d.]+) on 100", out).groups())
    assert r2 > 0.95 and error < 1e4
    code, out, err = run("predict", model, path)
    predicted = [float(line) for line in out.splitlines()[1:]]
    assert np.abs(np.array(predicted) - (1e6 + 1e5 * x**2)).max() < 3e4 and "R2 0.9" in err and "499 rows" in err
    code, _, err = run("predict", model, path, "--probabilities")
    assert code == 2 and "needs a classification" in err


@needs_pyarrow
def test_equal_seeds_give_equal_files_and_others_do_not(run, flowers, tmp_path):
    paths = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for path, seed, threads in zip(paths, (1, 1, 2), (1, 2, 1), strict=True):
        options = ["--seed", seed, "--threads", threads, "--epochs", 2, "--quiet", "--save", path]
        assert run("train", flowers[0], "--target", "kind", *options)[0] == 0
    first, second, third = (path.read_bytes() for path in paths)
    assert first == second != third


@needs_pyarrow
def test_few_rows_and_no_held_out_rows(run, tmp_path):
    rows = [{"x": str(k), "y": "ab"[k % 2]} for k in range(6)]
    path = write_csv(tmp_path / "t.csv", rows)
    code, out, _ = run("train", path, "--target", "y", "--test-size", 0, "--epochs", 2, "--quiet")
    assert code == 0 and "held-out" not in out
    assert run("train", write_csv(path, rows[:2]), "--target", "y", "--epochs", 1, "--quiet")[0] == 0
    code, _, err = run("train", write_csv(path, rows[:1]), "--target", "y")
    assert code == 2 and "at least 2 rows are needed to train on; there are 1." in err


@needs_pyarrow
def test_a_missing_column_is_named(run, flowers, tmp_path):
    path, rows = flowers
    model = tmp_path / "model.safetensors"
    run("train", path, "--target", "kind", "--epochs", 1, "--quiet", "--save", model)
    code, out, err = run("predict", model, write_csv(tmp_path / "new.csv", [{"length": "1"}]))
    assert (code, out) == (2, "") and "no column 'colour'" in err


@needs_pyarrow
def test_adult(run, data_folder, tmp_path):
    if not (data_folder / "adult_train.csv.gz").is_file():
        pytest.skip("FASTMLP_DATA has no adult_train.csv.gz")
    model = tmp_path / "model.safetensors"
    options = ["--epochs", 3, "--quiet", "--save", model]
    assert run("train", data_folder / "adult_train.csv.gz", "--target", "income", *options)[0] == 0
    code, _, err = run("predict", model, data_folder / "adult_test.csv.gz", "--output", tmp_path / "out.csv")
    assert code == 0 and float(re.match(r"accuracy ([\d.]+)% on 16,281 rows", err)[1]) > 84


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mnsit"], "the path of a CSV or Parquet file; got 'mnsit'. Did you mean 'mnist'?"),
        (["train", "-"], "`data` must be 'mnist', 'digits' or the path of a CSV or Parquet file; got '-'."),
        (["train", "digits", "--target", "y"], "`--target` is for tables; got digits"),
        (["train", "digits", "--task", "regression"], "`--task` is for tables; got digits"),
        (["train", "mnist", "--test-size", "0"], "`--test-size` is for tables; got mnist"),
        (["train", "digits", "--drop", "x"], "`--drop` is for tables; got digits"),
        (["train", "digits", "--missing", "x"], "`--missing` is for tables; got digits"),
        (["train", "t.csv"], "`--target` must name the column"),
        (["train", "t.csv", "--target", "y"], "no file 't.csv'"),
        (["train", "digits", "--save", "/no/such/folder/m.safetensors"], "`--save` must name a file in a folder"),
        (["train", "digits", "--backup", "/no/such/folder/b"], "`--backup` must name a file in a folder"),
        (["train", "digits", "--epochs", "0"], "--epochs: must be an integer of at least 1; got '0'"),
        (["train", "digits", "--threads", "-1"], "--threads: must be an integer of at least 1; got '-1'"),
        (["train", "digits", "--batch-size", "1.5"], "--batch-size: must be an integer"),
        (["train", "digits", "--hidden", "128,x"], '--hidden: must be widths such as "128,64"'),
        (["train", "digits", "--hidden", "128,0"], '--hidden: must be widths such as "128,64"'),
        (["train", "digits", "--learning-rate", "nan"], "--learning-rate: must be a number above 0; got 'nan'"),
        (["train", "digits", "--learning-rate", "inf"], "--learning-rate: must be a number above 0; got 'inf'"),
        (["train", "digits", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["train", "t.csv", "--test-size", "1"], "--test-size: must be in [0, 1); got '1'"),
        (["predict", "nowhere.safetensors", "t.csv"], "nowhere.safetensors"),
        (["tran"], "invalid choice: 'tran'"),
        ([], "required"),
    ],
)
def test_bad_arguments(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and message in err


@needs_pyarrow
def test_bad_columns(run, flowers):
    for option, name, message in [
        ("--target", "knd", "Did you mean 'kind'?"),
        ("--drop", "rov", "Did you mean 'row'?"),
        ("--drop", "kind", "`--drop` must not name the target; got 'kind'"),
        ("--task", "regression", "regression needs numbers"),
    ]:
        code, _, err = run("train", flowers[0], "--target", "kind", option, name)
        assert code == 2 and message in err and len(err.splitlines()) == 1


@needs_pyarrow
@pytest.mark.parametrize("task", ["auto", "classification", "regression"])
def test_a_target_of_lists_is_refused(run, tmp_path, task):
    from pyarrow import parquet, table

    parquet.write_table(table({"x": [1.0, 2.0, 3.0] * 9, "y": [[1], [2], [3]] * 9}), tmp_path / "t.parquet")
    code, _, err = run("train", tmp_path / "t.parquet", "--target", "y", "--task", task)
    assert code == 2 and "the target 'y' has type list<" in err and "must hold texts, numbers or true and false" in err


def test_a_place_where_no_file_can_be_is_refused_before_training(run, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "m.safetensors"):
        code, out, err = run("train", "digits", "--save", path)
        assert (code, out) == (2, "") and "`--save` must name a file in a folder" in err


@needs_pyarrow
def test_what_is_read_is_not_written_to(run, flowers, tmp_path, monkeypatch):
    table, model = flowers[0], tmp_path / "m.safetensors"
    before = table.read_bytes()
    monkeypatch.chdir(tmp_path)
    os.link(table, tmp_path / "link.csv")
    for path in (table, "flowers.csv", tmp_path / "." / "flowers.csv", "link.csv"):
        code, out, err = run("train", table, "--target", "kind", "--save", path)
        assert (code, out) == (2, "") and "`--save` must be another file than" in err
    assert run("train", table, "--target", "kind", "--epochs", 1, "--save", model)[0] == 0
    of_model = model.read_bytes()
    for path in (table, model):
        code, out, err = run("predict", model, table, "--output", path)
        assert (code, out) == (2, "") and "`--output` must be another file than" in err
    assert table.read_bytes() == before and model.read_bytes() == of_model
    assert run("train", "digits", "--epochs", 1, "--save", "digits")[0] == 0  # of which no file is read


@needs_pyarrow
def test_a_small_table_takes_small_batches(run, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"a": a, "b": b, "kind": "xy"[int(a > b)]} for a, b in rng.normal(size=(150, 2)).round(3)]
    path = write_csv(tmp_path / "t.csv", rows)
    code, out, err = run("train", path, "--target", "kind", "--hidden", "none", "--epochs", 3)
    assert code == 0 and "network 2-2, AdamW, batches of 10\n" in out
    assert "batches of 50\n" in run("train", path, "--target", "kind", "--epochs", 1, "--batch-size", 50)[1]
    code, out, _ = run("train", path, "--target", "kind", "--learning-rate", 0.05)
    assert code == 0 and "\nepoch 30/30 " in out and float(re.search(r"held-out accuracy ([\d.]+)%", out)[1]) > 90


@needs_pyarrow
def test_texts_that_are_left_out_are_counted(run, tmp_path, monkeypatch):
    monkeypatch.setattr("fastmlp.preprocessing.MAX_CATEGORIES", 3)
    rows = [{"shop": f"s{i % 7}", "few": f"f{i % 3}", "y": i % 7 + 0.5} for i in range(70)]
    code, out, err = run("train", write_csv(tmp_path / "t.csv", rows), "--target", "y", "--epochs", 1)
    assert code == 0, err
    assert "kept the 3 most frequent of 7 texts of 'shop'\n" in out and "'few'" not in out


@needs_pyarrow
def test_infinity_is_found_before_training_with_its_row(run, tmp_path):
    rows = [{"x": x, "y": "" if x == 0 else x} for x in range(20)]
    for name in ("x", "y"):
        bad = write_csv(tmp_path / "bad.csv", rows[:7] + [{**rows[7], name: "inf"}] + rows[8:])
        code, out, err = run("train", bad, "--target", "y", "--save", tmp_path / "m.safetensors")
        assert (code, out) == (2, "") and f"column {name!r} holds an infinite number in row 8" in err
    assert not (tmp_path / "m.safetensors").exists()


@needs_pyarrow
def test_a_text_among_numbers_is_mentioned(run, flowers, tmp_path):
    rows = [{**row, "length": row["length"] if i > 1 else ["unknown", "-"][i]} for i, row in enumerate(flowers[1])]
    path = write_csv(tmp_path / "t.csv", rows)
    _, out, _ = run("train", path, "--target", "kind", "--epochs", 1)
    remedy = "; if it means missing: --missing=unknown\n"
    assert f"took 'length' for text: 'unknown' is not a number{remedy}" in out and "'colour'" not in out
    _, out, err = run("train", path, "--target", "kind", "--epochs", 1, "--missing=unknown")
    assert "took" not in out and err == "column 'length': '-' taken for a missing value\n"
    write_csv(path, [{**row, "length": "1 km" if i < 9 else row["length"]} for i, row in enumerate(rows[10:])])
    _, out, _ = run("train", path, "--target", "kind", "--epochs", 1)
    assert "took 'length' for text: '1 km' is not a number\n" in out


@needs_pyarrow
@pytest.mark.parametrize("bad", ["2024-13-45", "0000-00-00", "not yet"])
def test_a_text_among_dates_is_mentioned(run, tmp_path, bad):
    rows = [{"day": f"20{k % 20:02}-{k % 12 + 1:02}-03", "y": k / 7} for k in range(200)]
    rows[5]["day"] = bad
    path = write_csv(tmp_path / "t.csv", rows)
    code, out, err = run("train", path, "--target", "y", "--epochs", 1)
    if bad == "not yet":
        assert (code, err) == (0, "column 'day': 'not yet' taken for a missing value\n") and "took" not in out
        return
    assert (code, err) == (0, "")
    assert f"took 'day' for text: '{bad}' is not a date; if it means missing: --missing={bad}\n" in out
    code, out, err = run("train", path, "--target", "y", "--epochs", 1, "--missing", bad)
    assert (code, err) == (0, "") and "took" not in out


@needs_pyarrow
@pytest.mark.parametrize("spelling", ["-999", "-999.0"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("of_type", ["int64", "float64", "float32"])
def test_a_number_that_means_missing(run, tmp_path, of_type, suffix, spelling):
    """In every column of numbers, in training and in prediction, however it is written."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    x = np.random.default_rng(0).integers(-3, 4, 300)
    rows = {"x": pa.array(np.where(np.arange(300) % 9, x, -999)).cast(of_type), "code": ["-999.0", "a", "b"] * 100}
    rows = pa.table(rows | {"y": 3.5 * x})
    path, model = tmp_path / f"t.{suffix}", tmp_path / "m.safetensors"
    (csv.write_csv if suffix == "csv" else parquet.write_table)(rows, path)
    code, out, err = run("train", path, "--target", "y", f"--missing={spelling}", "--quiet", "--save", model)
    assert (code, err) == (0, "") and float(re.search(r"R2 ([\d.]+)", out)[1]) > 0.8
    number, text = load_model_with_extra(model)[1]["preprocess"]["features"]
    assert number["missing"] and -4 < number["fill"] < 4
    assert ("-999.0" in text["categories"]) == (spelling == "-999")  # of texts, it is one
    values = [None, -999, -999.0, "-999", "-999.0", np.float32(-999)]
    predictions = [fastmlp.TableModel.load(model).predict([{"x": value, "code": "a"}])[0] for value in values]
    assert len(set(predictions)) == 1
    table = rows.set_column(1, "code", [["a"] * 300])
    assert fastmlp.TableModel.load(model).predict(table)[0] == pytest.approx(predictions[0], rel=1e-5)


@needs_pyarrow
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_german_numbers_from_table_to_predictions(run, tmp_path, delimiter):
    x = np.random.default_rng(0).integers(100, 9999, 400)
    rows = "".join(f"{k:,}".replace(",", ".") + f";{2 * k},5\n".replace(";", delimiter) for k in x)
    path, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    path.write_text(f"x{delimiter}y\n" + rows)
    code, out, err = run("train", path, "--target", "y", "--quiet", "--save", model)
    assert code == 0 and float(re.search(r"R2 ([\d.]+)", out)[1]) > 0.95
    assert err == "column 'x': taken for numbers, without '.'\n"
    assert 4000 < load_model_with_extra(model)[1]["preprocess"]["features"][0]["mean"] < 6000
    of_texts, of_numbers = (fastmlp.TableModel.load(model).predict([{"x": x}]) for x in ("1.003", 1003))
    assert of_texts == of_numbers
    assert run("predict", model, path)[2].startswith("R2 0.9")


@needs_pyarrow
def test_targets_that_are_no_class_are_not_scored(run, flowers, tmp_path):
    path = tmp_path / "m.safetensors"
    run("train", flowers[0], "--target", "kind", "--epochs", 1, "--save", path)
    others = write_csv(tmp_path / "others.csv", [{**row, "kind": "daisy"} for row in flowers[1]])
    code, _, err = run("predict", path, others)
    said, scored = err.splitlines()
    assert code == 0 and scored == "not scored: no 'kind' in the table is a class that was learned"
    assert said == "column 'kind': 400 of 400 rows hold texts that were not learned ('daisy')"


@needs_pyarrow
def test_odd_targets_leave_the_others_scored(run, tmp_path):
    rows = [{"x": str(k), "y": str(int(k > 50)), "z": str(k / 7)} for k in range(100)]
    table, odd = write_csv(tmp_path / "t.csv", rows), tmp_path / "odd.csv"
    for target, other, words in (
        ("y", ("0.5", "0.5"), r"accuracy \d+\.\d+% on 100 rows"),
        ("z", ("many", "few"), "not scored: column 'z' must hold numbers; got 'many' in row 4"),
    ):
        run("train", table, "--target", target, "--epochs", 1, "--quiet", "--save", tmp_path / "m")
        write_csv(odd, [row | ({target: other[k - 3]} if k in (3, 4) else {}) for k, row in enumerate(rows)])
        code, out, err = run("predict", tmp_path / "m", odd)
        assert code == 0 and out.count("\n") == 101 and re.search(words, err), err


@needs_pyarrow
def test_dates_from_table_to_predictions(run, tmp_path):
    """As good as numbers; in the order that was learned; and what is no date is refused as such."""
    day = [
        f"{i % 12 + 1:02}/{i // 12 % 12 + 1:02}/{2000 + i // 144}" for i in range(400)
    ]  # of which no day is above 12
    rows = [{"day": day[i], "sure": f"{i % 28 + 1}.{i // 28 + 1}.2020", "y": i / 2} for i in range(336)]
    path, model = write_csv(tmp_path / "t.csv", rows), tmp_path / "m.safetensors"
    code, out, err = run("train", path, "--target", "y", "--quiet", "--save", model)
    assert code == 0 and float(re.search(r"R2 ([\d.]+)", out)[1]) > 0.9
    assert err == "column 'day': dates taken for %m/%d/%Y, but %d/%m/%Y fits as well; 2024-12-31 would be clear\n"
    assert run("predict", model, path)[2].startswith("R2 0.9")  # of which nothing is to be said again
    for written, code, message in [
        ("2001-12-31", 0, ""),
        ("31/12/2001", 0, "column 'day': dates taken for %d/%m/%Y; in training they were %m/%d/%Y\n"),
        ("soon", 2, "fastmlp: column 'day' must hold dates (%m/%d/%Y in training); got 'soon' in row 1.\n"),
        ("20011231", 2, "fastmlp: column 'day' must hold dates (%m/%d/%Y in training); got '20011231' in row 1.\n"),
    ]:
        new = write_csv(tmp_path / "new.csv", [{"day": written, "sure": "1.2.2020"}])
        assert run("predict", model, new)[::2] == (code, message)


@needs_pyarrow
def test_what_is_unlike_the_training_is_said(run, flowers, tmp_path):
    model = tmp_path / "m.safetensors"
    rows = [
        {"length": row["length"] or 0, "code": i % 3 or "b", "cost": f"${i}", "share": f"{i}%", "kind": row["kind"]}
        for i, row in enumerate(flowers[1])
    ]
    for row in rows[::40]:
        row["length"] = "-"
    code, _, err = run("train", write_csv(tmp_path / "t.csv", rows), "--target", "kind", "--save", model, "--quiet")
    assert code == 0 and err.splitlines() == [
        "column 'length': '-' taken for a missing value",
        "column 'code': 'b' taken for a missing value",
        "column 'cost': taken for numbers, without '$'",
        "column 'share': taken for numbers, without '%'",
    ]
    new = write_csv(tmp_path / "new.csv", [{"length": "-", "code": "b", "cost": "$1,000", "share": "0.5"}])
    code, _, err = run("predict", model, new)
    assert (code, err) == (0, "column 'share': the numbers bore '%' in training, here they do not\n")
    euros = {"length": 1, "code": 1, "cost": "€1", "share": "1%"}
    write_csv(new, [{**euros, "length": "x"}, euros])
    code, _, err = run("predict", model, new)
    assert code == 2 and "column 'length' must hold numbers; got 'x' in row 1" in err
    write_csv(new, [{**euros, "cost": ""}, euros])
    assert run("predict", model, new)[2].splitlines() == [
        "column 'cost': taken for numbers, without '€'",
        "column 'cost': 1 of 2 rows have no value; in training, all had one",
    ]


@needs_pyarrow
def test_texts_that_were_not_learned_are_said(run, tmp_path):
    from pyarrow import parquet, table

    rng = np.random.default_rng(0)
    group, x = rng.integers(1, 4, 300), rng.normal(size=300)
    model, path = tmp_path / "m.safetensors", tmp_path / "t.parquet"
    parquet.write_table(table({"group": list(map(str, group)), "x": x, "y": 10.0 * group + x}), path)
    assert run("train", path, "--target", "y", "--quiet", "--save", model)[0] == 0
    expected = run("predict", model, path)[1]
    floats = write_csv(tmp_path / "f.csv", [{"group": f"{g}.0", "x": value} for g, value in zip(group, x, strict=True)])
    assert run("predict", model, floats) == (0, expected, "")
    parquet.write_table(table({"group": group.astype(float), "x": x}), path)
    assert run("predict", model, path) == (0, expected, "")
    parquet.write_table(table({"group": group, "x": x}), path)
    assert run("predict", model, path) == (0, expected, "")
    new = [
        {"group": g, "x": value}
        for g, value in zip(["1.5", "4.0", "", "a", "a", "b", "2"], [1, *[""] * 6], strict=True)
    ]
    code, _, err = run("predict", model, write_csv(tmp_path / "new.csv", new))
    assert code == 0 and err.splitlines() == [
        "column 'group': 5 of 7 rows hold texts that were not learned ('1.5', '4.0', 'a', ...)",
        "column 'group': 1 of 7 rows have no value; in training, all had one",
        "column 'x': 6 of 7 rows have no value; in training, all had one",
    ]
    parquet.write_table(table({"group": [[1]], "x": [1.0]}), path)
    assert run("predict", model, path)[0] == 0


@needs_pyarrow
def test_classes_with_leading_zeros(run, tmp_path):
    rows = [{"x": i % 3 + i / 1000, "code": f" 0{i % 3 + 1}" if i else "?"} for i in range(150)]
    path, model = write_csv(tmp_path / "t.csv", rows), tmp_path / "m.safetensors"
    options = ["train", path, "--target", "code", "--quiet", "--save", model]
    code, out, err = run(*options, "--learning-rate", 0.02)
    assert (code, err) == (0, "") and "left out 1 rows without a 'code'" in out
    assert fastmlp.TableModel.load(model).classes.tolist() == ["01", "02", "03"]
    _, out, err = run("predict", model, path, "--probabilities")
    assert set(out.splitlines()[0].split(",")[1:]) == {f"probability_0{k}" for k in (1, 2, 3)}
    assert re.search(r"accuracy (9.|100)\..*% on 149 rows", err)
    assert run(*options, "--missing=3")[0] == 0
    assert fastmlp.TableModel.load(model).classes.tolist() == ["01", "02"]
    assert "R2" in run(*options, "--task", "regression")[1]
    assert run("train", write_csv(path, [{"x": 1, "code": 1}, *rows]), *options[2:])[0] == 0
    assert fastmlp.TableModel.load(model).classes.tolist() == [1, 2, 3]  # of which one is also written 01
    assert run("train", write_csv(path, [row | {"code": i % 3} for i, row in enumerate(rows)]), *options[2:])[0] == 0
    assert fastmlp.TableModel.load(model).classes.tolist() == [0, 1, 2]


@needs_pyarrow
def test_a_class_may_be_called_none(run, tmp_path):
    kinds = ["None", "mild", "severe"]
    rows = [{"x": i % 3 + i / 1000, "kind": kinds[i % 3] if i else ""} for i in range(150)]
    path, model = write_csv(tmp_path / "t.csv", rows), tmp_path / "m.safetensors"
    options = ["train", path, "--target", "kind", "--quiet", "--learning-rate", 0.02, "--save", model]
    code, out, err = run(*options)
    assert code == 0 and "left out 1 rows without a 'kind'" in out
    assert err == "'None' is a class of 'kind', in 49 rows; if it means missing: --missing=None\n"
    _, out, err = run("predict", model, path)
    assert set(out.split()) == {"prediction", *kinds} and re.search(r"accuracy (9.|100)\..*% on 149 rows", err)
    code, out, err = run(*options, "--missing", "None")
    assert (code, err) == (0, "") and "left out 50 rows without a 'kind'" in out
    assert "on 100 rows" in run("predict", model, path)[2]


@needs_pyarrow
def test_few_rows_of_a_class(run, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"x": x, "z": z, "kind": "rare" if x > 2 else "often"} for x, z in rng.normal(size=(1000, 2)).round(3)]
    path = write_csv(tmp_path / "t.csv", rows)
    share = sum(row["kind"] == "rare" for row in rows) / 1000
    scores = []
    for more in ([], ["--class-weight", "balanced"]):
        code, out, err = run("train", path, "--target", "kind", "--quiet", "--epochs", 5, *more)
        assert (code, err) == (0, "")
        scores.append(float(re.search(r"balanced accuracy ([\d.]+)%, ROC AUC", out)[1]))
        held_out = 1 - float(re.search(r"class: ([\d.]+)%", out)[1]) / 100
        assert abs(held_out - share) <= 1 / 200 + 1e-9
    assert scores[0] < 75 < 90 < scores[1]
    code, _, err = run("train", path, "--target", "x", "--class-weight", "balanced")
    assert code == 2 and "`--class-weight` needs a classification" in err
    assert run("train", "digits", "--epochs", 1, "--quiet", "--class-weight", "balanced")[0] == 0


def test_rows_are_shared_out_by_class():
    codes = np.repeat([3, 0, 1, 2], [100, 40, 10, 1])
    for seed in range(5):
        parts = commands._split(151, 0.2, seed, codes)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(151))
        train, validation, test = (np.bincount(codes[rows], minlength=4) for rows in parts)
        assert np.abs(test - [8, 2, 0, 20]).max() <= 1 and np.abs(validation - [3, 1, 0, 8]).max() <= 1
        assert train[2] == 1  # the only row of its class
        assert commands._split(151, 0.9, seed, codes)[0].tolist().count(150) == 1
    assert not np.array_equal(commands._split(151, 0.2, 0, codes)[2], commands._split(151, 0.2, 1, codes)[2])


@needs_pyarrow
def test_a_class_that_is_only_held_out_is_named(run, tmp_path):
    rows = [{"x": i, "kind": "c" if i in (7, 8) else "ab"[i % 2]} for i in range(60)]
    path = write_csv(tmp_path / "t.csv", rows)
    code, out, err = run("train", path, "--target", "kind", "--epochs", 1, "--test-size", 0.9)
    assert (code, err) == (0, "'c' of 'kind' cannot be learned: its 2 rows are held out\n") and "accuracy" in out


@needs_pyarrow
def test_a_model_that_was_loaded_and_saved_still_knows_its_table(run, flowers, tmp_path):
    """Until it is fitted to other rows."""
    table, _ = flowers
    first, second, third = (tmp_path / f"{k}.safetensors" for k in range(3))
    run("train", table, "--target", "kind", "--epochs", 2, "--quiet", "--save", first)
    model = fastmlp.load_model(first)
    model.save(second)
    expected = run("predict", first, table)
    assert expected[0] == 0 and run("predict", second, table) == expected
    X = np.zeros((4, model.n_features))
    with pytest.raises(ValueError, match="epochs"):
        model.fit(X, [0, 1, 0, 1], epochs=0)
    copy.deepcopy(model).save(third)
    assert run("predict", third, table) == expected
    model.fit(X, [0, 1, 0, 1], verbose=0)
    model.save(third)
    code, out, err = run("predict", third, table)
    assert code == 2 and "was not trained on a table" in err


@needs_pyarrow
def test_columns_are_kept_as_they_are(run, flowers, tmp_path):
    from pyarrow import parquet, table

    model, path = tmp_path / "m.safetensors", flowers[0]
    run("train", path, "--target", "kind", "--epochs", 1, "--quiet", "--save", model)
    new = [{"id": f"00{i}", "length": "1.50", "colour": "?" if i else "NA"} for i in range(3)]
    new = write_csv(tmp_path / "new.csv", new)
    plain = [row["prediction"] for row in csv.DictReader(run("predict", model, new)[1].splitlines())]
    options = ["--keep", "id", "--keep", "colour", "--keep", "length", "--probabilities"]
    code, out, _ = run("predict", model, new, *options)
    header, first, *_ = out.splitlines()
    assert header == "id,colour,length,prediction,probability_lily,probability_rose"
    assert code == 0 and first.startswith(f"000,NA,1.50,{plain[0]},0.")
    parquet.write_table(table({"id": [7, None], "length": [1.5, None], "colour": ["red", ""]}), tmp_path / "t.parquet")
    out = run("predict", model, tmp_path / "t.parquet", "--keep", "id")[1].splitlines()
    assert out[1].startswith("7,") and out[2].startswith(",")
    code, out, err = run("predict", model, new, "--keep", "idd")
    assert (code, out) == (2, "") and "Did you mean 'id'?" in err
    both = write_csv(tmp_path / "both.csv", [{"prediction": 1, "length": 1, "colour": "red"}])
    code, out, err = run("predict", model, both, "--keep", "prediction")
    assert (code, out) == (2, "") and "`--keep` must not name a column that is written anyway; got 'prediction'" in err


@needs_pyarrow
def test_a_model_of_an_older_version_predicts(run, flowers, tmp_path):
    """Whose file tells neither how texts were read nor, older still, what sort of numbers there were."""
    from fastmlp.serialization import save_model

    model, path = tmp_path / "m.safetensors", flowers[0]
    run("train", path, "--target", "kind", "--epochs", 1, "--quiet", "--save", model)
    expected = run("predict", model, path)
    network, extra = load_model_with_extra(model)
    del extra["preprocess"]["read"], extra["preprocess"]["missing"]
    for feature in extra["preprocess"]["features"]:
        feature.pop("sort", None)
    save_model(model, network, extra=extra)
    assert run("predict", model, path) == expected


@needs_pyarrow
def test_models_that_cannot_be_used(run, flowers, tmp_path):
    path = tmp_path / "model.safetensors"
    run("train", "digits", "--epochs", 1, "--quiet", "--save", path)
    code, _, err = run("predict", path, flowers[0])
    assert code == 2 and "was not trained on a table" in err
    path.write_bytes(path.read_bytes()[:1000])
    code, _, err = run("predict", path, flowers[0])
    assert code == 2 and "cannot load" in err and len(err.splitlines()) == 1


def test_without_pyarrow_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("train", "t.csv", "--target", "y")
    assert (code, err) == (2, 'fastmlp: tables need PyArrow: pip install "fastmlp[table]"\n')


def test_divergence_and_lack_of_memory_are_failures(run, monkeypatch):
    code, _, err = run("train", "digits", "--learning-rate", 1e30, "--quiet")
    assert code == 1 and "diverged in epoch 1" in err and err.count("\n") <= 2  # it may have to compile, and say so
    for error, message in [(MemoryError("9 TB"), "out of memory: 9 TB"), (MemoryError(), "out of memory\n")]:
        monkeypatch.setattr(commands, "train", lambda arguments, error=error: (_ for _ in ()).throw(error))
        code, _, err = run("train", "digits")
        assert code == 1 and message in err


# The process


def process(*arguments, **options):
    command = [sys.executable, "-m", "fastmlp", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


@needs_pyarrow
def test_texts_of_any_alphabet_reach_a_pipe(tmp_path):
    """Whose encoding is the code page on Windows, where nobody asked for another."""
    rows = [{"größe": i, "kind": "日本" if i % 2 else "čeština"} for i in range(60)]
    path, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    path.write_text("größe,kind\n" + "".join(f"{r['größe']},{r['kind']}\n" for r in rows), encoding="utf-8")
    code = (
        "import sys; from fastmlp.cli import main\n"
        "for stream in (sys.stdout, sys.stderr): stream.reconfigure(encoding='cp1252')\n"
        "raise SystemExit(main())"
    )
    for arguments in (
        ["train", path, "--target", "kind", "--epochs", 1, "--save", model],
        ["predict", model, path],
    ):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header == "prediction" and set(rows) <= {"日本", "čeština"}


def test_windows_says_that_an_argument_was_invalid_where_nobody_reads(monkeypatch):
    class Closed(io.StringIO):
        def flush(self):
            raise OSError(errno.EINVAL, "Invalid argument")

    invalid = OSError(errno.EINVAL, "Invalid argument")
    assert not cli._nobody_reads(invalid) and cli._nobody_reads(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(cli, "sys", types.SimpleNamespace(platform="win32"))
    assert not cli._nobody_reads(invalid) and not cli._nobody_reads(ValueError())  # of something else
    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli._nobody_reads(invalid) and cli._nobody_reads(BrokenPipeError(errno.EPIPE, "Broken pipe"))


def test_version():
    with process("--version") as child:
        out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, f"fastmlp {fastmlp.__version__}\n")


@needs_signals
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_saves_the_model_and_ends_it(tmp_path, number, code, word):
    path = tmp_path / "model.safetensors"
    options = ["--epochs", 10_000_000, "--save", path]
    with process("train", "digits", *options, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        for line in child.stdout:
            if line.startswith("epoch"):
                break
        child.send_signal(getattr(signal, number))
        out, err = child.communicate(timeout=60)  # all of the epochs would take longer
    assert child.returncode == code and err.splitlines()[-1] == f"fastmlp: {word}"
    assert out.endswith(f"saved {path}\n")
    assert fastmlp.load_model(path).n_features == 64


@needs_pyarrow
@needs_signals
def test_a_training_that_was_stopped_goes_on(flowers, tmp_path, run):
    """It gives the model of one that was not; the epochs that come first tell that it did not begin anew."""
    path, saved, backup = tmp_path / "model.safetensors", [], tmp_path / "backup.safetensors"
    options = ["train", flowers[0], "--target", "kind", "--learning-rate", 1e-5, "--epochs", 400, "--save", path]
    with process(*options, "--backup", backup, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        for line in child.stdout:
            if line.startswith("epoch   3"):  # an epoch counts when the next begins
                break
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode == 130 and backup.exists()
    done = load_model_with_extra(backup)[1]["training"]["epoch"]
    for more in (["--backup", backup], []):
        code, out, err = run(*options, *more)
        assert code == 0, err
        epochs = re.findall(r"^epoch +(\d+)/400", out, re.M)
        assert int(epochs[0]) == (done + 1 if more else 1) and epochs[-1] == "400"
        saved.append(path.read_bytes())
    assert saved[0] == saved[1] and 0 < done < 400 and not backup.exists()
    code, _, err = run(*options, "--backup", path)
    assert code == 2 and "`--backup` must be another file than `--save`" in err
    code, _, err = run(*options[:-2], "--backup", path)
    assert code == 2 and f"`--backup` '{path}' is a model, not a backup of a fit" in err


@needs_pyarrow
def test_a_reader_that_stops_early_is_no_error(flowers, tmp_path, run):
    model = tmp_path / "model.safetensors"
    run("train", flowers[0], "--target", "kind", "--epochs", 1, "--quiet", "--save", model)
    many = tmp_path / "many.csv"
    many.write_text("length,colour\n" + "1,red\n" * 200_000)
    with process("predict", model, many) as child:
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(timeout=60) == 0
        assert not {"Broken", "Traceback", "Exception"} & set(child.stderr.read().split())


def test_warmup_fills_the_cache(run, monkeypatch):
    from fastmlp import engine

    asked = []
    monkeypatch.setattr(engine, "warmup", lambda dtypes, verbose: asked.append((dtypes, verbose)))
    assert run("warmup")[0] == run("warmup", "--dtype", "float64", "--dtype", "float32")[0] == 0
    assert asked == [(("float32", "float64"), True), (("float64", "float32"), True)]
