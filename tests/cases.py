"""Training problems of every shape and kind, drawn by hypothesis; a case prints as the arguments that repeat it."""

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import reference
import scipy.sparse
from hypothesis import settings, strategies as st

from fastmlp import (
    SGD,
    ActivityRegularization,
    AdaDelta,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    AMSGrad,
    CutMix,
    Dense,
    Dropout,
    Embedding,
    GaussianNoise,
    GroupNorm,
    MixUp,
    NAdam,
    RandomAffine,
    ReLU,
    Rescaling,
    Residual,
    RMSprop,
    Sequential,
    activations,
)
from fastmlp.layers import LAYERS
from fastmlp.training import Training

# Vector kernels have tails at widths around powers of two; 1 and 2 have kernels of their own.
WIDTHS = st.one_of(st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65]), st.integers(1, 70))
# csr and csr64 have so many entries that rows are gathered; those of the others are multiplied as they are
SOURCES = ["float32", "float64", "uint8", "csr", "csr64", "sparse", "sparse64", "memmap", "fortran"]
# Adam divides by sqrt(v): where a gradient cancels to rounding noise its step is noise of full size. An epsilon above
# that noise makes float32 comparable with the twin; small epsilons are tested in float64.
OPTIMIZERS = [
    SGD(0.01),
    SGD(0.003, momentum=0.9),
    SGD(0.005, momentum=0.5, nesterov=True),
    Adam(0.01, epsilon=1e-2),
    Adam(0.003, beta_1=0.5, beta_2=0.99, epsilon=1e-2),
    SGD(0.02, momentum=0.5, clip_value=0.05),
    AdamW(0.01, epsilon=1e-2, weight_decay=0.1, clip_value=0.5),
    AdamW(0.01, epsilon=1e-2, weight_decay=0.1, clip_norm=0.5),
    NAdam(0.01, epsilon=1e-2),
    AdaGrad(0.02, epsilon=1e-2),
    AMSGrad(0.01, epsilon=1e-2),
    AdaMax(0.01, epsilon=1e-2),
    AdaDelta(0.1, epsilon=1e-2),
    RMSprop(0.003, rho=0.9, momentum=0.5, epsilon=1e-2),
    RMSprop(0.003, rho=0.9, epsilon=1e-2),
]


@contextmanager
def float64_by_default(torch):
    """PyTorch's NAdam keeps the product of its momenta in the default dtype, whatever the parameters'."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def torch_optimizer(torch, optimizer, weights, biases):
    """PyTorch's optimiser for these tensors, or None where it has none."""
    o, groups = optimizer, [{"params": list(weights)}, {"params": list(biases), "weight_decay": 0.0}]
    adam = {"betas": (getattr(o, "beta_1", 0), getattr(o, "beta_2", 0)), "eps": getattr(o, "epsilon", 0)}
    kinds = {
        "sgd": lambda: torch.optim.SGD(groups, o.learning_rate, o.momentum, nesterov=o.nesterov),
        "adam": lambda: torch.optim.Adam(groups, o.learning_rate, **adam),
        "adamw": lambda: torch.optim.AdamW(groups, o.learning_rate, weight_decay=o.weight_decay, **adam),
        "amsgrad": lambda: torch.optim.Adam(groups, o.learning_rate, amsgrad=True, **adam),
        "adamax": lambda: torch.optim.Adamax(groups, o.learning_rate, **adam),
        "adadelta": lambda: torch.optim.Adadelta(groups, o.learning_rate, o.rho, o.epsilon),
        "rprop": lambda: torch.optim.Rprop(
            [*weights, *biases], o.learning_rate, (o.eta_minus, o.eta_plus), (o.min_step, o.max_step)
        ),
        "nadam": lambda: torch.optim.NAdam(groups, o.learning_rate, momentum_decay=o.momentum_decay, **adam),
        "adagrad": lambda: torch.optim.Adagrad(groups, o.learning_rate, eps=o.epsilon),
        "rmsprop": lambda: torch.optim.RMSprop(
            groups, o.learning_rate, o.rho, o.epsilon, momentum=o.momentum, centered=o.centered
        ),
    }
    return kinds[o.name]() if o.name in kinds else None


def examples(n):
    """Decorator: n examples, or as many times more as the profile asks for (40 is the usual number)."""
    return settings(max_examples=n * settings.default.max_examples // 40)


@dataclass(frozen=True)
class Case:
    """A network, its data and how it is trained."""

    n: int
    n_features: int
    units: tuple
    activations: tuple
    loss: str
    optimizer: object
    batch_size: int
    source: str = "float32"
    dtype: str = "float64"
    weights: str = "none"
    dense_targets: bool = False
    use_bias: bool = True
    last_activation: bool = False
    l2: float = 0.0
    activity: float = 0.0  # a penalty behind the first activation, or of the logits
    seed: int = 0

    def model(self):
        layers = [Rescaling(1 / 255, -0.25)] if self.source == "uint8" else []
        for units, name in zip(self.units, self.activations, strict=True):
            layers += [Dense(units, use_bias=self.use_bias, bias_initializer="normal"), activations.get(name)]
        layers = layers if self.last_activation else layers[:-1]
        if self.activity:
            layers.insert(
                2 + isinstance(layers[0], Rescaling), ActivityRegularization(self.activity, self.activity / 2)
            )
        return Sequential(*layers, dtype=self.dtype).build(self.n_features, seed=self.seed)

    def data(self):
        """X as the source says, y as the loss takes it, sample weights or None."""
        rng = np.random.default_rng(self.seed)
        k = self.units[-1]
        X = self.as_source(rng.normal(size=(self.n, self.n_features)), rng)
        if self.loss == "softmax_cross_entropy":
            y = rng.dirichlet(np.ones(k), self.n) if self.dense_targets else rng.integers(0, k, self.n)
        elif self.loss == "binary_cross_entropy":
            y = rng.integers(0, 2, (self.n, k)).astype(float)
        else:
            y = rng.normal(size=(self.n, k))
        return X, y, self.sample_weight(rng)

    def as_source(self, X, rng):
        if self.source == "uint8":
            return rng.integers(0, 256, X.shape, dtype=np.uint8)
        if self.source == "fortran":
            return np.asfortranarray(X)
        if self.source in ("csr", "csr64", "sparse", "sparse64"):
            share = 0.3 if self.source.startswith("csr") else 0.05
            sparse = scipy.sparse.csr_matrix(np.where(rng.uniform(size=X.shape) < share, X, 0))
            if self.source.endswith("64"):
                sparse.indices, sparse.indptr = sparse.indices.astype(np.int64), sparse.indptr.astype(np.int64)
            return sparse
        if self.source == "memmap":
            # the mapping outlives the name, but on Windows, where such files cannot be deleted
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                path = Path(folder) / "X.npy"
                np.save(path, X.astype(np.float32))
                return np.load(path, mmap_mode="r")
        return X.astype(self.source)

    def sample_weight(self, rng):
        if self.weights == "none":
            return None
        w = rng.uniform(0.1, 3, self.n)
        if self.weights == "zeros":
            w[rng.uniform(size=self.n) < 0.3] = 0
            w[rng.integers(self.n)] = 1  # never all of them: the door refuses that
        return w

    def twin(self, model):
        return reference.Twin(model.layers, model.parameters, self.loss, self.optimizer, self.l2)


@st.composite
def cases(draw, dtypes=("float64", "float32"), sources=SOURCES):
    """Any case; batches whose weights are all zero occur."""
    loss = draw(st.sampled_from(sorted(reference.LOSSES)))
    hidden = draw(st.lists(WIDTHS, min_size=0, max_size=3))
    k = draw(st.one_of(st.integers(1, 5), WIDTHS))
    units = (*hidden, max(k, 2) if loss == "softmax_cross_entropy" else k)
    # kernels take long batches in chunks of 128 rows
    n = draw(st.one_of(st.integers(1, 40), st.integers(1, 40), st.sampled_from([127, 128, 129, 257, 300])))
    batch_size = draw(st.integers(1, n))
    return Case(
        n=n,
        n_features=draw(st.one_of(WIDTHS, st.integers(1, 100))),
        units=units,
        activations=tuple(draw(st.sampled_from(sorted(reference.ACTIVATIONS))) for _ in units),
        loss=loss,
        optimizer=draw(st.sampled_from(OPTIMIZERS)),
        batch_size=batch_size,
        source=draw(st.sampled_from(sources)),
        dtype=draw(st.sampled_from(dtypes)),
        weights=draw(st.sampled_from(["none", "positive", "zeros"])),
        dense_targets=draw(st.booleans()),
        use_bias=draw(st.sampled_from([True, True, False])),
        last_activation=draw(st.sampled_from([False, False, False, True])),
        l2=draw(st.sampled_from([0.0, 0.0, 0.1])),
        activity=draw(st.sampled_from([0.0, 0.0, 0.1])),
        seed=draw(st.integers(0, 1000)),
    )


def train(case, epochs=2, n_threads=1, **options):
    """Train a new model of the case in order; returns (parameters, losses)."""
    model, (X, y, weights) = case.model(), case.data()
    arguments = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": case.batch_size, "l2": case.l2}
    arguments |= {"sample_weight": weights, "n_threads": n_threads, "shuffle": False} | options
    with Training(model, as_engine(X), as_targets(case, y), **arguments) as training:
        losses = training.run(epochs=epochs)
    return model.parameters, losses


def poison(executor):
    """NaN wherever a step's values will be; the guards between them are written again."""
    executor.workspace.view(executor.plan.dtype)[:] = np.nan
    executor.fill_guards()


def run_guarded(training, epochs, poisoned=True):
    """What `run` gives, of a plan with guards, over which nothing was written."""
    training.executor.fill_guards()
    if poisoned:
        poison(training.executor)
    losses = training.run(epochs)
    assert training.executor.guards_intact()
    return losses


def as_engine(X):
    """What the door does with a Fortran-ordered array; everything else passes as it is."""
    return np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X


def as_targets(case, y):
    return y if y.ndim == 1 else y.astype(case.dtype)


# One of each layer
WITH_ARGUMENTS = {
    "Dense": lambda: Dense(6, use_bias=False),
    "Dropout": lambda: Dropout(0.5),
    "AlphaDropout": lambda: LAYERS["AlphaDropout"](0.5),
    "GroupNorm": lambda: GroupNorm(2),
    "Residual": lambda: Residual(Dense(6), ReLU(), drop_rate=0.5),
    "GLU": lambda: LAYERS["GLU"](6),
    "GEGLU": lambda: LAYERS["GEGLU"](6),
    "SwiGLU": lambda: LAYERS["SwiGLU"](6),
    "Maxout": lambda: LAYERS["Maxout"](6, pieces=3),
}
FIRST = {
    "Rescaling": lambda: Rescaling(1 / 16, -0.5),
    "Normalization": lambda: LAYERS["Normalization"](),
    "GaussianNoise": lambda: GaussianNoise(0.1),
    "RandomAffine": lambda: RandomAffine((2, 3)),
    "MixUp": lambda: MixUp(0.2),
    "CutMix": lambda: CutMix(1.0),
    "Embedding": lambda: Embedding([3, 4], 2, columns=[4, 1]),
}


def layer_of(name):
    return {**WITH_ARGUMENTS, **FIRST}.get(name, LAYERS[name])()


def with_codes(layers, X):
    """X, with codes in the columns where an embedding among the layers takes them."""
    X, rng = np.array(X), np.random.default_rng(3)
    if isinstance(layers[0], Embedding):
        for column, count, _ in layers[0].coded(X.shape[1]):
            X[:, column] = rng.integers(0, count, len(X))
    return X


def drawn(model, n_features=6):
    """The model with parameters of which none is 0 or 1, as after a training."""
    rng = np.random.default_rng(1)
    model.build(n_features)
    model.set_parameters(
        {name: np.abs(array + 0.3 * rng.standard_normal(array.shape)) for name, array in model.parameters.items()}
    )
    return model
