"""Models as ONNX files, for runtimes that know nothing of fastmlp.

What a model predicts is written once, in NumPy: `prediction.forward`, the layers, `Loss.output`. Here it runs on a
`_Value`, which does the same to a sample of a few rows and notes it down as ONNX's operators. So whatever is written
with the functions below can be exported, a user's own activations too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from scipy import special

from . import activations, layers, losses, model_file, prediction
from .activations import Activation

OPSET = 18  # of 2022: the first in which all reductions take their axes the same way
MOST_BYTES = 2**31 - 2**20  # of a protobuf, and some for all but the parameters

# What is one operator in ONNX, so that runtimes and viewers know it. Others' parameters would be float32.
_STANDARD = {
    activations.ReLU: "Relu",
    activations.Tanh: "Tanh",
    activations.Logistic: "Sigmoid",
    activations.Softplus: "Softplus",
    layers.Softmax: "Softmax",
    losses.SoftmaxCrossEntropy: "Softmax",
    losses.SoftmaxFocal: "Softmax",
    losses.BinaryCrossEntropy: "Sigmoid",
    losses.Focal: "Sigmoid",
}
_UFUNCS = {
    np.add: "Add", np.subtract: "Sub", np.multiply: "Mul", np.true_divide: "Div", np.power: "Pow", np.matmul: "MatMul",
    np.negative: "Neg", np.absolute: "Abs", np.sign: "Sign", np.floor: "Floor", np.ceil: "Ceil", np.sqrt: "Sqrt",
    np.exp: "Exp", np.log: "Log", np.tanh: "Tanh", np.sin: "Sin", np.cos: "Cos", np.arctan: "Atan",
    np.minimum: "Min", np.maximum: "Max", special.expit: "Sigmoid",
    np.less: "Less", np.less_equal: "LessOrEqual", np.greater: "Greater", np.greater_equal: "GreaterOrEqual",
    np.equal: "Equal", np.logical_and: "And", np.logical_or: "Or", np.logical_not: "Not",
    np.bitwise_and: "And", np.bitwise_or: "Or", np.invert: "Not",
}  # fmt: skip


def export_onnx(path: str | os.PathLike, model) -> None:
    """Write what a fitted model predicts as an ONNX file (operator set 18), which ONNX Runtime and others run.

    Its input is "X", (n, n_features), in the model's dtype. A `Sequential` and an `MLPRegressor` have one output,
    "predictions", and an `MLPClassifier` has two, "label" and "probabilities": what `predict` and `predict_proba`
    return, but for rounding; for the error function, which runtimes have in float32 only, GELU of a float64 model has
    that precision. Layers that act in training only are left out. To go on with a model, `save_model` it.

    Parameters
    ----------
    path : str or path
        The file, replaced at once or not at all; its folder must exist.
    model : Sequential, MLPClassifier or MLPRegressor

    Raises
    ------
    ImportError
        Without the package onnx, which `pip install "fastmlp[onnx]"` brings.
    TypeError
        Another model, or a custom activation or loss with a function that ONNX has no operators for.
    ValueError
        The model is not fitted, or larger than such a file can be (2 GiB).
    OSError
        The file cannot be written; an older one is untouched.

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
    from sklearn.utils.validation import check_is_fitted

    from .estimators import MLPClassifier, MLPRegressor
    from .sequential import Sequential

    if isinstance(model, Sequential):
        model._need_parameters()
        network, loss, outputs = model, model.loss, _of_sequential
    elif isinstance(model, (MLPClassifier, MLPRegressor)):
        check_is_fitted(model, "coefs_")
        network, loss = model._network(), model._loss()
        outputs = partial(_of_classifier if isinstance(model, MLPClassifier) else _of_regressor, model)
    else:
        kind = type(model).__name__
        raise TypeError(f"`model` must be a Sequential, an MLPClassifier or an MLPRegressor; got {kind}.")
    content, other = (_file(network, loss, outputs, n_rows) for n_rows in (2, 3))
    if content != other:
        raise TypeError(f"`model` computes something else for two rows than for three; ONNX cannot: {model!r}.")
    model_file.replace(os.path.realpath(path), [content])


def _file(network, loss, outputs: Callable, n_rows: int) -> bytes:
    """The file of a network whose outputs are made of what its loss makes of the logits, and of those."""
    graph, flat = _Graph(network), []
    for name, layer in layers.named(network.layers):
        flat.append((name, _Operator(layer) if type(layer) in _STANDARD else layer))
    x = _Value(graph, "X", np.zeros((n_rows, network.n_features), network.dtype))
    with np.errstate(all="ignore"):  # of the sample
        logits = prediction.forward(flat, network._arrays, x, network.dtype)
        if loss is None:
            output = logits
        else:
            output = _Operator(loss)(logits) if type(loss) in _STANDARD else loss.output(logits)
        return graph.to_bytes(x, outputs(output, logits))


def _of_sequential(output: _Value, logits: _Value) -> dict[str, _Value]:
    return {"predictions": output}


def _of_regressor(model, output: _Value, logits: _Value) -> dict[str, _Value]:
    return {"predictions": output[:, 0] if model.n_outputs_ == 1 else output}


def _of_classifier(model, output: _Value, logits: _Value) -> dict[str, _Value]:
    label = model._codes(logits)
    if not model._multilabel:
        label = _take(model.classes_, np.minimum(label, len(model.classes_) - 1))
    return {"label": label, "probabilities": model._by_class(output)}


@dataclass(frozen=True)
class _Operator(Activation):
    """A layer or a loss that is one operator."""

    of: object

    def __call__(self, value):
        return value.noted(_STANDARD[type(self.of)], getattr(self.of, "output", self.of)(value.sample), value.name)


class _Graph:
    """The operators so far, and the arrays that they need."""

    def __init__(self, network):
        try:
            import onnx
        except ImportError:
            raise ImportError('export_onnx() needs the package onnx: pip install "fastmlp[onnx]"') from None
        self.onnx, self.dtype = onnx, network.dtype
        self._nodes, self._arrays = [], {}
        self._parameters = {id(array): (name, array) for name, array in network._arrays.items()}

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

    def to_bytes(self, x: _Value, outputs: dict[str, _Value]) -> bytes:
        """The file."""
        from . import __version__

        helper = self.onnx.helper
        if (n_bytes := sum(array.nbytes for array in self._arrays.values())) > MOST_BYTES:
            raise ValueError(f"`model` has {n_bytes:,} bytes of parameters; an ONNX file holds {MOST_BYTES:,}.")
        for name, value in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value.name], [name], name))
        graph = helper.make_graph(
            self._nodes,
            "fastmlp",
            [self._declared("X", x.sample)],
            [self._declared(name, value.sample) for name, value in outputs.items()],
            [self.onnx.numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in self._arrays.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        version = helper.find_min_ir_version_for(opset)  # older runtimes refuse a newer one
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=version, producer_name="fastmlp", producer_version=__version__
        )
        self.onnx.checker.check_model(model, full_check=True)
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

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):  # `out`: of +=, which names the result anew
        if method != "__call__" or kwargs or (ufunc not in _UFUNCS and ufunc not in _FUNCTIONS):
            raise _no_operator(ufunc)
        if ufunc in _FUNCTIONS:
            return _FUNCTIONS[ufunc](*inputs)
        return self.noted(_UFUNCS[ufunc], ufunc(*map(_sample, inputs)), *self.names(*inputs))

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

    def __getitem__(self, key):
        if not (isinstance(key, tuple) and len(key) == 2 == self.ndim and key[0] == slice(None)):
            raise TypeError(f"only columns, z[:, ...], can be taken of a value in ONNX; got {key!r}.")
        columns = np.arange(self.shape[1])[key[1]]
        return self.noted("Gather", self.sample[key], self.name, self.graph.constant(columns), axis=1)

    def astype(self, dtype, copy=True) -> _Value:
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
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
        return self.noted(operator, sample, self.name, self.graph.constant(np.array([axis])), keepdims=int(keepdims))


def _sample(x):
    return x.sample if isinstance(x, _Value) else x


def _no_operator(function) -> TypeError:
    name = getattr(function, "__name__", str(function))
    return TypeError(f"ONNX has no operator for {name}, which a custom activation or loss of this model calls.")


def _where(condition, a, b):
    value = next(x for x in (condition, a, b) if isinstance(x, _Value))
    if np.isscalar(a) and np.isscalar(b):  # NumPy would make float64 of them
        a, b = value.graph.dtype.type(a), value.graph.dtype.type(b)
    sample = np.where(*map(_sample, (condition, a, b)))
    return value.noted("Where", sample, *value.names(condition), *value.names(a, b))


def _log1p(x):
    """With the error of 1 + x in the logarithm and in the divisor: as exact as log1p (Goldberg, 1991)."""
    u = 1.0 + x
    return np.where(u == 1.0, x, x * np.log(u) / (u - 1.0))


def _erf(x):
    """In float32, whatever x is: ONNX Runtime has no other."""
    of_32 = x.astype(np.float32)
    return of_32.noted("Erf", special.erf(of_32.sample), of_32.name).astype(x.dtype)


def _hstack(values):
    first, *_ = values
    return first.noted("Concat", np.hstack([*map(_sample, values)]), *first.names(*values), axis=1)


def _cumsum(x, axis):
    return x.noted("CumSum", np.cumsum(x.sample, axis), x.name, x.graph.constant(np.array(axis)))


def _sort(x, axis=-1):
    width = x.graph.constant(np.array([x.shape[axis]]))
    return x.noted("TopK", np.sort(x.sample, axis), x.name, width, n_outputs=2, axis=axis, largest=0)


def _take(array: np.ndarray, indices: _Value) -> _Value:
    """array[indices]; texts are objects, as ONNX is told of them."""
    array = array.astype(object) if array.dtype.kind == "U" else array
    return indices.noted("Gather", array[indices.sample], indices.graph.constant(array), indices.name, axis=0)


# What takes more than an operator's name
_FUNCTIONS: dict[Callable, Callable] = {
    np.where: _where,
    np.hstack: _hstack,
    np.cumsum: _cumsum,
    np.sort: _sort,
    np.cumprod: lambda x, axis: np.exp(np.cumsum(np.log(x), axis)),
    np.clip: lambda x, low, high: np.minimum(np.maximum(x, low), high),
    np.ones_like: lambda x: 0.0 * x + 1.0,
    np.expm1: lambda x: np.tanh(0.5 * x) * (np.exp(x) + 1.0),
    np.log1p: _log1p,
    np.square: lambda x: x * x,
    np.not_equal: lambda x, y: np.logical_not(x == y),
    special.erf: _erf,
    special.ndtr: lambda x: 0.5 * (1.0 + special.erf(0.5**0.5 * x)),
}
