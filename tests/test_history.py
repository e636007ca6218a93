"""History: plain lists of equal length, a short repr, a DataFrame for those who have pandas."""

import copy
import math
import pickle
import sys

import numpy as np
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


def test_repr_leaves_out_what_does_not_fit():
    history = History()
    history.record(1, {"loss": 1.0, **{f"gradient_norm_dense_{k}": 1.0 for k in range(12)}})
    lines = repr(history).splitlines()
    shown = lines[1].split()
    assert shown[:3] == ["epoch", "loss", "gradient_norm_dense_0"] and 75 < len(lines[1]) <= 100
    assert f"{14 - len(shown)} more in .metrics: gradient_norm_dense_{len(shown) - 2}, ..." in lines[0]


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


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install "fastmlp[plot]"')
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot.subplots()[1]
    pyplot.close("all")


def test_plot_draws_both_losses(axes):
    history = filled(3)
    assert [line.get_label() for line in history.plot(ax=axes).get_lines()] == ["loss"]
    history.metrics["val_loss"] = [3.0, math.nan, 1.0]
    drawn = history.plot()
    assert drawn is not axes and drawn.get_xlabel() == "epoch"
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["loss", "val_loss"]
    for line, name in zip(drawn.get_lines(), ["loss", "val_loss"], strict=True):
        assert list(line.get_xdata()) == [1, 2, 3]
        np.testing.assert_array_equal(line.get_ydata(), history[name])
    drawn.figure.canvas.draw()
    assert all(tick == int(tick) for tick in drawn.get_xticks())


def test_fits_are_told_apart_and_one_epoch_has_one_tick(axes):
    history = History()
    history.record(1, {"loss": 1.0})
    for label in ("sgd", "adam"):
        history.plot(ax=axes, label=label)
    assert [line.get_label() for line in axes.get_lines()] == ["sgd loss", "adam loss"]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_an_empty_history_draws_an_empty_plot(axes):
    assert not History().plot(ax=axes).get_lines()  # and warns of nothing


def test_plot_draws_what_is_named(axes):
    assert filled(60).plot("val_accuracy", ax=axes) is axes
    assert [line.get_label() for line in axes.get_lines()] == ["val_accuracy"]
    with pytest.raises(KeyError, match="Did you mean 'loss'"):
        filled(3).plot("los")


def test_plot_without_matplotlib_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="fastmlp.plot"):
        filled(1).plot()


def test_as_a_mapping_of_its_metrics():
    history = History()
    history.record(1, {"loss": 0.5, "seconds": 0.1})
    assert dict(history) == {"loss": [0.5], "seconds": [0.1]} == {**history}
    assert list(history) == list(history.keys()) == ["loss", "seconds"]
