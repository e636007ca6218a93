"""Contrastive and triplet losses, of every row with all others of its batch: against the twin, finite differences and
PyTorch; bits, memory, evaluation.
"""

import numpy as np
import pytest
import reference
from cases import examples, run_guarded
from hypothesis import given, strategies as st

from fastmlp import SGD, Adam, Contrastive, Dense, DivergenceError, ReLU, Sequential, Tanh, Triplet
from fastmlp.evaluation import Evaluation
from fastmlp.training import Training

VARIANTS = [Contrastive(), Contrastive(2.5), Triplet(), Triplet(0.3)]


def twin_of(loss, z, y):
    return reference.LOSSES_ACROSS_ROWS[loss.name](z, y, loss.margin)


@pytest.mark.parametrize("loss", VARIANTS, ids=repr)
def test_numpy_against_twin_and_finite_differences(loss, rng):
    for n, k in ((1, 2), (2, 1), (17, 3)):
        z, y = rng.normal(size=(n, k)), rng.integers(0, 4, n)
        rows, gradient = twin_of(loss, z, y)
        np.testing.assert_allclose(loss.rows(z, y), rows, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(loss.gradient(z, y), gradient, rtol=1e-10, atol=1e-12)
        direction = rng.normal(size=z.shape)
        ends = [twin_of(loss, z + step * direction, y)[0].sum() for step in (1e-6, -1e-6)]
        np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-7)


@examples(50)
@given(
    st.sampled_from(VARIANTS),
    st.sampled_from([1, 2, 3, 15, 16, 17, 33, 70]),
    st.sampled_from([1, 2, 7, 25]),
    st.sampled_from(["float64", "float32"]),
    st.booleans(),
    st.sampled_from([(), (Tanh(),)]),
)
def test_engine_against_twin(loss, k, n, dtype, weighted, last):
    """The gradient of sum_i w_i l_i: by linearity from the twin's, one row's loss after the other."""
    rng = np.random.default_rng(n + k)
    model = Sequential(Dense(4), Tanh(), Dense(k), *last, dtype=dtype).build(3, seed=k)
    X, y = rng.normal(size=(n, 3)), rng.choice([-7, 3, 2**53 - 1], n)
    w = rng.uniform(0.1, 2, n) if weighted else None
    p = {name: value.astype(float) for name, value in model.parameters.items()}
    direction = {name: rng.normal(size=value.shape) for name, value in p.items()}

    def along(t):
        z = reference.forward(model.layers, {name: p[name] + t * direction[name] for name in p}, X.astype(dtype))[0]
        return np.mean((1.0 if w is None else w) * twin_of(loss, z, y)[0])

    value, gradients = model.gradients(X, y, loss, w)
    np.testing.assert_allclose(value, along(0.0), rtol=1e-10 if dtype == "float64" else 1e-4, atol=1e-5)
    slope = sum((gradients[name].astype(float) * direction[name]).sum() for name in p)
    expected = (along(1e-6) - along(-1e-6)) / 2e-6
    size = sum(np.abs(gradients[name].astype(float) * direction[name]).sum() for name in p)
    np.testing.assert_allclose(slope, expected, atol=(1e-6 if dtype == "float64" else 1e-4) * size + 1e-8)
    assert np.isfinite(size)


def test_several_blocks_of_rows_and_equal_rows(rng):
    """More rows than distances fit into the scratch; distances of 0, where the gradient is taken as 0."""
    X = rng.normal(size=(700, 3))
    X[::7] = X[0]
    y = rng.integers(0, 3, 700)
    for loss in (Contrastive(2.0), Triplet()):
        for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-4)):
            model = Sequential(Dense(5, use_bias=False), dtype=dtype).build(3)
            z = model.logits(X).astype(float)
            value, gradients = model.gradients(X, y, loss)
            np.testing.assert_allclose(value, loss.value(z, y), rtol=tolerance)
            expected = X.T @ loss.gradient(z, y) / 700
            assert reference.relative_error(gradients["dense_0.weight"], expected) < tolerance


def test_against_torch(rng, torch):
    z, y = rng.normal(size=(12, 4)), np.arange(12) % 3
    for loss in VARIANTS:
        t = torch.tensor(z, requires_grad=True)
        d = torch.cdist(t, t, compute_mode="donot_use_mm_for_euclid_dist")
        alike = torch.tensor(y[:, None] == y)
        if loss.name == "contrastive":
            near = torch.clamp(loss.margin - d, min=0)
            rows = torch.where(alike, d**2, near**2).sum(1) / 2 / 11
        else:
            p, n = torch.where(alike, d, -1.0).argmax(1), torch.where(alike, 1e9, d).argmin(1)
            options = {"margin": loss.margin, "eps": 0.0, "reduction": "none"}
            rows = torch.nn.functional.triplet_margin_loss(t, t[p], t[n], **options)
        rows.sum().backward()
        np.testing.assert_allclose(loss.rows(z, y), rows.detach().numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(loss.gradient(z, y), t.grad.numpy(), rtol=1e-9, atol=1e-12)


def fit(loss, n_threads, dtype="float32", layers=None, **options):
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(203, 6)), rng.integers(0, 5, 203)
    model = Sequential(*(layers or [Dense(9), ReLU(), Dense(17)]), dtype=dtype)
    options = {"epochs": 3, "batch_size": 50, "optimizer": Adam(0.01), "verbose": 0} | options  # a last batch of three
    history = model.fit(X, y, loss=loss, n_threads=n_threads, validation_data=(X, y), **options)
    return model, history, X, y


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_the_same_bits_for_any_number_of_threads(loss, dtype, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    for layers in ((Dense(9), ReLU(), Dense(17)), (Dense(3),), (Dense(4), Tanh(), Dense(35), Tanh())):
        expected, history, *_ = fit(loss, 1, dtype, layers)
        for n_threads in (2, 3, 8):
            model, others, *_ = fit(loss, n_threads, dtype, layers)
            assert others["loss"] == history["loss"] and others["val_loss"] == history["val_loss"]
            for name, value in expected.parameters.items():
                assert np.array_equal(value, model.parameters[name])


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_a_poisoned_workspace_and_guards_change_nothing(loss, rng):
    X, y = rng.normal(size=(31, 4)), rng.integers(0, 3, 31)
    fits = []
    for poisoned in (False, True):
        model = Sequential(Dense(5), Tanh(), Dense(33)).build(4)
        options = {"loss": loss, "optimizer": SGD(0.1), "batch_size": 12, "n_threads": 1 + poisoned}
        with Training(model, X, y, **options, _guard=64) as training:
            run_guarded(training, 2, poisoned)
        fits.append(model.parameters)
    assert all(np.array_equal(fits[0][name], fits[1][name]) for name in fits[0])


@pytest.mark.parametrize("loss", VARIANTS, ids=repr)
def test_evaluation_takes_blocks_of_1024_rows(loss, rng, tmp_path):
    X, y = rng.normal(size=(2100, 3)), rng.integers(0, 4, 2100)
    weights = rng.uniform(size=2100)
    model = Sequential(Dense(2), dtype="float64").build(3)
    model.loss = loss
    z = model.logits(X)
    blocks = [slice(0, 1024), slice(1024, 2048), slice(2048, 2100)]
    sums = sum(loss.rows(z[b], y[b]) @ weights[b] for b in blocks)
    evaluation = Evaluation(model, X, y, weights, loss=loss)
    np.testing.assert_allclose(evaluation.loss(), sums / weights.sum(), rtol=1e-11)
    evaluation.close()
    np.testing.assert_allclose(model.evaluate(X, y, weights)["loss"], sums / weights.sum(), rtol=1e-11)
    model.save(tmp_path / "model.safetensors")
    assert Sequential.load(tmp_path / "model.safetensors").loss == loss


@pytest.mark.parametrize("loss", [Contrastive(2.0), Triplet()], ids=repr)
def test_an_embedding_is_learnt(loss, digits):
    """The nearest other row has the same label far more often than among the raw, noisy inputs."""
    X, y = digits[0][:600], digits[1][:600]
    X = np.hstack([X, np.random.default_rng(0).normal(size=(600, 60)) * 0.5]).astype(np.float32)

    def neighbours(z):
        d = ((z[:, None] - z) ** 2).sum(2) + np.diag(np.full(len(z), np.inf))
        return (y[d.argmin(1)] == y).mean()

    model = Sequential(Dense(64), ReLU(), Dense(8))
    history = model.fit(X, y, loss=loss, optimizer=Adam(0.001), epochs=30, batch_size=64, verbose=0)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert neighbours(model.predict(X)) > 0.95 > 0.9 > neighbours(X)


@pytest.mark.parametrize("loss", VARIANTS, ids=repr)
def test_an_infinite_output_stops_the_fit(loss):
    model = Sequential(Dense(2)).build(1)
    model.set_parameters({"dense_0.weight": np.full((1, 2), 3e38)})
    with pytest.raises(DivergenceError):
        model.fit([[3e38], [-3e38], [1.0]], [0, 1, 0], loss=loss, verbose=0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Contrastive(0), ["margin", "(0, inf)", "got 0"]),
        (lambda: Triplet("x"), ["margin", "'x'"]),
        (lambda: fit("triplet", 1, layers=(Dense(2),), batch_size=0), ["batch_size", "got 0"]),
        (lambda: Sequential(Dense(2)).fit([[0.0]], [0.5], loss="triplet"), ["`y`", "integer labels", "row 0"]),
        (lambda: Sequential(Dense(2)).fit([[0.0]], [[0, 1]], loss="contrastive"), ["`y`", "labels", "(1, 2)"]),
    ],
)
def test_bad_input(build, words):
    with pytest.raises((TypeError, ValueError)) as error:
        build()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("loss", [Contrastive(), Triplet()], ids=repr)
def test_labels_that_float32_cannot_tell_apart(loss, rng):
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 5, 60)

    def curves(labels):
        options = {"loss": loss, "validation_data": (X, labels), "epochs": 3, "verbose": 0}
        history = Sequential(Dense(6), Tanh(), Dense(2)).fit(X, labels, **options)
        return history["loss"], history["val_loss"]

    assert curves(2**40 + y) == curves(y)
