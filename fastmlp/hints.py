"""What somebody from Keras, PyTorch or scikit-learn means by an argument or attribute that does not exist here."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable)
_Object = TypeVar("_Object")

_A_LAYER = "activations are layers: Dense(64), ReLU()"
_WIDTH = "how many inputs there are follows from X, or from build(n_features)"
_LAYERS = "layers are given at once, Sequential(Dense(64), ReLU(), Dense(10)), and do not change"
_FILES = "`save` writes a model and `load_model` reads one; `parameters` has the arrays by name"
_METRICS = "the loss and, where there are classes, the accuracy are measured; others by the callback Metrics"
_RATE = "it is the optimiser's, as in optimizer=Adam(0.01)"
_BLOCKS = "rows are taken in blocks that suit the caches"
_SILENT = "nothing is printed"
_MODES = "predictions are without dropout, but for predict(X, training=...)"

# By class: their word, and what to do
_WORDS = {
    "fastmlp": {
        "Linear": "it is Dense",
        **dict.fromkeys(("BatchNormalization", "BatchNorm1d"), "it is BatchNorm"),
        "LayerNormalization": "it is LayerNorm",
        "Sigmoid": "it is Logistic",
        "Adagrad": "it is AdaGrad",
        "Adadelta": "it is AdaDelta",
        "Adamax": "it is AdaMax",
        "Nadam": "it is NAdam",
        **dict.fromkeys(("CrossEntropyLoss", "NLLLoss", "CategoricalCrossentropy"), "it is SoftmaxCrossEntropy"),
        "SparseCategoricalCrossentropy": "it is SoftmaxCrossEntropy, which takes class numbers",
        **dict.fromkeys(("BCEWithLogitsLoss", "BCELoss", "BinaryCrossentropy"), "it is BinaryCrossEntropy"),
        **dict.fromkeys(("MSELoss", "MeanSquaredError"), "it is SquaredError"),
        **dict.fromkeys(("L1Loss", "MeanAbsoluteError"), "it is AbsoluteError"),
        **dict.fromkeys(("HuberLoss", "SmoothL1Loss"), "it is Huber"),
        "StandardScaler": "it is scikit-learn's; within a network, Normalization() standardises",
        "LambdaCallback": "a callback is an object of a class derived from Callback",
        "SWA": "a moving average of the parameters is an optimiser's `ema_decay`",
        "clone_model": "copy.deepcopy(model), or Sequential(*model.layers) without what it has learned",
        **dict.fromkeys(("set_random_seed", "manual_seed"), "it is the argument `seed` of `fit`"),
        "LearningRateScheduler": "an optimiser takes a schedule for its learning rate, such as Adam(CosineDecay(...))",
        **dict.fromkeys(("Input", "InputLayer"), _WIDTH),
        "Flatten": "rows of X are flat, as X.reshape(len(X), -1) makes them",
        "Model": "a network is a Sequential",
        **dict.fromkeys(
            ("Conv1D", "Conv2D", "LSTM", "GRU", "Attention", "Concatenate"), "a network is a stack of dense layers"
        ),
    },
    "Dense": {
        "activation": _A_LAYER,
        **dict.fromkeys(("input_shape", "input_dim", "in_features"), _WIDTH),
        "out_features": "it is `units`",
        "bias": "it is `use_bias`",
        "kernel_regularizer": "penalties are `l1` and `l2`",
        "kernel_constraint": "the limit of a unit's norm is `max_norm`",
        "activity_regularizer": "ActivityRegularization(l1=...) behind a layer is a penalty of its values",
    },
    "Dropout": {"p": "it is `rate`"},
    "LeakyReLU": dict.fromkeys(("alpha", "slope"), "it is `negative_slope`"),
    "Schedule": {
        **dict.fromkeys(
            ("lr", "max_lr", "base_lr", "initial_learning_rate", "maximal_learning_rate"), "it is `learning_rate`"
        ),
        **dict.fromkeys(("decay_steps", "total_steps", "T_max", "step_size", "T_0"), "it is `steps`"),
        **dict.fromkeys(("gamma", "decay_rate"), "it is `factor`"),
        **dict.fromkeys(("eta_min", "end_learning_rate", "alpha"), "it is `final`"),
        "pct_start": "it is `warm`",
    },
    **dict.fromkeys(
        ("BatchNorm", "_RowNorm"), {"eps": "it is `epsilon`", "num_features": _WIDTH, "normalized_shape": _WIDTH}
    ),
    "Normalization": dict.fromkeys(("mean", "variance"), "fit sets it, or model.adapt(X)"),
    "Optimizer": {
        **dict.fromkeys(("lr", "learning_rate_init"), "it is `learning_rate`"),
        "betas": "they are `beta_1` and `beta_2`",
        "eps": "it is `epsilon`",
        "amsgrad": "it is an optimiser, AMSGrad",
        "weight_decay": "AdamW and Lion have it; as a penalty w / 2 |W|^2 it is Dense(n, l2=w / 2)",
        "decay": "the learning rate may be a schedule, such as InverseScaling",
        "clipvalue": "it is `clip_value`",
        **dict.fromkeys(("clipnorm", "global_clipnorm"), "the global norm is limited by `clip_norm`"),
        "ema_momentum": "it is `ema_decay`",
    },
    "RMSprop": {"alpha": "it is `rho`"},
    "LBFGS": {
        **dict.fromkeys(("lr", "learning_rate"), "a line search finds the length of each step"),
        **dict.fromkeys(("tol", "tolerance_grad"), "it is `gtol`"),
        "tolerance_change": "`ftol` is the least share by which the loss falls",
        "history_size": "it is `maxcor`",
        **dict.fromkeys(("max_iter", "maxiter"), "the iterations are the epochs of a fit"),
    },
    "EarlyStopping": {
        "restore_best_weights": "it is `restore_best`, and the default",
        "tol": "it is `min_delta`",
        "n_iter_no_change": "it is `patience`",
        "verbose": "it prints nothing, and has stopped_epoch_",
    },
    "Sequential.fit": {
        **dict.fromkeys(("lr", "learning_rate", "learning_rate_init"), _RATE),
        "metrics": _METRICS,
        **dict.fromkeys(("max_iter", "n_epochs", "num_epochs", "max_epochs", "nb_epoch"), "it is `epochs`"),
        **dict.fromkeys(("random_state", "random_seed"), "it is `seed`"),
        **dict.fromkeys(("n_jobs", "workers", "num_workers"), "it is `n_threads`"),
        **dict.fromkeys(("x", "x_train"), "it is `X`"),
        **dict.fromkeys(("eval_set", "X_val"), "it is `validation_data`, a pair (X, y)"),
        "early_stopping": "EarlyStopping is one of the `callbacks`",
        "initial_epoch": "epochs of a second call follow those of the first; BackupAndRestore goes on with a fit",
        "steps_per_epoch": "an epoch takes each row once; `train_on_batch` is a step of a loop of your own",
        "validation_freq": "validation data are measured after each epoch",
    },
    "_Wrapper": dict.fromkeys(
        ("loss", "optimizer", "epochs", "batch_size", "callbacks", "validation_split", "class_weight", "verbose"),
        "fit takes it, by way of `fit_kwargs`",
    ),
    "Sequential.predict": {"batch_size": _BLOCKS, "verbose": _SILENT},
    "Sequential.evaluate": {
        "batch_size": _BLOCKS,
        "verbose": _SILENT,
        "return_dict": "a dictionary is what is returned",
        "metrics": _METRICS,
        "loss": "it is model.loss, which may be set",
    },
    "Sequential.train_on_batch": {
        **dict.fromkeys(("lr", "learning_rate"), _RATE),
        "reset_metrics": "the loss that is returned is that of the batch",
        "return_dict": "the loss is returned, a number",
    },
    "Sequential": {
        "compile": "loss and optimizer are arguments of `fit`",
        **dict.fromkeys(("add", "pop", "append"), _LAYERS),
        "fit_generator": "`fit` takes arrays, memory maps and CSR; batches of your own go to `train_on_batch`",
        "partial_fit": "`train_on_batch` is a step; the estimators have `partial_fit`",
        "predict_proba": "`predict` gives probabilities where the loss is one of classes; SKLearnClassifier has it",
        "predict_classes": "predict(X).argmax(axis=1); where there is one output, predict(X) > 0.5",
        "score": "`evaluate` has loss and metrics; SKLearnClassifier and SKLearnRegressor have `score`",
        **dict.fromkeys(("get_weights", "trainable_variables", "weights", "named_parameters"), "`parameters` has them"),
        "set_weights": "`set_parameters` takes them by name",
        **dict.fromkeys(("state_dict", "save_weights"), _FILES),
        **dict.fromkeys(("load_state_dict", "load_weights"), f"{_FILES}, `set_parameters` sets them"),
        **dict.fromkeys(("to", "cuda", "cpu"), 'the device is an argument: fit(..., device="cuda")'),
        **dict.fromkeys(("train", "eval"), _MODES),
        **dict.fromkeys(("forward", "call", "decision_function"), "`logits` are the outputs of the network"),
        "zero_grad": "`gradients` gives new arrays in each call",
        "backward": "`gradients` has those of the parameters, `input_gradients` those of X",
        "count_params": "`summary` counts them",
        "optimizer": "`fit` and `train_on_batch` take one",
        "get_layer": "`layers` has them, and activations(X, layer) their values",
    },
}


def hint(names, word: str) -> str | None:
    """What the word means to the first of these classes that knows it.

    >>> hint(["Sequential"], "compile")
    'loss and optimizer are arguments of `fit`'
    """
    return next((_WORDS[name][word] for name in names if word in _WORDS.get(name, ())), None)


def refuses_unknown(method: _Method) -> _Method:
    """Of a method that takes `**unknown: NoReturn`, to refuse them by `unknown_argument`: nobody else sees that."""
    signature = inspect.signature(method)
    known = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    method.__signature__ = signature.replace(parameters=known)
    return method


def unknown_argument(method: Callable, unknown: dict) -> TypeError:
    """The error for keyword arguments that a method does not have: says what is meant."""
    word, name = next(iter(unknown)), method.__qualname__
    message = f"{name}() has no argument {word!r}"
    if meant := hint([name], word):
        return TypeError(f"{message}: {meant}.")
    nearest = difflib.get_close_matches(word, inspect.signature(method).parameters, n=1)
    return TypeError(f"{message}." + (f" Did you mean {nearest[0]!r}?" if nearest else ""))


def _takes(cls: type, word: str) -> bool:
    parameters = inspect.signature(cls.__init__).parameters
    return word in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class Hinted:
    """A class whose error for an argument that it does not have says what is meant."""

    __slots__ = ()

    def __new__(cls: type[_Object], *args: Any, **options: Any) -> _Object:
        for word in options:
            meant = hint([c.__name__ for c in cls.__mro__], word)
            if meant and not _takes(cls, word) and all(_takes(cls, ours) for ours in re.findall("`(.*?)`", meant)):
                raise TypeError(f"{cls.__name__} has no argument {word!r}: {meant}.")
        return super().__new__(cls)
