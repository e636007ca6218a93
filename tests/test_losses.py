"""Losses with numbers of their own, or with other targets than outputs: the NumPy form and the engine against the twin,
finite differences and PyTorch; targets and outputs that do not fit; models that keep their loss."""

import numpy as np
import pytest
import reference
import scipy.special
from cases import examples
from hypothesis import given, strategies as st

from fastmlp import SGD, Adam, Dense, DivergenceError, MLPRegressor, Sequential, Tanh, losses
from fastmlp.engine import jit
from fastmlp.losses import (
    LOSSES,
    AbsoluteError,
    BinaryCrossEntropy,
    Focal,
    Gaussian,
    GivenGradient,
    Hinge,
    Huber,
    NegativeBinomial,
    Ordinal,
    Poisson,
    QuantileLoss,
    SoftmaxCrossEntropy,
    SoftmaxFocal,
)

VARIANTS = [
    AbsoluteError(),
    Huber(),
    Huber(0.3),
    Poisson(),
    NegativeBinomial(),
    NegativeBinomial(0.2),
    Focal(),
    Focal(0.5),
    Focal(alpha=0.25),
    Focal(0.0, alpha=1.0),
    QuantileLoss(),
    QuantileLoss((0.05, 0.25, 0.5, 0.75, 0.95)),
    Gaussian(),
    Gaussian(0.1),
    Hinge(),
    SoftmaxFocal(),
    SoftmaxFocal(0.5),
    Ordinal(),
    GivenGradient(),
]
SMOOTH = [
    SoftmaxCrossEntropy(0.1),
    SoftmaxCrossEntropy(1.0),
    BinaryCrossEntropy(0.2),
    BinaryCrossEntropy(pos_weight=7.0),
    BinaryCrossEntropy(0.1, pos_weight=0.3),
]


def outputs_of(loss, k):
    special = {"quantile": len(getattr(loss, "quantiles", ())), "gaussian": 2 * k, "softmax_focal": max(k, 2)}
    return special.get(loss.name, k)


def targets_of(loss, rng, n, n_outputs):
    """(n, columns), as the loss takes them."""
    shape = (n, loss.target_columns(n_outputs))
    if loss.name in ("hinge", "softmax_focal"):
        return rng.integers(0, max(n_outputs, 2), shape).astype(float)
    if loss.name == "ordinal":
        return rng.integers(0, n_outputs + 1, shape).astype(float)
    if loss.classification:
        return rng.uniform(size=shape)
    return (
        rng.poisson(2.0, shape).astype(float)
        if loss.name in ("poisson", "negative_binomial")
        else rng.normal(size=shape)
    )


def twin_of(loss, z, y):
    if loss in SMOOTH:
        s, k = loss.label_smoothing, z.shape[1]
        if loss.name.startswith("softmax"):
            return reference.LOSSES[loss.name](z, y * (1 - s) + s / k)
        return reference.binary_cross_entropy(z, y * (1 - s) + s / 2, loss.pos_weight)
    return reference.MORE_LOSSES[loss.name](z, y, **vars(loss))


def test_every_loss_is_tested():
    assert {loss.name for loss in VARIANTS} == set(reference.MORE_LOSSES)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("loss", VARIANTS, ids=repr)
def test_numpy_against_twin_and_finite_differences(loss, k, rng):
    z = rng.normal(size=(30, outputs_of(loss, k))) * 2
    y = targets_of(loss, rng, *z.shape)
    rows, gradient = twin_of(loss, z, y)
    np.testing.assert_allclose(loss.rows(z, y), rows, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(loss.gradient(z, y), gradient, rtol=1e-9, atol=1e-13)
    direction = rng.normal(size=z.shape)
    slope = (twin_of(loss, z + 1e-6 * direction, y)[0] - twin_of(loss, z - 1e-6 * direction, y)[0]) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum(1), slope, rtol=1e-5, atol=1e-7)


@examples(120)
@given(
    st.sampled_from(VARIANTS + SMOOTH),
    st.sampled_from([1, 2, 3, 8, 15, 16, 17, 33, 70]),
    st.sampled_from([1, 2, 7, 129]),
    st.sampled_from(["float64", "float32"]),
    st.booleans(),
)
def test_engine_against_twin(loss, k, n, dtype, weighted):
    rng = np.random.default_rng(n + k)
    softmax = loss.name == "softmax_cross_entropy"
    model = Sequential(Dense(4), Tanh(), Dense(outputs_of(loss, max(k, 1 + softmax))), dtype=dtype).build(3, seed=k)
    X = rng.normal(size=(n, 3)).astype(dtype)
    y = rng.dirichlet(np.ones(model.n_outputs), n) if softmax else targets_of(loss, rng, n, model.n_outputs)
    weights = rng.uniform(0.1, 2, n) if weighted else np.ones(n)
    z = reference.forward(model.layers, {p: a.astype(float) for p, a in model.parameters.items()}, X)[0]
    rows, gradient = twin_of(loss, z, y.astype(dtype))
    value, gradients = model.gradients(X, y, loss, weights if weighted else None)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    share = weights / n
    np.testing.assert_allclose(value, share @ rows, rtol=tolerance, atol=tolerance / 10)
    np.testing.assert_allclose(gradients["dense_1.bias"], share @ gradient, rtol=tolerance, atol=tolerance / 10)


def test_codes_are_smoothed_as_one_hot_rows(rng):
    model = Sequential(Dense(35), dtype="float64").build(3)
    X, y = rng.normal(size=(20, 3)), rng.integers(0, 35, 20)
    loss = SoftmaxCrossEntropy(label_smoothing=0.3)
    codes, dense = model.gradients(X, y, loss), model.gradients(X, np.eye(35)[y], loss)
    np.testing.assert_allclose(codes[0], dense[0], rtol=1e-13)
    for name, g in codes[1].items():
        np.testing.assert_allclose(g, dense[1][name], rtol=1e-12, atol=1e-15)


def test_against_torch(rng, torch):
    nn = torch.nn.functional
    z, y, counts, codes = (
        rng.normal(size=(9, 4)),
        rng.normal(size=(9, 4)),
        rng.poisson(2.0, (9, 4)) * 1.0,
        [0, 1, 2] * 3,
    )
    constant = scipy.special.xlogy(counts, counts) - counts
    none = {"reduction": "none"}
    t_codes = torch.tensor(codes)
    for loss, target, theirs in [
        (AbsoluteError(), y, lambda t, u: nn.l1_loss(t, u, **none).sum(1)),
        (Huber(0.7), y, lambda t, u: nn.huber_loss(t, u, delta=0.7, **none).sum(1)),
        (Poisson(), counts, lambda t, u: (nn.poisson_nll_loss(t, u, **none) + torch.tensor(constant)).sum(1)),
        (
            Gaussian(),
            y[:, :2],
            lambda t, u: nn.gaussian_nll_loss(t[:, :2], u, nn.softplus(t[:, 2:]) + 1e-6, eps=1e-12, **none).sum(1),
        ),
        (SoftmaxCrossEntropy(0.1), codes, lambda t, u: nn.cross_entropy(t, t_codes, label_smoothing=0.1, **none)),
    ]:
        t = torch.tensor(z, requires_grad=True)
        rows = theirs(t, torch.tensor(target))
        rows.sum().backward()
        np.testing.assert_allclose(loss.rows(z, target), rows.detach().numpy(), rtol=1e-10)
        np.testing.assert_allclose(loss.gradient(z, target), t.grad.numpy(), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", VARIANTS + SMOOTH, ids=repr)
def test_far_out_logits_stay_finite(loss, dtype):
    k = outputs_of(loss, 3)
    model = Sequential(Dense(k, use_bias=False), dtype=dtype).build(1)
    model.set_parameters({"dense_0.weight": [np.where(np.arange(k) % 2, 1e4, -1e4)]})
    X, y = np.array([[1.0], [-1.0]]), np.zeros((2, loss.target_columns(k)))
    y = np.zeros(2, int) if loss.name == "softmax_cross_entropy" else y
    value, gradients = model.gradients(X, y, loss)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_allclose(value, loss.value(model.logits(X), y), rtol=1e-5)
        assert np.isfinite(loss.output(model.logits(X))).all()
    assert np.isfinite(gradients["dense_0.weight"]).all()


@pytest.mark.parametrize("loss", VARIANTS, ids=repr)
def test_a_fit_repeats_to_the_bit_and_survives_saving(loss, rng, tmp_path):
    X, k = rng.normal(size=(300, 5)), outputs_of(loss, 3)
    y = targets_of(loss, rng, 300, k)
    fits = []
    for n_threads in (1, 2):
        model = Sequential(Dense(8), Tanh(), Dense(k))
        history = model.fit(X, y, loss=loss, epochs=8, optimizer=SGD(0.02), n_threads=n_threads, verbose=0)
        fits.append(model.parameters)
    assert history["loss"][-1] < history["loss"][0]
    assert all(np.array_equal(fits[0][name], fits[1][name]) for name in fits[0])
    np.testing.assert_allclose(model.evaluate(X, y)["loss"], loss.value(model.logits(X), y), rtol=1e-6)
    model.save(tmp_path / "model.safetensors")
    loaded = Sequential.load(tmp_path / "model.safetensors")
    assert loaded.loss == loss
    assert np.array_equal(loaded.predict(X), model.predict(X))


@pytest.mark.parametrize("loss", VARIANTS, ids=repr)
def test_an_infinite_logit_stops_the_fit(loss):
    k = outputs_of(loss, 2)
    model = Sequential(Dense(k)).build(1)
    model.set_parameters({"dense_0.weight": np.full((1, k), 3e38)})
    with pytest.raises(DivergenceError):
        model.fit([[3e38], [-3e38]], np.zeros((2, loss.target_columns(k))), loss=loss, verbose=0)


@pytest.mark.parametrize("loss", ["hinge", "softmax_focal", "ordinal", "softmax_cross_entropy"])
@pytest.mark.parametrize("unit", [1, 5, 6])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_infinite_logit_of_another_class_stops_the_fit(loss, unit, sign):
    """A maximum passes over it, and a margin to minus infinity is large enough."""
    model, W = Sequential(Dense(8), dtype="float32").build(1), np.zeros((1, 8))
    W[0, unit] = sign * 1e30
    model.set_parameters({"dense_0.weight": W})
    with pytest.raises(DivergenceError):
        model.fit(np.full((8, 1), 1e20, np.float32), np.full(8, 7), loss=loss, epochs=1, batch_size=8, verbose=0)


def test_the_first_of_equal_rivals_is_pushed_down():
    """In the engine as in NumPy: the bias's gradient is that of the logits."""
    logits, y = np.array([[2.0, 3.0, 1.0, 3.0, 3.0, 0.0]]), [0]
    model = Sequential(Dense(6), dtype="float32").build(1)
    model.set_parameters({"dense_0.weight": logits * 0, "dense_0.bias": logits[0]})
    _, gradients = model.gradients([[1.0]], y, loss="hinge")
    assert gradients["dense_0.bias"].tolist() == [-1, 1, 0, 0, 0, 0]
    assert losses.Hinge().gradient(logits, y).tolist() == [[-1, 1, 0, 0, 0, 0]]


def test_another_number_compiles_nothing(rng, monkeypatch):
    X, y = rng.normal(size=(9, 2)), rng.uniform(size=(9, 1))
    model = Sequential(Dense(3)).build(2)
    model.gradients(X, y, QuantileLoss())
    Sequential(Dense(1)).build(2).gradients(X, y, Huber())
    monkeypatch.setattr(jit, "_compile", lambda *a: pytest.fail("compiled"))
    model.gradients(X, y, QuantileLoss((0.2, 0.3, 0.4)))
    Sequential(Dense(1)).build(2).gradients(X, y, Huber(3.0))


def test_outputs_are_what_the_losses_mean():
    z = np.array([[2.0, -1.0]])
    assert QuantileLoss((0.2, 0.8)).output(z).tolist() == [[-1.0, 2.0]]
    np.testing.assert_allclose(Poisson().output(z), np.exp(z))
    np.testing.assert_allclose(NegativeBinomial().output(z), np.exp(z))
    np.testing.assert_allclose(Gaussian(0.5).output(z), [[2.0, np.log1p(np.exp(-1.0)) + 0.5]])
    np.testing.assert_allclose(Focal().output(z), scipy.special.expit(z))
    np.testing.assert_allclose(SoftmaxFocal().output(z), scipy.special.softmax(z, axis=1))
    p, q = scipy.special.expit(z[0])
    np.testing.assert_allclose(Ordinal().output(z), [[1 - p, p * (1 - q), p * q]])


def test_weights_of_a_yes_against_torch(rng, torch):
    z, y = rng.normal(size=(9, 4)) * 3, rng.integers(0, 2, (9, 4)) * 1.0
    for scale in (1.0, 30.0):  # saturated, too
        own = torch.tensor(z * scale, requires_grad=True)
        weight = torch.tensor(5.0, dtype=torch.float64)
        theirs = torch.nn.functional.binary_cross_entropy_with_logits(
            own, torch.tensor(y), pos_weight=weight, reduction="sum"
        )
        theirs.backward()
        loss = BinaryCrossEntropy(pos_weight=5.0)
        np.testing.assert_allclose(loss.rows(z * scale, y).sum(), theirs.item(), rtol=1e-12)
        np.testing.assert_allclose(loss.gradient(z * scale, y), own.grad.numpy(), rtol=1e-10, atol=1e-300)
    tail = BinaryCrossEntropy(pos_weight=3.0).rows(np.array([[40.0], [-40.0]]), np.array([[1.0], [0.0]]))
    np.testing.assert_allclose(tail, [3 * np.exp(-40.0), np.exp(-40.0)], rtol=1e-12)  # nothing cancels


def test_a_rare_label_among_several_is_found_with_a_weight(rng):
    """The mean of the probabilities is w q / (w q + 1 - q) for a share q of yes."""
    X, y = np.zeros((4000, 1)), (rng.uniform(size=(4000, 2)) < [0.02, 0.5]).astype(float)
    model = Sequential(Dense(2), dtype="float64")
    model.fit(X, y, loss=BinaryCrossEntropy(pos_weight=49.0), optimizer="lbfgs", epochs=50)
    q = y.mean(axis=0)
    np.testing.assert_allclose(model.predict(X[:1])[0], 49 * q / (49 * q + 1 - q), rtol=1e-3)


def test_focal_without_focus_is_cross_entropy(rng):
    z, y = rng.normal(size=(20, 5)), rng.integers(0, 5, 20)
    focal, plain = SoftmaxFocal(0.0), SoftmaxCrossEntropy()
    np.testing.assert_allclose(focal.rows(z, y), plain.rows(z, y), rtol=1e-12)
    np.testing.assert_allclose(focal.gradient(z, y), plain.gradient(z, y), rtol=1e-12, atol=1e-15)


def test_ordinal_learns_the_order_and_its_probabilities_are_monotone(rng):
    X = rng.uniform(-2, 2, size=(400, 1))
    y = np.digitize(X.ravel(), [-1.0, 0.0, 1.0])
    model = Sequential(Dense(16), Tanh(), Dense(3))
    model.fit(X, y, loss="ordinal", optimizer=Adam(0.02), epochs=40, verbose=0, validation_data=(X, y))
    p = model.predict(X)
    assert p.shape == (400, 4) and model.evaluate(X, y)["accuracy"] == (p.argmax(1) == y).mean() > 0.95
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    above = 1 - np.cumsum(p, axis=1)
    assert (np.diff(above, axis=1) <= 0).all()


# Class weights


def test_class_weights_are_sample_weights(rng):
    X, y = rng.normal(size=(60, 3)), rng.choice(3, 60, p=[0.7, 0.2, 0.1])
    w = rng.uniform(0.5, 1, 60)
    counts = np.bincount(y)
    one_hot, binary = np.eye(3)[y], (y > 0).astype(int)
    cases = [
        (dict.fromkeys(range(3), 1.0) | {1: 3.0}, y, "softmax_cross_entropy", 3, np.array([1.0, 3.0, 1.0])[y]),
        ("balanced", one_hot, "softmax_cross_entropy", 3, (20 / counts)[y]),
        ({2: 0.0}, y, "softmax_focal", 3, 1.0 * (y != 2)),
        ({0: 2.0}, y, "ordinal", 2, np.array([2.0, 1.0, 1.0])[y]),
        ({1: 5.0}, binary, "binary_cross_entropy", 1, 1.0 + 4 * binary),
        ({-1: 0.5}, 2 * binary - 1, "hinge", 1, 0.5 + 0.5 * binary),
    ]
    for class_weight, target, loss, units, expected in cases:
        fits = []
        for options in ({"class_weight": class_weight, "sample_weight": w}, {"sample_weight": w * expected}):
            model = Sequential(Dense(units))
            history = model.fit(X, target, loss=loss, optimizer=SGD(0.1), epochs=2, verbose=0, **options)
            fits.append((model.parameters, history["loss"]))
        assert fits[0][1] == fits[1][1]
        assert all(np.array_equal(fits[0][0][name], fits[1][0][name]) for name in fits[0][0])


@pytest.mark.parametrize(
    ("class_weight", "loss", "y", "words"),
    [
        ({0: -1}, "hinge", [0, 1], ["class_weight[0]", "[0, inf)", "-1"]),
        ([1, 2], "hinge", [0, 1], ["`class_weight`", "'balanced'", "[1, 2]"]),
        ("ballanced", "hinge", [0, 1], ["`class_weight`", "'ballanced'"]),
        ("balanced", "squared_error", [0, 1], ["`class_weight`", "one class per row", "squared_error"]),
        ("balanced", "binary_cross_entropy", [0.5, 1], ["`class_weight`", "one class per row"]),
        ({0: 0, 1: 0}, "hinge", [0, 1], ["zero everywhere"]),
    ],
)
def test_bad_class_weights(class_weight, loss, y, words):
    with pytest.raises((TypeError, ValueError)) as error:
        Sequential(Dense(1)).fit([[0.0], [1.0]], y, loss=loss, class_weight=class_weight, verbose=0)
    assert all(word in str(error.value) for word in words), error.value


def test_class_weights_of_several_labels_are_refused():
    with pytest.raises(ValueError, match="one class per row"):
        Sequential(Dense(2)).fit([[0.0]], [[1, 1]], loss="binary_cross_entropy", class_weight={1: 2.0}, verbose=0)


@pytest.mark.parametrize(
    ("loss", "units", "y", "words"),
    [
        (QuantileLoss(), 2, [1.0, 2.0], ["quantile", "Dense(3)", "got 2 outputs"]),
        (Gaussian(), 3, [1.0, 2.0], ["gaussian", "Dense(2 m)", "got 3 outputs"]),
        (Gaussian(), 2, [[1.0, 2.0]] * 2, ["`y`", "K / 2", "(2, 2)"]),
        (Poisson(), 1, [1.0, -2.0], ["`y`", "at least 0", "-2.0", "row 1"]),
        (NegativeBinomial(), 1, [-1.0, 2.0], ["`y`", "row 0"]),
        (Hinge(), 3, [0, 3], ["`y`", "codes", "row 1"]),
        (Hinge(), 1, [0, 2], ["`y`", "-1 and 1", "row 1"]),
        (Focal(), 1, [0, 2], ["`y`", "[0, 1]", "row 1"]),
        (SoftmaxFocal(), 1, [0, 1], ["softmax_focal", "Dense(K), K >= 2", "got 1 output"]),
        (SoftmaxFocal(), 2, [0, 2], ["`y`", "[0, K)", "row 1"]),
        (Ordinal(), 2, [3, 2], ["`y`", "[0, K]", "row 0"]),
    ],
)
def test_targets_and_outputs_that_do_not_fit(loss, units, y, words):
    with pytest.raises(ValueError) as error:
        Sequential(Dense(units)).fit([[0.0], [1.0]], y, loss=loss, verbose=0)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Huber(0), ["delta", "(0", "got 0"]),
        (lambda: NegativeBinomial(-1), ["dispersion", "got -1"]),
        (lambda: Focal(float("nan")), ["gamma", "nan"]),
        (lambda: SoftmaxFocal(-1), ["gamma", "-1"]),
        (lambda: Gaussian("x"), ["min_variance", "'x'"]),
        (lambda: QuantileLoss(0.5), ["quantiles", "0.5"]),
        (lambda: QuantileLoss((0.5, 1.0)), ["quantiles", "(0, 1)", "got 1.0"]),
        (lambda: QuantileLoss((0.5, 0.1)), ["quantiles", "ascending"]),
        (lambda: QuantileLoss(()), ["quantiles", "at least one"]),
        (lambda: SoftmaxCrossEntropy(1.5), ["label_smoothing", "[0, 1]", "1.5"]),
        (lambda: BinaryCrossEntropy(-0.1), ["label_smoothing", "-0.1"]),
        (lambda: BinaryCrossEntropy(pos_weight=0), ["pos_weight", "got 0"]),
        (lambda: BinaryCrossEntropy(pos_weight=float("inf")), ["pos_weight", "inf"]),
        (lambda: Focal(alpha=1.5), ["alpha", "[0, 1]", "1.5"]),
    ],
)
def test_bad_numbers(build, words):
    with pytest.raises((ValueError, TypeError)) as error:
        build()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("k", [1, 3])
def test_poisson_regressor_against_scikit_learn(k, rng):
    from sklearn.neural_network import MLPRegressor as Theirs

    X = rng.normal(size=(60, 4))
    y = rng.poisson(np.exp(X[:, :k])).astype(float)
    y = y.ravel() if k == 1 else y
    options = {"loss": "poisson", "hidden_layer_sizes": (), "solver": "lbfgs", "max_iter": 500, "tol": 1e-10}
    ours, theirs = (cls(**options, random_state=0).fit(X, y) for cls in (MLPRegressor, Theirs))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-3)
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-6)
    assert ours.out_activation_ == theirs.out_activation_ == "exp"


def test_names_reach_the_losses():
    assert all(losses.get(name) == cls() for name, cls in LOSSES.items())


def test_many_classes_take_memory_by_rows():
    """And not by classes times classes: 7 GB for these."""
    import tracemalloc

    loss, logits, y = (
        SoftmaxCrossEntropy(label_smoothing=0.1),
        np.zeros((3, 30_000), np.float32),
        np.array([0, 7, 29_999]),
    )
    tracemalloc.start()
    value, gradient = loss.value(logits, y), loss.gradient(logits, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value == pytest.approx(np.log(30_000)) and peak < 20 * logits.size * 8
    np.testing.assert_allclose(gradient[[0, 1, 2], y], 1 / 30_000 - 0.9 - 0.1 / 30_000)
