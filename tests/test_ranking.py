"""RankNet and ListNet, of the rows of a query: against a twin, finite differences and PyTorch; batches of queries;
bits, memory, evaluation, bad input; and that the ranking improves.
"""

import numpy as np
import pytest
import reference
from cases import examples, run_guarded
from hypothesis import given, strategies as st
from sklearn.metrics import ndcg_score

from fastmlp import SGD, Adam, BatchNorm, Dense, GradientNorms, ListNet, RankNet, ReLU, Sequential, Tanh, diagnose
from fastmlp.batches import QueryBatches
from fastmlp.training import Training

LOSSES = [RankNet(), ListNet()]


def twin_of(name, z, y, groups):
    """The mean over queries."""
    queries = np.unique(groups)
    return sum(reference.LOSSES_OF_QUERIES[name](z[groups == q], y[groups == q]) for q in queries) / len(queries)


def data(rng, n=203, n_features=6, n_queries=31):
    X, groups = rng.normal(size=(n, n_features)), rng.integers(0, n_queries, n)
    y = np.clip(np.round(X[:, 0] + np.sin(2 * X[:, 1]) + rng.normal(size=n_queries)[groups]), 0, 4)
    return X, y, groups


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_numpy_against_twin_and_finite_differences(loss, rng):
    for n, n_queries in ((1, 1), (7, 1), (30, 4), (20, 20)):
        z, y, groups = rng.normal(size=n), rng.integers(0, 3, n).astype(float), rng.integers(0, n_queries, n)
        n_seen = len(set(groups))
        expected = twin_of(loss.name, z, y, groups)
        np.testing.assert_allclose(loss.value(z[:, None], y, groups=groups), expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(loss.rows(z, y, groups).sum() / n_seen, expected, rtol=1e-11, atol=1e-13)
        slopes = loss.gradient(z, y, groups)[:, 0] / n_seen
        for i in range(n):
            step = 1e-6 * (np.arange(n) == i)
            ends = [twin_of(loss.name, z + sign * step, y, groups) for sign in (1, -1)]
            np.testing.assert_allclose(slopes[i], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


@examples(50)
@given(
    st.sampled_from(LOSSES),
    st.sampled_from([1, 2, 3, 17, 40, 150]),
    st.sampled_from([1, 2, 9, 500]),
    st.sampled_from(["float64", "float32"]),
    st.sampled_from([(), (Tanh(),)]),
)
def test_engine_against_twin(loss, n, n_queries, dtype, last):
    rng = np.random.default_rng(n + n_queries)
    model = Sequential(Dense(4), Tanh(), Dense(1), *last, dtype=dtype).build(3, seed=n)
    X, y, groups = rng.normal(size=(n, 3)), rng.integers(0, 4, n), rng.choice([-7, 3, 2**53 - 1, *range(n_queries)], n)
    p = {name: value.astype(float) for name, value in model.parameters.items()}
    direction = {name: rng.normal(size=value.shape) for name, value in p.items()}

    def along(t):
        z = reference.forward(model.layers, {name: p[name] + t * direction[name] for name in p}, X.astype(dtype))[0]
        return twin_of(loss.name, z[:, 0], y, groups)

    value, gradients = model.gradients(X, y, loss, groups=groups)
    np.testing.assert_allclose(value, along(0.0), rtol=1e-10 if dtype == "float64" else 1e-4, atol=1e-6)
    slope = sum((gradients[name].astype(float) * direction[name]).sum() for name in p)
    expected = (along(1e-6) - along(-1e-6)) / 2e-6
    size = sum(np.abs(gradients[name].astype(float) * direction[name]).sum() for name in p)
    np.testing.assert_allclose(slope, expected, atol=(1e-6 if dtype == "float64" else 1e-4) * size + 1e-8)


def test_a_query_longer_than_the_scratch_and_large_scores(rng):
    X, y = rng.normal(size=(900, 3)), rng.integers(0, 5, 900)
    for loss in LOSSES:
        for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-4)):
            for factor in (1, 300):
                model = Sequential(Dense(1, use_bias=False), dtype=dtype).build(3)
                model.set_parameters({"dense_0.weight": factor * model.parameters["dense_0.weight"]})
                z = X.astype(dtype).astype(float) @ model.parameters["dense_0.weight"].astype(float)
                value, gradients = model.gradients(X, y, loss, groups=np.zeros(900))
                np.testing.assert_allclose(value, loss.value(z, y), rtol=tolerance)
                expected = X.T @ loss.gradient(z, y)
                assert reference.relative_error(gradients["dense_0.weight"], expected) < tolerance


def test_against_torch(rng, torch):
    z, y = rng.normal(size=9), rng.integers(0, 4, 9).astype(float)
    t = torch.tensor(z, requires_grad=True)
    better = torch.tensor(y[:, None] > y)
    pairs = torch.nn.functional.softplus(-(t[:, None] - t))[better].mean()
    lists = torch.nn.functional.cross_entropy(t, torch.softmax(torch.tensor(y), 0))
    for loss, expected in zip(LOSSES, (pairs, lists), strict=True):
        t.grad = None
        expected.backward()
        np.testing.assert_allclose(loss.value(z, y), expected.item(), rtol=1e-12)
        np.testing.assert_allclose(loss.gradient(z, y)[:, 0], t.grad.numpy(), rtol=1e-10, atol=1e-14)


def fit(loss, n_threads, dtype="float32", layers=None, **options):
    X, y, groups = data(np.random.default_rng(4))
    model = Sequential(*(layers or [Dense(9), ReLU(), Dense(1)]), dtype=dtype)
    options = {"epochs": 3, "batch_size": 7, "optimizer": Adam(0.01), "verbose": 0} | options  # a last batch of three
    validation = {"validation_data": (X, y, groups)}
    history = model.fit(X, y, loss=loss, groups=groups, n_threads=n_threads, **validation, **options)
    return model, history, (X, y, groups)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["ranknet", "listnet"])
def test_the_same_bits_for_any_number_of_threads(loss, dtype, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    for layers in ((Dense(9), ReLU(), Dense(1)), (Dense(1),), (Dense(20), BatchNorm(), Tanh(), Dense(1))):
        expected, history, _ = fit(loss, 1, dtype, layers)
        for n_threads in (2, 3, 8):
            model, others, _ = fit(loss, n_threads, dtype, layers)
            assert others["loss"] == history["loss"] and others["val_loss"] == history["val_loss"]
            for name, value in expected.parameters.items():
                assert np.array_equal(value, model.parameters[name])


@pytest.mark.parametrize("loss", ["ranknet", "listnet"])
def test_fit_follows_batches_of_whole_queries(loss):
    """Two epochs of SGD by hand, in the order of queries that the seed gives."""
    model, history, (X, y, groups) = fit(loss, 2, "float64", epochs=2, optimizer=SGD(0.1), seed=5)
    twin = Sequential(Dense(9), ReLU(), Dense(1), dtype="float64").build(6, seed=5)
    labels, expected = np.unique(groups), []
    for epoch in range(2):
        order = labels[reference.shuffled(len(labels), 5, epoch)]
        total = 0.0
        for start in range(0, len(order), 7):
            chosen = order[start : start + 7]
            rows = np.flatnonzero(np.isin(groups, chosen))
            value, gradients = twin.gradients(X[rows], y[rows], loss, groups=groups[rows])
            total += value * len(chosen)
            twin.set_parameters({k: v - 0.1 * gradients[k] for k, v in twin.parameters.items()})
        expected.append(total / len(labels))
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-10)
    for name, value in twin.parameters.items():
        np.testing.assert_allclose(model.parameters[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_evaluation_and_files(loss, rng, tmp_path):
    """More queries than fit into one block of an evaluation; labels of any kind."""
    X, y, groups = data(rng, n=3000, n_queries=170)
    names = np.array([f"q{g}" for g in groups])
    model = Sequential(Dense(4), Tanh(), Dense(1), dtype="float64")
    options = {"loss": loss, "optimizer": SGD(0.0), "batch_size": 50, "epochs": 1, "groups": names, "verbose": 0}
    history = model.fit(X, y, validation_data=(X, y, names), callbacks=[GradientNorms(100)], **options)
    z = model.logits(X)
    expected = twin_of(loss.name, z[:, 0], y, groups)
    np.testing.assert_allclose([history["loss"][0], history["val_loss"][0]], expected, rtol=1e-11)
    np.testing.assert_allclose(model.evaluate(X, y, groups=names)["loss"], expected, rtol=1e-11)
    np.testing.assert_array_equal(model.predict(X), z)
    model.save(tmp_path / "m.safetensors")
    assert Sequential.load(tmp_path / "m.safetensors").loss == loss


@pytest.mark.parametrize("loss", ["ranknet", "listnet"])
def test_a_poisoned_workspace_guards_and_a_resume_change_nothing(loss, rng):
    X, y, groups = data(rng)
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    options = {"loss": loss, "optimizer": Adam(0.01), "batch_size": 6, "groups": groups}
    fits = []
    for kind in ("whole", "poisoned", "resumed"):
        model = Sequential(Dense(5), Tanh(), Dense(1)).build(6, seed=4)
        with Training(model, X, y, **options, n_threads=2, _guard=64) as training:
            run_guarded(training, 2 if kind == "resumed" else 4, kind == "poisoned")
            state = training.state
        if kind == "resumed":
            with Training(model, X, y, **options, state=state) as training:
                training.run(epochs=2)
        fits.append(model.parameters)
    for name in fits[0]:
        assert all(np.array_equal(fits[0][name], other[name]) for other in fits[1:])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12), st.integers(1, 3), st.booleans())
def test_batches_hold_whole_queries_and_every_row_once(labels, batch_size, epochs, shuffled):
    groups = np.array(labels)
    batches = QueryBatches(groups, batch_size)
    rng = np.random.default_rng(0)
    permutations = np.stack([rng.permutation(batches.n) for _ in range(epochs)]) if shuffled else None
    order, starts, sizes, weights = batches.epochs(permutations, epochs)
    assert len(starts) == epochs * batches.n_batches and sizes.max() <= batches.most_rows
    for epoch in order.reshape(epochs, -1):
        assert sorted(epoch) == list(range(len(groups)))
    for start, size, weight in zip(starts, sizes, weights, strict=True):
        inside = groups[order[start : start + size]]
        assert len(set(inside)) == weight == 1 + np.count_nonzero(np.diff(inside))
        assert size == np.isin(groups, inside).sum()


@pytest.mark.parametrize("loss", ["ranknet", "listnet"])
def test_the_ranking_improves(loss):
    model, _, (X, y, groups) = fit(loss, None, epochs=200, optimizer=Adam(0.01))
    start = Sequential(Dense(9), ReLU(), Dense(1)).build(6)
    queries = [groups == q for q in np.unique(groups) if np.ptp(y[groups == q])]
    before, after = (
        np.mean([ndcg_score(y[None, own], z[own].T) for own in queries]) for z in (start.predict(X), model.predict(X))
    )
    assert after > 0.97 > before + 0.05


def test_bad_input(rng):
    X, y, groups = data(rng)
    model = Sequential(Dense(3), ReLU(), Dense(1))
    options = {"loss": "ranknet", "verbose": 0}
    for call, words in (
        (lambda: model.fit(X, y, **options), ["groups", "which query", "'ranknet'", "None"]),
        (lambda: model.fit(X, y, groups=groups[:-1], **options), ["groups", "203 rows", "(202,)"]),
        (lambda: model.fit(X, y, groups=np.where(groups == 1, np.nan, groups), **options), ["groups", "NaN"]),
        (lambda: model.fit(X, y, groups=groups, loss="squared_error"), ["groups", "'squared_error'", "'listnet'"]),
        (lambda: model.fit(X, y, groups=groups, sample_weight=np.ones(203), **options), ["sample_weight", "None"]),
        (lambda: model.fit(X, y, groups=groups, class_weight="balanced", **options), ["class_weight"]),
        (
            lambda: model.fit(X, y, groups=groups, validation_data=(X, y), **options),
            ["validation_data[2]", "which query"],
        ),
        (lambda: model.fit(X, y, groups=groups, validation_data=X, **options), ["(X, y, groups)"]),
        (lambda: Sequential(Dense(2)).fit(X, y, groups=groups, **options), ["Dense(1)", "2 outputs"]),
        (lambda: model.build(6).gradients(X, y, "listnet"), ["groups", "'listnet'"]),
        (lambda: diagnose(model, X, y, loss="listnet"), ["loss", "'listnet'", "queries"]),
    ):
        with pytest.raises(ValueError) as error:
            call()
        for word in words:
            assert word in str(error.value), (word, str(error.value))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_relevances_far_from_zero(loss, rng):
    """Time stamps, say, whose differences float32 does not hold: only those count."""
    X, y, groups = data(rng)
    y = 3 * y + rng.permutation(len(y)) % 3  # whole numbers

    def curves(offset):
        model = Sequential(Dense(8), Tanh(), Dense(1))
        options = {"loss": loss, "groups": groups, "validation_data": (X, y + offset, groups), "verbose": 0}
        history = model.fit(X, y + offset, epochs=3, **options)
        return history["loss"], history["val_loss"], model.evaluate(X, y + offset, groups=groups)["loss"]

    near = curves(0.0)
    of_queries = 2.0**40 * np.random.default_rng(1).permutation(31)[groups]  # each query's own
    for offset in (1_700_000_000.0, -(2.0**40), of_queries):
        for found, expected in zip(curves(offset), near, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", ["ranknet", "listnet"])
def test_a_batch_of_queries_is_a_fit_of_one_batch(loss, rng):
    """A step divides by the number of queries, not of rows."""
    X, y, groups = data(rng)
    fitted, stepped = (Sequential(Dense(4), Tanh(), Dense(1), dtype="float64").build(6) for _ in range(2))
    fitted.fit(X, y, loss=loss, groups=groups, optimizer=SGD(0.1), batch_size=1000, verbose=0)
    stepped.train_on_batch(X, y, loss=loss, groups=groups, optimizer=SGD(0.1))
    for name, value in fitted.parameters.items():
        np.testing.assert_allclose(stepped.parameters[name], value, rtol=1e-9, atol=1e-12)
