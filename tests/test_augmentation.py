"""Augmentation against twins that draw the same random numbers in NumPy; its statistics; what must not change."""

import json
import math

import numpy as np
import pytest
import reference
import scipy.sparse
from cases import run_guarded
from test_dropout import keys

from fastmlp import (
    SGD,
    CutMix,
    Dense,
    GaussianNoise,
    MixUp,
    RandomAffine,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    load_model,
    records as R,
    save_model,
)
from fastmlp.layers import from_config, to_config
from fastmlp.training import Training

SEED = 9
LAYERS = [
    GaussianNoise(0.3),
    RandomAffine((5, 4), degrees=(-200, 70), translate=(0.3, 0.2), scale=(0.5, 2), fill=0.25),
    RandomAffine((5, 2, 2), degrees=30),
    MixUp(0.4),
    CutMix(1.0),
    CutMix(1.0, image_shape=(5, 4)),
    CutMix(2.0, image_shape=(2, 5, 2)),
]


@pytest.fixture(autouse=True)
def as_many_threads_as_asked_for(monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")


def data(n, n_classes=3, dtype="float64"):
    rng = np.random.default_rng(0)
    X = np.rint(rng.uniform(size=(n, 20)) * 64) / 64  # exact in float32
    return X.astype(dtype), rng.integers(0, n_classes, n), np.rint(rng.uniform(0.25, 2, n) * 64) / 64


def random_numbers(key, layer, index):
    """The twin of the engine's hash, uniform in [0, 1), and its upper 24 bits."""
    with np.errstate(over="ignore"):
        x = index.astype(np.uint32) + np.uint32((key + (2**16 + layer) * 0x9E3779B9) % 2**32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x21F0AAAD)
        x ^= x >> np.uint32(15)
        x ^= np.uint32(key >> 32)
        x *= np.uint32(0xD35A2D97)
        x ^= x >> np.uint32(15)
    return x * 2.0**-32, x >> np.uint32(8)


def twin_noise(layer, position, key, X):
    index = 2 * np.arange(X.size).reshape(X.shape)
    u = (random_numbers(key, position, index)[1] + 1.0) / 2**24
    v = random_numbers(key, position, index + 1)[1] / 2**24
    return X + layer.stddev * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


def twin_affine(layer, position, key, X):
    """Pixel by pixel, through homogeneous coordinates."""
    height, width, channels = (*layer.image_shape, 1)[:3]
    out = np.empty((len(X), height, width, channels))
    for i, image in enumerate(X.reshape(out.shape)):
        turned, across, down, scaled = random_numbers(key, position, 4 * i + np.arange(4))[0]
        angle = math.radians(layer.degrees[0] + turned * (layer.degrees[1] - layer.degrees[0]))
        scale = layer.scale[0] + scaled * (layer.scale[1] - layer.scale[0])
        shift = np.array([(2 * across - 1) * layer.translate[0] * width, (2 * down - 1) * layer.translate[1] * height])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        framed = np.full((height + 2, width + 2, channels), layer.fill)
        framed[1:-1, 1:-1] = image
        for row in range(height):
            for column in range(width):
                x, y = np.linalg.solve(turn, np.array([column, row]) - centre - shift) + centre
                left, top = math.floor(x), math.floor(y)
                out[i, row, column] = layer.fill
                if -1 <= left < width and -1 <= top < height:
                    a, b = x - left, y - top
                    upper = (1 - a) * framed[top + 1, left + 1] + a * framed[top + 1, left + 2]
                    lower = (1 - a) * framed[top + 2, left + 1] + a * framed[top + 2, left + 2]
                    out[i, row, column] = (1 - b) * upper + b * lower
    return out.reshape(X.shape)


def twin_mix(layer, position, key, numbers, X, Y, weights):
    """Rows, targets and weights of one batch; `numbers` is what the layer drew for it."""
    partner, share = np.roll(X, -1, axis=0), numbers[0]
    if isinstance(layer, MixUp):
        mixed = (1 - share) * X + share * partner
    elif layer.image_shape is None:
        takes = random_numbers(key, position, np.arange(X.shape[1]))[0] < share
        mixed, share = np.where(takes, partner, X), takes.mean()
    else:
        shape = (len(X), *layer.image_shape)
        top, bottom, left, right = numbers[1:].astype(int)
        mixed, other = X.reshape(shape).copy(), partner.reshape(shape)
        mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        share = (bottom - top) * (right - left) / math.prod(layer.image_shape[:2])
    own, others = (1 - share) * weights, share * np.roll(weights, -1)
    total = own + others
    targets = own[:, None] * Y + others[:, None] * np.roll(Y, -1, axis=0)
    return mixed.reshape(X.shape), targets / total[:, None], total


def drawn(layer, epoch, n_steps):
    key = np.random.SeedSequence(SEED, spawn_key=(3, epoch))
    return layer.draw(np.random.Generator(np.random.Philox(key)), n_steps)


def twin(layers, X, Y, weights, epoch=0, step=0, n_steps=1):
    """Of one batch, of which an epoch has `n_steps`."""
    key = keys(SEED, epoch, n_steps)[step]
    for position, layer in enumerate(layers):
        if isinstance(layer, GaussianNoise):
            X = twin_noise(layer, position, int(key), X)
        elif isinstance(layer, RandomAffine):
            X = twin_affine(layer, position, int(key), X)
        elif isinstance(layer, Rescaling):
            X = X * layer.scale + layer.offset
        else:
            X, Y, weights = twin_mix(layer, position, int(key), drawn(layer, epoch, n_steps)[step], X, Y, weights)
    return X, Y, weights


def batch(training):
    """Rows, targets and weights of the last step as the first layer and the loss saw them; 0 for what is not mixed."""
    plan, memory = training.plan, training.executor.workspace
    n, dtype = plan.batch_size, np.dtype(plan.dtype)
    found = [plan.input.unpack(memory.view(dtype)[plan.input.at.offset // dtype.itemsize :])]
    mix = [s.fields for p in plan.phases for s in p.steps if s.kernel in ("mixup", "cutmix")]
    for place, width in ((R.TO_TARGETS, plan.n_outputs), (R.TO_WEIGHTS, 1)):
        at = mix[0][place] if mix else 0
        found.append(at and memory[at.offset :][: n * width * dtype.itemsize].copy().view(dtype).reshape(n, width))
    return found


def one_step(layers, X, y, sample_weight=None, n_threads=1, dtype="float64", loss="softmax_cross_entropy", **options):
    model = Sequential(*layers, Dense(7), ReLU(), Dense(3), dtype=dtype).build(X.shape[1], seed=2)
    options = {"loss": loss, "optimizer": SGD(0.1), "batch_size": len(y), "seed": SEED, **options}
    with Training(model, X, y, sample_weight=sample_weight, n_threads=n_threads, **options) as training:
        losses = training.run(1)
        return (*batch(training), losses[0], model, training)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_batch_against_the_twin(layer, weighted, dtype):
    X, y, w = data(37, dtype=dtype)
    rows, targets, weights, *_ = one_step([layer], X, y, w if weighted else None, dtype=dtype)
    x, t, total = twin([layer], X.astype(float), np.eye(3)[y], w if weighted else np.ones(37))
    np.testing.assert_allclose(rows, x, atol=2e-6 if dtype == "float32" or layer == LAYERS[0] else 1e-12)
    assert not np.allclose(rows, X)
    if isinstance(layer, (MixUp, CutMix)):
        np.testing.assert_allclose(targets, t, atol=1e-6 if dtype == "float32" else 1e-12)
        assert not weighted or np.allclose(weights[:, 0], total)


def just_inside(degrees, side=4):
    """A map of float32 images that takes a last row or column from the number next below `side`, to which 1 cannot be
    added in float32: it rounds to `side` + 1.
    """
    half = 0.5 * (side - 1)
    scale = half / (float(np.nextafter(np.float32(side), np.float32(0))) - half)
    return RandomAffine((side, side), degrees=(degrees, degrees), scale=(scale, scale), fill=-1.0)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_place_just_inside_an_image_is_not_in_the_next_one(degrees):
    X = np.repeat(1000.0 * np.arange(1, 6, dtype=np.float32)[:, None], 16, axis=1)
    layer = just_inside(degrees)
    model = Sequential(layer, Dense(3)).build(16)
    with Training(
        model, X, np.arange(5) % 3, loss="softmax_cross_entropy", optimizer=SGD(0.0), batch_size=5
    ) as training:
        for _ in range(2):  # the second reads what the first one left
            training.run(1)
            rows, _, _ = batch(training)
            np.testing.assert_allclose(rows, twin([layer], X.astype(float), np.eye(3)[:1], None)[0], atol=0.02)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error", "binary_cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_a_step_is_that_of_the_mixed_rows_and_targets(weighted, loss):
    """The same as a fit without augmentation to what the twin made of the batch: loss, gradient, update."""
    layers = [RandomAffine((5, 4), degrees=15), GaussianNoise(0.1), CutMix(1.0)]
    X, y, w = data(41)
    Y = np.eye(3)[y]
    y, w = y if loss == "softmax_cross_entropy" else Y, w if weighted else None
    *_, mixed_loss, model, _ = one_step(layers, X, y, w, loss=loss)
    x, t, total = twin(layers, X, Y, np.ones(41) if w is None else w)
    *_, plain_loss, plain, _ = one_step([], x, t, total if weighted else None, loss=loss)
    assert np.isclose(mixed_loss, plain_loss, rtol=1e-6)
    for name, value in plain.parameters.items():
        assert reference.relative_error(model.parameters[name], value) < 1e-6, name


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("codes", [True, False], ids=["codes", "dense"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("mix", [MixUp(0.4), CutMix(1.0), CutMix(1.0, image_shape=(5, 4))], ids=repr)
def test_shuffled_batches_against_the_twin(mix, weighted, codes, n_threads):
    """Two epochs of four batches, the last of two rows: each batch mixes its own rows, targets and weights."""
    layers, rate = [RandomAffine((5, 4), degrees=15), GaussianNoise(0.1), mix], 0.1
    X, y, w = data(50)
    Y, w = np.eye(3)[y], w if weighted else None
    model = Sequential(*layers, Dense(7), ReLU(), Dense(3), dtype="float64").build(20, seed=2)
    plain = Sequential(Dense(7), ReLU(), Dense(3), dtype="float64").build(20, seed=2)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(rate), "batch_size": 16, "seed": SEED}
    with Training(model, X, y if codes else Y, sample_weight=w, n_threads=n_threads, **options) as training:
        losses = training.run(2)
    for epoch in range(2):
        order, sums = reference.shuffled(50, SEED, epoch), []
        for step, rows in enumerate(np.split(order, [16, 32, 48])):
            weights = np.ones(len(rows)) if w is None else w[rows]
            x, t, total = twin(layers, X[rows], Y[rows], weights, epoch, step, 4)
            loss, gradients = plain.gradients(x, t, "softmax_cross_entropy", total / total.mean())
            plain.set_parameters({name: value - rate * gradients[name] for name, value in plain.parameters.items()})
            sums.append((loss * total.sum(), total.sum()))
        assert np.isclose(losses[epoch], np.divide(*np.sum(sums, axis=0)), rtol=1e-6)
    for name, value in plain.parameters.items():
        assert reference.relative_error(model.parameters[name], value) < 1e-6, name


@pytest.mark.parametrize("batch_size", [1, 16, 50])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_the_same_bits_for_any_threads_and_after_a_resume(layer, batch_size):
    X, y, w = data(50, dtype="float32")
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": batch_size, "seed": SEED}

    def fit(n_threads, parts):
        model = Sequential(Rescaling(0.5, 0.1), layer, Dense(33), ReLU(), Dense(3)).build(20, seed=1)
        state = None
        for epochs in parts:
            with Training(model, X, y, sample_weight=w, n_threads=n_threads, state=state, **options) as training:
                training.run(epochs)
                state = training.state
        return model.parameters

    expected = fit(1, [3])
    for n_threads, parts in ((2, [3]), (3, [1, 2]), (1, [2, 1])):
        for name, value in fit(n_threads, parts).items():
            assert np.array_equal(value, expected[name])


@pytest.mark.parametrize("kind", ["uint8", "csr", "float32"])
def test_every_kind_of_input(kind):
    X, y, _ = data(30)
    X = np.rint(X * 255)
    given = {"uint8": X.astype(np.uint8), "csr": scipy.sparse.csr_matrix(X), "float32": X.astype("f")}[kind]
    layers = [Rescaling(1 / 255), GaussianNoise(0.1), RandomAffine((5, 4), degrees=20), MixUp(0.3)]
    rows, targets, *_ = one_step(layers, given, y)
    x, t, _ = twin(layers, X, np.eye(3)[y], np.ones(30))
    np.testing.assert_allclose(rows, x, atol=1e-6)
    np.testing.assert_allclose(targets, t, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_guards_and_poison(layer):
    X, y, w = data(37)
    rows, targets, weights, loss, *_ = one_step([layer], X, y, w)
    model = Sequential(layer, Dense(7), ReLU(), Dense(3), dtype="float64").build(20, seed=2)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1), "batch_size": 37, "seed": SEED, "_guard": 64}
    with Training(model, X, y, sample_weight=w, n_threads=2, **options) as training:
        assert run_guarded(training, 1)[0] == loss
        for found, expected in zip(batch(training), (rows, targets, weights), strict=True):
            assert np.array_equal(found, expected)


def test_predictions_and_validation_see_rows_as_they_are():
    X, y, _ = data(60)
    layers = (Dense(5), ReLU(), Dense(3))
    augmented = Sequential(GaussianNoise(3.0), MixUp(1.0), *layers, dtype="float64").build(20, seed=0)
    plain = Sequential(*layers, dtype="float64").build(20, seed=0)
    for rows in (X, X[:2]):  # by the engine, and by NumPy
        assert np.array_equal(augmented.predict(rows), plain.predict(rows))
    options = {"loss": "softmax_cross_entropy", "optimizer": "sgd", "batch_size": 60}
    with Training(augmented, X, y, **options) as one, Training(plain, X, y, **options) as other:
        assert one.loss_of(X, y) == other.loss_of(X, y)
    (loss, gradients), (plain_loss, plain_gradients) = (
        model.gradients(X, y, "softmax_cross_entropy") for model in (augmented, plain)
    )
    assert loss == plain_loss
    for name, value in plain_gradients.items():
        assert np.array_equal(gradients[name], value)


def test_statistics_of_noise():
    X = np.zeros((400, 500))
    rows, *_ = one_step([GaussianNoise(2.0)], X, np.arange(400) % 3)
    e = rows / 2
    n = e.size
    assert abs(e.mean()) < 5 / np.sqrt(n) and abs(e.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((e**3).mean()) < 5 * np.sqrt(15 / n) and abs((e**4).mean() - 3) < 5 * np.sqrt(96 / n)
    for axis in (0, 1):  # neighbours know nothing of each other
        a, b = e.swapaxes(0, axis)[:-1], e.swapaxes(0, axis)[1:]
        assert abs((a * b).mean()) < 5 / np.sqrt(a.size)


def test_batches_and_epochs_differ():
    X, y, _ = data(32)
    shares = [drawn(MixUp(1.0), epoch, 4)[:, 0] for epoch in (0, 1)]
    assert len({*shares[0], *shares[1]}) == 8
    model = Sequential(GaussianNoise(1.0), Dense(3), dtype="float64").build(20)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.0), "batch_size": 32, "shuffle": False}
    with Training(model, X, y, **options) as training:
        seen = []
        for _ in range(2):
            training.run(1)
            seen.append(batch(training)[0])
    assert not np.allclose(*seen)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_files_keep_it(layer, tmp_path):
    assert from_config(json.loads(json.dumps(to_config(layer)))) == layer
    model = Sequential(layer, Dense(3)).build(20)
    save_model(tmp_path / "model", model)
    assert load_model(tmp_path / "model").layers == model.layers


def test_augmented_images_are_learned_better():
    """Ten images of two classes, shifted at test time: only who saw shifted ones knows them."""
    rng = np.random.default_rng(0)
    patterns = (rng.uniform(size=(2, 8, 8)) < 0.4).astype(float)
    patterns[:, [0, -1]] = patterns[:, :, [0, -1]] = 0
    y = np.arange(10) % 2
    X = patterns[y] + rng.normal(size=(10, 8, 8)) * 0.1
    shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    moved = np.concatenate([np.roll(X, shift, (1, 2)) for shift in shifts]).reshape(90, 64)
    scores = []
    for first in ([], [RandomAffine((8, 8), translate=1 / 8)]):
        model = Sequential(*first, Dense(64), ReLU(), Dense(2))
        options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "epochs": 300, "batch_size": 10, "verbose": 0}
        model.fit(X.reshape(10, 64), y, **options)
        scores.append((model.predict(moved).argmax(1) == np.tile(y, 9)).mean())
    assert scores[1] > scores[0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: GaussianNoise(-1), ValueError, r"`stddev` must be in \[0, inf\); got -1"),
        (lambda: GaussianNoise("a"), TypeError, "`stddev` must be a number; got 'a'"),
        (lambda: RandomAffine(8), ValueError, r"`image_shape` must be \(height, width\)"),
        (lambda: RandomAffine((8, 0)), ValueError, r"`image_shape`.*got \(8, 0\)"),
        (lambda: RandomAffine((8, 8), degrees=(5, -5)), ValueError, r"`degrees` must be \(least, most\); got"),
        (lambda: RandomAffine((8, 8), translate=1.5), ValueError, r"`translate` must be in \[0, 1\]; got 1.5"),
        (lambda: RandomAffine((8, 8), scale=0.9), TypeError, "`scale` must be two numbers; got 0.9"),
        (lambda: RandomAffine((8, 8), scale=(0, 1)), ValueError, r"`scale` must be in \[0.01, 100\]; got 0"),
        (lambda: RandomAffine((8, 8), fill=np.nan), ValueError, "`fill`"),
        (lambda: MixUp(0), ValueError, r"`alpha` must be in \(0, inf\); got 0"),
        (lambda: CutMix(1.0, image_shape=(2, 3, 4, 5)), ValueError, "`image_shape` must be"),
        (lambda: Sequential(RandomAffine((8, 8)), Dense(1)).build(20), ValueError, "needs 64 columns; X has 20"),
        (
            lambda: Sequential(Dense(2), GaussianNoise(1.0), Dense(1)).build(3),
            ValueError,
            "must stand before all layers",
        ),
        (lambda: Sequential(Residual(MixUp()), Dense(1)).build(3), ValueError, "must stand before all layers"),
        (lambda: Sequential(MixUp(), CutMix(), Dense(1)).build(3), ValueError, "one MixUp or CutMix"),
    ],
)
def test_bad_input_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_losses_that_take_no_mixed_targets_say_so():
    X, y, _ = data(20)
    with pytest.raises(ValueError, match="MixUp.*mixes targets, which the loss 'poisson' cannot take; use one of soft"):
        Sequential(MixUp(), Dense(1)).fit(X, y, loss="poisson", optimizer="sgd", epochs=1, verbose=0)
