"""Narrow networks and gradients in shares of rows: beside the general launches, and beside the CPU in other tests."""

import numpy as np
import pytest

from fastmlp import (
    GELU,
    SELU,
    SGD,
    Adam,
    AdamW,
    AlphaDropout,
    BatchNorm,
    Dense,
    Dropout,
    ExponentialDecay,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    Tanh,
)
from fastmlp.activations import ELU, Logistic
from fastmlp.cuda import gradients, narrow
from fastmlp.cuda.device import SIMD, TILES
from fastmlp.losses import SoftmaxCrossEntropy
from fastmlp.lowering import forward_plan, loss_plan, training_plan
from fastmlp.training import Training

# uint32 arithmetic wraps around on a device; NumPy's scalars warn of it
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")

ADAM = Adam()
N = 21  # batches of 8: two whole ones, which are two shares of 4 rows, and one of 5 rows


def data(kind, dtype, n_features=5):
    rng, shape = np.random.default_rng(0), (N, n_features)
    X = rng.integers(0, 256, shape).astype(np.uint8) if kind == "bytes" else rng.normal(size=shape).astype(dtype)
    return X, rng.normal(size=(N, 3)) if kind == "numbers" else rng.integers(0, 3, N)


SCHEDULE = ExponentialDecay(0.5, 0.9, steps=2)
DROPPING = [Dense(6), Residual(Dense(6), ReLU(), drop_rate=0.4), Dropout(SCHEDULE), Dense(3), Dropout(0.1)]
FROM_MEMORY = [Dense(9), Logistic(), Dense(3), Residual(Logistic())]
CASES = {
    "penalties, smoothing": (
        [Dense(9, l2=1e-3), GELU(), Dense(10, l1=1e-3, use_bias=False), Tanh(), Dense(3)],
        "codes",
        {"optimizer": AdamW(0.02, ema_decay=0.9), "loss": SoftmaxCrossEntropy(0.1)},
    ),
    "bytes, an activation of one number, weights": (
        [Rescaling(1 / 255, -0.5), Dense(9), ELU(0.7), Dense(3)],
        "bytes",
        {"optimizer": SGD(0.1, momentum=0.9, clip_value=0.01), "sample_weight": np.linspace(0, 2, N)},
    ),
    "one layer, outputs behind an activation": ([Dense(3), Tanh()], "numbers", {"loss": "squared_error"}),
    "many rows, more columns than a tile": (
        [Dense(20), GELU(), Dense(18), ReLU(), Dense(3)],
        "codes",
        {"batch_size": 12},
    ),
    "one share of rows": ([Dense(20), GELU(), Dense(18), ReLU(), Dense(3)], "codes", {"batch_size": 5}),
    "more columns of X than a layer may have": ([Dense(7), Tanh(), Dense(32), ReLU(), Dense(3)], "bytes", {}),
    "as deep as a product without a second turn": ([Dense(32), ReLU(), Dense(32), ReLU(), Dense(17)], "codes", {}),
    "dropout, of X too": ([Dropout(0.3), Dense(9), GELU(), Dropout(0.4), Dense(7), ReLU(), Dense(3)], "codes", {}),
    "more columns of X, dropout": ([Dropout(0.3), Dense(7), SELU(), AlphaDropout(0.2), Dense(3)], "codes", {}),
    "dropout by a schedule, of rows, of logits": (DROPPING, "numbers", {"batch_size": 12, "loss": "squared_error"}),
    "the same with few rows": (DROPPING, "numbers", {"loss": "squared_error"}),
    "many rows, wider than with few": ([Dense(67), ReLU(), Dense(3)], "codes", {"batch_size": 12}),
    "logits come from memory": ([Dense(9), ReLU(), Dense(3), Residual(Logistic())], "codes", {"batch_size": 5}),
    "the same, a term for each": (FROM_MEMORY, "numbers", {"batch_size": 5, "loss": "squared_error"}),
    "the same, of whole rows": (FROM_MEMORY, "codes", {"batch_size": 5, "loss": "hinge"}),
    "X is read twice": ([Residual(Dense(9), ReLU(), Dense(5)), Tanh(), Dense(3)], "codes", {"batch_size": 3}),
    "residual, frozen": (
        [Dense(6, trainable=False), Residual(ReLU(), Dense(6), Tanh(), Dense(6)), ReLU(), Dense(3)],
        "codes",
        {},
    ),
}


def train(layers, X, y, dtype, **options):
    """(losses, losses of validation data, parameters, launches of a step)"""
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 8, "seed": 2} | options
    model = Sequential(*layers, dtype=dtype).build(X.shape[1])
    with Training(model, X, y, device="cuda", **options) as training:
        losses = [*training.run(1), *training.run(2)]
        validation = training.loss_of(X[:9], y[:9])
        (program,) = training.executor._programs
        n_launches, present = len(program.launches), training.executor.parameters
        without_padding = np.zeros_like(present)
        training.executor.pack_into(without_padding, training.executor.unpack(present))
    assert np.array_equal(present, without_padding)
    return losses, validation, model.parameters, n_launches


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_narrow_networks_take_few_launches_that_do_what_the_others_do(name, dtype, monkeypatch):
    """The rows; gradients, with one size of tiles or with two; the updates, by the kernel of the gradients where there
    is one share of rows. An evaluation is rows and an end.
    """
    layers, kind, options = CASES[name]
    X, y = data(kind, dtype, 67 if name.startswith("more columns of X") else 5)
    narrowly = train(layers, X, y, dtype, **options)
    monkeypatch.setattr(narrow, "qualifies", lambda plan: False)
    monkeypatch.setattr(gradients, "n_shares", lambda *arguments: 1)
    generally = train(layers, X, y, dtype, **options)
    two_sizes = name.startswith("many rows, ")
    assert narrowly[3] == (2 if options.get("batch_size", 8) < 8 else 3) + two_sizes < generally[3]
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(narrowly[0], generally[0], rtol=rtol)
    np.testing.assert_allclose(narrowly[1], generally[1], rtol=rtol)
    for key, array in generally[2].items():
        np.testing.assert_allclose(narrowly[2][key], array, rtol=20 * rtol, atol=20 * rtol, err_msg=key)


def test_gradients_in_shares_beside_networks_that_are_not_narrow(monkeypatch):
    """With what only these have: a norm, dropout, stored gradients and a limit of norms."""
    layers = [Dense(9, max_norm=0.9, use_bias=False), BatchNorm(), GELU(), Dropout(0.3), Dense(3)]
    X, y = data("codes", "float64")
    options = {"optimizer": SGD(0.1, momentum=0.9, clip_norm=0.5)}
    numbers, n_shares = [], gradients.n_shares
    monkeypatch.setattr(gradients, "n_shares", lambda *arguments: numbers.append(n_shares(*arguments)) or numbers[-1])
    shared = train(layers, X, y, "float64", **options)
    monkeypatch.setattr(gradients, "n_shares", lambda *arguments: 1)
    whole = train(layers, X, y, "float64", **options)
    assert set(numbers) == {2}
    np.testing.assert_allclose(shared[0], whole[0], rtol=1e-12)
    for key, array in whole[2].items():
        np.testing.assert_allclose(shared[2][key], array, rtol=1e-11, atol=1e-11, err_msg=key)


@pytest.mark.parametrize(("batch_size", "most", "most_inputs"), [(8, 32, 144), (16, 128, 128)])
def test_which_plans_are_narrow(batch_size, most, most_inputs):
    """With few rows and with many."""
    common = {"n_features": most, "batch_size": batch_size, "source": "uint8", "dtype": "float32", "simd": SIMD}
    softmax, layers = SoftmaxCrossEntropy(), [Dense(most), ReLU(), Dense(most)]

    def trained(layers, optimizer=ADAM, **changes):
        return training_plan(layers, softmax, "codes", optimizer, **(common | changes))

    assert narrow.qualifies(trained(layers))
    assert narrow.qualifies(trained(layers, AdamW(clip_value=1.0, ema_decay=0.9), weighted=True))
    assert narrow.qualifies(trained(layers, dtype="float64"))
    assert narrow.qualifies(loss_plan(layers, softmax, "codes", **common))
    assert narrow.qualifies(trained(layers, n_features=most_inputs))
    assert not narrow.qualifies(trained(layers, n_features=most_inputs + 1))
    assert not narrow.qualifies(trained([Dense(most + 1), ReLU(), Dense(3)]))
    assert not narrow.qualifies(trained([Dense(20), ReLU(), Dense(most + 1)]))
    assert narrow.qualifies(trained([Dropout(0.5), Dense(20), AlphaDropout(0.5), Dense(3)]))
    once_more = [Residual(ReLU()), Dense(3)]  # of X, by way of memory
    assert narrow.qualifies(trained(once_more)) and not narrow.qualifies(trained(once_more, n_features=most + 1))
    assert not narrow.qualifies(trained([Dense(20), BatchNorm(), Dense(3)]))
    assert not narrow.qualifies(trained(layers, Adam(clip_norm=1.0)))
    assert not narrow.qualifies(forward_plan(layers, **common))


def test_shares_cover_all_rows_once_and_depend_on_sizes_only():
    plan = training_plan(
        [Dense(40), ReLU(), Dense(3)],
        SoftmaxCrossEntropy(),
        "codes",
        SGD(),
        n_features=11,
        batch_size=50,
        source="float32",
        dtype="float32",
        simd=SIMD,
    )
    assert {gradient.tile for gradient in gradients.of_plan(plan, True)} == {TILES["float32"][-1]}
    sums = gradients.of_plan(plan, False)
    assert {gradient.tile for gradient in sums} == set(TILES["float32"])
    tables, _, updates = gradients.tables(sums, [0] * len(sums), 50, "float32")
    assert set(tables) == set(TILES["float32"])
    n_bytes = updates.nbytes + sum(table.nbytes for table in tables.values())
    assert gradients.bytes_of_tables(sums, "float32") == n_bytes
    blocks = np.concatenate(list(tables.values()))
    sizes = {}
    for gradient in sums:
        k, is_matrix = gradient.record, gradient.is_matrix
        of_sums, of_updates = (table[table[:, gradients.RECORD] == k] for table in (blocks, updates))
        assert (of_sums[:, gradients.IS_MATRIX] == is_matrix).all() and (of_updates[:, 1] == is_matrix).all()
        ((at, n_shares, size),) = np.unique(of_updates[:, [gradients.AT, gradients.SHARES, gradients.SIZE]], axis=0)
        shares = np.unique(of_sums[:, [gradients.FIRST_ROW, gradients.LAST_ROW, gradients.TO]], axis=0)
        assert len(shares) == n_shares and (shares[:, 2] == at + size * np.arange(n_shares)).all()
        assert shares[0, 0] == 0 and (shares[1:, 0] == shares[:-1, 1]).all() and shares[-1, 1] >= 50
        corners = np.unique(of_sums[:, [gradients.FIRST_UNIT, gradients.FIRST_COLUMN]], axis=0)
        assert len(corners) * n_shares == len(of_sums)
        assert len(np.unique(of_updates[:, [gradients.FIRST_UNIT, gradients.FIRST_COLUMN]], axis=0)) == len(of_updates)
        sizes[k] = size, n_shares * size
    assert gradients.n_items(sums) == sum(of_all for _, of_all in sizes.values())
    assert sorted(size for size, _ in sizes.values()) == [4, 40, 4 * 40, 11 * 40]
