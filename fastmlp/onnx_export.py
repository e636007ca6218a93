"""Models as ONNX files, for runtimes that know nothing of fastmlp.

What a model predicts is written once, in NumPy: `prediction.forward`, the layers, `Loss.output`. Here it runs on a
`_Value`, which does the same to a sample of a few rows and notes it down as ONNX's operators. So whatever is written
with the functions below can be exported, a user's own activations too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from scipy import special

from . import activations, layers, losses, model_file, prediction
from .activations import Activation
from .embedding import Embedding
from .serialization import unknown_model

OPSET = 18  # of 2022: the first in which all reductions take their axes the same way
MOST_BYTES = 2**31 - 2**20  # of a protobuf, and some for all but the parameters

# What is one operator in ONNX, so that runtimes and viewers know it. Others' parameters would be float32; softplus is
# exact in float32 only.
_STANDARD = {
    activations.ReLU: "Relu",
    activations.Tanh: "Tanh",
    activations.Logistic: "Sigmoid",
    layers.Softmax: "Softmax",
    losses.SoftmaxCrossEntropy: "Softmax",
    losses.SoftmaxFocal: "Softmax",
    losses.BinaryCrossEntropy: "Sigmoid",
    losses.Focal: "Sigmoid",
}
_STANDARD_IN_FLOAT32 = _STANDARD | {activations.Softplus: "Softplus"}
_UFUNCS = {
    np.add: "Add", np.subtract: "Sub", np.multiply: "Mul", np.true_divide: "Div", np.power: "Pow", np.matmul: "MatMul",
    np.negative: "Neg", np.absolute: "Abs", np.sign: "Sign", np.floor: "Floor", np.ceil: "Ceil", np.sqrt: "Sqrt",
    np.exp: "Exp", np.log: "Log", np.tanh: "Tanh", np.sin: "Sin", np.cos: "Cos", np.rint: "Round",
    np.reciprocal: "Reciprocal", np.isnan: "IsNaN", np.logical_xor: "Xor",
    np.minimum: "Min", np.maximum: "Max", special.expit: "Sigmoid",
    np.less: "Less", np.less_equal: "LessOrEqual", np.greater: "Greater", np.greater_equal: "GreaterOrEqual",
    np.equal: "Equal", np.logical_and: "And", np.logical_or: "Or", np.logical_not: "Not",
    np.bitwise_and: "And", np.bitwise_or: "Or", np.bitwise_xor: "Xor", np.invert: "Not",
}  # fmt: skip
# What ONNX Runtime has in float32 only, and so in that for any model
_UFUNCS_OF_FLOAT32 = {
    special.erf: "Erf", np.tan: "Tan", np.arcsin: "Asin", np.arccos: "Acos", np.arctan: "Atan", np.sinh: "Sinh",
    np.cosh: "Cosh", np.arcsinh: "Asinh", np.arccosh: "Acosh", np.arctanh: "Atanh",
}  # fmt: skip


def export_onnx(path: str | os.PathLike, model: Any) -> None:
    """Write what a fitted model predicts as an ONNX file (operator set 18), which ONNX Runtime and others run.

    Its input is "X", (n, n_features), in the model's dtype. A `Sequential` and a regressor have one output,
    "predictions", and a classifier has two, "label" and "probabilities" (without the second, where its loss has none):
    what `predict` and `predict_proba` return, but for rounding; for the error function, which runtimes have in float32
    only, GELU of a float64 model has that precision. Layers that act in training only are left out. To go on with a
    model, `save_model` it.

    Before an estimator, a pipeline may have steps of `StandardScaler` and `MinMaxScaler`, which compute in float64.

    Parameters
    ----------
    path : str or path
        The file, replaced at once or not at all; its folder must exist.
    model : Sequential, MLPClassifier, MLPRegressor, SKLearnClassifier, SKLearnRegressor or Pipeline

    Raises
    ------
    ImportError
        Without the package onnx, which `pip install "fastmlp[onnx]"` brings.
    TypeError
        Another model, another step of a pipeline, or a custom activation or loss that does what cannot be said with the
        operators known here.
    ValueError
        The model is not fitted, larger than such a file can be (2 GiB), or has classes that are no texts or numbers of
        ONNX's.
    OSError
        The file cannot be written; an older one is untouched.

    Warns
    -----
    UserWarning
        The model is of a table that `fastmlp train` encoded: the file takes encoded columns, and gives what the
        target was turned into.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.onnx")
    ...     export_onnx(path, Sequential(Dense(3), ReLU(), Dense(1)).build(4))
    ...     os.path.getsize(path) > 0
    True
    """
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    from .estimators import MLPClassifier, MLPRegressor, SKLearnClassifier, SKLearnRegressor
    from .sequential import Sequential

    whole, steps = model, []
    if isinstance(model, Pipeline):
        *steps, model = [step for _, step in model.steps]
    if isinstance(model, Sequential):
        model._need_parameters()
        if model._preprocess is not None:
            what = f"columns of a table, whose target is {model._preprocess['target']['name']!r}"
            warnings.warn(f"X of this export is the encoded {what}; `TableModel` encodes them.", stacklevel=2)
        network, loss, outputs = model, model.loss, _of_sequential
    elif isinstance(model, (MLPClassifier, MLPRegressor)):
        check_is_fitted(model, "coefs_")
        network, loss = model._network(), model._loss()
        outputs = partial(_of_classifier if isinstance(model, MLPClassifier) else _of_regressor, model)
    elif isinstance(model, (SKLearnClassifier, SKLearnRegressor)):
        check_is_fitted(model, "model_")
        network, loss = model.model_, model.model_.loss
        outputs = partial(_of_classifier if isinstance(model, SKLearnClassifier) else _of_wrapper, model)
    else:
        raise unknown_model(whole, ", one in an SKLearnClassifier or an SKLearnRegressor, or a Pipeline with one")
    graph, other = (_graph(network, loss, outputs, n_rows, steps) for n_rows in (2, 3))
    if graph.facts != other.facts:
        raise TypeError(f"`model` computes something else for two rows than for three; ONNX cannot: {whole!r}.")
    model_file.replace(os.path.realpath(path), [graph.to_bytes()])


def _graph(network, loss, outputs: Callable, n_rows: int, steps) -> _Graph:
    """That of a network whose outputs are made of what its loss makes of the logits, and of those; steps come first."""
    graph = _Graph(network, n_rows)
    flat = [(name, graph.standard(layer)) for name, layer in layers.named(network.layers)]
    with np.errstate(all="ignore"):  # of the sample
        logits = prediction.forward(flat, network._arrays, _scaled(steps, graph.x), network.dtype)
        output = logits
        if loss is not None:
            operator = graph.standard(loss)
            output = loss.output(logits) if operator is loss else operator(logits)
        graph.declare(outputs(output, logits))
    return graph


def _scaled(steps, x: _Value) -> _Value:
    """What the steps of a pipeline make of X, in float64: a mean may be large beside the deviations."""
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    for step in steps:  # all first: one that makes other columns is to be named before those do not fit
        if not (step in (None, "passthrough") or isinstance(step, (StandardScaler, MinMaxScaler))):
            raise TypeError(
                f"a step before the estimator must be a StandardScaler or a MinMaxScaler; got {type(step).__name__}: "
                "export the last step, pipeline[-1], whose X is what the steps before it make."
            )
    if not steps:
        return x
    dtype, x = x.dtype, x.astype(np.float64)
    for step in steps:
        if isinstance(step, StandardScaler):
            x = x - step.mean_ if step.with_mean else x
            x = x / step.scale_ if step.with_std else x
        elif isinstance(step, MinMaxScaler):
            x = x * step.scale_ + step.min_
            x = np.clip(x, *map(float, step.feature_range)) if step.clip else x
    return x.astype(dtype)


def _of_sequential(output: _Value, logits: _Value) -> dict[str, _Value]:
    return {"predictions": output}


def _of_regressor(model, output: _Value, logits: _Value) -> dict[str, _Value]:
    return {"predictions": output[:, 0] if model.n_outputs_ == 1 else output}


def _of_wrapper(model, output: _Value, logits: _Value) -> dict[str, _Value]:
    return {"predictions": model._values(output)}


def _of_classifier(model, output: _Value, logits: _Value) -> dict[str, _Value]:
    label = model._codes(logits)
    if not model._multilabel:
        label = _take(model.classes_, np.minimum(label, len(model.classes_) - 1))
    return {"label": label} | ({"probabilities": model._by_class(output)} if hasattr(model, "predict_proba") else {})


@dataclass(frozen=True)
class _Operator(Activation):
    """A layer or a loss that is one operator."""

    of: object
    operator: str

    def __call__(self, value):
        return value.noted(self.operator, getattr(self.of, "output", self.of)(value.sample), value.name)


class _Embedding(Embedding):
    """An embedding whose codes are a value of the graph."""

    def rows(self, table: np.ndarray, codes: _Value) -> _Value:
        return codes.noted("Gather", table[codes.sample], codes.graph.constant(table), codes.name, axis=0)


class _Graph:
    """The operators so far, and the arrays that they need."""

    def __init__(self, network, n_rows: int):
        try:
            import onnx
        except ImportError:
            raise ImportError('export_onnx() needs the package onnx: pip install "fastmlp[onnx]"') from None
        self.onnx, self.dtype = onnx, network.dtype
        self._nodes, self._arrays, self._outputs = [], {}, {}
        self._parameters = {id(array): (name, array) for name, array in network._arrays.items()}
        self.x = _Value(self, "X", np.zeros((n_rows, network.n_features), network.dtype))

    def standard(self, layer):
        """The layer, or loss, as one operator where it is one."""
        if isinstance(layer, Embedding):
            return _Embedding(**{field.name: getattr(layer, field.name) for field in fields(layer)})
        operator = (_STANDARD_IN_FLOAT32 if self.dtype == np.float32 else _STANDARD).get(type(layer))
        return layer if operator is None else _Operator(layer, operator)

    @property
    def facts(self) -> tuple[list, list]:
        """All but the parameters, to be compared."""
        nodes = [node.SerializeToString(deterministic=True) for node in self._nodes]
        return nodes, [(n, a.dtype, a.tolist()) for n, a in self._arrays.items() if n.startswith("array_")]

    def constant(self, array: np.ndarray) -> str:
        """The name of an array in the graph: a parameter has its own, and equal numbers share one."""
        if id(array) in self._parameters:
            name, _ = self._parameters[id(array)]
        elif array.ndim == 0:
            name = f"{array.dtype.name}_{array.item()}"
        else:
            name = f"array_{len(self._arrays)}"
        self._arrays[name] = array
        return name

    def node(self, operator: str, inputs, n_outputs: int, **attributes) -> str:
        """Add an operator; the name of its first output."""
        name = f"{operator}_{len(self._nodes)}"
        outputs = [name, *(f"{name}_{i}" for i in range(1, n_outputs))]
        self._nodes.append(self.onnx.helper.make_node(operator, inputs, outputs, name, **attributes))
        return name

    def declare(self, outputs: dict[str, _Value]) -> None:
        """These are its outputs, by name."""
        for name, value in outputs.items():
            if not isinstance(value, _Value):
                raise TypeError(f"a custom loss must give an array that it makes of its logits; got {value!r}.")
            self._nodes.append(self.onnx.helper.make_node("Identity", [value.name], [name], name))
        self._outputs = outputs

    def to_bytes(self) -> bytes:
        """The file."""
        from . import __version__

        helper, onnx = self.onnx.helper, self.onnx
        if (n_bytes := sum(array.nbytes for array in self._arrays.values())) > MOST_BYTES:
            raise ValueError(f"`model` has {n_bytes:,} bytes of parameters; an ONNX file holds {MOST_BYTES:,}.")
        graph = helper.make_graph(
            self._nodes,
            "fastmlp",
            [self._declared("X", self.x.sample)],
            [self._declared(name, value.sample) for name, value in self._outputs.items()],
            [self.onnx.numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in self._arrays.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        version = helper.find_min_ir_version_for(opset)  # older runtimes refuse a newer one
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=version, producer_name="fastmlp", producer_version=__version__
        )
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            what = "a custom activation or loss of this model does what ONNX does not allow"
            raise TypeError(f"{what}: {error}") from error
        return model.SerializeToString(deterministic=True)

    def _declared(self, name: str, sample: np.ndarray):
        """An input or an output: any number of rows of the sample's width."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(sample.dtype)
        return self.onnx.helper.make_tensor_value_info(name, kind, ["n", *sample.shape[1:]])


class _Value(NDArrayOperatorsMixin):
    """An array of the graph: what is done to it is done to a sample, and noted down."""

    def __init__(self, graph: _Graph, name: str, sample: np.ndarray):
        self.graph, self.name, self.sample = graph, name, sample
        self.shape, self.ndim, self.dtype = sample.shape, sample.ndim, sample.dtype

    def noted(self, operator: str, sample, *inputs: str, n_outputs: int = 1, **attributes) -> _Value:
        """The result of an operator on arrays of these names."""
        return _Value(self.graph, self.graph.node(operator, inputs, n_outputs, **attributes), np.asarray(sample))

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method != "__call__" or kwargs:
            raise _no_operator(ufunc)
        if ufunc in _UFUNCS:
            result = self.noted(_UFUNCS[ufunc], ufunc(*map(_sample, inputs)), *self.names(*inputs))
        elif ufunc in _UFUNCS_OF_FLOAT32:
            x = self.astype(np.float32)
            result = self.noted(_UFUNCS_OF_FLOAT32[ufunc], ufunc(x.sample), x.name).astype(self.dtype)
        elif ufunc in _FUNCTIONS:
            result = _FUNCTIONS[ufunc](*inputs)
        else:
            raise _no_operator(ufunc)
        if out is None:
            return result
        (target,) = out  # `+=` and `out=`: whoever else has this array sees the new numbers
        vars(target).update(vars(result.astype(target.dtype)))
        return target

    def __array_function__(self, function, types, arguments, kwargs):
        if function not in _FUNCTIONS:
            raise _no_operator(function)
        return _FUNCTIONS[function](*arguments, **kwargs)

    def names(self, *inputs) -> list[str]:
        """Of values, arrays and numbers, in the dtype that they have in common."""
        dtype, names = np.result_type(*map(_sample, inputs)), []
        for x in inputs:
            own = x.astype(dtype, copy=False) if hasattr(x, "astype") else np.asarray(x, dtype)
            names.append(own.name if isinstance(own, _Value) else self.graph.constant(own))
        return names

    def __len__(self):
        return len(self.sample)

    def __bool__(self):
        raise TypeError("ONNX has no branches here; use np.where.")

    def __getattr__(self, name):
        if name.startswith("__"):  # what NumPy looks for
            raise AttributeError(name)
        raise _no_operator(f"the attribute {name!r} of an array")

    def __getitem__(self, key):
        if not (isinstance(key, tuple) and len(key) == 2 == self.ndim and key[0] == slice(None)):
            raise TypeError(f"only columns, z[:, ...], can be taken of a value in ONNX; got {key!r}.")
        columns = np.arange(self.shape[1])[key[1]]
        return self.noted("Gather", self.sample[key], self.name, self.graph.constant(columns), axis=1)

    def astype(self, dtype, copy=True) -> _Value:
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return _Value(self.graph, self.name, self.sample) if copy else self
        to = self.graph.onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return self.noted("Cast", self.sample.astype(dtype), self.name, to=to)

    def reshape(self, *shape) -> _Value:
        sample = self.sample.reshape(*shape)
        return self.noted("Reshape", sample, self.name, self.graph.constant(np.array([-1, *sample.shape[1:]])))

    def argmax(self, axis: int) -> _Value:
        return self.noted("ArgMax", self.sample.argmax(axis), self.name, axis=axis, keepdims=0)

    def max(self, axis: int, keepdims=False) -> _Value:
        return self._reduced("ReduceMax", self.sample.max(axis, keepdims=keepdims), axis, keepdims)

    def sum(self, axis: int, keepdims=False) -> _Value:
        return self._reduced("ReduceSum", self.sample.sum(axis, keepdims=keepdims), axis, keepdims)

    def mean(self, axis: int, keepdims=False) -> _Value:
        return self._reduced("ReduceMean", self.sample.mean(axis, keepdims=keepdims), axis, keepdims)

    def _reduced(self, operator: str, sample, axis: int, keepdims: bool) -> _Value:
        return self.noted(operator, sample, self.name, self.graph.constant(np.atleast_1d(axis)), keepdims=int(keepdims))


def _sample(x):
    return x.sample if isinstance(x, _Value) else x


def _no_operator(function) -> TypeError:
    name = getattr(function, "__name__", str(function))
    return TypeError(f"export_onnx knows no operator for {name}, which a custom activation or loss of this model uses.")


def _where(condition, a, b):
    value = next(x for x in (condition, a, b) if isinstance(x, _Value))
    if np.isscalar(a) and np.isscalar(b):  # NumPy would make float64 of them
        a, b = value.graph.dtype.type(a), value.graph.dtype.type(b)
    sample = np.where(*map(_sample, (condition, a, b)))
    return value.noted("Where", sample, *value.names(condition), *value.names(a, b))


def _log1p(x):
    """With the error of 1 + x in the logarithm and in the divisor: as exact as log1p (Goldberg, 1991)."""
    u = 1.0 + x
    return np.where(u == 1.0, x, np.log(u) * np.where(u - 1.0 == x, 1.0, x / (u - 1.0)))


def _hstack(values):
    first, *_ = values
    return first.noted("Concat", np.hstack([*map(_sample, values)]), *first.names(*values), axis=1)


def _cumsum(x, axis):
    return x.noted("CumSum", np.cumsum(x.sample, axis), x.name, x.graph.constant(np.array(axis)))


def _sort(x, axis=-1):
    width = x.graph.constant(np.array([x.shape[axis]]))
    return x.noted("TopK", np.sort(x.sample, axis), x.name, width, n_outputs=2, axis=axis, largest=0)


def _cumprod(x, axis):
    if axis % 2 != 1:
        raise _no_operator("cumprod of rows")
    columns = [x[:, :1]]
    for i in range(1, x.shape[1]):
        columns.append(columns[-1] * x[:, i : i + 1])
    return np.hstack(columns)


def _take(array: np.ndarray, indices: _Value) -> _Value:
    """array[indices]; texts are objects, as ONNX is told of them."""
    array = np.array(array.tolist()) if array.dtype.kind == "O" else array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind not in "biufU" or array.dtype.itemsize > 8 and array.dtype.kind != "U":
        raise ValueError(f"`model` must have classes that are texts, integers or floats of 64 bits; got {array!r}.")
    array = array.astype(object) if array.dtype.kind == "U" else array
    return indices.noted("Gather", array[indices.sample], indices.graph.constant(array), indices.name, axis=0)


# What takes more than an operator's name
_FUNCTIONS: dict[Callable, Callable] = {
    np.where: _where,
    np.hstack: _hstack,
    np.cumsum: _cumsum,
    np.sort: _sort,
    np.cumprod: _cumprod,
    np.clip: lambda x, low, high: np.minimum(np.maximum(x, low), high),
    np.ones_like: lambda x: np.where(x == x, 1.0, 1.0),
    np.zeros_like: lambda x: np.where(x == x, 0.0, 0.0),
    np.sum: lambda x, axis, keepdims=False: x.sum(axis, keepdims),
    np.mean: lambda x, axis, keepdims=False: x.mean(axis, keepdims),
    np.max: lambda x, axis, keepdims=False: x.max(axis, keepdims),
    np.expm1: lambda x: np.tanh(0.5 * x) * (np.exp(x) + 1.0),
    np.log1p: _log1p,
    np.square: lambda x: x * x,
    np.not_equal: lambda x, y: np.logical_not(x == y),
    special.ndtr: lambda x: 0.5 * (1.0 + special.erf(0.5**0.5 * x)),
}
