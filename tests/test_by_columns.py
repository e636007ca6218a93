"""Products that are shared out by their columns: where, and that they give the bits of those shared out by rows."""

import numpy as np
import pytest
import reference
from cases import cases, examples, layer_of, train
from hypothesis import given, strategies as st

from fastmlp import SGD, Adam, Dense, GELUTanh, ReLU, Residual, Sequential, evaluation, records as R, training
from fastmlp.cuda.device import SIMD as CUDA
from fastmlp.engine.sharing import shares_of
from fastmlp.engine.threads import Chooser, ShortRuns
from fastmlp.losses import get as loss_of
from fastmlp.lowering import forward_plan, steps, training_plan
from fastmlp.prediction import KEPT_BYTES, numpy_forward


class Sharing:
    """Within it every product is shared out by columns, whatever its shape, or none."""

    def __init__(self, everything):
        self.columns_a_row = 0 if everything else np.inf

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(steps, "COLUMNS_A_ROW", self.columns_a_row)
        self.patch.setattr(steps, "WORTH_A_BARRIER", 0)
        self.patch.setattr(steps, "CACHE_BYTES", 0)
        self.patch.setattr(training, "training_plan", training_plan.__wrapped__)  # which are remembered

    def __exit__(self, *_):
        self.patch.undo()


def kernels(plan):
    return [step.kernel for phase in plan.phases for step in phase.steps]


def plan_of(widths, batch_size, simd=None):
    layers = [layer for units in widths[1:] for layer in (Dense(units), ReLU())][:-1]
    loss, common = loss_of("softmax_cross_entropy"), {"n_features": widths[0], "source": "float32", "dtype": "float32"}
    of_training = training_plan(layers, loss, "codes", Adam(), batch_size=batch_size, simd=simd, **common)
    return of_training, forward_plan(layers, batch_size=batch_size, simd=simd, **common)


@examples(60)
@given(cases(), st.sampled_from([1, 2, 3]))
def test_the_same_bits_as_by_rows(case, n_threads):
    with Sharing(everything=False):
        expected, losses = train(case, shuffle=True, seed=3)
    with Sharing(everything=True):
        parameters, others = train(case, n_threads=n_threads, shuffle=True, seed=3, _guard=64)
    assert np.array_equal(losses, others)
    for name, value in expected.items():
        assert np.array_equal(value, parameters[name]), name


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "Dropout", "GLU", "PReLU", "Softmax", "Residual"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_beside_every_kind_of_layer(name, n_threads, rng):
    X, y = rng.normal(size=(50, 70)), rng.integers(0, 3, 50)
    found = []
    for everything in (False, True):
        model = Sequential(Dense(6), layer_of(name), Dense(40), GELUTanh(), Residual(Dense(40), ReLU()), Dense(3))
        with Sharing(everything):
            options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.01, momentum=0.9), "batch_size": 16}
            model.fit(X, y, epochs=3, n_threads=n_threads, seed=1, verbose=0, **options)
        found.append(model.parameters)
    for key, value in found[0].items():
        assert np.array_equal(value, found[1][key]), key


def test_which_products_are():
    """Those that are far wider than the batch is high, and large enough for a barrier: on the way forward and back."""
    of_training, of_prediction = map(kernels, plan_of((784, 512, 512, 10), 64))
    assert of_training.count("product_panels") == 4 and of_training.count("product") == 1  # that of ten columns
    assert of_prediction.count("product_panels") == 2
    for widths, batch_size in [((784, 512, 512, 10), 256), ((784, 128, 64, 10), 64), ((20, 64, 64, 10), 1)]:
        for plan in plan_of(widths, batch_size):
            assert "product_panels" not in kernels(plan)


def test_predictions_with_a_network_that_a_cache_holds_are_not():
    of_training, of_prediction = map(kernels, plan_of((256, 256, 256, 10), 8))
    assert "product_panels" in of_training and "product_panels" not in of_prediction


def test_a_gpu_has_none():
    for plan in plan_of((784, 512, 512, 10), 8, CUDA):
        assert "product_panels" not in kernels(plan)


def test_units_are_panels():
    of_training, _ = plan_of((784, 500, 500, 10), 8)
    for phase in of_training.phases:
        for step in phase.steps:
            if step.kernel == "product_panels":
                assert len(phase.steps) == 1 and phase.kind == R.TILE_PHASE
                assert step.units == step.fields[R.N_PANELS] == -(-500 // of_training.simd.panel("float32"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_few_rows_of_a_large_network(dtype, rng):
    model = Sequential(Dense(700), ReLU(), Dense(530), ReLU(), Dense(3), dtype=dtype).build(600)
    X = rng.normal(size=(evaluation.FEW_ROWS + 1, 600)).astype(dtype)
    expected = reference.forward(model.layers, model.parameters, X)[0]
    bound = 1e-12 if dtype == "float64" else 3e-6
    for n in (1, 2, 7, 8, 9, 31, 32, 33, 1):
        found = [model.logits(X[:n], n_threads=n_threads) for n_threads in (1, 2, 3, None)]
        assert reference.relative_error(found[0], expected[:n]) < bound
        assert all(np.array_equal(other, found[0]) for other in found[1:])
    X[5, 599] = np.nan
    with pytest.raises(ValueError, match="got NaN in row 5, column 599"):
        model.logits(X[:8])
    assert np.isfinite(model.logits(X[:5])).all()


def test_a_network_too_large_to_be_kept_predicts_few_rows_in_numpy(monkeypatch, rng):
    monkeypatch.setattr("fastmlp.sequential.KEPT_BYTES", KEPT_BYTES // 40)
    model, X = Sequential(Dense(900), ReLU(), Dense(3)).build(800), rng.normal(size=(3, 800)).astype(np.float32)
    monkeypatch.delattr("fastmlp.evaluation.predictions")
    assert np.array_equal(model.logits(X), numpy_forward(model._flat, model._arrays, X, model.dtype))


def test_short_runs_are_tried_in_a_row():
    """Those that follow others are shorter than the first after a break, and one that was held up is forgotten."""
    chooser = Chooser(1, 1e6)
    chooser.candidates = chooser._order = [1, 2]
    for field in ("cost", "least", "wait", "last", "trials"):
        setattr(chooser, field, dict.fromkeys((1, 2), getattr(chooser, field)[1]))
    runs, chosen, since = ShortRuns(chooser), [], 0
    for i in range(2000):
        chosen.append(runs.next())
        since = since + 1 if i and chosen[-2] == chosen[-1] else 0
        runs.measured(6e-5 if chosen[-1] == 1 else 1.8e-4 if since < 20 else 0.05 if i == 700 else 3e-5)
    assert chosen[0] == 1 and chosen.count(1) < 600 and set(chosen[1000:]) == {2}


# Who owns what


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5, 16, 70])
def test_every_unit_has_one_owner_and_nobody_has_much_more_than_others(n_workers):
    plan, _ = plan_of((30, *[70] * 12, 3), 40)
    steps = [(number, step) for number, phase in enumerate(plan.phases) for step in phase.steps]
    firsts, counts, costs, pieces = np.split(
        shares_of(plan, n_workers), np.cumsum([len(steps), len(steps), len(plan.phases)]), axis=1
    )
    for k, (_, step) in enumerate(steps):
        owned = [u for first, n in zip(firsts[:, k], counts[:, k], strict=True) for u in range(first, first + n)]
        assert owned == list(range(step.units))
        assert counts[:, k].max() - counts[:, k].min() <= 1
    for number in range(len(plan.phases)):
        of_phase = [(k, step) for k, (phase, step) in enumerate(steps) if phase == number]
        assert np.array_equal(costs[:, number], sum(counts[:, k] * step.cost for k, step in of_phase))
        assert np.ptp(costs[:, number]) <= max(step.cost for _, step in of_phase)
        assert (pieces[:, number] <= sum(counts[:, k] for k, _ in of_phase)).all()


def test_a_worker_updates_the_columns_that_it_multiplies_by():
    plan, _ = plan_of((784, 512, 10), 16)
    steps = [step for phase in plan.phases for step in phase.steps]
    product = next(k for k, step in enumerate(steps) if step.kernel == "product_panels")
    update = next(k for k, step in enumerate(steps) if step.text.startswith("dense_0.weight"))
    assert steps[update].fields[R.OF_COLUMNS]
    shares = shares_of(plan, 2)
    blocks = steps[update].fields[R.N_BLOCKS]
    for worker in (0, 1):
        first, n = shares[worker, product], shares[worker, len(steps) + product]
        assert (shares[worker, update], shares[worker, len(steps) + update]) == (first * blocks, n * blocks)
