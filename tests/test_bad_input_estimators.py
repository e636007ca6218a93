"""What the estimators refuse, and that the message says what is wrong, where, and what is accepted."""

import datetime

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import DataConversionWarning, NotFittedError

from fastmlp import Dense, MLPClassifier, MLPRegressor, Perceptron, PiecewiseLinearEncoder, Sequential

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPClassifier, MLPRegressor]
FAST = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}


@pytest.fixture
def data(rng):
    return rng.normal(size=(30, 4)), np.arange(30) % 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_bad_value_in_X_is_located(estimator, value, word, dtype, data):
    X, y = data[0].astype(dtype), data[1]
    X[17, 2] = value
    place = rf"(?s)Input X contains {word}.*: the first is in row 17, column 2\."
    with pytest.raises(ValueError, match=place):
        estimator(**FAST).fit(X, y)
    with pytest.raises(ValueError, match=place):
        estimator(**FAST).fit(csr_array(X), y)
    with pytest.raises(ValueError, match=place):
        estimator(**FAST).fit(np.asfortranarray(X), y)
    model = estimator(**FAST).fit(data[0], y)
    with pytest.raises(ValueError, match=place):
        model.predict(X)
    with pytest.raises(ValueError, match=place):
        model.predict(np.concatenate([X, -X]))  # whose sum is NaN where those are infinite
    with pytest.raises(ValueError, match="row 17, column 2"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="Input X_val contains.*row 17, column 2"):
        estimator(**FAST, early_stopping=True).fit(data[0], y, X_val=X, y_val=y)


def test_a_bad_value_far_down_in_a_memory_map_is_located(tmp_path):
    X = np.zeros((10_000, 3), np.float32)
    X[9_999, 1] = np.inf
    np.save(tmp_path / "X.npy", X)
    with pytest.raises(ValueError, match="row 9999, column 1"):
        MLPRegressor(**FAST).fit(np.load(tmp_path / "X.npy", mmap_mode="r"), np.zeros(10_000))


def test_a_column_that_holds_no_numbers_is_named(data):
    frame = pytest.importorskip("pandas").DataFrame(data[0], columns=list("abcd"))
    for column, message in [
        (["1", "2", "oops"] * 10, "'c' has dtype .*could not convert string to float: 'oops'"),
        (np.datetime64("2020-01-01"), r"'c' holds dates or times\. Encode them"),
    ]:
        for estimator in ESTIMATORS:
            with pytest.raises(ValueError, match=f"`X` must hold numbers; column {message}"):
                estimator(**FAST).fit(frame.assign(c=column), data[1])
    with pytest.raises(ValueError, match="`X_val` must hold numbers; column 'c'"):
        MLPRegressor(**FAST, early_stopping=True).fit(frame, data[1], X_val=frame.assign(c="x"), y_val=data[1])


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_a_bad_value_in_y_is_located(value, word, data):
    X, y = data[0], data[1].astype(float)
    y[5] = value
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match=f"Input y contains {word}.*: the first is in row 5"):
            estimator(**FAST).fit(X, y)
    both = np.zeros((30, 2))
    both[7, 1] = value
    with pytest.raises(ValueError, match=f"Input y contains {word}.*: the first is in row 7, column 1"):
        MLPRegressor(**FAST).fit(X, both)
    with pytest.raises(ValueError, match="contains NaN: the first is in row 3"):
        MLPClassifier(**FAST).fit(X, np.array(["a", "b", "c", np.nan, *["a"] * 26], dtype=object))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros(30), np.zeros(30), "Expected 2D array, got 1D"),
        (np.zeros((30, 2, 2)), np.zeros(30), "dim 3"),
        (np.zeros((0, 4)), np.zeros(0), "0 sample"),
        (np.zeros((30, 0)), np.zeros(30), "0 feature"),
        (np.zeros((30, 4)), np.zeros(29), r"inconsistent numbers of samples: \[30, 29\]"),
        (np.zeros((30, 4)), np.zeros((30, 2, 2)), "dim 3"),
        (np.zeros((30, 4)), None, "y to be passed"),
        (np.full((30, 4), 1j), np.zeros(30), "Complex data not supported"),
        (np.full((30, 4), "text"), np.zeros(30), "could not convert string to float"),
    ],
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_wrong_shapes_and_types(estimator, X, y, message):
    with pytest.raises(ValueError, match=message):
        estimator(**FAST).fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_another_number_of_features(estimator, data):
    model = estimator(**FAST).fit(*data)
    with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 4 features"):
        model.predict(data[0][:, :3])
    with pytest.raises(ValueError, match="X has 3 features"):
        model.partial_fit(data[0][:, :3], data[1])
    with pytest.raises(ValueError, match="X has 5 features"):
        estimator(**FAST, early_stopping=True).fit(*data, X_val=np.zeros((3, 5)), y_val=np.zeros(3))
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(data[0][:0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_before_fit(estimator, data):
    with pytest.raises(NotFittedError):
        estimator().predict(data[0])


def test_a_column_for_y_is_flattened_with_a_warning(data):
    for estimator in ESTIMATORS:
        with pytest.warns(DataConversionWarning):
            model = estimator(**FAST).fit(data[0], data[1][:, None])
        assert model.predict(data[0]).ndim == 1


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("parameter", "value", "messages"),
    [
        ("activation", "rellu", ["'identity', 'relu', 'tanh', 'logistic'", "got 'rellu'", "Did you mean 'relu'"]),
        ("solver", "adma", ["'lbfgs', 'sgd', 'adam'", "Did you mean 'adam'"]),
        ("learning_rate", "constnat", ["'constant', 'invscaling', 'adaptive'", "Did you mean 'constant'"]),
        ("solver", 3, ["'solver'", "'adam'", "Got 3"]),
        ("alpha", -1, ["'alpha'", r"\[0.0, inf\)", "Got -1"]),
        ("alpha", np.nan, ["'alpha'", "Got nan"]),
        ("batch_size", 0, ["'batch_size'", r"\[1, inf\)", "Got 0"]),
        ("batch_size", -5, ["'batch_size'", "Got -5"]),
        ("batch_size", 2.5, ["'batch_size'", "int", "Got 2.5"]),
        ("learning_rate_init", 0, ["'learning_rate_init'", r"\(0.0, inf\)", "Got 0"]),
        ("max_iter", 0, ["'max_iter'", "Got 0"]),
        ("max_fun", -1, ["'max_fun'", "Got -1"]),
        ("tol", -1e-4, ["'tol'", "Got -0.0001"]),
        ("momentum", 1.0, ["'momentum'", r"\[0.0, 1.0\)", "Got 1.0"]),
        ("beta_1", 1.0, ["'beta_1'", "Got 1.0"]),
        ("epsilon", 0, ["'epsilon'", "Got 0"]),
        ("validation_fraction", 1.5, ["'validation_fraction'", "Got 1.5"]),
        ("n_iter_no_change", 0, ["'n_iter_no_change'", "Got 0"]),
        ("random_state", "seed", ["'random_state'", "Got 'seed'"]),
        ("shuffle", "yes", ["'shuffle'", "Got 'yes'"]),
        ("n_threads", 0, ["'n_threads'", r"\[1, inf\)", "Got 0"]),
        ("n_threads", -1, ["'n_threads'", "Got -1"]),
        ("hidden_layer_sizes", 0, ["'hidden_layer_sizes'", "Got 0"]),
        ("hidden_layer_sizes", (10, 0), ["hidden_layer_sizes must be > 0", r"got \[10, 0\]"]),
        ("hidden_layer_sizes", (10, -3), ["hidden_layer_sizes must be > 0", r"got \[10, -3\]"]),
        ("hidden_layer_sizes", (10, 2.5), ["hidden_layer_sizes must be", "integers", r"got \[10, 2.5\]"]),
    ],
)
def test_bad_parameters(estimator, parameter, value, messages, data):
    model = estimator(**{**FAST, parameter: value})
    for fit in (model.fit, lambda X, y: model.partial_fit(X, y, **classes(model))):
        with pytest.raises(ValueError) as caught:
            fit(*data)
        for message in messages:
            assert caught.match(message)
    assert not hasattr(model, "coefs_")


def classes(model):
    return {"classes": [0, 1, 2]} if isinstance(model, MLPClassifier) else {}


def test_losses_of_the_regressor(data):
    X = data[0]
    with pytest.raises(ValueError, match="`y` must be at least 0 for `loss`='poisson'; row 2 holds .*-1"):
        MLPRegressor(loss="poisson").fit(X, np.where(np.arange(len(X)) == 2, -1.0, 1.0))
    with pytest.raises(
        ValueError, match="'squared_error', 'poisson'; got 'squared_eror'. Did you mean 'squared_error'"
    ):
        MLPRegressor(loss="squared_eror").fit(*data)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_batch_larger_than_the_data_is_clipped_with_a_warning(estimator, data):
    with pytest.warns(UserWarning, match="`batch_size`=512 larger than the sample size 30. It is going to be clipped"):
        clipped = estimator(**FAST, batch_size=512).fit(*data)
    whole = estimator(**FAST, batch_size=30).fit(*data)
    np.testing.assert_array_equal(clipped.coefs_[0], whole.coefs_[0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(29), r"sample_weight.shape == \(29,\), expected \(30,\)"),
        (np.ones((30, 1)), "must be 1D"),
        (np.zeros(30), "at least one non-zero"),
        (np.r_[-1.0, np.ones(29)], "Negative values in data passed to `sample_weight`"),
        (np.r_[np.nan, np.ones(29)], "sample_weight contains NaN"),
        (["heavy"] * 30, "`sample_weight`: could not convert string to float: 'heavy'"),
    ],
)
def test_bad_weights(estimator, weight, message, data):
    with pytest.raises(ValueError, match=message):
        estimator(**FAST).fit(*data, sample_weight=weight)
    message = message.replace("sample_weight", "sample_weight_val")
    with pytest.raises(ValueError, match=message):
        estimator(**FAST, early_stopping=True).fit(*data, X_val=data[0], y_val=data[1], sample_weight_val=weight)


# ------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("missing", [None, "pandas.NA"])
def test_a_missing_label_is_located(missing, data):
    missing = pytest.importorskip("pandas").NA if missing == "pandas.NA" else missing
    y = np.array(["a", "b", "c"], object)[data[1]]
    y[5] = missing
    with pytest.raises(ValueError, match=f"`y` must hold a label in every row; row 5 holds {missing}"):
        MLPClassifier(**FAST).fit(data[0], y)


def test_labels_of_several_kinds(data):
    with pytest.raises(TypeError, match="`y` must hold labels of one kind; it holds float, str"):
        MLPClassifier(**FAST).fit(data[0], np.array(["a", 1.5, "c"], object)[data[1]])


def test_labels_that_are_numbers(data):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        MLPClassifier(**FAST).fit(data[0], np.linspace(0, 1, 30))
    with pytest.raises(ValueError, match="Multioutput target data is not supported"):
        MLPClassifier(**FAST).fit(data[0], np.c_[data[1], data[1]])


def test_partial_fit_needs_classes_and_keeps_them(data):
    X, y = data
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        MLPClassifier(**FAST).partial_fit(X, y)
    with pytest.raises(ValueError, match=r"classes not in `self.classes_`: \[2\]. .*\[0 1\]"):
        MLPClassifier(**FAST).partial_fit(X, y, classes=[0, 1])
    model = MLPClassifier(**FAST).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"classes not in `self.classes_`: \[7\]. .*\[0 1 2\]"):
        model.partial_fit(X, np.where(y == 1, 7, y))
    with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
        model.partial_fit(X, y, classes=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="classes not in `self.classes_`"):
        model.partial_fit(X, np.array(["a", "b", "c"])[y])
    before = model.coefs_[0].copy()
    np.testing.assert_array_equal(model.coefs_[0], before)  # nothing was trained meanwhile


def test_partial_fit_of_an_indicator_matrix_of_another_width(data):
    X, y = data
    model = MLPClassifier(**FAST).partial_fit(X, np.eye(3)[y])
    for other in (np.eye(4)[y], y):
        with pytest.raises(ValueError, match=r"y has shape .*\[0 1 2\]"):
            model.partial_fit(X, other)


def test_a_warm_start_with_other_labels_or_layers(data):
    X, y = data
    model = MLPClassifier(**FAST, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        model.fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match=r"layers of \[4, 9, 3\] units.*\[4, 4, 3\]"):
        model.set_params(hidden_layer_sizes=9).fit(X, y)
    model = MLPRegressor(**FAST, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="y has 2 outputs, but the fitted network has 1"):
        model.fit(X, np.c_[y, y])


def test_labels_of_the_validation_set(data):
    X, y = data
    with pytest.raises(ValueError, match=r"`y_val` has classes not in `self.classes_`: \[9\].*those of `y`"):
        MLPClassifier(**FAST, early_stopping=True).fit(X, y, X_val=X, y_val=y * 0 + 9)


def test_class_weights(data):
    X, y = data
    with pytest.raises(ValueError, match="'class_weight'.*Got 'even'"):
        MLPClassifier(**FAST, class_weight="even").fit(X, y)
    with pytest.raises(ValueError, match=r"The classes, \[1, 2\], are not in class_weight"):
        MLPClassifier(**FAST, class_weight={0: 1.0, 5: 2.0}).fit(X, y)
    with pytest.raises(ValueError, match=r"`class_weight`=\{0: 'x'\}: could not convert"):
        MLPClassifier(**FAST, class_weight={0: "x"}).fit(X, y)
    with pytest.raises(ValueError, match="class_weight='balanced' needs all rows at once"):
        MLPClassifier(**FAST, class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="`class_weight` must be finite and not negative"):
            MLPClassifier(**FAST, class_weight={0: weight, 1: 1.0, 2: 1.0}).fit(X, y)
    with pytest.raises(ValueError, match="`class_weight` and `sample_weight` leave no row"):
        MLPClassifier(**FAST, class_weight={0: 0.0, 1: 0.0, 2: 0.0}).fit(X, y)


# ------------------------------------------------------------------------------------------ validation data


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_validation_data(estimator, data):
    X, y = data
    stopping = {**FAST, "early_stopping": True}
    with pytest.raises(ValueError, match="X_val is provided, but y_val was not"):
        estimator(**stopping).fit(X, y, X_val=X)
    with pytest.raises(ValueError, match="y_val is provided, but X_val was not"):
        estimator(**stopping).fit(X, y, y_val=y)
    with pytest.raises(ValueError, match="sample_weight_val is provided, but"):
        estimator(**stopping).fit(X, y, sample_weight_val=y)
    for settings in (FAST, {**stopping, "solver": "lbfgs"}):
        with pytest.raises(ValueError, match="X_val and y_val serve early_stopping=True with solver 'adam' or 'sgd'"):
            estimator(**settings).fit(X, y, X_val=X, y_val=y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator(**stopping).fit(X, y, X_val=X, y_val=y[:-1])
    with pytest.raises(ValueError, match="validation set is too small|greater or equal to the number of classes"):
        estimator(**stopping, validation_fraction=0.01).fit(X, y)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        estimator(**stopping).partial_fit(X, y, **classes(estimator()))


def test_an_absurd_network_names_what_it_needs(data):
    with pytest.raises(MemoryError, match=r"`hidden_layer_sizes`.* asks for 6,000,000,000,001 parameters, .* GiB"):
        MLPRegressor(hidden_layer_sizes=10**12).fit(*data)


def test_a_validation_set_that_cannot_be_split_off_names_its_parameters(data):
    X, y = data
    with pytest.raises(ValueError, match="`early_stopping` cannot hold out validation_fraction=0 of y"):
        MLPClassifier(**FAST, early_stopping=True, validation_fraction=0.0).fit(X, y)


def test_dates_are_no_numbers(data):
    """All of them, and with a date that is missing, which would be -9e18."""
    pandas = pytest.importorskip("pandas")
    X, y = data
    dates = pandas.DataFrame({"a": pandas.date_range("2020", periods=30), "b": pandas.date_range("2021", periods=30)})
    dates.iloc[3, 0] = pandas.NaT
    for given in (dates, dates - dates.iloc[0, 1], dates.to_numpy(), dates.to_numpy().astype("m8[s]")):
        for estimator in (*ESTIMATORS, Perceptron):
            with pytest.raises(ValueError, match="`X` must hold numbers; .* holds dates or times"):
                estimator().fit(given, y)
    mixed = pandas.DataFrame({"x": np.arange(30.0), "when": dates["b"]})
    for fit in (Sequential(Dense(1)).fit, PiecewiseLinearEncoder().fit):
        with pytest.raises(ValueError, match="`X` must hold numbers; column 'when' holds dates or times"):
            fit(mixed, np.arange(30.0), **({"loss": "squared_error"} if "Sequential" in repr(fit) else {}))
    with pytest.raises(ValueError, match="`X` must hold numbers; column 'word' has dtype"):
        PiecewiseLinearEncoder().fit(pandas.DataFrame({"x": [1.0, 2.0], "word": ["a", "b"]}))
    zoned = dates.apply(lambda column: column.dt.tz_localize("UTC"))
    rows = [list(row) for row in dates.to_numpy()]
    for given in (zoned, rows, dates.to_numpy().astype("M8[us]").astype(object), np.array(rows[5:] * 2, dtype=object)):
        with pytest.raises((ValueError, TypeError), match="dates or times|datetime"):
            MLPRegressor(**FAST).fit(given, y[: len(given)])
    for target in (dates["b"], dates["b"].to_numpy(), dates, zoned["b"], list(dates["b"].to_numpy())):
        with pytest.raises(ValueError, match="`y` must hold numbers; .* holds dates or times"):
            MLPRegressor(**FAST).fit(X, target)


def test_dates_of_polars_are_no_numbers(data):
    polars = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
    rows = polars.DataFrame({"a": [1.0, 2.0], "b": [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)]})
    for given in (rows, rows.select("b")):
        with pytest.raises(ValueError, match="`X` must hold numbers; column 'b' holds dates or times"):
            MLPRegressor(**FAST).fit(given, [0.0, 1.0])


def test_frames_of_a_kind_that_is_not_known_keep_their_error(data):
    class Frame:
        columns = ("a", "b")

        def __getitem__(self, key):
            raise RuntimeError("lazy")

    for estimator in ESTIMATORS:
        with pytest.raises((ValueError, TypeError), match="(?i)array|float"):
            estimator(**FAST).fit(Frame(), data[1])


def test_indices_that_point_nowhere(data):
    X, y = data
    for estimator in ESTIMATORS:
        fitted = estimator(**FAST).fit(X, y)
        wrong = csr_array(X[:2])
        wrong.indices[0] = 10**6
        with pytest.raises(ValueError, match="(indices|index values) must be < 4"):
            fitted.predict(wrong)


def test_one_row_has_no_coefficient_of_determination(data):
    X, y = data
    stopping = MLPRegressor(**FAST, early_stopping=True)
    for validation in ({}, {"sample_weight_val": [1.0, 0.0]}):
        n = 1 if not validation else 2
        with pytest.raises(ValueError, match="`X_val` and `y_val` must have at least 2 rows .* got 1"):
            stopping.fit(X, y, X_val=X[:n], y_val=y[:n], **validation)
    with pytest.raises(ValueError, match="`X_val` must be within float32's range"):
        stopping.fit(X.astype(np.float32), y, X_val=X * 1e39, y_val=y)


def test_a_float32_network_names_what_is_beyond_it(data):
    X, y = data
    model = MLPRegressor(**FAST, learning_rate_init=1.0).fit(X.astype(np.float32), y)
    with pytest.raises(ValueError, match=r"`X` must be within float32's range; got .* in row 7, column 2"):
        model.partial_fit(np.where(np.arange(120).reshape(30, 4) == 30, 1e300, X), y)


def test_another_loss_cannot_go_on_with_a_network(data):
    X, y = data
    model = MLPRegressor("poisson", **FAST).fit(X, y)
    model.set_params(loss="squared_error", warm_start=True)
    for call in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="`loss`='squared_error' cannot go on with .* out_activation_ is 'exp'"):
            call(X, y - 5)
