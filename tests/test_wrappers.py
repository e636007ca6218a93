"""`SKLearnClassifier` and `SKLearnRegressor`: any network within scikit-learn's tools."""

import pickle
import signal
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, make_multilabel_classification
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import (
    SGD,
    Adam,
    BatchNorm,
    Callback,
    CosineDecay,
    Dense,
    DivergenceError,
    Dropout,
    EarlyStopping,
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
    wrapped = SKLearnClassifier(classes, fit_kwargs=options).fit(X, y, sample_weight=np.arange(150) % 4 + 1)
    network = classes(X, y)
    codes = np.searchsorted(["a", "b", "c"], y)
    network.fit(X, codes, sample_weight=np.arange(150) % 4 + 1, verbose=0, **options)
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
    quantiles = FIT | {"loss": QuantileLoss((0.1, 0.5, 0.9))}
    wrapped = SKLearnRegressor(Sequential(Dense(3)), fit_kwargs=quantiles, random_state=0).fit(X * 20, y)
    assert wrapped.predict(X).shape == (442, 3)
    assert wrapped.score(X * 20, y) == r2_score(y, wrapped.predict(X * 20)[:, 1])
    low = SKLearnRegressor(Sequential(Dense(1)), fit_kwargs={"loss": QuantileLoss((0.1,))}).fit(X, y)
    assert low.score(X, y) == r2_score(y, low.predict(X))  # what it is asked for
    several = SKLearnRegressor(Sequential(Dense(2)), fit_kwargs={"loss": QuantileLoss((0.1, 0.9))}).fit(X, y)
    with pytest.raises(ValueError, match="0.5 among the quantiles of QuantileLoss"):
        several.score(X, y)


def test_a_mean_and_its_deviation():
    """As `GaussianProcessRegressor`: what scikit-learn scores is the mean."""
    X, y = load_diabetes(return_X_y=True)
    X, y = X * 20, (y - y.mean()) / y.std()
    options = FIT | {"loss": "gaussian"}
    wrapped = SKLearnRegressor(Sequential(Dense(2)), fit_kwargs=options, random_state=0)
    assert cross_val_score(wrapped, X, y, cv=3, scoring="neg_mean_absolute_error").min() > -0.7
    mean, deviation = wrapped.fit(X, y).predict(X, return_std=True)
    both = wrapped.model_.predict(X)
    np.testing.assert_array_equal(mean, both[:, 0])
    np.testing.assert_array_equal(deviation, np.sqrt(both[:, 1]))
    np.testing.assert_array_equal(wrapped.predict(X), mean)
    assert wrapped.score(X, y) == r2_score(y, mean)
    two = SKLearnRegressor(Sequential(Dense(4)), fit_kwargs=options, random_state=0).fit(X, np.c_[y, -y])
    mean, deviation = two.predict(X, return_std=True)
    both = two.model_.predict(X)
    np.testing.assert_array_equal(mean, both[:, :2])
    np.testing.assert_array_equal(deviation, np.sqrt(both[:, 2:]))
    assert mean.shape == deviation.shape == (442, 2)
    with pytest.raises(ValueError, match="`return_std` is for loss='gaussian', .*; got 'squared_error'"):
        SKLearnRegressor(numbers).fit(X, y).predict(X, return_std=True)


# Single options of the dictionaries


def test_names_of_what_is_in_the_dictionaries():
    fit = {"optimizer": Adam(CosineDecay(0.01, epochs=20)), "loss": "softmax_focal", "callbacks": [EarlyStopping()]}
    wrapped = SKLearnClassifier(classes, model_kwargs={"units": 3, "last": Dense(4)}, fit_kwargs=fit)
    params = wrapped.get_params()
    expected = {"units": 3, "last": Dense(4), "last__units": 4}
    for name, value in expected.items():
        assert params[f"model_kwargs__{name}"] == value
    expected = {"epochs": 1, "batch_size": 32, "optimizer__beta_1": 0.9, "optimizer__learning_rate__epochs": 20}
    expected |= {"loss": "softmax_focal", "loss__gamma": 2.0}
    for name, value in expected.items():
        assert params[f"fit_kwargs__{name}"] == value
    assert params["fit_kwargs__callbacks"] is fit["callbacks"]
    assert set(wrapped.get_params(deep=False)) == {"model", "model_kwargs", "fit_kwargs", "random_state"}
    for template in (wrapped, SKLearnRegressor(numbers), SKLearnRegressor(numbers, fit_kwargs={"optimizer": "adam"})):
        held = template.fit_kwargs
        assert template.set_params(**template.get_params()).fit_kwargs is held
        again = clone(template)
        assert repr(again) == repr(template) and set(again.get_params()) == set(template.get_params())
    bad = SKLearnRegressor(numbers, model_kwargs=[3], fit_kwargs={"optimizer": "adamm"})
    assert bad.get_params()["fit_kwargs__optimizer"] == "adamm"


def test_numbers_of_an_optimiser_are_set_in_a_copy():
    optimizer = Adam(beta_1=0.8)
    fit = {"optimizer": optimizer}
    wrapped = SKLearnClassifier(classes, fit_kwargs=fit)
    wrapped.set_params(fit_kwargs__optimizer__learning_rate=0.1, fit_kwargs__epochs=3)
    assert wrapped.fit_kwargs == {"optimizer": Adam(0.1, beta_1=0.8), "epochs": 3}
    assert fit == {"optimizer": optimizer} and optimizer.learning_rate == 0.001
    wrapped.set_params(fit_kwargs__optimizer__momentum=0.5, fit_kwargs__optimizer="sgd")  # in any order
    assert wrapped.fit_kwargs["optimizer"] == SGD(momentum=0.5)
    wrapped.set_params(fit_kwargs={"epochs": 2}, fit_kwargs__optimizer__learning_rate=0.1)  # that of `fit`
    assert wrapped.fit_kwargs == {"epochs": 2, "optimizer": Adam(0.1)}
    wrapped.set_params(fit_kwargs__optimizer__learning_rate=CosineDecay(0.1, epochs=5))
    wrapped.set_params(fit_kwargs__optimizer__learning_rate__epochs=9)
    assert wrapped.fit_kwargs["optimizer"] == Adam(CosineDecay(0.1, epochs=9))
    wrapped.set_params(model_kwargs={"a__b": 3}).set_params(model_kwargs__a__b=4)
    assert wrapped.model_kwargs == {"a__b": 4}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "fit_kwargs__optimizer__rate",
            1,
            "parameter 'rate' for fit_kwargs__optimizer='adam'. .*'learning_rate'",
        ),
        ("fit_kwargs__optimizer__learning_rate", -1, "`learning_rate` must be .*; got -1"),
        ("fit_kwargs__epochs__of", 1, r"Invalid parameter 'of' for fit_kwargs__epochs=1. Valid parameters are: \[\]"),
        ("model_kwargs__a__b", 1, "Invalid parameter 'b' for model_kwargs__a=None"),
        ("optimizer__learning_rate", 1, "'optimizer__learning_rate': .* is `fit_kwargs__optimizer__learning_rate`"),
        ("units", 1, "Invalid parameter 'units' for estimator"),
        ("model__hidden", 1, "'model__hidden': an argument of the function is `model_kwargs__hidden`"),
    ],
)
def test_names_that_are_no_parameters(name, value, words):
    wrapped = SKLearnClassifier(classes)
    with pytest.raises(ValueError, match=words):
        wrapped.set_params(**{name: value})
    assert wrapped.fit_kwargs is None and wrapped.model_kwargs is None


def test_a_search_of_epochs_by_halving_and_of_the_learning_rate(iris):
    wrapped = SKLearnClassifier(classes, random_state=0)
    grid = {"sklearnclassifier__fit_kwargs__optimizer__learning_rate": [1e-6, 0.01]}
    options = {"resource": "sklearnclassifier__fit_kwargs__epochs", "min_resources": 10, "max_resources": 30, "cv": 3}
    search = HalvingGridSearchCV(make_pipeline(StandardScaler(), wrapped), grid, **options).fit(*iris)
    assert search.best_estimator_[-1].fit_kwargs == {"epochs": 10, "optimizer": Adam(0.01)}
    assert search.best_score_ > 0.6
    assert wrapped.fit_kwargs is None


def test_a_model_with_parameters_of_its_own(iris):
    """An object of scikit-learn's manners may make the network; its parameters are its own affair."""

    class Maker(BaseEstimator):
        def __init__(self, units=3):
            self.units = units

        def __call__(self, X, y):
            return classes(X, y, self.units)

    wrapped = SKLearnClassifier(Maker()).set_params(model__units=7).fit(*iris)
    assert wrapped.model_.layers[0].units == 7


# What is fitted, and of what


class At(Callback):
    """Does something when an epoch has ended (0: before the first)."""

    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_fit_begin(self, training):
        self.on_epoch_end(training, 0, {})

    def on_epoch_end(self, training, epoch, logs):
        if epoch == self.epoch:
            self.act()


def test_ctrl_c_leaves_the_last_step(iris):
    X, y = iris

    def interrupt():
        signal.raise_signal(signal.SIGINT)

    wrapped = SKLearnClassifier(classes, fit_kwargs={"callbacks": [At(3, interrupt)], "epochs": 9}, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        wrapped.fit(X, y)
    three = SKLearnClassifier(classes, fit_kwargs={"epochs": 3}, random_state=0).fit(X, y)
    np.testing.assert_array_equal(wrapped.predict_proba(X), three.predict_proba(X))
    assert wrapped.history_["loss"] == three.history_["loss"] and wrapped.classes_.tolist() == ["a", "b", "c"]
    # Before the first step there is nothing to leave: it is as it was
    wrapped.set_params(fit_kwargs={"callbacks": [At(0, interrupt)]})
    with pytest.raises(KeyboardInterrupt):
        wrapped.fit(X[:, :2], y == "a")
    np.testing.assert_array_equal(wrapped.predict_proba(X), three.predict_proba(X))
    with pytest.raises(KeyboardInterrupt):
        clone(wrapped).fit(X, y)
    regressor = SKLearnRegressor(numbers, fit_kwargs={"callbacks": [At(1, interrupt)], "epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(X, X[:, 0])
    assert regressor.predict(X).shape == (150,) and len(regressor.history_) == 1


def test_a_fit_that_diverges_leaves_the_last_finite_network(iris):
    X, _ = iris
    wrapped = SKLearnRegressor(numbers, fit_kwargs={"optimizer": SGD(1e30), "epochs": 20})
    with pytest.raises(DivergenceError):
        wrapped.fit(X, X[:, 0])
    assert np.isfinite(list(map(np.sum, wrapped.model_.parameters.values()))).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_weight_0_are_absent(iris, sparse):
    """Also from the batches and from what is held out: to the bit."""
    X, y = iris
    X = csr_array(np.where(X > 0, X, 0.0)) if sparse else X
    weight = (np.random.default_rng(0).random(150) > 0.4).astype(float)
    for share in (None, 0.3):
        fit = {"epochs": 4, "batch_size": 16, "validation_split": share}
        one, other = (SKLearnClassifier(classes, fit_kwargs=fit, random_state=0) for _ in range(2))
        one.fit(X, y, sample_weight=weight)
        other.fit(X[weight > 0], y[weight > 0], sample_weight=np.ones(int(weight.sum())))
        np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
        assert one.history_["loss"] == other.history_["loss"]


def test_a_class_with_one_row_may_be_held_out(iris):
    X, y = iris
    y = np.where(np.arange(150) == 149, "d", y)
    fit = {"validation_split": 0.2, "epochs": 3}
    wrapped = SKLearnClassifier(classes, fit_kwargs=fit, random_state=0).fit(X, y)
    assert len(wrapped.history_["val_loss"]) == 3 and wrapped.predict_proba(X).shape == (150, 4)
    few = SKLearnClassifier(classes, fit_kwargs=fit).fit(X[::30], y[::30])  # one held out, of three classes
    assert len(few.history_["val_loss"]) == 3
    with pytest.raises(ValueError, match=r"`validation_split` cannot hold out 0\.2 of y: .*train set will be empty"):
        SKLearnRegressor(numbers, fit_kwargs=fit).fit(X[:1], [1.0])


# Batch by batch


def test_steps_are_those_of_the_sequential(iris):
    X, y = iris
    X, y, weight = X[::-1].copy(), y[::-1], np.arange(150) % 3
    fit = {"batch_size": 8, "optimizer": SGD(0.1, momentum=0.9), "seed": 3, "shuffle": False}
    wrapped, network = SKLearnClassifier(Sequential(Dense(5), ReLU(), Dense(3)), fit_kwargs=fit), None
    network = Sequential(Dense(5), ReLU(), Dense(3))
    for start in range(0, 150, 50):
        rows = slice(start, start + 50)
        wrapped.partial_fit(X[rows], y[rows], weight[rows], classes=["c", "b", "a"])
        kept = np.arange(start, start + 50)[weight[rows] > 0]
        for batch in np.array_split(kept, 5):  # 33 or 34 rows, 8 of them at most in a batch
            codes = np.searchsorted(["a", "b", "c"], y[batch])
            options = {"loss": "softmax_cross_entropy", "optimizer": fit["optimizer"], "seed": 3}
            network.train_on_batch(X[batch], codes, sample_weight=weight[batch], **options)
    np.testing.assert_array_equal(wrapped.predict_proba(X), network.predict(X))
    assert wrapped.classes_.tolist() == ["a", "b", "c"]
    wrapped.set_params(fit_kwargs__shuffle=True)
    for _ in range(20):
        wrapped.partial_fit(csr_array(X), y)  # goes on, though the rows are class by class
    assert wrapped.score(X, y) > 0.9
    fitted = SKLearnClassifier(classes, fit_kwargs={"epochs": 20}, random_state=0).fit(X, y)
    p = fitted.predict_proba(X)
    assert 0 < np.abs(fitted.partial_fit(X[:5], y[:5]).predict_proba(X) - p).max() < 0.1


def test_a_batch_norm_never_gets_one_row(iris):
    X, _ = iris
    wrapped = SKLearnRegressor(Sequential(Dense(4), BatchNorm(), Dense(2)), random_state=0)
    wrapped.partial_fit(X[:33], X[:33, :2]).partial_fit(X[:65], X[:65, :2])
    assert wrapped.predict(X).shape == (150, 2)
    labels = (X[:, :2] > 0).astype(int)
    several = SKLearnClassifier(Sequential(Dense(2)), random_state=0).partial_fit(X, labels).partial_fit(X, labels)
    assert set(np.unique(several.predict(X))) <= {0, 1} and several.predict(X).shape == (150, 2)


def test_each_partial_fit_has_an_order_of_its_own(monkeypatch):
    seen, step = [], Sequential.train_on_batch

    def watched(self, X, y, **options):
        seen.append(X[:, 0].tolist())
        return step(self, X, y, **options)

    monkeypatch.setattr(Sequential, "train_on_batch", watched)
    X = np.arange(64.0).reshape(-1, 1) / 64
    for shuffle in (True, False):
        options = {"fit_kwargs": {"batch_size": 16, "shuffle": shuffle}, "random_state": 0}
        regressor = SKLearnRegressor(Sequential(Dense(1)), **options)
        for _ in range(2):
            regressor.partial_fit(X, X[:, 0])
    first, second, in_order, again = (sum(seen[i : i + 4], []) for i in range(0, 16, 4))
    assert sorted(first) == sorted(second) == in_order == again == X[:, 0].tolist()
    assert len({tuple(first), tuple(second), tuple(in_order)}) == 3


def test_what_partial_fit_refuses_leaves_it_as_it_was(iris):
    X, y = iris
    wrapped = SKLearnClassifier(Sequential(Dense(3)), random_state=0)
    names = ["a", "b", "c"]
    for fit, labels, given, words in (
        ({}, y, None, "classes must be passed on the first call to partial_fit"),
        ({}, y, ["a", "b"], "`y` must have labels of `classes`, 'a', 'b'; got 'c'"),
        ({"batch_size": 0}, y, names, "`batch_size` must be"),
        ({"callbacks": [], "validation_split": 0.1}, y, names, "does not support callbacks, validation_split, which"),
        ({"optimizer": "lbfgs"}, y, names, "`optimizer` must be one of 'sgd'"),
        ({"loss": "poisson"}, y, ["a", "b", "c", "d"], "as many units as y has classes, 4; it has 3"),
    ):
        with pytest.raises(ValueError, match=words):
            wrapped.set_params(fit_kwargs=fit).partial_fit(X, labels, classes=given)
        assert not hasattr(wrapped, "classes_") and not hasattr(wrapped, "n_features_in_")
    wrapped.set_params(fit_kwargs=None).partial_fit(X, y, classes=names)
    p = wrapped.predict_proba(X)
    for rows, labels, given, words in (
        (X, y, ["a", "b"], "is not the same as on last call to partial_fit, was:"),
        (X[:, :2], y, None, "2 features"),
        (X, (X > 0).astype(int), None, r"`y` must have a label for each row, as y has; got shape \(150, 4\)"),
        (X, np.where(y == "a", "d", y), None, "`y` must have labels of `classes`, 'a', 'b', 'c'; got 'd'"),
        (np.where(X > 3, np.nan, X), y, None, "NaN: the first is in row 15, column 1"),
    ):
        with pytest.raises(ValueError, match=words):
            wrapped.partial_fit(rows, labels, classes=given)
    np.testing.assert_array_equal(wrapped.predict_proba(X), p)


# What else tells the classes apart


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize(
    ("loss", "units"),
    [("softmax_cross_entropy", 3), ("softmax_focal", 2), ("binary_cross_entropy", 1), ("focal", 1), ("ordinal", 2)],
)
def test_logarithms_of_probabilities(iris, loss, units, scale):
    X, y = iris[0][: 50 * max(units, 2)], iris[1][: 50 * max(units, 2)]
    X, y = iris if loss == "ordinal" else (X, y)
    network = Sequential(Dense(units), dtype="float64")
    wrapped = SKLearnClassifier(network, fit_kwargs=FIT | {"loss": loss}, random_state=0).fit(X, y)
    p, log_p = wrapped.predict_proba(X * scale), wrapped.predict_log_proba(X * scale)
    assert log_p.shape == p.shape and log_p.dtype == p.dtype
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_p[p > 1e-9], np.log(p[p > 1e-9]), rtol=1e-9, atol=1e-14)
    assert np.isfinite(log_p).all() or loss == "ordinal"  # though probabilities are 0
    assert (p == 0).any() == (scale > 1)


def test_decisions_are_those_of_predict(iris):
    X, y = iris
    cases = [("hinge", 1), ("hinge", 2), ("hinge", 3), ("softmax_cross_entropy", 2), ("softmax_cross_entropy", 3)]
    cases += [("binary_cross_entropy", 1), ("squared_error", 1), ("squared_error", 2), ("squared_error", 3)]
    for loss, units in cases:
        kept = slice(0, 150) if units == 3 else slice(50, 150)
        rows, labels = X[kept], y[kept]
        wrapped = SKLearnClassifier(Sequential(Dense(units)), fit_kwargs={"loss": loss}, random_state=0)
        d = wrapped.fit(rows, labels).decision_function(rows)
        if units == 3:
            assert d.shape == (150, 3) and (wrapped.classes_[d.argmax(axis=1)] == wrapped.predict(rows)).all()
        else:
            assert d.shape == (100,) and (wrapped.classes_[(d > 0).astype(int)] == wrapped.predict(rows)).all()
            assert 0 < (d > 0).mean() < 1
    ordinal = SKLearnClassifier(Sequential(Dense(2)), fit_kwargs={"loss": "ordinal"}).fit(X, y)
    with pytest.raises(AttributeError, match="has no attribute 'decision_function'"):
        ordinal.decision_function(X)
    X, y = make_multilabel_classification(200, 8, n_classes=4, random_state=0)
    several = SKLearnClassifier(Sequential(Dense(4)), random_state=0).fit(X, y)
    np.testing.assert_array_equal(several.decision_function(X) > 0, several.predict(X))
    np.testing.assert_allclose(several.predict_log_proba(X), np.log(several.predict_proba(X)), rtol=1e-4, atol=1e-6)


def test_margins_have_an_area_under_the_curve():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    for units in (1, 2):
        hinge = SKLearnClassifier(Sequential(Dense(units)), fit_kwargs=FIT | {"loss": "hinge"}, random_state=0)
        assert cross_val_score(hinge, X, y, cv=3, scoring="roc_auc").min() > 0.98
        assert not hasattr(hinge.fit(X, y), "predict_log_proba")
        assert roc_auc_score(y, hinge.decision_function(X)) > 0.99


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        (
            {"model": Dense(3)},
            TypeError,
            r"`model` must be a Sequential, or a function \(X, y, ...\) that makes one; got",
        ),
        ({"model": zip}, TypeError, "`model` must return a Sequential; <class 'zip'> returned"),  # has no signature
        ({"model": lambda X, y: 3}, TypeError, "`model` must return a Sequential; .* returned 3"),
        (
            {"model": lambda X: 3},
            TypeError,
            r"cannot be called with \(X, y\): too many positional arguments",
        ),
        (
            {"model": classes, "model_kwargs": {"unit": 3}},
            TypeError,
            r"cannot be called with \(X, y, unit=...\): got an unexpected keyword argument 'unit'",
        ),
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
