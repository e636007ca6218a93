"""Every declared activation, loss, optimiser and initialiser against the twin, finite differences, SciPy and PyTorch.

The tests iterate over the declarations: a new one is tested by being declared, and fails here until the twin has it.
"""

import dataclasses

import numpy as np
import pytest
import reference
import scipy.special
import scipy.stats
from cases import float64_by_default, torch_optimizer

import fastmlp
from fastmlp import (
    Dense,
    Dropout,
    Rescaling,
    activations as activation_module,
    initializers as initializer_module,
    layers as layer_module,
    losses as loss_module,
    optimizers as optimizer_module,
    records,
)
from fastmlp.activations import ACTIVATIONS, ELU, LeakyReLU, Sine
from fastmlp.initializers import INITIALIZERS, Constant, Orthogonal, Scaled, VarianceScaling
from fastmlp.layers import LAYERS
from fastmlp.losses import LOSSES
from fastmlp.optimizers import (
    OF_ALL_ROWS,
    OPTIMIZERS,
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    AMSGrad,
    Lion,
    NAdam,
    RMSprop,
    Rprop,
)

# Each optimiser in the variants that take a different path.
OPTIMIZER_VARIANTS = [
    SGD(0.05),
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01),
    Adam(0.01, beta_1=0.5, beta_2=0.9, epsilon=1e-3),
    AdamW(0.01, weight_decay=0.1),
    NAdam(0.01),
    NAdam(0.01, beta_1=0.5, beta_2=0.9, epsilon=1e-3, momentum_decay=0.0),
    AdaGrad(0.05),
    AMSGrad(0.01, beta_2=0.5),
    AdaMax(0.01, beta_1=0.5, beta_2=0.7),
    AdaDelta(0.5, rho=0.8, epsilon=1e-4),
    RMSprop(0.01),
    RMSprop(0.01, momentum=0.9),
    RMSprop(0.01, rho=0.9, centered=True),
    RMSprop(0.01, rho=0.9, momentum=0.5, centered=True),
    Rprop(0.01),
    Rprop(0.01, eta_minus=0.2, eta_plus=1.9, min_step=0.004, max_step=0.02),
    Lion(0.001),
    Lion(0.001, beta_1=0.8, beta_2=0.95, weight_decay=0.5),
]


def targets_of(loss, rng, n, k):
    """Every kind of targets that the loss accepts, for n rows and k outputs."""
    if loss == "softmax_cross_entropy":
        return [rng.integers(0, k, n), np.eye(k)[rng.integers(0, k, n)], rng.dirichlet(np.ones(k), n)]
    if loss == "binary_cross_entropy":
        return [rng.integers(0, 2, (n, k)).astype(float), rng.uniform(size=(n, k))]
    return [rng.normal(size=(n, k))]


def central_difference(f, x, step=1e-6):
    return (f(x + step) - f(x - step)) / (2 * step)


# Activations


def test_the_twin_has_every_declaration():
    assert set(reference.ACTIVATIONS) == set(ACTIVATIONS)
    losses = reference.LOSSES, reference.MORE_LOSSES, reference.LOSSES_ACROSS_ROWS, reference.LOSSES_OF_QUERIES
    assert {name for some in losses for name in some} == set(LOSSES)
    assert set(reference.OPTIMIZERS) == set(OPTIMIZERS)
    assert {type(o) for o in OPTIMIZER_VARIANTS} == set(OPTIMIZERS.values())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_against_twin_and_finite_differences(name, rng):
    activation = activation_module.get(name)
    value, derivative = reference.ACTIVATIONS[name]
    z = np.concatenate([rng.normal(size=500) * 3, [-700.0, -30.0, 30.0, 700.0]])  # 700: exp is still finite
    a = activation(z)
    argument = a if activation.from_output else z
    np.testing.assert_allclose(a, value(z), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(activation.slope(argument), derivative(z), rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(activation.gradient(z), activation.slope(argument))
    np.testing.assert_allclose(derivative(z), central_difference(value, z), rtol=1e-7, atol=1e-9)


def test_activations_against_scipy(rng):
    z = rng.normal(size=1000) * 10
    np.testing.assert_allclose(ACTIVATIONS["logistic"]()(z), scipy.special.expit(z), rtol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_against_torch(name, rng, torch):
    nn = torch.nn.functional
    functions = {"identity": lambda z: z, "relu": torch.relu, "tanh": torch.tanh, "logistic": torch.sigmoid}
    functions |= {"leaky_relu": nn.leaky_relu, "elu": nn.elu, "selu": nn.selu, "gelu": nn.gelu, "silu": nn.silu}
    functions |= {"gelu_tanh": lambda z: nn.gelu(z, approximate="tanh"), "mish": nn.mish}
    functions |= {"sine": torch.sin, "softplus": nn.softplus, "hard_threshold": lambda z: (z >= 0) + 0.0 * z}
    z = rng.normal(size=300) * 4
    t = torch.tensor(z, requires_grad=True)
    out = functions[name](t)
    out.sum().backward()
    activation = activation_module.get(name)
    a = activation(z)
    np.testing.assert_allclose(a, out.detach().numpy(), rtol=2e-9, atol=1e-13)  # PyTorch's softplus is linear above 20
    derivative = activation.slope(a if activation.from_output else z)
    np.testing.assert_allclose(derivative, t.grad.numpy(), rtol=3e-9, atol=1e-13)


@pytest.mark.parametrize("activation", [LeakyReLU(0.3), LeakyReLU(0), ELU(0.7), Sine(3.0)], ids=repr)
def test_the_parameter_of_an_activation_reaches_the_engine(activation, rng):
    """And another value compiles nothing: it is a number of the record."""
    X, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    model = fastmlp.Sequential(Dense(7), activation, Dense(2), activation, dtype="float64").build(5)
    direction = {name: rng.normal(size=value.shape) for name, value in model.parameters.items()}
    start = model.parameters
    loss, gradients = model.gradients(X, y, "squared_error")

    def along(t):
        model.set_parameters({name: start[name] + t * direction[name] for name in start})
        a = X @ model.parameters["dense_0.weight"] + model.parameters["dense_0.bias"]
        a = activation(a) @ model.parameters["dense_1.weight"] + model.parameters["dense_1.bias"]
        return 0.5 * ((activation(a) - y) ** 2).sum(1).mean()

    np.testing.assert_allclose(loss, along(0.0), rtol=1e-12)
    slope = sum((gradients[name] * direction[name]).sum() for name in start)
    np.testing.assert_allclose(slope, central_difference(along, 0.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: LeakyReLU(-0.1), ValueError, ["negative_slope", "[0, inf)", "-0.1"]),
        (lambda: LeakyReLU(float("nan")), ValueError, ["negative_slope", "nan"]),
        (lambda: ELU(0), ValueError, ["alpha", "(0, inf)", "got 0"]),
        (lambda: ELU(float("inf")), ValueError, ["alpha", "(0, inf)"]),
        (lambda: ELU("x"), TypeError, ["alpha", "'x'"]),
    ],
)
def test_bad_parameters_of_activations(build, error, words):
    with pytest.raises(error) as caught:
        build()
    assert all(word in str(caught.value) for word in words)


# Losses


@pytest.mark.parametrize("name", reference.LOSSES)
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_against_twin_and_finite_differences(name, k, weighted, rng):
    loss, n = loss_module.get(name), 7
    logits = rng.normal(size=(n, k)) * 5
    weights = rng.uniform(0, 2, n) * (np.arange(n) != 3) if weighted else None
    for y in targets_of(name, rng, n, k):
        rows, gradient = reference.LOSSES[name](logits, y)
        np.testing.assert_allclose(loss.value(logits, y, weights), np.average(rows, weights=weights), rtol=1e-12)
        np.testing.assert_allclose(loss.gradient(logits, y), gradient, rtol=1e-10, atol=1e-13)
        direction = rng.normal(size=(n, k))
        slope = central_difference(lambda t: reference.LOSSES[name](logits + t * direction, y)[0], 0.0)  # noqa: B023
        np.testing.assert_allclose((gradient * direction).sum(1), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", reference.LOSSES)
def test_one_output_takes_targets_of_one_dimension(name, rng):
    if name == "softmax_cross_entropy":
        pytest.skip("a softmax of one output is constant")
    y = rng.integers(0, 2, 9)
    logits = rng.normal(size=(9, 1))
    loss = loss_module.get(name)
    np.testing.assert_allclose(loss.value(logits, y), reference.LOSSES[name](logits, y)[0].mean(), rtol=1e-13)


@pytest.mark.parametrize("name", reference.LOSSES)
def test_losses_stay_finite_for_huge_logits(name):
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    y = np.array([[1.0, 0.0], [1.0, 0.0]])
    loss = loss_module.get(name)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(loss.value(logits, y))
        assert np.isfinite(loss.gradient(logits, y)).all()
        assert np.isfinite(loss.output(logits)).all()


def test_outputs_against_scipy(rng):
    logits = rng.normal(size=(20, 5)) * 20
    np.testing.assert_allclose(
        LOSSES["softmax_cross_entropy"]().output(logits), scipy.special.softmax(logits, axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(LOSSES["binary_cross_entropy"]().output(logits), scipy.special.expit(logits), rtol=1e-13)
    assert LOSSES["squared_error"]().output(logits) is logits


@pytest.mark.parametrize("name", reference.LOSSES)
def test_loss_against_torch(name, rng, torch):
    nn = torch.nn.functional
    functions = {
        "softmax_cross_entropy": lambda z, y: nn.cross_entropy(z, y, reduction="none"),
        "binary_cross_entropy": lambda z, y: nn.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1),
        "squared_error": lambda z, y: 0.5 * nn.mse_loss(z, y, reduction="none").sum(1),
    }
    logits = rng.normal(size=(8, 4)) * 3
    for y in targets_of(name, rng, 8, 4):
        z = torch.tensor(logits, requires_grad=True)
        rows = functions[name](z, torch.tensor(y))
        rows.sum().backward()
        loss = loss_module.get(name)
        np.testing.assert_allclose(loss.rows(logits, y), rows.detach().numpy(), rtol=1e-11)
        np.testing.assert_allclose(loss.gradient(logits, y), z.grad.numpy(), rtol=1e-9, atol=1e-13)


# Optimisers: the declaration gives each step's scalars, the engine applies the rule; so they run through a whole model
# of one weight, whose gradient under squared error is p - y: the rule alone is left.


@pytest.mark.parametrize("optimizer", OPTIMIZER_VARIANTS, ids=repr)
def test_optimizer_against_twin(optimizer, rng):
    from fastmlp.training import Training

    model = fastmlp.Sequential(Dense(3), dtype="float64")
    model.build(4, seed=1)
    X, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    twin = reference.Twin(model.layers, model.parameters, "squared_error", optimizer)
    with Training(model, X, y, loss="squared_error", optimizer=optimizer, batch_size=6, shuffle=False) as training:
        for _ in range(10):
            training.run(epochs=1)
            twin.step(X, y)
    for name, value in model.parameters.items():
        assert reference.relative_error(value, twin.parameters[name]) < 1e-12, name


@pytest.mark.parametrize("optimizer", OPTIMIZER_VARIANTS, ids=repr)
def test_twin_optimizer_against_torch(optimizer, rng, torch):
    p = rng.normal(size=(3, 4))
    t = torch.tensor(p, requires_grad=True)
    theirs = torch_optimizer(torch, optimizer, [t], [])
    if theirs is None:
        pytest.skip(f"PyTorch has no {optimizer.name}")
    slots = []
    for step in range(1, 21):
        g = rng.normal(size=p.shape) * 0.1
        t.grad = torch.tensor(g)
        with float64_by_default(torch):
            theirs.step()
        p = reference.update(optimizer, p, g, slots, step)
    np.testing.assert_allclose(p, t.detach().numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZER_VARIANTS, ids=repr)
def test_optimizer_scalars_are_a_table(optimizer):
    table = optimizer.scalars(optimizer.learning_rate, np.arange(1, 6))
    assert table.shape[0] == 5 and table.shape[1] <= records.N_SCALARS - records.RULE
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table[3:], optimizer.scalars(np.full(2, optimizer.learning_rate), np.arange(4, 6)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SGD(-1), ["learning_rate", "-1"]),
        (lambda: SGD(float("nan")), ["learning_rate", "nan"]),
        (lambda: SGD(float("inf")), ["learning_rate", "inf"]),
        (lambda: SGD(0.1, momentum=1.0), ["momentum", "[0, 1)", "1.0"]),
        (lambda: SGD(0.1, momentum=-0.1), ["momentum", "-0.1"]),
        (lambda: Adam(beta_1=1), ["beta_1", "[0, 1)"]),
        (lambda: Adam(beta_2=-0.5), ["beta_2", "-0.5"]),
        (lambda: Adam(epsilon=0), ["epsilon", "[1e-30", "got 0"]),
        (lambda: AdamW(weight_decay=-1), ["weight_decay", "[0, inf)", "-1"]),
        (lambda: NAdam(momentum_decay=-1), ["momentum_decay", "-1"]),
        (lambda: AdaGrad(epsilon=0.0), ["epsilon", "[1e-30", "got 0.0"]),
        (lambda: RMSprop(rho=1.0), ["rho", "[0, 1)", "1.0"]),
        (lambda: RMSprop(momentum=1), ["momentum", "[0, 1)"]),
        (lambda: Lion(beta_2=2), ["beta_2", "2"]),
        (lambda: Rprop(eta_plus=1.0), ["eta_plus", "1.0"]),
        (lambda: Rprop(eta_minus=1.0), ["eta_minus", "1.0"]),
        (lambda: Rprop(min_step=2.0, max_step=1.0), ["min_step", "(0, 1]", "2.0"]),
        (lambda: SGD(clip_value=0), ["clip_value", "(0, inf)", "got 0"]),
        (lambda: SGD(clip_value=float("nan")), ["clip_value", "nan"]),
        (lambda: Dense(0), ["units", "at least 1", "got 0"]),
        (lambda: Dense(-3), ["units", "got -3"]),
        (lambda: Dense(4, kernel_initializer="he_unifrom"), ["kernel_initializer", "Did you mean 'he_uniform'"]),
        (lambda: Dense(4, bias_initializer="auto"), ["bias_initializer", "zeros"]),
        (lambda: Constant(float("inf")), ["value", "inf"]),
        (lambda: initializer_module.Uniform(-1), ["limit", "-1"]),
        (lambda: initializer_module.Normal(-1), ["deviation", "-1"]),
        (lambda: initializer_module.TruncatedNormal(-1), ["deviation", "-1"]),
        (lambda: Orthogonal(-1), ["gain", "-1"]),
        (lambda: VarianceScaling(-1), ["scale", "-1"]),
        (lambda: VarianceScaling(1, "fan"), ["mode", "Did you mean 'fan_"]),
        (lambda: VarianceScaling(1, distribution="gauss"), ["distribution", "'normal'"]),
        (lambda: Scaled("he", 1.0), ["initializer", "'he_normal'"]),
        (lambda: Rescaling(float("nan")), ["scale", "nan"]),
        (lambda: Rescaling(1.0, float("inf")), ["offset", "inf"]),
    ],
)
def test_bad_numbers_are_refused_with_name_value_and_range(build, words):
    with pytest.raises(ValueError) as error:
        build()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Dense("3"),
        lambda: Dense(2.5),
        lambda: Dense(True),
        lambda: SGD("0.1"),
        lambda: SGD(clip_value="1"),
        lambda: Rescaling("x"),
    ],
)
def test_bad_types_are_refused(build):
    with pytest.raises(TypeError, match="must be"):
        build()


# Initialisers


def generators(name):
    """(n_in, n_out, draws): a matrix large enough that its variance is known to a few per cent."""
    return 300, 200, initializer_module.initialize(name, np.random.default_rng(0), 300, 200)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializer_has_its_variance(name):
    n_in, n_out, W = generators(name)
    family = name.split("_")[0]
    variance = {
        "zeros": 0.0,
        "ones": 0.0,
        "truncated": 0.05**2 * scipy.stats.truncnorm(-2, 2).var(),
        "orthogonal": 1 / n_in,
        "uniform": 0.05**2 / 3,
        "normal": 0.05**2,
        "lecun": 1 / n_in,
        "glorot": 2 / (n_in + n_out),
        "he": 2 / n_in,
    }[family]
    assert W.shape == (n_in, n_out)
    assert W.dtype == np.float64
    np.testing.assert_allclose(W.var(), variance, rtol=0.03)
    np.testing.assert_allclose(W.mean(), name == "ones", atol=4 * np.sqrt(variance / W.size))  # four standard errors
    if name.endswith("uniform"):
        assert np.abs(W).max() <= np.sqrt(3 * variance)
        assert np.abs(W).max() > 0.999 * np.sqrt(3 * variance)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializer_reaches_the_model_and_repeats(name):
    def weights(seed):
        return fastmlp.Sequential(Dense(20, kernel_initializer=name)).build(30, seed=seed).parameters["dense_0.weight"]

    assert np.array_equal(weights(3), weights(3))
    assert name in ("zeros", "ones") or not np.array_equal(weights(3), weights(4))


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (9, 5), (1, 4)])
def test_orthogonal_matrices(shape, rng):
    W = Orthogonal(3.0)(rng, *shape)
    product = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(product, 9 * np.eye(min(shape)), atol=1e-13)


def test_orthogonal_matrices_turn_everywhere(rng):
    """Without the correction of signs the diagonal would be mostly negative."""
    traces = [np.trace(Orthogonal()(rng, 3, 3)) for _ in range(2000)]
    assert abs(np.mean(traces)) < 4 / np.sqrt(2000)  # a uniform one's trace has mean 0 and variance 1


def test_initializers_as_objects(rng):
    def drawn(initializer):
        return fastmlp.Sequential(Dense(9, kernel_initializer=initializer)).build(5, seed=3).parameters

    for name, initializer in INITIALIZERS.items():
        assert np.array_equal(drawn(name)["dense_0.weight"], drawn(initializer)["dense_0.weight"])
        halved = drawn(Scaled(name, 0.5))["dense_0.weight"]
        assert np.array_equal(halved, np.float32(0.5) * drawn(name)["dense_0.weight"])
    assert (drawn(Constant(-0.25))["dense_0.weight"] == -0.25).all()
    assert VarianceScaling(3.0, "fan_out")(rng, 400, 300).var() == pytest.approx(3 / 300, rel=0.03)
    model = fastmlp.Sequential(Dense(3, bias_initializer=Constant(2.0)), dtype="float64").build(5)
    assert (model.parameters["dense_0.bias"] == 2).all()
    with pytest.raises(TypeError, match="`initializer` must be one of Constant"):
        initializer_module.to_config(initializer_module.Initializer())
    for config in ({"type": "Orthogonl"}, {"type": "Orthogonal", "gian": 1.0}):
        with pytest.raises(ValueError, match="Did you mean"):
            initializer_module.from_config(config)


def test_an_initializer_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Mine(initializer_module.Initializer):
        wrong: bool = False

        def __call__(self, rng, fan_in, fan_out):
            return np.eye(fan_in + self.wrong, fan_out)

    model = fastmlp.Sequential(Dense(4, kernel_initializer=Mine())).build(4)
    assert np.array_equal(model.parameters["dense_0.weight"], np.eye(4))
    with pytest.raises(ValueError, match=r"wrong=True\) must return .* of shape \(4, 4\); got shape \(5, 4\)"):
        fastmlp.Sequential(Dense(4, kernel_initializer=Mine(True))).build(4)


# Names and configurations, for all four kinds


@pytest.mark.parametrize(
    ("get", "accepted"),
    [
        (activation_module.get, ACTIVATIONS),
        (loss_module.get, LOSSES),
        (optimizer_module.get, OPTIMIZERS),
        (optimizer_module.get_any, OPTIMIZERS | OF_ALL_ROWS),
    ],
    ids=["activation", "loss", "optimizer", "any optimizer"],
)
def test_names_and_objects_are_accepted_and_misspellings_corrected(get, accepted):
    for name, cls in accepted.items():
        assert get(name) == cls()
        assert get(name).name == name
        instance = cls()
        assert get(instance) is instance
        misspelled = name + name[-1]
        with pytest.raises(ValueError, match=f"Did you mean '{name}'") as error:
            get(misspelled)
        assert repr(misspelled) in str(error.value)
        assert all(repr(known) in str(error.value) for known in accepted)


@pytest.mark.parametrize("bad", [None, 3, [], {}], ids=repr)
@pytest.mark.parametrize("get", [activation_module.get, loss_module.get, optimizer_module.get])
def test_things_that_are_no_names_are_refused(get, bad):
    with pytest.raises((ValueError, TypeError), match="must be"):
        get(bad)


@pytest.mark.parametrize(
    "layer",
    [
        Dense(3),
        Dense(5, use_bias=False, kernel_initializer="zeros"),
        Dense(5, kernel_initializer=Scaled(Orthogonal(2.0), 0.5), bias_initializer=Constant(1)),
        Rescaling(0.5, -1),
        Dropout(0.3),
        *(c() for c in ACTIVATIONS.values()),
    ],
    ids=repr,
)
def test_layers_go_through_json_and_back(layer):
    import json

    config = layer_module.to_config(layer)
    assert layer_module.from_config(json.loads(json.dumps(config))) == layer


def test_unknown_layers_and_fields_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'Dense'"):
        layer_module.from_config({"type": "Dens", "units": 3})
    with pytest.raises(ValueError, match="Did you mean 'units'"):
        layer_module.from_config({"type": "Dense", "unit": 3})


@pytest.mark.parametrize(
    "cls", [*LAYERS.values(), *LOSSES.values(), *(OPTIMIZERS | OF_ALL_ROWS).values()], ids=lambda c: c.__name__
)
def test_declarations_are_frozen_documented_data(cls):
    import pickle

    needed = {"Rescaling": (2.0,), "Dropout": (0.5,), "Residual": (layer_module.Softmax(),)}
    needed |= {"AlphaDropout": (0.5,), "GaussianNoise": (0.5,), "RandomAffine": ((2, 3),)}
    needed |= dict.fromkeys(("Dense", "GroupNorm", "GLU", "GEGLU", "SwiGLU", "Maxout"), (3,)) | {"Embedding": (5, 3)}
    arguments = needed.get(cls.__name__, ())
    instance = cls(*arguments)
    assert cls.__doc__
    assert instance == cls(*arguments)
    assert hash(instance) == hash(cls(*arguments))
    assert pickle.loads(pickle.dumps(instance)) == instance
    assert eval(repr(instance), vars(initializer_module) | vars(layer_module) | {cls.__name__: cls}) == instance
    for field in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, field.name, 1)
