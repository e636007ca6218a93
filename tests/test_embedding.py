"""`Embedding` against the twin of one-hot rows and PyTorch; bits, memory, predictions, bad codes, parts and files."""

import dataclasses
import warnings

import numpy as np
import pytest
import reference
import scipy.sparse
from cases import OPTIMIZERS, run_guarded, with_codes
from hypothesis import given, strategies as st
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from fastmlp import (
    SGD,
    Adam,
    AdamW,
    BackupAndRestore,
    BatchNorm,
    Callback,
    Dense,
    Dropout,
    Embedding,
    ReLU,
    Residual,
    Sequential,
    SKLearnClassifier,
    Tanh,
    diagnose,
    load_model,
)
from fastmlp.evaluation import Evaluation
from fastmlp.initializers import Constant
from fastmlp.training import Training

TOLERANCE = {"float64": (1e-9, 1e-15), "float32": (1e-3, 3e-7)}
SOURCES = {
    "float32": lambda X: X.astype(np.float32),
    "float64": lambda X: X,
    "int64": lambda X: X,
    "fortran": np.asfortranarray,
    "csr": scipy.sparse.csr_array,
}


@st.composite
def embeddings(draw):
    """(layer, number of columns of X)"""
    n_features, output_dim = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 7, 16, 17, 32, 33, 70]))
    if draw(st.booleans()):
        columns = draw(st.permutations(range(n_features)))[: draw(st.integers(1, min(n_features, 5)))]
    else:
        columns, n_features = None, min(n_features, 5)
    counts = st.sampled_from([1, 2, 5, 31, 32, 33, 200])
    n_codes = n_features if columns is None else len(columns)
    input_dim = draw(st.one_of(counts, st.tuples(*[counts] * n_codes)))
    return Embedding(input_dim, output_dim, columns), n_features


def data(layer, n_features, n, seed=0, k=3):
    rng = np.random.default_rng(seed)
    return with_codes([layer], rng.normal(size=(n, n_features))), rng.integers(0, k, n)


@given(
    embeddings(),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(sorted(SOURCES)),
    st.sampled_from(["float64", "float32"]),
    st.sampled_from([*OPTIMIZERS, AdamW(0.01, epsilon=1e-2, weight_decay=0.1, ema_decay=0.5)]),
    st.integers(1, 3),
    st.booleans(),
)
def test_training_against_the_twin(embedding, n, batch_size, source, dtype, optimizer, n_threads, weighted):
    layer, n_features = embedding
    if source == "int64" and layer.others(n_features):
        source = "float64"
    layers = layer, Dense(5), Tanh(), Dense(3)
    X, y = data(layer, n_features, n)
    X = X.astype(np.int64) if source == "int64" else SOURCES[source](X)
    weights = np.random.default_rng(1).uniform(0.1, 3, n) if weighted else None
    model = Sequential(*layers, dtype=dtype).build(n_features, seed=n)
    before = model.parameters
    twin = reference.Twin(layers, before, "softmax_cross_entropy", optimizer)
    rows = X.toarray() if source == "csr" else X.astype(dtype)
    batches = reference.in_order(n, min(batch_size, n))
    expected = [twin.epoch(rows, y, batches, weights) for _ in range(2)]
    options = {"loss": "softmax_cross_entropy", "optimizer": optimizer, "batch_size": batch_size, "shuffle": False}
    X = X if source == "csr" else np.ascontiguousarray(X)
    with Training(model, X, y, **options, sample_weight=weights, n_threads=n_threads) as training:
        losses = training.run(epochs=2)
    parameters, final = model.parameters, twin.average() if optimizer.ema_decay is not None else twin.parameters
    relative, rounding = TOLERANCE[dtype]
    for name, value in parameters.items():
        change = np.abs(twin.parameters[name] - before[name]).max()
        bound = relative * change + rounding * np.sqrt(2 * len(batches)) * np.abs(final[name]).max()
        assert np.abs(value - final[name]).max() <= bound, name
    np.testing.assert_allclose(losses, expected, rtol=1e-10 if dtype == "float64" else 2e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_and_steps_against_torch(dtype, shared):
    torch = pytest.importorskip("torch")
    counts, d = (11, 11, 11) if shared else (4, 40, 3), 6
    layer = Embedding(11 if shared else counts, d, columns=[3, 0, 1])
    X, y = data(layer, 5, 60)
    model = Sequential(layer, Dense(7), Tanh(), Dense(3), dtype=dtype).build(5, seed=2)
    p = {name: torch.tensor(a.astype(float), requires_grad=True) for name, a in model.parameters.items()}
    optimizer = torch.optim.Adam(p.values(), 0.01, eps=1e-3)
    firsts = [0, 0, 0] if shared else [0, 4, 44]

    def loss():
        codes = torch.tensor(X[:, [3, 0, 1]].astype(int) + firsts)
        vectors = torch.nn.functional.embedding(codes, p["embedding_0.weight"]).flatten(1)
        others = torch.tensor(X[:, [2, 4]].astype(dtype).astype(float))
        a = torch.cat([vectors, others], 1) @ p["dense_0.weight"] + p["dense_0.bias"]
        z = torch.tanh(a) @ p["dense_1.weight"] + p["dense_1.bias"]
        return torch.nn.functional.cross_entropy(z, torch.tensor(y))

    value, gradients = model.gradients(X, y, "softmax_cross_entropy")
    loss().backward()
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(value, loss().item(), rtol=tolerance)
    for name, g in gradients.items():
        np.testing.assert_allclose(g, p[name].grad.numpy(), rtol=tolerance, atol=tolerance / 10, err_msg=name)
    options = {"loss": "softmax_cross_entropy", "epochs": 5, "batch_size": 60, "verbose": 0, "shuffle": False}
    model.fit(X, y, optimizer=Adam(0.01, epsilon=1e-3), **options)
    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    for name, array in model.parameters.items():
        np.testing.assert_allclose(array, p[name].detach().numpy(), atol=1e-10 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", [Adam(0.01), AdamW(0.01, clip_norm=0.1, ema_decay=0.9)])
@pytest.mark.parametrize("layer", [Embedding(50, 33), Embedding([3, 600], 5, [4, 1])], ids=["all", "some"])
def test_bits_over_threads_and_a_poisoned_workspace(layer, optimizer, dtype, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    X, y = data(layer, 5, 203)
    fits = []
    for n_threads in (1, 2, 3, 8):
        model = Sequential(layer, Dropout(0.2), BatchNorm(), Dense(40), ReLU(), Dense(3), dtype=dtype).build(5)
        options = {"loss": "softmax_cross_entropy", "optimizer": optimizer, "batch_size": 50, "n_threads": n_threads}
        with Training(model, X, y, **options, _guard=64) as training:
            run_guarded(training, 3)
        fits.append(model.parameters)
    for other in fits[1:]:
        assert all(np.array_equal(fits[0][name], other[name]) for name in other)


@pytest.mark.parametrize("wrong", [-1.0, -3.0, -1000.0, 5.0, 1e30, -1e30, 0.5])
def test_whatever_the_codes_the_engine_stays_within_the_table(wrong):
    """They are looked at before; this is about memory alone."""
    layer = Embedding(5, 3)
    X, y = data(layer, 4, 30)
    X[7, 2] = wrong
    model = Sequential(layer, Dense(3)).build(4)
    with Training(model, X, y, loss="softmax_cross_entropy", optimizer="sgd", batch_size=10, _guard=64) as training:
        run_guarded(training, 1, poisoned=False)
    assert all(np.isfinite(array).all() for array in model.parameters.values())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_predictions_by_numpy_and_by_the_engine(dtype):
    layer = Embedding([7, 300], 20, columns=[0, 2])
    X, _ = data(layer, 4, 2000)
    model = Sequential(layer, Dense(50), ReLU(), Dense(2), dtype=dtype).build(4, seed=1)
    logits, _ = reference.forward(model.layers, model.parameters, X.astype(dtype))
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    found = [
        model.logits(X),
        model.logits(X[:10]),
        model.logits(scipy.sparse.csr_array(X)),
        Evaluation(model, X).logits(),
    ]
    found += [model.logits(np.asfortranarray(X)), model.logits(X.astype(object))]
    for z in found:
        np.testing.assert_allclose(z, logits[: len(z)], rtol=tolerance, atol=tolerance)


def test_a_large_table_leaves_few_rows_to_numpy(monkeypatch):
    model = Sequential(Embedding(100_000, 8), Dense(3)).build(2)
    monkeypatch.setattr("fastmlp.evaluation.predictions", None)
    assert model.logits([[99_999, 0]]).shape == (1, 3)


def test_codes_as_bytes():
    layer = Embedding(200, 4)
    X, y = data(layer, 3, 50)
    models = [Sequential(layer, Dense(3)) for _ in range(2)]
    for model, codes in zip(models, (X, X.astype(np.uint8)), strict=True):
        model.fit(codes, y, loss="softmax_cross_entropy", verbose=0)
    assert all(np.array_equal(a, models[1].parameters[name]) for name, a in models[0].parameters.items())
    np.testing.assert_array_equal(models[0].predict(X), models[1].predict(X.astype(np.uint8)))


def test_a_frozen_table_and_a_rate_of_its_own():
    X, y = data(Embedding(9, 4), 3, 60)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1), "batch_size": 60, "verbose": 0}
    starts = {}
    for name, own in {"plain": {}, "slow": {"learning_rate_multiplier": 0.5}, "frozen": {"trainable": False}}.items():
        model = Sequential(Embedding(9, 4, **own), Dense(3)).build(3)
        before = model.parameters["embedding_0.weight"]
        model.fit(X, y, **options)
        starts[name] = model.parameters["embedding_0.weight"] - before
    assert not starts["frozen"].any()
    frozen = Sequential(Embedding(9, 4, trainable=False), Dense(3)).build(3)
    _, gradients = frozen.gradients(X, y, "softmax_cross_entropy")  # a look at them has those of what is frozen, too
    assert gradients["embedding_0.weight"].any()
    with pytest.raises(ValueError, match="nothing to train: all layers have trainable=False"):
        Sequential(Embedding(9, 4, trainable=False), Dense(3, trainable=False)).fit(X, y, **options)
    np.testing.assert_allclose(starts["slow"], 0.5 * starts["plain"], atol=1e-6)
    assert np.abs(starts["plain"]).max() > 1e-3


def test_decay_is_that_of_matrices():
    """Of rows that no code chooses nothing but the decay is seen."""
    X, y = np.zeros((20, 2)), np.arange(20) % 3
    model = Sequential(Embedding(9, 4), Dense(3)).build(2)
    before = model.parameters["embedding_0.weight"]
    model.fit(X, y, loss="softmax_cross_entropy", optimizer=AdamW(0.1, weight_decay=0.5), batch_size=20, verbose=0)
    np.testing.assert_allclose(model.parameters["embedding_0.weight"][1:], 0.95 * before[1:], rtol=1e-6)


def test_parts_copies_names_and_the_summary(capsys):
    layer = Embedding([3, 4], 2, columns=[4, 1])
    X, y = data(layer, 6, 40)
    model = Sequential(layer, Dense(5), Tanh(), Dense(3))
    assert "? -> ?" in model.summary()
    model.build(6)
    assert "6 -> 8" in model.summary() and "8 -> 5" in capsys.readouterr().out
    behind = model.activations(X, 0)
    np.testing.assert_array_equal(behind[:, 4:], X[:, [0, 2, 3, 5]].astype(np.float32))
    np.testing.assert_array_equal(model[1:].logits(behind), model.logits(X))
    gradients = model[1:].input_gradients(behind, output=0)
    assert gradients.shape == (40, 8)
    np.testing.assert_array_equal(model.input_gradients(X, output=0, layer=0), gradients)
    with pytest.raises(ValueError, match="codes of categories have no gradient; `layer=0`"):
        model.input_gradients(X, output=0)
    other = Sequential(dataclasses.replace(layer, trainable=False), Dense(1)).copy_parameters(model, layers=1)
    np.testing.assert_array_equal(other.parameters["embedding_0.weight"], model.parameters["embedding_0.weight"])
    with pytest.raises(ValueError, match="layers that both models share"):
        Sequential(Embedding([4, 3], 2, columns=[4, 1]), Dense(1)).copy_parameters(model, layers=1)
    with pytest.raises(ValueError, match="layers that both models share"):
        Sequential(Embedding([3, 4], 2, columns=[4, 2]), Dense(1)).copy_parameters(model, layers=1)
    assert Sequential(layer, ReLU(), Dense(1)).build(6).input_gradients(X, output=0, layer=0).shape == (40, 8)


def test_files_and_what_stands_in_them(tmp_path):
    model = Sequential(Embedding((3, 4), 2, [4, 1], Constant(0.5), trainable=False), Dense(3)).build(6)
    assert (model.parameters["embedding_0.weight"] == 0.5).all()
    model.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.layers == model.layers
    X, _ = data(model.layers[0], 6, 10)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_a_fit_that_was_stopped_ends_with_the_bits_of_one_that_was_not(tmp_path):
    layers = Embedding(20, 5), Dense(8), Tanh(), Dense(3)
    X, y = data(layers[0], 3, 100)
    options = {"loss": "softmax_cross_entropy", "optimizer": Adam(0.01), "verbose": 0}
    whole = Sequential(*layers)
    whole.fit(X, y, epochs=4, **options)
    path = tmp_path / "backup.safetensors"

    class Stop(Callback):
        def on_epoch_end(self, training, epoch, logs):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sequential(*layers).fit(X, y, epochs=4, callbacks=[BackupAndRestore(path), Stop()], **options)
    resumed = Sequential(*layers)
    resumed.fit(X, y, epochs=4, callbacks=[BackupAndRestore(path)], **options)
    assert all(np.array_equal(a, resumed.parameters[name]) for name, a in whole.parameters.items())


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 2), {}, ValueError, r"`input_dim` must be an integer in \[1, 16777216\]; got 0"),
        (("many", 2), {}, TypeError, r"`input_dim` must be an integer in \[1, 16777216\]; got 'many'"),
        (([3, 0], 2), {}, ValueError, r"`input_dim` must be an integer in \[1, 16777216\]; got 0"),
        (([], 2), {}, ValueError, r"`input_dim` must have a number for each column; got \[\]"),
        ((b"ab", 2), {}, TypeError, r"`input_dim` must be an integer in \[1, 16777216\]; got b'ab'"),
        ((np.array([[1, 2]]), 2), {}, TypeError, r"`input_dim` must be an integer in .* got array\(\[\[1, 2\]\]\)"),
        ((5, 2, np.array([[0, 1]])), {}, TypeError, r"`columns` must be a sequence of numbers.* got array"),
        (([[1], [2]], 2), {}, TypeError, r"`input_dim` must be an integer in .* got \[1\]"),
        (([3, 4], 2, [0]), {}, ValueError, r"`input_dim` must have a number for each column of \(0,\); got \[3, 4\]"),
        ((2**24 + 1, 2), {}, ValueError, r"`input_dim` must be an integer in \[1, 16777216\]; got 16777217"),
        ((3, 0), {}, ValueError, "`output_dim` must be an integer of at least 1; got 0"),
        ((3, 2, []), {}, ValueError, r"`columns` must be one column or more, each once; got \[\]"),
        ((3, 2, [1, 1]), {}, ValueError, r"`columns` must be one column or more, each once; got \[1, 1\]"),
        ((3, 2, [-1]), {}, ValueError, "`columns` must be an integer of at least 0; got -1"),
        ((3, 2, 1), {}, TypeError, "`columns` must be a sequence of numbers of columns; got 1"),
        ((3, 2, "01"), {}, TypeError, "`columns` must be a sequence of numbers of columns; got '01'"),
        ((3, 2, None, "auto"), {}, ValueError, "`embeddings_initializer` must be one of"),
        ((3, 2), {"trainable": 1}, TypeError, "`trainable` must be True or False"),
        ((3, 2), {"learning_rate_multiplier": -1}, ValueError, "`learning_rate_multiplier` must be in"),
    ],
)
def test_bad_numbers_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        Embedding(*arguments, **options)


def test_numpy_s_numbers_are_python_s():
    layer = Embedding(np.array([3, 4]), np.int64(2), np.array([1, 0]))
    assert layer == Embedding([3, 4], 2, (1, 0)) and hash(layer) == hash(Embedding((3, 4), 2, [1, 0]))
    assert type(layer.input_dim[0]) is type(layer.columns[0]) is type(layer.output_dim) is int


@pytest.mark.parametrize(
    ("layer", "n_features", "message"),
    [
        (Embedding(3, 2, [5]), 5, "needs column 5; X has 5"),
        (Embedding([3, 4], 2), 3, "needs 2 columns; X has 3"),
    ],
)
def test_columns_that_x_has_not(layer, n_features, message):
    with pytest.raises(ValueError, match=message):
        Sequential(layer, Dense(1)).build(n_features)


def test_it_stands_first():
    for layers in ((Dense(2), Embedding(3, 2)), (Dropout(0.1), Embedding(3, 2))):
        with pytest.raises(ValueError, match="Embedding must be the first layer; got it as layer 1"):
            Sequential(*layers, Dense(1))
    with pytest.raises(ValueError, match="Embedding must be the first layer; got it within layer 0, a Residual"):
        Sequential(Residual(Embedding(3, 1)), Dense(1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(5, r"integers in \[0, 5\), in column 3.*got 5.0 in row 7"), (-1, "got -1.0 in row 7"), (0.5, "got 0.5 in row 7")]
    + [(np.nan, "got (NaN|nan) in row 7"), (np.inf, "got (infinity|inf) in row 7")],
)
@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_bad_codes_are_named_and_nothing_is_changed(wrong, said, kind):
    layer = Embedding([200, 5], 3, columns=[0, 3])
    X, y = data(layer, 5, 2000)
    bad = X.copy()
    bad[7, 3] = wrong
    bad = scipy.sparse.csr_array(bad) if kind == "csr" else bad
    model = Sequential(layer, Dense(8), Dense(3))
    options = {"loss": "softmax_cross_entropy", "verbose": 0}
    with pytest.raises(ValueError, match=f"`X` must .*{said}"):
        model.fit(bad, y, **options)
    assert not model.built
    with pytest.raises(ValueError, match=rf"`validation_data\[0\]` must .*{said}"):
        model.fit(X, y, validation_data=(bad, y), **options)
    assert not model.built
    model.fit(X, y, **options)
    before = model.parameters
    few = bad[:9] if kind == "dense" else scipy.sparse.csr_array(bad.toarray()[:9])
    for use in (
        lambda: model.predict(bad),
        lambda: model.predict(few),
        lambda: model.evaluate(bad, y),
        lambda: model.gradients(bad, y),
        lambda: model.activations(bad),
        lambda: model.train_on_batch(bad, y),
    ):
        with pytest.raises(ValueError, match=f"`X` must .*{said}"):
            use()
    assert all(np.array_equal(a, before[name]) for name, a in model.parameters.items())


def test_the_row_of_a_bad_code_far_down():
    layer = Embedding(5, 2)
    X = np.zeros((20_000, 2))
    X[19_000, 1] = 7
    with pytest.raises(ValueError, match="got 7.0 in row 19000"):
        Sequential(layer, Dense(1)).build(2).predict(X)


def test_diagnose_leaves_codes_out(rng):
    X = np.column_stack([rng.integers(0, 5000, 200), np.full(200, 3), rng.normal(size=200), 1e6 * rng.normal(size=200)])
    y = rng.integers(0, 2, 200)
    findings = {
        f.name: f
        for f in diagnose(Sequential(Embedding(5000, 4, [0, 1]), Dense(2)), X, y, loss="softmax_cross_entropy").findings
    }
    assert "largest column is 3" in findings["inputs"].measured
    assert findings["inputs"].advice == "StandardScaler for the columns without codes"
    assert findings["constant_columns"].measured.startswith("0 of 2")
    all_codes = diagnose(Sequential(Embedding(5000, 4), Dense(2)), X[:, :2], y, loss="softmax_cross_entropy").findings
    assert not {"inputs", "constant_columns"} & {f.name for f in all_codes}


def test_categories_of_a_table_in_a_pipeline(rng):
    pandas = pytest.importorskip("pandas")
    n = 600
    table = pandas.DataFrame(
        {"town": rng.choice(list("abcdefgh"), n), "x": rng.normal(size=n), "day": rng.choice(7, n)}
    )
    y = np.where((table["town"].isin(list("aceg")) ^ (table["day"] > 4)) | (table["x"] > 2), "yes", "no")
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=8)

    def network(X, y):
        return Sequential(Embedding([9, 7], 4, columns=[0, 1]), Dense(32), ReLU(), Dense(2))

    columns = make_column_transformer((codes, ["town"]), ("passthrough", ["day"]), (StandardScaler(), ["x"]))
    classifier = SKLearnClassifier(network, fit_kwargs={"epochs": 40, "optimizer": Adam(0.01)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = make_pipeline(columns, classifier).fit(table[:500], y[:500])
    assert pipeline.score(table[500:], y[500:]) > 0.9
    unseen = table[500:].assign(town="z")
    assert set(pipeline.predict(unseen)) <= {"yes", "no"}
