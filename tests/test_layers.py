"""Norms, residuals, gated layers and PReLU against finite differences of a twin, and against PyTorch."""

import json

import numpy as np
import pytest
import reference
from test_dropout import keys
from test_memory import GUARD, padding_is_zero, poison

from fastmlp import (
    GEGLU,
    GELU,
    GLU,
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    Dense,
    Dropout,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    Maxout,
    PReLU,
    ReLU,
    Rescaling,
    Residual,
    RMSNorm,
    Sequential,
    Softmax,
    SwiGLU,
    Tanh,
    pre_norm_block,
)
from fastmlp.evaluation import Evaluation
from fastmlp.initializers import Scaled
from fastmlp.training import Training

NETWORKS = {
    "batch norm, relu": (Dense(33), BatchNorm(), ReLU(), Dense(17), BatchNorm(0.5, 1e-3), Tanh(), Dense(3)),
    "batch norm, gelu": (Dense(16), BatchNorm(), GELU(), Dense(3)),
    "batch norm after": (Dense(18), Tanh(), BatchNorm(), Dense(3)),
    "batch norm first": (BatchNorm(), Dense(5), Tanh(), Dense(3)),
    "batch norm last": (Dense(5), Tanh(), Dense(3), BatchNorm()),
    "batch norms": (
        Rescaling(0.5, 0.1),
        Dense(9, use_bias=False),
        BatchNorm(),
        BatchNorm(),
        Dense(1),
        Tanh(),
        Dense(3),
    ),
    "layer norm, gelu": (Dense(33), LayerNorm(), GELU(), Dense(70), LayerNorm(1e-2), LeakyReLU(), Dense(3)),
    "layer norm first, last": (LayerNorm(), Dense(40), ReLU(), LayerNorm(), Dense(3), LayerNorm()),
    "rms norm": (RMSNorm(), Dense(31), RMSNorm(1e-3), Tanh(), Dense(3), RMSNorm()),
    "group norm": (Dense(60), GroupNorm(5), ReLU(), Dense(36), GroupNorm(36 // 9), GELU(), Dense(3)),
    "groups of one": (Dense(4), GroupNorm(4), Dense(3)),
    "residual": (Dense(33), Residual(Dense(20), Tanh(), Dense(33)), ReLU(), Dense(3)),
    "residual first": (Residual(Dense(20), Tanh(), Dense(21)), Dense(3)),
    "residual of an activation": (Dense(12), Residual(Tanh()), Residual(Dense(12), GELU()), Dense(3)),
    "residual after an activation": (
        Dense(12),
        ReLU(),
        Residual(ReLU(), Dense(12)),
        Tanh(),
        Residual(Dense(12)),
        Dense(3),
    ),
    "residual in a residual": (
        Dense(12),
        Residual(Residual(Dense(12), Tanh()), Residual(LayerNorm()), Dense(12)),
        Dense(3),
    ),
    "residual last": (Dense(3), Residual(Dense(7), Tanh(), Dense(3))),
    "residual with batch norm": (Dense(17), Residual(BatchNorm(), ReLU(), Dense(17), BatchNorm()), ReLU(), Dense(3)),
    "gated": (GLU(12), SwiGLU(33, use_bias=False), ReLU(), GEGLU(9), LayerNorm(), Dense(3)),
    "gated in a residual": (Dense(17), Residual(RMSNorm(), SwiGLU(20), Dense(17)), ReLU(), Residual(GLU(17)), Dense(3)),
    "maxout": (Maxout(12), Maxout(33, 4, use_bias=False), ReLU(), Residual(Maxout(33, pieces=3)), Maxout(3)),
    "maxout in a residual": (Dense(17), Residual(RMSNorm(), Maxout(20, 3), Dense(17)), BatchNorm(), Dense(3)),
    "softmax": (Dense(12), Softmax(), Dense(33), Residual(Dense(33), Softmax()), Residual(Softmax()), Dense(3)),
    "softmax last": (Dense(7), BatchNorm(), Softmax(), Dropout(0.0), Dense(3), Softmax()),
    "gated last": (Dense(8), Tanh(), GEGLU(3)),
    "prelu": (Dense(33), PReLU(), Dense(16), BatchNorm(), PReLU(0.1), Residual(PReLU(), Dense(16)), Dense(3), PReLU()),
    "pre-norm blocks": (Dense(16), pre_norm_block(16), pre_norm_block(16, expansion=2, activation=Tanh()), Dense(3)),
}
every_network = pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)


def built(layers, dtype="float64", n_features=21, seed=3):
    """A model whose scales, shifts and zero-initialised layers are numbers like any other."""
    model, rng = Sequential(*layers, dtype=dtype).build(n_features, seed), np.random.default_rng(seed)
    values = model.parameters
    for name, value in values.items():
        if "norm" in name or "prelu" in name or not value.any():
            values[name] = rng.normal(0, 0.2, value.shape) if "dense" in name else rng.uniform(0.5, 1.5, value.shape)
    model.set_parameters(values)
    return model


def forward(layers, p, a, count=None, drop=lambda *_: 1.0):
    """The twin: everything as the formulas say, norms of the batch by the batch's statistics."""
    count = {} if count is None else count

    def own(prefix):
        k = count[prefix] = count.get(prefix, -1) + 1
        return lambda name: p.get(f"{prefix}_{k}.{name}", 0.0)

    for layer in layers:
        kind = type(layer).__name__
        if kind == "Dense":
            q = own("dense")
            a = reference.dense_forward(a, q("weight"), q("bias"))
        elif kind == "Residual":
            a = a + forward(layer.layers, p, a, count, drop)
        elif kind == "Rescaling":
            a = a * layer.scale + layer.offset
        elif kind == "BatchNorm":
            q = own("batch_norm")
            a = (a - a.mean(0)) / np.sqrt(a.var(0) + layer.epsilon) * q("weight") + q("bias")
        elif kind in ("LayerNorm", "GroupNorm"):
            q = own("layer_norm" if kind == "LayerNorm" else "group_norm")
            groups = np.split(a, layer.groups if kind == "GroupNorm" else 1, axis=1)
            parts = [(g - g.mean(1)[:, None]) / np.sqrt(g.var(1)[:, None] + layer.epsilon) for g in groups]
            a = np.hstack(parts) * q("weight") + q("bias")
        elif kind in ("GLU", "GEGLU", "SwiGLU"):
            gate, value = own("dense"), own("dense")
            g = reference.dense_forward(a, gate("weight"), gate("bias"))
            g = reference.ACTIVATIONS[{"GLU": "logistic", "GEGLU": "gelu", "SwiGLU": "silu"}[kind]][0](g)
            a = g * reference.dense_forward(a, value("weight"), value("bias"))
        elif kind == "Maxout":
            pieces = [own("dense") for _ in range(layer.pieces)]
            a = np.max([reference.dense_forward(a, piece("weight"), piece("bias")) for piece in pieces], axis=0)
        elif kind == "Softmax":
            a = np.exp(a) / np.exp(a).sum(1, keepdims=True)
        elif kind == "Dropout":
            assert layer.rate == 0
        elif kind == "PReLU":
            a = np.maximum(a, 0) + own("prelu")("weight") * np.minimum(a, 0)
        elif kind == "RMSNorm":
            a = a / np.sqrt((a**2).mean(1) + layer.epsilon)[:, None] * own("rms_norm")("weight")
        else:
            a = reference.ACTIVATIONS[layer.name][0](a)
    return a


def data(n, rng, k=3):
    return rng.normal(size=(n, 21)), rng.normal(size=(n, k))


@every_network
def test_gradients_against_finite_differences_of_the_twin(layers, rng):
    X, y = data(13, rng)
    model = built(layers)
    p = model.parameters

    def loss():
        return 0.5 * ((forward(layers, p, X) - y) ** 2).sum(1).mean()

    value, gradients = model.gradients(X, y, "squared_error")
    assert value == pytest.approx(loss(), rel=1e-12)
    assert gradients.keys() == {name for name in p if "running" not in name}
    for name, gradient in gradients.items():
        flat, expected = p[name].reshape(-1), []
        chosen = rng.permutation(flat.size)[:12]  # of large ones
        for i in chosen:
            old = flat[i]
            flat[i] = old + 1e-5
            above = loss()
            flat[i] = old - 1e-5
            expected.append((above - loss()) / 2e-5)
            flat[i] = old
        scale = max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(gradient.reshape(-1)[chosen], expected, atol=2e-8 * scale + 1e-9, err_msg=name)


def as_torch(torch, layers, parameters):
    """PyTorch's network of the same layers, holding the same numbers; and its tensors by fastmlp's names."""
    tensors, count = {}, {}

    class Sum(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(x)

    class Gated(torch.nn.Module):
        def __init__(self, gate, value, activation):
            super().__init__()
            self.gate, self.value = gate, value
            self.activation = getattr(torch.nn.functional, activation)

        def forward(self, x):
            return self.activation(self.gate(x)) * self.value(x)

    class Largest(torch.nn.Module):
        def __init__(self, pieces):
            super().__init__()
            self.pieces = torch.nn.ModuleList(pieces)

        def forward(self, x):
            return torch.stack([piece(x) for piece in self.pieces]).max(0).values

    def module(layer, width):
        kind = type(layer).__name__
        if kind == "Residual":
            return Sum(stack(layer.layers, width)[0]), width
        if kind in ("GLU", "GEGLU", "SwiGLU"):
            gate, value = (module(Dense(layer.units, layer.use_bias), width)[0] for _ in range(2))
            return Gated(gate, value, {"GLU": "sigmoid", "GEGLU": "gelu", "SwiGLU": "silu"}[kind]), layer.units
        if kind == "Maxout":
            pieces = [module(Dense(layer.units, layer.use_bias), width)[0] for _ in range(layer.pieces)]
            return Largest(pieces), layer.units
        make = {
            "Dense": lambda: torch.nn.Linear(width, layer.units, bias=layer.use_bias),
            "BatchNorm": lambda: torch.nn.BatchNorm1d(width, layer.epsilon, 1 - layer.momentum),
            "LayerNorm": lambda: torch.nn.LayerNorm(width, layer.epsilon),
            "RMSNorm": lambda: torch.nn.RMSNorm(width, layer.epsilon),
            "GroupNorm": lambda: torch.nn.GroupNorm(layer.groups, width, layer.epsilon),
            "Softmax": lambda: torch.nn.Softmax(1),
            "Dropout": lambda: torch.nn.Dropout(0),
            "PReLU": lambda: torch.nn.PReLU(width),
            "ReLU": torch.nn.ReLU,
            "LeakyReLU": torch.nn.LeakyReLU,
            "GELU": torch.nn.GELU,
            "Tanh": torch.nn.Tanh,
        }
        made = make[kind]().double()
        if hasattr(layer, "prefix"):
            k = count[layer.prefix] = count.get(layer.prefix, -1) + 1
            for key, tensor in [*made.named_parameters(), *made.named_buffers()]:
                if key != "num_batches_tracked":
                    value = torch.tensor(parameters[f"{layer.prefix}_{k}.{key}"])
                    tensor.data[:] = value.T if value.ndim == 2 else value
                    tensors[f"{layer.prefix}_{k}.{key}"] = tensor
        return made, layer.units if kind == "Dense" else width

    def stack(layers, width):
        modules = []
        for layer in layers:
            if type(layer).__name__ != "Rescaling":
                made, width = module(layer, width)
                modules.append(made)
        return torch.nn.Sequential(*modules), width

    return stack(layers, 21)[0], tensors


@pytest.mark.torch
@every_network
def test_steps_against_pytorch(layers, rng, torch):
    X, y = data(50, rng)
    model = built(layers)
    net, tensors = as_torch(torch, layers, model.parameters)
    first = layers[0] if isinstance(layers[0], Rescaling) else Rescaling(1.0)
    inputs, targets = torch.tensor(X * first.scale + first.offset), torch.tensor(y)
    optimizer = torch.optim.Adam(net.parameters(), 0.01, eps=1e-3)
    options = {"loss": "squared_error", "optimizer": Adam(0.01, epsilon=1e-3), "batch_size": 20, "shuffle": False}
    with Training(model, X, y, **options) as training:
        for _ in range(2):
            losses = []
            for rows in reference.in_order(50, 20):
                optimizer.zero_grad()
                loss = 0.5 * ((net(inputs[rows]) - targets[rows]) ** 2).sum(1).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item() * len(rows))
            assert training.run(1)[0] == pytest.approx(sum(losses) / 50, rel=1e-9)
    for name, value in model.parameters.items():
        if not name.endswith("running_var"):  # PyTorch divides that one by n - 1
            expected = tensors[name].detach().numpy()
            np.testing.assert_allclose(value, expected.T if expected.ndim == 2 else expected, rtol=1e-6, atol=1e-9)


@every_network
def test_float32_follows_float64(layers, rng):
    X, y = data(70, rng)
    results = []
    for dtype in ("float32", "float64"):
        model = built(layers, dtype)
        options = {"loss": "squared_error", "optimizer": SGD(0.01), "batch_size": 32, "shuffle": False}
        with Training(model, X.astype(dtype), y.astype(dtype), **options) as training:
            losses = training.run(3)
        results.append((losses, model.parameters))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    for name, value in results[0][1].items():
        assert reference.relative_error(value, results[1][1][name]) < 2e-4, name


def test_running_averages(rng):
    """running = m running + (1 - m) of the batch, the variance divided by n; a prediction uses them."""
    X, y = data(50, rng)
    model = Sequential(BatchNorm(0.8, 0.1), Dense(3), dtype="float64").build(21)
    mean, var = np.zeros(21), np.ones(21)
    options = {"loss": "squared_error", "optimizer": SGD(0.01), "batch_size": 20, "shuffle": False}
    with Training(model, X, y, **options) as training:
        training.run(2)
        for rows in 2 * reference.in_order(50, 20):
            mean, var = 0.8 * mean + 0.2 * X[rows].mean(0), 0.8 * var + 0.2 * X[rows].var(0)
        seen = training.logits(X)
    p = model.parameters
    np.testing.assert_allclose(p["batch_norm_0.running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(p["batch_norm_0.running_var"], var, rtol=1e-12)
    a = (X - mean) / np.sqrt(var + 0.1) * p["batch_norm_0.weight"] + p["batch_norm_0.bias"]
    expected = a @ p["dense_0.weight"] + p["dense_0.bias"]
    np.testing.assert_allclose(model.logits(X), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(seen, expected, rtol=1e-10, atol=1e-12)


@every_network
@pytest.mark.parametrize("dtype, error", [("float64", 1e-12), ("float32", 2e-5)])
def test_the_engine_predicts_what_numpy_does(layers, dtype, error, rng):
    X, y = (a.astype(dtype) for a in data(40, rng))
    model = built(layers, dtype)
    model.fit(X, y, loss="squared_error", optimizer=SGD(0.01), verbose=0)
    expected = model.logits(X)  # few rows: NumPy
    evaluation = Evaluation(model, X)
    assert reference.relative_error(evaluation.logits(), expected) < error
    loss = Evaluation(model, X, y, loss=model.loss)
    assert loss.loss() == pytest.approx(model.evaluate(X, y)["loss"], rel=error)
    for each in (evaluation, loss):
        each.close()


@every_network
def test_a_poisoned_workspace_and_guards_change_nothing(layers, rng):
    """Nothing uninitialised is read, nothing beyond the buffers is written."""
    X, y = (a.astype("float32") for a in data(40, rng))
    options = {"loss": "squared_error", "optimizer": "adam", "batch_size": 17}
    clean, model = built(layers, "float32"), built(layers, "float32")
    with Training(clean, X, y, **options) as training:
        training.run(2)
    with Training(model, X, y, **options, _guard=GUARD, n_threads=2) as training:
        poison(training.executor)
        training.run(2)
        assert training.executor.guards_intact() and padding_is_zero(training.executor)
    assert all(np.array_equal(value, clean.parameters[name]) for name, value in model.parameters.items())


@every_network
def test_the_same_bits_for_any_number_of_threads(layers, rng, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    X, y = (a.astype("float32") for a in data(70, rng))
    results = []
    for n_threads in (1, 2, 5):
        model = built(layers, "float32")
        model.fit(X, y, loss="squared_error", optimizer="adam", epochs=2, batch_size=33, n_threads=n_threads, verbose=0)
        results.append(model.parameters)
    for other in results[1:]:
        assert all(np.array_equal(value, other[name]) for name, value in results[0].items())


def test_the_same_bits_after_a_resume_and_from_a_file(rng, tmp_path):
    X, y = data(60, rng)
    layers = (Dense(16), BatchNorm(), ReLU(), pre_norm_block(16, dropout=0.2, drop_rate=0.3), Dense(3))
    options = {"loss": "squared_error", "optimizer": AdamW(0.01), "batch_size": 25}
    through, halves = built(layers), built(layers)
    with Training(through, X, y, **options) as training:
        training.run(4)
    with Training(halves, X, y, **options) as training:
        training.run(2)
        state = training.state
    halves.save(tmp_path / "model.safetensors")
    halves = Sequential.load(tmp_path / "model.safetensors")
    assert halves.layers == layers
    with Training(halves, X, y, state=state, **options) as training:
        training.run(2)
    assert all(np.array_equal(value, through.parameters[name]) for name, value in halves.parameters.items())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_stochastic_depth_leaves_out_rows(dtype, rng):
    """One step of gradient descent with the same mask, drawn in NumPy."""
    X, y = data(40, rng)
    rate, layers = 0.4, (Dense(9), Residual(Tanh(), Dense(9), drop_rate=0.4), Dense(3))
    model = built(layers, dtype)
    p = {name: value.astype(np.float64) for name, value in model.parameters.items()}
    key = int(keys(9, 0, 1)[0])
    with np.errstate(over="ignore"):
        place = [type(op).__name__ for op in ("Dense", "Fork", "Tanh", "Dense")]  # the drop is the fifth operation
        x = np.arange(40, dtype=np.uint32) + np.uint32((key + len(place) * 0x9E3779B9) % 2**32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x21F0AAAD)
        x ^= x >> np.uint32(15)
        x ^= np.uint32(key >> 32)
        x *= np.uint32(0xD35A2D97)
        x ^= x >> np.uint32(15)
    mask = (x >= rate * 2**32)[:, None] / (1 - rate)
    assert 0 < (mask == 0).sum() < 40
    h = X @ p["dense_0.weight"] + p["dense_0.bias"]
    t = np.tanh(h)
    r = h + mask * (t @ p["dense_1.weight"] + p["dense_1.bias"])
    z = r @ p["dense_2.weight"] + p["dense_2.bias"]
    dz = (z - y) / 40
    dr = dz @ p["dense_2.weight"].T
    dh = dr + ((mask * dr) @ p["dense_1.weight"].T) * (1 - t**2)
    gradients = {"dense_2.weight": r.T @ dz, "dense_1.weight": t.T @ (mask * dr), "dense_0.weight": X.T @ dh}
    options = {"loss": "squared_error", "optimizer": SGD(0.1), "batch_size": 40, "shuffle": False, "seed": 9}
    with Training(model, X.astype(dtype), y.astype(dtype), **options) as training:
        loss = training.run(1)[0]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert loss == pytest.approx(0.5 * ((z - y) ** 2).sum(1).mean(), rel=tolerance)
    for name, gradient in gradients.items():
        assert reference.relative_error(model.parameters[name], p[name] - 0.1 * gradient) < tolerance, name
    logits = model.logits(X)  # nothing is left out, nothing scaled
    q = model.parameters
    h = X @ q["dense_0.weight"] + q["dense_0.bias"]
    r = h + np.tanh(h) @ q["dense_1.weight"] + q["dense_1.bias"]
    assert reference.relative_error(logits, r @ q["dense_2.weight"] + q["dense_2.bias"]) < tolerance


def test_a_pre_norm_block_starts_as_the_identity(rng):
    X = rng.normal(size=(5, 4)).astype("float32")
    model = Sequential(Dense(8), pre_norm_block(8, dropout=0.5, drop_rate=0.5), Dense(2)).build(4)
    shallow = Sequential(*model.layers[::2]).build(4)
    names = {"dense_0": "dense_0", "dense_1": "dense_3"}
    shallow.set_parameters({n: model.parameters[names[n[:7]] + n[7:]] for n in shallow.parameters})
    assert np.array_equal(model.logits(X), shallow.logits(X))


def test_the_last_layers_of_pre_norm_blocks_shrink_with_depth():
    """As GPT-2 starts: sixteen branches that start at a quarter of their size add up to one's."""
    plain, scaled = (
        Sequential(Dense(8), pre_norm_block(8, last_initializer=last), Dense(2)).build(4, seed=1)
        for last in ("glorot_uniform", Scaled("glorot_uniform", 1 / np.sqrt(16)))
    )
    last = [name for name, value in plain.parameters.items() if value.shape == (32, 8)]
    assert len(last) == 1 and plain.parameters[last[0]].any()
    assert np.array_equal(scaled.parameters[last[0]], plain.parameters[last[0]] / 4)


def test_normalised_inputs_of_any_scale_train(rng):
    """What batch normalisation is for: columns of sizes from 1e-3 to 1e3, a high rate, and it learns all the same."""
    X = rng.normal(size=(512, 8))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    X = X * np.logspace(-3, 3, 8) + 5 * np.logspace(-3, 3, 8)
    plain = (Dense(32), ReLU(), Dense(32), ReLU(), Dense(2))
    normed = (BatchNorm(), Dense(32), BatchNorm(), ReLU(), Dense(32), BatchNorm(), ReLU(), Dense(2))
    scores = []
    for layers in (plain, normed):
        model = Sequential(*layers)
        model.fit(X, y, loss="softmax_cross_entropy", optimizer=Adam(0.01), epochs=40, verbose=0)
        scores.append(model.evaluate(X, y)["accuracy"])
    assert scores[1] > 0.9 > scores[0]


def test_names_summary_and_activations(rng):
    model = Sequential(Dense(8), BatchNorm(), Residual(LayerNorm(), Dense(8)), Dropout(0.1), Dense(2))
    assert "Residual(" in model.summary()
    model.build(4)
    text = model.summary().splitlines()
    assert text[3].startswith("  LayerNorm (layer_norm_0)") and text[4].split()[-1] == "72"
    assert text[-1].split()[-1] == str(sum(a.size for a in model.parameters.values()))
    X = rng.normal(size=(3, 4)).astype("float32")
    assert np.array_equal(model.activations(X, layer="batch_norm_0"), model.activations(X, layer=1))
    inside = model.activations(X, layer=repr(model.layers[2])) - model.activations(X, layer=1)
    p, h = model.parameters, model.activations(X, layer=1)
    normed = model.layers[2].layers[0].forward(h, {"weight": p["layer_norm_0.weight"], "bias": p["layer_norm_0.bias"]})
    np.testing.assert_allclose(inside, normed @ p["dense_1.weight"] + p["dense_1.bias"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="layer_norm_0"):
        model.activations(X, layer="layer_norm_0")  # inside a residual: not one of `layers`


def test_leading_layers_are_copied_with_their_norms():
    first = built((Residual(Dense(21)), Dense(8), GroupNorm(4), BatchNorm(), ReLU(), Dense(3)))
    second = Sequential(*first.layers[:5], Dense(2), dtype="float64").copy_parameters(first, layers=5)
    for name, value in second.parameters.items():
        assert np.array_equal(value, first.parameters[name]) == (name not in ("dense_2.weight", "dense_2.bias")), name


def test_configs_are_json():
    from fastmlp.layers import from_config, to_config

    layer = Residual(GroupNorm(2, epsilon=0.5), Residual(Dense(4), Dropout(0.5)), Tanh(), drop_rate=0.1)
    assert from_config(json.loads(json.dumps(to_config(layer)))) == layer


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: BatchNorm(1.0), ValueError, r"`momentum` must be in \[0, 1\); got 1.0"),
        (lambda: BatchNorm(epsilon=0), ValueError, r"`epsilon` must be in \[1e-30, 1\); got 0"),
        (lambda: LayerNorm("small"), TypeError, "`epsilon` must be a number; got 'small'"),
        (lambda: RMSNorm(-1), ValueError, "`epsilon`"),
        (lambda: GroupNorm(2.5), TypeError, "`groups` must be an integer of at least 1; got 2.5"),
        (lambda: GroupNorm(0), ValueError, "`groups`"),
        (lambda: Rescaling("0.5"), TypeError, "`scale` must be a number; got '0.5'"),
        (lambda: Rescaling(1.0, True), TypeError, "`offset` must be a number; got True"),
        (lambda: Rescaling(float("inf")), ValueError, "`scale` must be in"),
        (lambda: Residual(), ValueError, "at least one layer"),
        (lambda: Residual(Dense(3), drop_rate=1.5), ValueError, r"`drop_rate` must be in \[0, 1\); got 1.5"),
        (
            lambda: Sequential(Dense(3), Residual(Rescaling(2.0))),
            ValueError,
            "Rescaling must be the first layer; got it within layer 1, a Residual",
        ),
        (lambda: Sequential(Residual("relu"), Dense(3)), TypeError, "layer 0 .*got 'relu'"),
        (lambda: Sequential(Residual(ReLU()), ReLU()), ValueError, "at least one Dense"),
        (lambda: Sequential(Dense(4), Residual(Dense(3))).build(2), ValueError, "got 3 units after 4"),
        (lambda: Sequential(Dense(4), GroupNorm(3)).build(2), ValueError, "`groups` must divide the 4 units .* got 3"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_layer_without_a_step_is_an_error(monkeypatch):
    """Whoever adds a layer, and forgets one of the two ways, does not train something else in silence."""
    from fastmlp.lowering import backward, steps

    X, y = np.ones((8, 3), np.float32), np.arange(8) % 3
    for module, way in ((steps, "forward"), (backward, "backward")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "PReLU", type("Other", (), {}))
            with pytest.raises(TypeError, match=rf"PReLU\(.*\) has no step {way}"):
                Sequential(Dense(3), PReLU(), Dense(3)).fit(X, y, loss="softmax_cross_entropy", verbose=0)


def test_layers_before_prelu_are_drawn_as_those_before_relu():
    drawn = [
        Sequential(Dense(50), after, Dense(1)).build(40).parameters["dense_0.weight"] for after in (PReLU(), ReLU())
    ]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("n", [40, 41])
def test_a_batch_of_one_row_leaves_the_running_averages(n):
    """The last one of each epoch, where batches do not divide the rows: it has no variance."""
    X = np.random.default_rng(0).normal(3.0, 2.0, (n, 4))
    model = Sequential(BatchNorm(momentum=0.5), Dense(1, trainable=False), dtype="float64")
    model.fit(X, X[:, 0], loss="squared_error", optimizer="sgd", epochs=4, batch_size=20, shuffle=False)
    mean, variance = np.zeros(4), np.ones(4)
    for batch in (X[:20], X[20:40]) * 4:
        mean, variance = 0.5 * (mean + batch.mean(0)), 0.5 * (variance + batch.var(0))
    p = model.parameters
    np.testing.assert_allclose(p["batch_norm_0.running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(p["batch_norm_0.running_var"], variance, rtol=1e-12)


def test_of_equal_pieces_the_first_has_the_gradient_and_nan_stays():
    X = np.array([[1.0, 2.0]])
    model = Sequential(Maxout(1, pieces=3), Dense(1, use_bias=False), dtype="float64").build(2)
    equal = {f"dense_{k}.weight": [[0.5], [0.25]] for k in range(3)}
    model.set_parameters({**equal, "dense_3.weight": [[1.0]]})
    _, gradients = model.gradients(X, [0.0], "squared_error")
    assert [bool(gradients[f"dense_{k}.bias"].any()) for k in range(3)] == [True, False, False]
    assert model.input_gradients(X, output=0).tolist() == [[0.5, 0.25]]
    for dtype in ("float32", "float64"):
        from fastmlp.engine import jit

        maximum, T = jit.function("maximum", dtype), getattr(np, dtype)
        a, b = np.array([np.nan, 1.0, 1.0, 2.0], T), np.array([1.0, np.nan, 3.0, 1.0], T)
        maximum(a.ctypes.data, b.ctypes.data, 4, 0)
        np.testing.assert_array_equal(a, [np.nan, np.nan, 3.0, 2.0])
