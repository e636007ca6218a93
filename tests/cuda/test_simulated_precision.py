"""Products of tensor cores (`precision`): what they round, and that nothing else is rounded."""

import numpy as np
import pytest
import reference
from exact import assert_a_step_is_the_twins
from hypothesis import given, strategies as st

from fastmlp import BackupAndRestore, Dense, Dropout, MLPClassifier, MLPRegressor, ReLU, Sequential, TimeBudget, devices
from fastmlp.cli import main
from fastmlp.cuda import gradients, narrow, tensor_cores
from fastmlp.training import Training

# uint32 arithmetic wraps around on a device; NumPy's scalars warn of it
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")

NOT_TINY = st.floats(2.0**-100, 2.0**100, width=32) | st.floats(-(2.0**100), -(2.0**-100), width=32)


def words(number):
    """The number in TF32, and as either half of a pair in BF16."""
    pair = tensor_cores.pair_of_bf16(number, np.float32(1.0)).view(np.uint32)
    second = tensor_cores.pair_of_bf16(np.float32(1.0), number).view(np.uint32)
    assert pair >> np.uint32(16) == second & np.uint32(0xFFFF) == 0x3F80
    halves = pair << np.uint32(16), second & np.uint32(0xFFFF0000)
    return tensor_cores.rounded_to_tf32(number), *(half.view(np.float32) for half in halves)


@given(NOT_TINY)
def test_factors_are_rounded_to_the_nearest(number):
    number = np.float32(number)
    tf32, low, high = words(number)
    assert tf32 == reference.rounded(number, "tf32") and low == high == reference.rounded(number, "bf16")


def test_ties_and_what_is_not_finite():
    for sign in (1, -1):
        for number, tf32, bf16 in (
            (1 + 2.0**-11, 1 + 2.0**-10, 1),
            (1 + 2.0**-8, 1 + 2.0**-8, 1),
            (1 + 3 * 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-6),
        ):
            assert words(np.float32(sign * number)) == (sign * tf32, sign * bf16, sign * bf16)
        assert words(np.float32(sign * np.inf)) == (sign * np.inf,) * 3
        assert words(np.float32(sign * 0.0)) == (0.0,) * 3
    assert np.isnan(words(np.float32(np.nan))).all()


@pytest.mark.parametrize("precision", devices.PRECISIONS)
@pytest.mark.parametrize("n_rows", ["few", "many"])
@pytest.mark.parametrize("is_narrow", [True, False])
def test_a_step_rounds_the_factors_of_its_products_only(precision, is_narrow, n_rows, monkeypatch):
    if not is_narrow:
        monkeypatch.setattr(narrow, "qualifies", lambda plan: False)
    monkeypatch.setattr(narrow, "MANY", 1 if n_rows == "many" else 100)
    monkeypatch.setattr(gradients, "LEAST", 16)
    assert_a_step_is_the_twins(precision, (21, 37, 34, 4), 32, monkeypatch)


@given(NOT_TINY)
def test_two_numbers_of_tf32_are_almost_a_number_of_float32(number):
    number = np.float32(number)
    high = tensor_cores.near_tf32(number)
    low = tensor_cores.shortened_to_tf32(number - high)
    assert high == reference.rounded(number, "tf32") and low == reference.rounded(low, "tf32")
    assert abs(np.float64(high) + low - number) <= 2.0**-22 * abs(number)


def test_numbers_that_are_not_finite_stay_so_in_two_parts():
    for number in (np.nan, np.inf, -np.inf):
        with np.errstate(invalid="ignore"):
            low = tensor_cores.shortened_to_tf32(np.float32(number) - tensor_cores.near_tf32(np.float32(number)))
        assert np.isnan(low)


@pytest.mark.parametrize("precision, error", [("tf32x3", 5e-7), ("tf32", 5e-4)])
def test_errors_of_long_sums_do_not_add_up(precision, error):
    """Tensor cores round sums towards zero: of numbers of one sign, all the errors have that sign."""
    rng = np.random.default_rng(0)
    X, W = rng.random((4, 2000), np.float32), rng.random((2000, 3), np.float32)
    model = Sequential(Dense(3)).build(2000)
    model.set_parameters({"dense_0.weight": W})
    options = {"loss": "squared_error", "optimizer": "sgd", "batch_size": 4, "device": "cuda", "precision": precision}
    with Training(model, X, np.zeros((4, 3)), **options) as training:
        (loss,) = training.run(1)
    expected = (0.5 * (X.astype(np.float64) @ W) ** 2).sum(axis=1).mean()
    assert abs(loss / expected - 1) < error


def problem(n=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 5)).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize("batch_size", [5, 16])  # of one share of rows, and of more
@pytest.mark.parametrize("precision", devices.PRECISIONS)
def test_fits_follow_the_cpu_but_for_rounding(precision, batch_size):
    X, y = problem(2 * batch_size + 4)
    options = {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": batch_size, "verbose": 0}
    options["validation_data"] = X, y
    layers, losses = [Dense(20), ReLU(), Dropout(0.3), Dense(3)], {}
    for kind in ({}, {"device": "cuda"}, *2 * [{"device": "cuda", "precision": precision}]):
        history = Sequential(*layers).fit(X, y, **options, **kind)
        losses.setdefault(str(kind), []).append((*history["loss"], *history["val_loss"]))
    (cpu,), (float32,), (first, second) = losses.values()
    assert first == second and first != float32
    np.testing.assert_allclose(first, cpu, rtol={"tf32x3": 1e-5, "tf32": 1e-3, "bf16": 1e-2}[precision])


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators_and_the_command_line(capsys, tmp_path):
    X, y = problem()
    for make, targets in ((MLPClassifier, y), (MLPRegressor, X[:, 0])):
        plain, rounded = (
            make(hidden_layer_sizes=(5,), max_iter=2, random_state=0, device="cuda", precision=precision).fit(
                X, targets
            )
            for precision in (None, "bf16")
        )
        assert plain.loss_curve_ != rounded.loss_curve_
        np.testing.assert_allclose(plain.loss_curve_, rounded.loss_curve_, rtol=1e-2)
    table = tmp_path / "table.csv"
    table.write_text("a,b,kind\n" + "".join(f"{a},{b},{'xy'[int(a > b)]}\n" for a, b, *_ in X))
    common = ["train", str(table), "--target", "kind", "--device", "cuda", "--epochs", "1", "--quiet", "--hidden", "4"]
    assert main([*common, "--precision", "tf32"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_backup_of_another_precision_is_refused(tmp_path):
    X, y = problem()
    options = {"loss": "softmax_cross_entropy", "verbose": 0, "device": "cuda", "batch_size": 20}
    callbacks = [BackupAndRestore(tmp_path / "fit.safetensors"), TimeBudget(1e-9)]  # one epoch
    Sequential(Dense(3)).fit(X, y, epochs=2, callbacks=callbacks, **options)
    with pytest.raises(ValueError, match="its precision was None, now it is 'tf32'"):
        Sequential(Dense(3)).fit(X, y, epochs=2, callbacks=callbacks, precision="tf32", **options)
