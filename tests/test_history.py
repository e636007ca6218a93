"""History: plain lists of equal length, a short repr, a DataFrame for those who have pandas."""

import copy
import math
import pickle
import sys

import pytest

from fastmlp import History


def filled(n):
    history = History()
    for epoch in range(1, n + 1):
        history.record(epoch, {"loss": 1 / epoch, "val_accuracy": 0.5, "seconds": 0.25})
    return history


def test_records_by_name():
    history = filled(3)
    assert history.epochs == [1, 2, 3] and len(history) == 3
    assert history["loss"] == history.metrics["loss"] == [1.0, 0.5, 1 / 3]
    assert "loss" in history and "val_loss" not in history


def test_unknown_metric_lists_those_that_exist():
    with pytest.raises(KeyError, match="'loss', 'val_accuracy', 'seconds'.*Did you mean 'loss'"):
        filled(1)["los"]


def test_values_are_python_numbers(rng):
    history = History()
    history.record(1, {"loss": rng.random(dtype="f4"), "accuracy": rng.random()})
    assert all(type(values[0]) is float for values in history.metrics.values())


def test_a_metric_that_comes_or_goes_is_nan_elsewhere():
    history = History()
    history.record(1, {"loss": 1})
    history.record(2, {"loss": 2, "val_loss": 3})
    history.record(3, {"val_loss": 4})
    assert math.isnan(history["val_loss"][0]) and history["val_loss"][1:] == [3, 4]
    assert history["loss"][:2] == [1, 2] and math.isnan(history["loss"][2])


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 1000])
def test_repr_stays_small(n):
    lines = repr(filled(n)).splitlines()
    assert lines[0].startswith(f"History: {n} epoch")
    assert len(lines) <= 9 and len({len(line) for line in lines[1:]}) <= 1
    if n:
        assert lines[1].split() == ["epoch", "loss", "val_accuracy"]
        assert lines[2].split()[0] == "1" and lines[-1].split()[0] == str(n)
        assert f"{n / 4:.3g} s" in lines[0]


def test_repr_with_nan():
    history = filled(1)
    history.record(2, {"val_loss": 1.0})
    assert "nan" in repr(history) and "0.25 s" in repr(history)


def test_an_empty_history_is_true_and_equal_to_another():
    assert History() and History() == History() and filled(2) == filled(2) != filled(3)


def test_pickles_and_copies():
    history = filled(2)
    assert pickle.loads(pickle.dumps(history)) == history == copy.deepcopy(history)


def test_to_frame():
    pytest.importorskip("pandas")
    frame = filled(3).to_frame()
    assert list(frame.columns) == ["loss", "val_accuracy", "seconds"]
    assert frame.index.name == "epoch" and list(frame.index) == [1, 2, 3]
    assert frame.loc[2, "loss"] == 0.5


def test_to_frame_without_pandas_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas.*history.metrics"):
        filled(1).to_frame()
