"""Models to files and back: what a model is made of, as plain data. `model_file.py` is about the file itself.

Only plain data is written: numbers, strings, arrays, lists and dictionaries of those. Loading builds them again and
calls the constructors of `Sequential`, its layers, `MLPClassifier` and `MLPRegressor`: nothing in a file names code.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from . import layers as layer_module, losses, model_file
from ._arrays import check_finite
from .errors import check_count, unknown_name
from .model_file import ModelFileError

__all__ = ["ModelFileError", "load_model", "load_model_with_extra", "save_model"]

_ESTIMATORS = ("MLPClassifier", "MLPRegressor")
_NOT_SAVED = ("_metadata_request",)  # scikit-learn's routing of metadata: objects, and no part of the network
_MAX_TEXT_BYTES = 1 << 28  # an array of strings has the width of its longest: a small file could ask for a huge one


def save_model(path: str | os.PathLike, model: Any, *, extra: dict | None = None) -> None:
    """Save a `Sequential`, an `MLPClassifier` or an `MLPRegressor`, fitted or not, as a safetensors file.

    The file is replaced at once or not at all. Saving the same model twice gives the same bytes.

    Parameters
    ----------
    path : str or path
        The file; its folder must exist.
    model : Sequential, MLPClassifier or MLPRegressor
        An estimator is saved with its parameters, every fitted attribute and its optimiser's state.
    extra : dict, optional
        Plain data to keep with the model (how a table was preprocessed); see `load_model_with_extra`.

    Raises
    ------
    TypeError
        Another model (the message says what to save of a wrapper, a pipeline or a search), or an attribute that is not
        plain data.
    OSError
        The file cannot be written; an older one is untouched.

    Warns
    -----
    UserWarning
        `random_state` is a generator object: it is saved as None.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import Dense, Sequential
    >>> from fastmlp.serialization import load_model_with_extra
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     save_model(path, Sequential(Dense(3)).build(4), extra={"columns": ("a", "b", "c", "d")})
    ...     model, extra = load_model_with_extra(path)
    >>> model.parameters["dense_0.weight"].shape, extra
    ((4, 3), {'columns': ('a', 'b', 'c', 'd')})
    """
    from .sequential import Sequential

    tensors: dict[str, np.ndarray] = {}
    if isinstance(model, Sequential):
        config = _describe_sequential(model, tensors)
        if extra is None and model._preprocess is not None:
            extra = {"preprocess": model._preprocess}
    elif type(model).__name__ in _ESTIMATORS and type(model).__module__.split(".")[0] == __package__:
        config = _describe_estimator(model, tensors)
    else:
        raise unknown_model(model)
    if extra is not None:
        config["extra"] = _encode(extra, tensors, "extra")
    model_file.write(path, {**config, "fastmlp": _version()}, tensors)


def unknown_model(model: Any, also: str = "") -> TypeError:
    """The error for another model; says what of a wrapper, a pipeline or a search is one."""
    inside = {
        "best_estimator_": "the search's `best_estimator_`",
        "steps": "the pipeline's last step, `pipeline[-1]`, whose X is what the steps before it make",
        "fit_kwargs": "its `model_`, a Sequential, when it is fitted",
    }
    advice = next((f"; try {words}" for attribute, words in inside.items() if hasattr(model, attribute)), "")
    accepted = f"a Sequential, an MLPClassifier or an MLPRegressor{also}"
    return TypeError(f"`model` must be {accepted}; got {type(model).__name__}{advice}.")


def load_model(path: str | os.PathLike, custom_objects: dict | None = None) -> Any:
    """The model that `save_model` saved; it predicts the same bits, and loading it compiles nothing.

    Parameters
    ----------
    path : str or path
        The file.
    custom_objects : dict, optional
        Name -> `CustomActivation` or `CustomLoss`, for a model that has some: a file holds no code. They must give the
        values that they gave when the model was saved.

    Returns
    -------
    Sequential, MLPClassifier or MLPRegressor

    Raises
    ------
    ModelFileError
        A ValueError: not such a file, cut off, changed, another version of the format, or at odds with itself; or
        `custom_objects` lacks an object of the model, or has another one.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import MLPRegressor, load_model, save_model
    >>> X, y = [[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]
    >>> regressor = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", alpha=0.0, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     save_model(path, regressor)
    ...     loaded = load_model(path)
    >>> loaded.predict([[3.0]]).round(2).tolist()
    [7.0]
    """
    return load_model_with_extra(path, custom_objects)[0]


def load_model_with_extra(path: str | os.PathLike, custom_objects: dict | None = None) -> tuple:
    """As `load_model`, with the `extra` dictionary that was saved ({} if none was): (model, extra)."""
    config, tensors = model_file.read(path)
    try:
        extra = _decode(config["extra"], tensors) if "extra" in config else {}
        if config.get("model") == "Sequential":
            model = _build_sequential(config, tensors, custom_objects)
            model._preprocess = extra.get("preprocess") if isinstance(extra, dict) else None
            return model, extra
        if config.get("model") in _ESTIMATORS:
            return _build_estimator(config, tensors), extra
        raise unknown_name("model", config.get("model"), ["Sequential", *_ESTIMATORS])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)
        raise ModelFileError(f"cannot load {os.fspath(path)!r}: {what}") from error


def _version() -> str:
    from . import __version__

    return __version__


# Sequential


def _describe_sequential(model, tensors: dict) -> dict:
    if model.built:
        tensors.update(model.parameters)
    return {
        "model": "Sequential",
        "layers": [layer_module.to_config(layer) for layer in model.layers],
        "dtype": np.dtype(model.dtype).name,
        "n_features": int(model.n_features) if model.built else None,
        "epochs": model._epochs,
        "loss": None if model.loss is None else losses.to_config(model.loss),
    }


def _build_sequential(config: dict, tensors: dict, custom_objects: dict | None):
    from .lowering import parameter_shapes
    from .sequential import Sequential

    layers = [layer_module.from_config(layer, custom_objects) for layer in config["layers"]]
    model = Sequential(*layers, dtype=config["dtype"])
    if config["n_features"] is not None:
        # Before anything of that size is allocated: a small file may speak of a huge network.
        shapes = parameter_shapes(layers, config["n_features"])
        for name, shape in shapes.items():
            _check_tensor(name, tensors.get(name), shape, model.dtype)
            check_finite(tensors[name], name)
        model._adopt(config["n_features"], {name: tensors[name] for name in shapes})
        model._epochs = check_count(config.get("epochs", 0), "epochs", least=0)
    if config["loss"] is not None:
        model.loss = losses.from_config(config["loss"], custom_objects)
    return model


def _check_tensor(name: str, array, shape: tuple, dtype) -> None:
    if array is None:
        raise ValueError(f"the parameter {name!r} is missing.")
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(
            f"the parameter {name!r} must be {np.dtype(dtype).name} of shape {tuple(shape)}; the file has "
            f"{array.dtype.name} of shape {array.shape}."
        )


# Estimators


def _describe_estimator(estimator, tensors: dict) -> dict:
    parameters = estimator.get_params(deep=False)
    if parameters["random_state"] is not None and not hasattr(parameters["random_state"], "__index__"):
        warnings.warn("`random_state` is a generator object; the model is saved with None instead.", stacklevel=3)
        parameters["random_state"] = None
    attributes = {name: value for name, value in vars(estimator).items() if name not in {*parameters, *_NOT_SAVED}}
    return {
        "model": type(estimator).__name__,
        "parameters": {name: _encode(value, tensors, name) for name, value in parameters.items()},
        "attributes": {name: _encode(value, tensors, name) for name, value in attributes.items()},
    }


def _build_estimator(config: dict, tensors: dict):
    from . import activations, estimators

    cls = getattr(estimators, config["model"])
    estimator = cls()
    known = estimator.get_params(deep=False)
    for name, value in config["parameters"].items():
        if name not in known:
            raise unknown_name("parameter", name, known)
        setattr(estimator, name, _decode(value, tensors))
    for name, value in config["attributes"].items():
        if hasattr(cls, name) or not name.isidentifier() or name in known:
            raise ValueError(f"{name!r} is not a fitted attribute.")
        setattr(estimator, name, _decode(value, tensors))
    if hasattr(estimator, "coefs_"):
        activations.get(estimator.activation)
        _check_network(estimator)
    return estimator


def _check_network(estimator) -> None:
    """That the fitted attributes speak of one network: prediction takes them at their word."""
    coefs, intercepts = estimator.coefs_, estimator.intercepts_
    if not isinstance(coefs, list) or not isinstance(intercepts, list) or not 0 < len(coefs) == len(intercepts):
        raise ValueError("coefs_ and intercepts_ must be lists of one array per layer.")
    units = [estimator.n_features_in_, *(len(intercept) for intercept in intercepts)]
    for i, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        _check_tensor(f"coefs_[{i}]", coef, (units[i], units[i + 1]), coefs[0].dtype)
        _check_tensor(f"intercepts_[{i}]", intercept, (units[i + 1],), coefs[0].dtype)
    if coefs[0].dtype not in (np.float32, np.float64):
        raise ValueError(f"coefs_ must be float32 or float64; the file has {coefs[0].dtype}.")
    if estimator.n_outputs_ != units[-1] or estimator.n_layers_ != len(units):
        raise ValueError(f"n_outputs_ and n_layers_ do not fit layers of {units} units.")
    if hasattr(estimator, "classes_"):
        if estimator.out_activation_ not in ("softmax", "logistic"):
            raise unknown_name("out_activation_", estimator.out_activation_, ["softmax", "logistic"])
        n_classes = (1, 2) if units[-1] == 1 else (units[-1],)
        if len(estimator.classes_) not in n_classes:
            raise ValueError(f"classes_ must hold {n_classes[-1]} labels; the file has {len(estimator.classes_)}.")


# Plain data as JSON. Every JSON object is a tag with its content, so that a file cannot be read in two ways.


def _is_plain(key) -> bool:
    return isinstance(key, str) and key.isascii() and key.isprintable()


def _encode(value, tensors: dict, where: str):
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [_encode(item, tensors, f"{where}.{i}") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": _encode(list(value), tensors, where)}
    if isinstance(value, dict):
        return {
            "dict": [
                [_encode(key, tensors, where), _encode(item, tensors, f"{where}.{key if _is_plain(key) else i}")]
                for i, (key, item) in enumerate(value.items())
            ]
        }
    if isinstance(value, np.ndarray) and model_file.can_hold(value.dtype):
        name, n = where, 0
        while name in tensors:
            n += 1
            name = f"{where}#{n}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO":
        items = [_encode(item, {}, where) for item in value.ravel().tolist()]
        if all(item is None or isinstance(item, bool | int | float | str) for item in items):
            return {"text" if value.dtype.kind == "U" else "objects": items, "shape": list(value.shape)}
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        text = _encode(np.char.decode(value, "latin-1"), tensors, where)
        return {"bytes": text["text"], "shape": text["shape"]}
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    accepted = "numbers, strings, arrays, lists and dictionaries of those"
    raise TypeError(f"`{where}` is {kind}; a model file holds {accepted}.")


def _decode(value, tensors: dict):
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"tuple"}:
        return tuple(_decode(list(value["tuple"]), tensors))
    if set(value) == {"dict"}:
        return {_decode(key, tensors): _decode(item, tensors) for key, item in value["dict"]}
    if set(value) == {"tensor"}:
        return tensors[value["tensor"]]
    if set(value) == {"objects", "shape"}:
        array = np.empty(len(value["objects"]), object)
        array[:] = value["objects"]
        return array.reshape(value["shape"])
    if set(value) in ({"text", "shape"}, {"bytes", "shape"}):
        items = value.get("text", value.get("bytes"))
        if not all(isinstance(item, str) for item in items):
            raise ValueError("an array of strings holds something else.")
        if 4 * len(items) * max(map(len, items), default=0) > _MAX_TEXT_BYTES:
            raise ValueError(f"an array of strings would take more than {_MAX_TEXT_BYTES} bytes.")
        array = np.array(items, dtype=str)
        return (array if "text" in value else np.char.encode(array, "latin-1")).reshape(value["shape"])
    raise ValueError(f"unknown kind of value: {', '.join(map(repr, value))}.")
