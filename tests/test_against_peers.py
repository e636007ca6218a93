"""Training runs against PyTorch and scikit-learn's own MLP, from equal parameters over equal batches."""

import warnings

import numpy as np
import pytest
import reference
from cases import OPTIMIZERS, Case, float64_by_default, torch_optimizer, train

from fastmlp import SGD, Adam, BatchNorm, Dense, Sequential, initializers, losses
from fastmlp.training import Training


def torch_run(torch, case, batches, epochs):
    """PyTorch's parameters after the same batches, in float64."""
    nn = torch.nn
    modules = {"identity": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid}
    widths, layers = (case.n_features, *case.units), []
    for i, name in enumerate(case.activations):
        layers += [nn.Linear(widths[i], widths[i + 1], dtype=torch.float64), modules[name]()]
    net = nn.Sequential(*layers[:-1])
    p = case.model().parameters
    with torch.no_grad():
        for i, layer in enumerate(net[::2]):
            layer.weight.copy_(torch.tensor(p[f"dense_{i}.weight"].T.copy()))
            layer.bias.copy_(torch.tensor(p[f"dense_{i}.bias"]))
    functional = nn.functional
    linear = net[::2]
    theirs = torch_optimizer(torch, case.optimizer, [z.weight for z in linear], [z.bias for z in linear])
    loss = {
        "softmax_cross_entropy": functional.cross_entropy,
        "binary_cross_entropy": lambda z, y: (
            functional.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1).mean()
        ),
        "squared_error": lambda z, y: 0.5 * ((z - y) ** 2).sum(1).mean(),
    }[case.loss]
    X, y, _ = case.data()
    X, y = torch.tensor(X, dtype=torch.float64), torch.tensor(y)
    for _ in range(epochs):
        for rows in batches:
            theirs.zero_grad()
            loss(net(X[rows]), y[rows]).backward()
            if case.optimizer.clip_value is not None:
                nn.utils.clip_grad_value_(net.parameters(), case.optimizer.clip_value)
            if case.optimizer.clip_norm is not None:
                nn.utils.clip_grad_norm_(net.parameters(), case.optimizer.clip_norm)
            with float64_by_default(torch):
                theirs.step()
    values = {}
    for i, layer in enumerate(net[::2]):
        values[f"dense_{i}.weight"] = layer.weight.detach().numpy().T
        values[f"dense_{i}.bias"] = layer.bias.detach().numpy()
    return values


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize(
    ("loss", "activation"),
    [("softmax_cross_entropy", "relu"), ("binary_cross_entropy", "tanh"), ("squared_error", "logistic")],
)
def test_against_torch(torch, loss, activation, optimizer, dtype):
    case = Case(50, 13, (24, 9, 4), (activation, activation, "identity"), loss, optimizer, 16, "float64", dtype)
    expected = torch_run(torch, case, reference.in_order(50, 16), epochs=4)
    parameters, _ = train(case, epochs=4)
    for name, value in expected.items():
        assert reference.relative_error(parameters[name], value) < (1e-11 if dtype == "float64" else 1e-5), name


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "relu", "tanh"])
@pytest.mark.parametrize("loss", sorted(reference.LOSSES))
def test_against_scikit_learn(loss, activation, solver, weighted):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    optimizer = {"sgd": SGD(0.05, 0.9), "nesterov": SGD(0.05, 0.9, True), "adam": Adam(0.01, epsilon=1e-13)}[solver]
    k = 1 if loss == "binary_cross_entropy" else 3
    case = Case(40, 7, (11, k), (activation, "identity"), loss, optimizer, 12, "float64", l2=0.3)
    X, y, _ = case.data()
    weights = np.random.default_rng(0).uniform(0.2, 2, 40) if weighted else None
    options = {"hidden_layer_sizes": (11,), "activation": activation, "alpha": case.l2, "shuffle": False}
    options |= {"learning_rate_init": optimizer.learning_rate, "solver": "adam" if solver == "adam" else "sgd"}
    options |= {"nesterovs_momentum": solver == "nesterov", "momentum": 0.9, "batch_size": 12, "epsilon": 1e-13}
    if loss == "squared_error":
        theirs, first = MLPRegressor(**options), {}
    else:
        y = y.ravel().astype(int)
        theirs, first = MLPClassifier(**options), {"classes": np.unique(y)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn clips the batch size of this first call, which only makes arrays
        theirs.partial_fit(X[:1], y[:1], **first)
    del theirs._optimizer
    p = case.model().parameters
    theirs.coefs_ = [p[f"dense_{i}.weight"] for i in range(2)]
    theirs.intercepts_ = [p[f"dense_{i}.bias"] for i in range(2)]
    for _ in range(3):
        theirs.partial_fit(X, y, sample_weight=weights)

    model = case.model()
    targets = y if loss == "softmax_cross_entropy" else y.reshape(40, -1).astype(float)
    arguments = {"loss": loss, "optimizer": optimizer, "batch_size": 12, "l2": case.l2, "shuffle": False}
    with Training(model, X, targets, sample_weight=weights, **arguments) as training:
        training.run(epochs=3)
    tolerance = 1e-8  # scikit-learn adds Adam's epsilon before the correction of v: equal as far as epsilon is small
    for i in range(2):
        assert reference.relative_error(model.parameters[f"dense_{i}.weight"], theirs.coefs_[i]) < tolerance
        assert reference.relative_error(model.parameters[f"dense_{i}.bias"], theirs.intercepts_[i]) < tolerance


# What docs/pytorch.md says of differences ----------------------------------------------------------------------------


def test_losses_beside_pytorch_s(rng):
    torch = pytest.importorskip("torch")
    z, y, codes = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    t, share = torch.tensor(z), torch.tensor(1 / (1 + np.exp(-y)))
    F, smooth = torch.nn.functional, losses.SoftmaxCrossEntropy(label_smoothing=0.1)
    same = {
        smooth.value(z, codes): F.cross_entropy(t, torch.tensor(codes), label_smoothing=0.1),
        losses.get("squared_error").value(z, y): 3 / 2 * F.mse_loss(t, torch.tensor(y)),
        losses.get("absolute_error").value(z, y): 3 * F.l1_loss(t, torch.tensor(y)),
        losses.get("binary_cross_entropy").value(z, share.numpy()): 3 * F.binary_cross_entropy_with_logits(t, share),
        losses.Huber(0.7).value(z, y): 3 * F.huber_loss(t, torch.tensor(y), delta=0.7),
    }
    for ours, theirs in same.items():
        np.testing.assert_allclose(ours, theirs.item(), rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_l2_penalty_is_half_of_pytorch_s_weight_decay(momentum, rng):
    torch = pytest.importorskip("torch")
    X, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 1))
    model = Sequential(Dense(1, l2=0.3 / 2), dtype="float64").build(4, seed=1)
    linear = torch.nn.Linear(4, 1, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(model.parameters["dense_0.weight"].T))
        linear.bias.zero_()
    groups = [{"params": [linear.weight], "weight_decay": 0.3}, {"params": [linear.bias]}]
    optimizer = torch.optim.SGD(groups, 0.05, momentum)
    for _ in range(5):
        optimizer.zero_grad()
        (0.5 * torch.nn.functional.mse_loss(linear(torch.tensor(X)), torch.tensor(y))).backward()
        optimizer.step()
    options = {"batch_size": 20, "epochs": 5, "shuffle": False, "verbose": 0}
    model.fit(X, y, loss="squared_error", optimizer=SGD(0.05, momentum=momentum), **options)
    np.testing.assert_allclose(model.parameters["dense_0.weight"].T, linear.weight.detach().numpy(), rtol=1e-10)


def test_first_weights_like_pytorch_s():
    torch = pytest.importorskip("torch")
    own = initializers.VarianceScaling(1 / 3, "fan_in", "uniform")(np.random.default_rng(0), 400, 300)
    linear = torch.nn.Linear(400, 300)
    for weights in (own, linear.weight.detach().numpy()):
        assert 0.049 < np.abs(weights).max() <= 400**-0.5 + 1e-7
        np.testing.assert_allclose(weights.std(), 0.05 / np.sqrt(3), rtol=0.02)


def test_running_averages_of_batch_norm_beside_pytorch_s(rng):
    torch = pytest.importorskip("torch")
    X, n = rng.normal(size=(10, 3)), 10
    model = Sequential(BatchNorm(momentum=0.9), Dense(1), dtype="float64").build(3)
    model.fit(X, np.zeros(n), loss="squared_error", batch_size=n, verbose=0)
    norm = torch.nn.BatchNorm1d(3, momentum=0.1, dtype=torch.float64)
    norm(torch.tensor(X))
    np.testing.assert_allclose(model.parameters["batch_norm_0.running_mean"], norm.running_mean, rtol=1e-10)
    of_n = 0.9 + (norm.running_var - 0.9) * (n - 1) / n
    np.testing.assert_allclose(model.parameters["batch_norm_0.running_var"], of_n, rtol=1e-10)
