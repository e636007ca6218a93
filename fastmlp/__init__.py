"""fastmlp: multilayer perceptrons trained as fast as the machine allows.

The way of the data, and where to find it::

    X, y --> estimators (scikit-learn's door) or sequential (Keras's door): checks, names
         --> plan: layers, loss and optimiser as flat tables of steps              (lowering/ makes a plan.Plan)
         --> training: epochs, order of rows, state between epochs                  (training.py)
         --> engine: runs the steps on threads; kernels, compiled once and cached   (engine/)
             or on an NVIDIA GPU, where that is asked for                           (cuda/, devices.py)
         --> history, fitted parameters

Declarations: `layers`, `embedding`, `normalization`, `augmentation`, `activations`, `losses`, `optimizers`,
`schedules`, `initializers`, of which `configs` makes plain data; to add an activation, add a class in `activations.py`
(a user's own are `CustomActivation` and `CustomLoss`, by `user_functions`). Rows: `inputs` and `batches` of a training,
`prediction` (by NumPy) and `evaluation` (by the engine) of others; `records` and `simd` are what plan and engine agree
on. Around a fit: `epochs`, `lbfgs`, `callbacks`, `backup`, `progress`, `history`; in place of one `own_loop`; beside it
`rate_test`, `diagnosis`, `gradients`, `parts`. Files: `serialization` and `model_file` for models and `onnx_export` for
other programs, `datasets`, `tables`, `preprocessing`, `table_model` and `piecewise` for data, which the command line
(`cli`, `commands`) uses. What an error says: `errors`, `hints`. Names below are imported on first use, so that `import
fastmlp` costs nothing.
"""

import sys
from importlib import import_module

__version__ = "0.1.0.dev0"

_HOME = {  # and in __init__.pyi, for editors
    "Sequential": "sequential",
    "Dense": "layers",
    "AlphaDropout": "layers",
    "Dropout": "layers",
    "GaussianNoise": "augmentation",
    "RandomAffine": "augmentation",
    "MixUp": "augmentation",
    "CutMix": "augmentation",
    "Residual": "layers",
    "pre_norm_block": "layers",
    "GLU": "layers",
    "GEGLU": "layers",
    "SwiGLU": "layers",
    "Maxout": "layers",
    "PReLU": "layers",
    "Embedding": "embedding",
    "BatchNorm": "normalization",
    "Normalization": "normalization",
    "LayerNorm": "normalization",
    "RMSNorm": "normalization",
    "GroupNorm": "normalization",
    "Rescaling": "layers",
    "Softmax": "layers",
    "ActivityRegularization": "layers",
    "Identity": "activations",
    "ReLU": "activations",
    "Tanh": "activations",
    "Logistic": "activations",
    "LeakyReLU": "activations",
    "ELU": "activations",
    "SELU": "activations",
    "GELU": "activations",
    "GELUTanh": "activations",
    "SiLU": "activations",
    "Sine": "activations",
    "Mish": "activations",
    "Softplus": "activations",
    "HardThreshold": "activations",
    "CustomActivation": "activations",
    "SoftmaxCrossEntropy": "losses",
    "BinaryCrossEntropy": "losses",
    "SquaredError": "losses",
    "AbsoluteError": "losses",
    "Huber": "losses",
    "QuantileLoss": "losses",
    "Poisson": "losses",
    "NegativeBinomial": "losses",
    "Hinge": "losses",
    "Focal": "losses",
    "SoftmaxFocal": "losses",
    "Ordinal": "losses",
    "Contrastive": "losses",
    "Triplet": "losses",
    "RankNet": "losses",
    "ListNet": "losses",
    "Gaussian": "losses",
    "GivenGradient": "losses",
    "CustomLoss": "losses",
    "SGD": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "AMSGrad": "optimizers",
    "AdaMax": "optimizers",
    "NAdam": "optimizers",
    "AdaGrad": "optimizers",
    "AdaDelta": "optimizers",
    "RMSprop": "optimizers",
    "Rprop": "optimizers",
    "Lion": "optimizers",
    "LBFGS": "optimizers",
    "Constant": "schedules",
    "StepDecay": "schedules",
    "PiecewiseConstantDecay": "schedules",
    "PolynomialDecay": "schedules",
    "ExponentialDecay": "schedules",
    "InverseScaling": "schedules",
    "CosineDecay": "schedules",
    "CosineRestarts": "schedules",
    "Cyclic": "schedules",
    "OneCycle": "schedules",
    "Warmup": "schedules",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "Perceptron": "estimators",
    "PiecewiseLinearEncoder": "estimators",
    "SKLearnClassifier": "estimators",
    "SKLearnRegressor": "estimators",
    "History": "history",
    "Callback": "callbacks",
    "EarlyStopping": "callbacks",
    "ModelCheckpoint": "callbacks",
    "ReduceLROnPlateau": "callbacks",
    "TimeBudget": "callbacks",
    "CSVLogger": "callbacks",
    "GradientNorms": "callbacks",
    "TrainingAccuracy": "callbacks",
    "Metrics": "callbacks",
    "BackupAndRestore": "backup",
    "DivergenceError": "errors",
    "diagnose": "diagnosis",
    "diagnose_history": "diagnosis",
    "find_learning_rate": "rate_test",
    "load_model": "serialization",
    "TableModel": "table_model",
    "save_model": "serialization",
    "export_onnx": "onnx_export",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    from .hints import hint

    meant = hint(("fastmlp",), name)
    if meant and _is_imported_from(sys._getframe(1)):  # which leaves nothing of an AttributeError
        raise ImportError(f"cannot import name {name!r} from 'fastmlp': {meant}.", name="fastmlp")
    text = f"module 'fastmlp' has no attribute {name!r}" + (f": {meant}." if meant else "")
    # with both, Python names what is spelled alike
    raise AttributeError(text, name=name, obj=sys.modules[__name__])


def _is_imported_from(frame):
    """Whether this is where `from fastmlp import ...` stands."""
    import dis

    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["IMPORT_FROM"]


def __dir__():
    return sorted({*globals(), *_HOME})
