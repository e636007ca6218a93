"""`SKLearnClassifier` and `SKLearnRegressor`: any network within scikit-learn's tools."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, make_multilabel_classification
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import (
    Adam,
    BatchNorm,
    Callback,
    Dense,
    Dropout,
    EarlyStopping,
    Gaussian,
    QuantileLoss,
    ReLU,
    Sequential,
    SKLearnClassifier,
    SKLearnRegressor,
)


def classes(X, y, units=24, rate=0.0):
    return Sequential(Dense(units), ReLU(), Dropout(rate), Dense(len(np.unique(y))), dtype="float64")


def numbers(X, y):
    return Sequential(Dense(24), ReLU(), Dense(1 if y.ndim == 1 else y.shape[1]), dtype="float64")


@dataclass
class Maker:
    """A function whose repr has no address in it: the checks are named by their estimators."""

    kind: str

    def __call__(self, X, y):
        return (classes if self.kind == "classes" else numbers)(X, y)


FIT = {"epochs": 150, "optimizer": Adam(0.01)}
ESTIMATORS = [
    SKLearnClassifier(Maker("classes"), fit_kwargs=FIT, random_state=0),
    SKLearnRegressor(Maker("numbers"), fit_kwargs=FIT, random_state=0),
]


@pytest.mark.filterwarnings("ignore")  # the checks warn on purpose
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: {})
def test_check(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), np.array(["a", "b", "c"])[y]


def test_a_search_over_layers_within_a_pipeline(iris):
    wrapped = SKLearnClassifier(classes, fit_kwargs=FIT, random_state=0)
    grid = {"sklearnclassifier__model_kwargs": [{"units": 16, "rate": 0.2}, {"units": 1, "rate": 0.95}]}
    search = GridSearchCV(make_pipeline(StandardScaler(), wrapped), grid, cv=3).fit(*iris)
    assert search.best_params_ == {"sklearnclassifier__model_kwargs": {"units": 16, "rate": 0.2}}
    assert search.best_score_ > 0.93
    best = search.best_estimator_[-1]
    assert best.model_.layers[2] == Dropout(0.2) and len(best.history_["loss"]) == 150


def test_a_network_is_a_template(iris):
    network = Sequential(Dense(16), BatchNorm(), ReLU(), Dense(3))
    wrapped = SKLearnClassifier(network, fit_kwargs=FIT, random_state=3)
    assert cross_val_score(wrapped, *iris, cv=3).min() > 0.9
    assert not network.built
    one, other = clone(wrapped).fit(*iris), clone(wrapped).fit(*iris)
    np.testing.assert_array_equal(one.predict_proba(iris[0]), other.predict_proba(iris[0]))
    other.set_params(random_state=4).fit(*iris)
    assert not np.array_equal(one.predict_proba(iris[0]), other.predict_proba(iris[0]))
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.predict(iris[0]), one.predict(iris[0]))


def test_the_same_as_the_sequential(iris):
    X, y = iris
    options = {"loss": "softmax_focal", "epochs": 5, "seed": 7, "batch_size": 16}
    wrapped = SKLearnClassifier(classes, fit_kwargs=options).fit(X, y, sample_weight=np.arange(150) % 4)
    network = classes(X, y)
    codes = np.searchsorted(["a", "b", "c"], y)
    network.fit(X, codes, sample_weight=np.arange(150) % 4, verbose=0, **options)
    np.testing.assert_array_equal(wrapped.predict_proba(X), network.predict(X))
    np.testing.assert_array_equal(wrapped.predict(X), wrapped.classes_[network.predict(X).argmax(axis=1)])


def test_two_classes_with_one_unit_or_two_and_margins(iris):
    X, y = iris[0][:100], iris[1][:100]
    for network in (Sequential(Dense(1)), Sequential(Dense(2))):
        wrapped = SKLearnClassifier(network, fit_kwargs=FIT, random_state=0).fit(X, y)
        p = wrapped.predict_proba(X)
        assert p.shape == (100, 2) and wrapped.score(X, y) == 1.0
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
        assert (wrapped.classes_[p.argmax(axis=1)] == y).all()
    hinge = SKLearnClassifier(Sequential(Dense(1)), fit_kwargs=FIT | {"loss": "hinge"}, random_state=0).fit(X, y)
    assert hinge.score(X, y) == 1.0
    assert not hasattr(hinge, "predict_proba")


def test_several_labels():
    X, y = make_multilabel_classification(200, 8, n_classes=4, random_state=0)
    network = Sequential(Dense(32), ReLU(), Dense(4))
    wrapped = SKLearnClassifier(network, fit_kwargs=FIT, random_state=0).fit(X, y)
    assert wrapped.predict(X).shape == y.shape == wrapped.predict_proba(X).shape
    assert (wrapped.predict(X) == y).mean() > 0.85 and set(np.unique(wrapped.predict(X))) == {0, 1}
    with pytest.raises(ValueError, match="`y` with several columns must hold 0 and 1 only"):
        wrapped.fit(X, y + y[:, :1])


def test_callbacks_validation_data_and_sparse_rows(iris):
    X, y = iris
    options = FIT | {"validation_data": (X[::3], y[::3]), "callbacks": [EarlyStopping("val_loss", patience=3)]}
    wrapped = SKLearnClassifier(classes, fit_kwargs=options, random_state=0).fit(X, y)
    assert "val_loss" in wrapped.history_
    sparse = csr_array(np.where(X > 0, X, 0.0))
    fitted = SKLearnClassifier(classes, fit_kwargs=FIT, random_state=0).fit(sparse, y)
    assert fitted.score(sparse, y) > 0.8


def test_options_have_the_labels_of_y(iris):
    """Validation data and class weights, though the network has class numbers: as one fitted to those by hand."""
    X, y = iris
    labels = np.array([5, 1, 2])[np.searchsorted(["a", "b", "c"], y)]
    codes = np.searchsorted([1, 2, 5], labels)
    weights, rows = np.linspace(0.5, 2, len(y)), slice(0, 120, 2)
    for names in (labels, labels.astype(str), labels.astype(str).astype(object)):
        of_class = {names[labels == 5][0]: 9.0, names[labels == 1][0]: 2.0}
        options = {"class_weight": of_class, "validation_data": (X[rows], names[rows], weights[rows])}
        wrapped = SKLearnClassifier(classes, fit_kwargs=FIT | options, random_state=0).fit(X, names)
        network = classes(X, codes)
        options = {"class_weight": {2: 9.0, 0: 2.0}, "validation_data": (X[rows], codes[rows], weights[rows])}
        seed = check_random_state(0).randint(np.iinfo(np.int32).max)
        history = network.fit(X, codes, loss="softmax_cross_entropy", seed=seed, verbose=0, **FIT | options)
        for metric in ("loss", "val_loss", "val_accuracy"):
            assert wrapped.history_[metric] == history[metric]
    for options, message in (
        ({"class_weight": {3: 1.0}}, "`class_weight` must have labels of y, 1, 2, 5; got 3"),
        ({"validation_data": (X, codes)}, "`validation_data` must have labels of y, 1, 2, 5; got 0"),
        ({"validation_data": (X[:, :2], labels)}, "2 features"),
        ({"validation_data": 3}, "`validation_data` must be"),
        ({"validation_split": 1.0}, r"`validation_split` must be in \(0, 1\); got 1.0"),
        ({"validation_split": 0.1, "validation_data": (X, labels)}, "or `validation_split`, not both"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            SKLearnClassifier(classes, fit_kwargs=FIT | options).fit(X, labels)


def test_rows_are_held_out_within_a_pipeline(iris):
    X, y = iris
    weights = np.linspace(0.5, 2, len(y))
    seen = []

    class Rows(Callback):
        def on_fit_begin(self, training):
            seen.append(training.n_samples)

    options = FIT | {"validation_split": 0.2, "callbacks": [Rows(), EarlyStopping(patience=3)]}
    wrapped = SKLearnClassifier(classes, fit_kwargs=options, random_state=0)
    model = make_pipeline(StandardScaler(), wrapped).fit(X, y, sklearnclassifier__sample_weight=weights)
    assert seen == [120] and "val_accuracy" in model[-1].history_
    assert wrapped.fit_kwargs is options and options["validation_split"] == 0.2
    scores = cross_val_score(make_pipeline(StandardScaler(), wrapped), X, y, cv=3)
    assert scores.mean() > 0.9
    numbers_ = SKLearnRegressor(numbers, fit_kwargs=FIT | {"validation_split": 0.5}, random_state=0)
    assert "val_loss" in numbers_.fit(csr_array(X), np.searchsorted(["a", "b", "c"], y).astype(float)).history_


def test_a_search_over_what_is_in_the_dictionaries(iris):
    X, y = iris
    wrapped = SKLearnClassifier(classes, model_kwargs={"units": 5}, random_state=0)
    grid = {"fit_kwargs__epochs": [1, 40], "model_kwargs__rate": [0.0, 0.9], "fit_kwargs__optimizer": [Adam(0.01)]}
    search = GridSearchCV(wrapped, grid, cv=3).fit(X, y)
    assert search.best_params_["fit_kwargs__epochs"] == 40 and search.best_params_["model_kwargs__rate"] == 0.0
    assert search.best_estimator_.model_kwargs == {"units": 5, "rate": 0.0}
    assert wrapped.fit_kwargs is None and wrapped.model_kwargs == {"units": 5}
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        wrapped.set_params(epochs=3)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
@pytest.mark.parametrize("units", [1, 2])
def test_losses_of_numbers_learn_classes_as_0_and_1(loss, units):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    wrapped = SKLearnClassifier(Sequential(Dense(units)), fit_kwargs={"loss": loss, "epochs": 150}, random_state=0)
    labels = np.array(["no", "yes"])[y]
    assert wrapped.fit(X, labels).score(X, labels) > 0.93
    assert not hasattr(wrapped, "predict_proba")


def test_ordered_classes_have_one_unit_less(iris):
    X, y = iris
    options = FIT | {"loss": "ordinal", "validation_data": (X, y)}
    wrapped = SKLearnClassifier(Sequential(Dense(16), ReLU(), Dense(2)), fit_kwargs=options, random_state=0).fit(X, y)
    assert wrapped.score(X, y) > 0.9 and wrapped.predict_proba(X).shape == (150, 3)
    two = SKLearnClassifier(Sequential(Dense(1)), fit_kwargs=FIT | {"loss": "ordinal"}, random_state=0)
    assert two.fit(X[:100], y[:100]).score(X[:100], y[:100]) == 1.0
    with pytest.raises(ValueError, match="`model` must end with one unit less than y has classes, 3; it has 3"):
        SKLearnClassifier(Sequential(Dense(3)), fit_kwargs=options).fit(X, y)
    for loss, units in (("gaussian", 4), ("contrastive", 3)):
        with pytest.raises(ValueError, match=f"`loss`='{loss}' does not learn classes"):
            SKLearnClassifier(Sequential(Dense(units)), fit_kwargs={"loss": loss}).fit(X, y)


def test_numbers_their_quantiles_and_their_variance():
    X, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    assert cross_val_score(SKLearnRegressor(Sequential(Dense(1)), fit_kwargs=FIT), X * 20, y, cv=3).mean() > 0.3
    two = SKLearnRegressor(numbers, fit_kwargs=FIT, random_state=0).fit(X * 20, np.c_[y, -y])
    assert two.predict(X).shape == (442, 2)
    column = SKLearnRegressor(numbers, fit_kwargs={"epochs": 1})
    assert column.fit(X, y).predict(X).shape == (442,)
    for loss, units in ((QuantileLoss((0.1, 0.5, 0.9)), 3), (Gaussian(), 2)):
        wrapped = SKLearnRegressor(Sequential(Dense(units)), fit_kwargs=FIT | {"loss": loss}, random_state=0)
        assert wrapped.fit(X * 20, y).predict(X).shape == (442, units)
        middle = wrapped.predict(X * 20)[:, units // 2 if units == 3 else 0]
        assert wrapped.score(X * 20, y) == r2_score(y, middle)
    low = SKLearnRegressor(Sequential(Dense(1)), fit_kwargs={"loss": QuantileLoss((0.1,))}).fit(X, y)
    assert low.score(X, y) == r2_score(y, low.predict(X))  # what it is asked for
    several = SKLearnRegressor(Sequential(Dense(2)), fit_kwargs={"loss": QuantileLoss((0.1, 0.9))}).fit(X, y)
    with pytest.raises(ValueError, match="0.5 among the quantiles of QuantileLoss"):
        several.score(X, y)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        (
            {"model": Dense(3)},
            TypeError,
            r"`model` must be a Sequential, or a function \(X, y, ...\) that makes one; got",
        ),
        ({"model": lambda X, y: 3}, TypeError, "`model` must return a Sequential; .* returned 3"),
        ({"model_kwargs": {"units": 3}}, ValueError, "`model_kwargs` are for a `model` that is a function; got"),
        ({"fit_kwargs": [3]}, TypeError, r"`fit_kwargs` must be a dictionary; got \[3\]"),
        ({"fit_kwargs": {"epochs": 0}}, ValueError, "`epochs` must be"),
        ({"model": Sequential(Dense(5))}, ValueError, "as many units as y has classes, 3; it has 5"),
        ({"model": Sequential(Dense(1))}, ValueError, "as many units as y has classes, 3; it has 1"),
    ],
)
def test_bad_parameters_leave_what_was_fitted(parameters, error, words, iris):
    wrapped = SKLearnClassifier(Sequential(Dense(3)), fit_kwargs=FIT, random_state=0).fit(*iris)
    before = wrapped.predict(iris[0])
    old = wrapped.get_params()
    with pytest.raises(error, match=words):
        wrapped.set_params(**parameters).fit(iris[0][:, :2], iris[1])
    wrapped.set_params(**old)
    np.testing.assert_array_equal(wrapped.predict(iris[0]), before)
