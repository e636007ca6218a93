"""Words of Keras, PyTorch and scikit-learn that do not exist here: the errors say what does."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest

import fastmlp
from fastmlp import (
    ELU,
    LBFGS,
    SGD,
    Adam,
    BatchNorm,
    CosineDecay,
    Dense,
    Dropout,
    EarlyStopping,
    LayerNorm,
    LeakyReLU,
    MLPClassifier,
    OneCycle,
    RMSprop,
    Sequential,
    SKLearnClassifier,
    StepDecay,
    hints,
)
from fastmlp.optimizers import OPTIMIZERS, Optimizer


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda: Dense(8, activation="relu"), r"Dense has no argument 'activation': .*Dense\(64\), ReLU\(\)"),
        (
            lambda: Dense(8, "relu"),
            r"`use_bias` must be True or False; got 'relu': activations are layers: Dense\(64\)",
        ),
        (lambda: Dense(8, input_shape=(4,)), "'input_shape': how many inputs there are follows from X"),
        (lambda: Dropout(p=0.5), "Dropout has no argument 'p': it is `rate`"),
        (lambda: Adam(lr=0.1), "Adam has no argument 'lr': it is `learning_rate`"),
        (lambda: Adam(weight_decay=0.1), "'weight_decay': AdamW and Lion have it"),
        (lambda: BatchNorm(eps=1e-3), "BatchNorm has no argument 'eps': it is `epsilon`"),
        (lambda: LayerNorm(normalized_shape=3), "'normalized_shape': how many inputs"),
        (lambda: RMSprop(alpha=0.9), "it is `rho`"),
        (lambda: Adam(eps=1e-3), "it is `epsilon`"),
        (lambda: LBFGS(lr=1.0), "LBFGS has no argument 'lr': a line search finds"),
        (lambda: LBFGS(max_iter=20), "the iterations are the epochs of a fit"),
        (lambda: LeakyReLU(alpha=0.1), "LeakyReLU has no argument 'alpha': it is `negative_slope`"),
        (lambda: ELU(slope=0.1), "unexpected keyword argument 'slope'"),
        (lambda: StepDecay(0.1, gamma=0.5, epochs=3), "StepDecay has no argument 'gamma': it is `factor`"),
        (lambda: CosineDecay(0.1, decay_steps=9), "CosineDecay has no argument 'decay_steps': it is `steps`"),
        (lambda: CosineDecay(0.1, gamma=9), "unexpected keyword argument 'gamma'"),
        (lambda: OneCycle(max_lr=0.1, epochs=3), "OneCycle has no argument 'max_lr': it is `learning_rate`"),
        (lambda: SGD(eps=1e-3), "unexpected keyword argument 'eps'"),
        (lambda: SGD(betas=(0.9, 0.99)), "unexpected keyword argument 'betas'"),
        (lambda: EarlyStopping(restore_best_weights=True), "it is `restore_best`, and the default"),
        (
            lambda: SKLearnClassifier(Sequential(Dense(2)), epochs=3),
            "SKLearnClassifier has no argument 'epochs': fit takes it, by way of `fit_kwargs`",
        ),
        (lambda: SKLearnClassifier(Sequential(Dense(2)), other=3), "unexpected keyword argument 'other'"),
        (
            lambda: Sequential(Dense(2)).fit(iter([]), None, loss="huber"),
            "`X` must be an array.* rows go to `train_on_batch`",
        ),
        (lambda: Dense(8, units_of="other"), "unexpected keyword argument 'units_of'"),
    ],
)
def test_arguments(make, meant):
    with pytest.raises(TypeError, match=meant):
        make()


@pytest.mark.parametrize(
    ("method", "word", "meant"),
    [
        ("fit", "lr", "it is the optimiser's, as in optimizer=Adam"),
        ("fit", "metrics", "others by the callback Metrics"),
        ("fit", "max_iter", "it is `epochs`"),
        ("fit", "batchsize", "Did you mean 'batch_size'"),
        ("fit", "callback", "Did you mean 'callbacks'"),
        ("fit", "nothing_like_it", r"\.$"),
        ("predict", "verbose", "nothing is printed"),
        ("evaluate", "return_dict", "a dictionary is what is returned"),
        ("evaluate", "loss", "it is model.loss, which may be set"),
        ("train_on_batch", "learning_rate", "it is the optimiser's"),
    ],
)
def test_arguments_of_methods(method, word, meant):
    model = Sequential(Dense(1)).build(1)
    rows = ([[1.0]], [1.0])[: 1 + (method != "predict")]
    with pytest.raises(TypeError, match=rf"Sequential.{method}\(\) has no argument '{word}'.*{meant}"):
        getattr(model, method)(*rows, **{word: 3})
    assert model.loss is None


def test_hints_about_methods_name_what_they_have():
    for name in ("fit", "predict", "evaluate", "train_on_batch"):
        parameters = inspect.signature(getattr(Sequential, name)).parameters
        assert "unknown" not in parameters
        assert not parameters.keys() & hints._WORDS[f"Sequential.{name}"].keys()
        for ours in named(f"Sequential.{name}"):
            assert ours in parameters or hasattr(Sequential, ours), ours


def test_attributes_of_a_model():
    model = Sequential(Dense(2))
    with pytest.raises(AttributeError, match="no attribute 'compile': loss and optimizer are arguments of `fit`"):
        model.compile(optimizer="adam")
    with pytest.raises(AttributeError, match="'Sequential' object has no attribute 'other'"):
        _ = model.other
    assert "fit" in dir(model) and not {"compile", "add", "score"} & set(dir(model))
    assert not hasattr(model, "predict_proba") and not hasattr(model, "other")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.layers == model.layers


def test_a_model_is_not_called():
    with pytest.raises(TypeError, match=r"a Sequential is not called: model.predict\(X\), or model.logits"):
        Sequential(Dense(2)).build(3)(np.zeros((1, 3)), training=True)


def test_what_a_property_raises_is_not_hidden():
    class Own(Sequential):
        @property
        def broken(self):
            return self.layers.nothing

        weights = broken  # a word that there is a hint for

    for name in ("broken", "weights"):
        with pytest.raises(AttributeError, match="'tuple' object has no attribute 'nothing'"):
            getattr(Own(Dense(1)), name)


def test_names_of_the_package():
    with pytest.raises(AttributeError, match="'fastmlp' has no attribute 'Linear': it is Dense"):
        _ = fastmlp.Linear
    with pytest.raises(AttributeError, match="'fastmlp' has no attribute 'Other'$"):
        _ = fastmlp.Other
    with pytest.raises(ImportError, match="cannot import name 'Linear' from 'fastmlp': it is Dense"):
        from fastmlp import Linear  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'Other' from 'fastmlp'"):
        from fastmlp import Other  # noqa: F401
    assert not hasattr(fastmlp, "Linear") and getattr(fastmlp, "CrossEntropyLoss", None) is None


def named(owner):
    """Names of ours in the hints for a class."""
    return [ours for text in hints._WORDS[owner].values() for ours in re.findall("`(\\w+)`", text)]


def test_no_hint_is_about_what_exists():
    """In a class that has the argument, a hint would be wrong."""
    assert not set(hints._WORDS["fastmlp"]) & set(dir(fastmlp))
    assert not [word for word in hints._WORDS["Sequential"] if hasattr(Sequential, word)]
    have = {cls.__name__: set(inspect.signature(cls).parameters) for cls in OPTIMIZERS.values()}
    assert [name for name, words in have.items() if "weight_decay" in words] == ["AdamW", "Lion"]
    for ours in named("Sequential"):
        assert any(hasattr(place, ours) for place in (Sequential, MLPClassifier, fastmlp)), ours
    for name in ("Dense", "Dropout", "BatchNorm", "RMSprop", "LBFGS", "EarlyStopping"):
        assert set(named(name)) <= set(inspect.signature(getattr(fastmlp, name)).parameters)
    for cls in (Dense, Dropout, BatchNorm, LayerNorm, LBFGS, EarlyStopping):
        for base in cls.__mro__:
            assert not set(hints._WORDS.get(base.__name__, ())) & set(inspect.signature(cls).parameters)


def test_a_class_of_ones_own_may_have_such_an_argument():
    class Own(EarlyStopping):
        def __init__(self, tol):
            super().__init__(min_delta=tol)

    class Rule(Optimizer):
        def __init__(self, lr):
            super().__init__(lr)

    class Any(Adam):
        def __init__(self, **options):
            super().__init__(options.pop("lr"), **options)

    assert Any(lr=0.25, beta_1=0.5).learning_rate == 0.25
    assert Own(tol=0.5).min_delta == 0.5 and Rule(lr=0.25).learning_rate == 0.25
