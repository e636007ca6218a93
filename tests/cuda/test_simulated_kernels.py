"""Each kernel by itself, on the simulated device, against NumPy in float64."""

import numpy as np
import pytest
import reference
from numba import cuda

from fastmlp import devices, records as R
from fastmlp.activations import ACTIVATIONS
from fastmlp.cuda import elementwise, gradients, loss_kernels, narrow, products, updates
from fastmlp.cuda.device import CONTROL, NOT_FINITE, SIMD, STEP, STEP_OF_UPDATES, THREADS, TILES, Tile
from fastmlp.cuda.memory import BEHIND
from fastmlp.cuda.rows import gather, rows_of_block, scatter
from fastmlp.losses import LOSSES, SoftmaxCrossEntropy
from fastmlp.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")
DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 5e-6, "float64": 1e-13}
N_ITEMS = 50_000
SHAPES = [(1, 1, 1), (5, 11, 3), (9, 7, 17), (4, 19, 9), (11, 9, 9), (19, 3, 2)]
PRODUCTS = [(precision, tile, *shape) for precision in DTYPES for tile in TILES[precision] for shape in SHAPES]
# A warp of tensor cores has 32 rows and 32 columns or more: several of them, of pieces, of groups, of steps of a slab
TILES_OF_WARPS = [
    (32, 64, 16, 4, 16),
    (64, 32, 16, 8, 8),
    (64, 64, 32, 4, 8),
    (32, 32, 32, 4, 8, 2),
    (32, 32, 16, 4, 8),
    (64, 128, 16, 8, 16),
]
PRODUCTS += [
    (precision, Tile(*tile, precision=precision), *shape)
    for precision in devices.PRECISIONS
    for tile in TILES_OF_WARPS
    for shape in [(1, 1, 1), (37, 45, 70), (70, 32, 33)]
]


class Device:
    """Matrices in panels in one workspace of NaN, and a record with one step to launch kernels on."""

    def __init__(self, dtype, rows, index=None, first=0):
        self.plan, self.dtype = Plan(dtype, SIMD, 1, 1, rows), dtype
        self.items, self.rows = np.full(N_ITEMS, np.nan, dtype), rows
        self.record, self.number = np.zeros((1, R.RECORD), np.int64), np.zeros(1)
        self.steps = np.zeros((1, R.STEP), np.int64)
        self.steps[0, R.STEP_ROWS], self.steps[0, R.STEP_FIRST] = rows, first
        self.steps[0, R.STEP_INDEX] = -1 if index is None else 0
        self.order = np.zeros(1, np.int64) if index is None else np.asarray(index)
        self.scalars, self.control = np.ones(R.N_SCALARS), np.zeros(CONTROL, np.int64)
        self.used = np.zeros(N_ITEMS, bool)

    def matrix(self, array=None, shape=None):
        """A matrix with these values and padding of 0, or of NaN that a kernel may write to."""
        shape = shape if array is None else array.shape
        matrix = self.plan.matrix("workspace", *shape)
        at = matrix.at.offset // matrix.item
        if array is not None:
            matrix.pack(np.asarray(array, self.dtype), self.items[at:])
        self.used[at : at + matrix.items] = True
        return matrix

    def value(self, matrix):
        return matrix.unpack(self.items[matrix.at.offset // matrix.item :])

    def fields(self, **fields):
        for name, value in fields.items():
            self.record[0, getattr(R, name)] = value

    def panels(self, c, other=None):
        self.fields(C=c.at.offset, C_PANEL_BYTES=c.panel_bytes, N_PANELS=c.n_panels, LAST_WIDTH=c.last_width)
        self.fields(N_OUT=c.columns, OTHER=(other or c).at.offset)

    def operand(self, a):
        self.fields(A=a.at.offset, A_PANEL_BYTES=a.panel_bytes, A_STRIDE_LAST=a.last_width * a.item)

    def launch(self, kernel, grid, block, *arguments):
        """Launch; the workspace may be given several times, and is one array on the device."""
        items = cuda.to_device(self.items)
        kernel[grid, block](*(items if argument is self.items else argument for argument in arguments))
        items.copy_to_host(self.items)

    def untouched(self):
        """Whether nothing was written outside of the matrices."""
        return np.isnan(self.items[~self.used]).all()


def dtype_of(precision):
    return "float64" if precision == "float64" else "float32"


def name_of(value):
    if isinstance(value, Tile):
        return f"{value.rows}x{value.columns}x{value.depth} of {value.own_rows}x{value.own_columns}, {value.groups}"
    return None


def test_there_is_room_behind_a_workspace_for_the_rows_of_all_tiles():
    tiles = [*(tile for of in TILES.values() for tile in of), *narrow.FEW_ROWS.values(), *narrow.MANY_ROWS.values()]
    assert {tile.precision for tile in tiles} == {"", *devices.PRECISIONS}
    assert all(BEHIND >= tile.rows * SIMD.panel("float32") * 4 for tile in tiles)


@pytest.mark.parametrize(("precision", "tile", "rows", "depth", "columns"), PRODUCTS, ids=name_of)
def test_product(rng, precision, rows, depth, columns, tile):
    dtype = dtype_of(precision)
    A, B, bias = (rng.normal(size=shape) for shape in ((rows, depth), (depth, columns), (1, columns)))
    device = Device(dtype, rows)
    b, init, c, out = (*map(device.matrix, (B, bias)), *(device.matrix(shape=(rows, columns)) for _ in range(2)))
    a = device.matrix(A)  # the last, and behind it no more than what a tile's rows are
    device.items = device.items[: a.at.offset // a.item + a.items + tile.rows * SIMD.panel(dtype)]
    device.used = device.used[: len(device.items)]
    device.operand(a)
    device.panels(c, out)
    device.fields(B=b.at.offset, DEPTH=depth, INIT=init.at.offset)
    kernel = products.product(dtype, elementwise.Epilogue("gelu.apart", dtype), tile)
    grid = products.grid_of(tile, rows, columns)
    record = device.control, device.steps, device.record, device.number, 0
    device.launch(kernel, grid, tile.block, *record, device.items, device.items, device.items)
    A, B = (reference.rounded(np.asarray(factor, dtype), precision) for factor in (A, B))
    expected = A @ B + bias
    np.testing.assert_allclose(device.value(c), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    gelu = ACTIVATIONS["gelu"]()(expected)
    np.testing.assert_allclose(device.value(out), gelu, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert device.untouched()


@pytest.mark.parametrize(("precision", "tile", "rows", "n_in", "n_out"), PRODUCTS, ids=name_of)
def test_weight_and_bias_gradients_and_the_transposed_copy(rng, precision, tile, rows, n_in, n_out, monkeypatch):
    units = 1 if tile.groups == 1 else 3
    dtype = dtype_of(precision)
    monkeypatch.setattr(gradients, "units_of_block", lambda *arguments: units)
    A, dZ, W, b = (rng.normal(size=shape) for shape in ((rows, n_in), (rows, n_out), (n_in, n_out), (1, n_out)))
    change = updates.Update("l2", False, False, "sgd", False, 0, dtype)
    device, losses = Device(dtype, rows), np.zeros(rows)
    device.scalars[R.RULE], device.scalars[R.L2] = 0.5, 0.1
    a, dz, w, bias, wt = (*map(device.matrix, (A, dZ, W, b)), device.matrix(shape=(n_out, n_in)))
    device.panels(dz)
    device.operand(a)
    device.fields(WT=wt.at.offset, WT_LAST_WIDTH=wt.last_width)
    for is_matrix, place in ((True, w), (False, bias)):
        device.fields(W=place.at.offset, DEPTH=n_in if is_matrix else 0, N_OUT=n_out if is_matrix else 0)
        size = n_in if is_matrix else 1, (dz.n_panels - 1) * SIMD.panel(dtype) + dz.last_width
        gradient = gradients.Gradient(0, is_matrix, *size, tile, shares=max(1, rows // 4))
        blocks, units, of_updates = gradients.tables([gradient], [0], rows, dtype)
        shares, common = np.full(gradients.n_items([gradient]), np.nan, dtype), (device.control, device.steps)
        launch = gradients.shares_of_gradients(dtype, tile)
        device.launch(launch, len(blocks[tile]), tile.block, *common, device.record, blocks[tile], device.items, shares)
        rest = device.record, of_updates, device.items, device.items, device.items, 0, shares
        launch = gradients.updates(dtype, (change,), units, False, True)
        device.launch(launch, len(of_updates), THREADS, *common, device.scalars, *rest, losses, losses)
    factors = (reference.rounded(np.asarray(factor, dtype), precision) for factor in (A.T, dZ))
    expected = W - 0.5 * (np.matmul(*factors) + 0.1 * W)
    np.testing.assert_allclose(device.value(w), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert np.array_equal(device.value(wt), device.value(w).T)
    expected = b - 0.5 * (dZ.sum(axis=0) + 0.1 * b)
    np.testing.assert_allclose(device.value(bias), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert device.untouched()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_derivatives(name):
    declared = ACTIVATIONS[name]()
    z = np.linspace(-6, 6, 26).reshape(2, 13)
    x = declared(z) if declared.from_output else z
    for dtype in DTYPES:
        for kind, source, other, expected in (
            ("value", z, z, declared(z)),
            ("derivative", 2 * np.ones_like(z), x, 2 * declared.slope(x)),
        ):
            device = Device(dtype, 2)
            start, partner, c = device.matrix(source), device.matrix(other), device.matrix(shape=z.shape)
            device.panels(c, partner)
            device.fields(IN=start.at.offset)
            device.number[0] = 0.0 if declared.parameter is None else getattr(declared, declared.parameter)
            kernel = elementwise.elementwise(dtype, elementwise.Epilogue(f"{name}.{kind}", dtype))
            kernel[2, THREADS](device.control, device.steps, device.record, device.number, 0, device.items)
            rtol, atol = (4e-6, 4e-6) if dtype == "float32" else (1e-12, 1e-14)
            np.testing.assert_allclose(device.value(c), expected, rtol=rtol, atol=atol)
            assert device.untouched()


@pytest.mark.parametrize("source", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("index", [None, [3, 0, 4]])
def test_gather(rng, source, index):
    X = rng.integers(0, 255, (6, 37)).astype(source)
    device = Device("float32", 3, index, first=2)
    batch = device.matrix(shape=(3, 37))
    device.panels(batch)
    device.fields(N_FEATURES=37)
    kernel, grid = gather("float32", True), (-(-3 // rows_of_block("float32")), batch.n_panels)
    kernel[grid, THREADS](device.control, device.steps, device.record, 0, device.order, X, device.items, 1 / 255, -0.5)
    expected = X[[2, 3, 4] if index is None else index] / np.float64(255) - 0.5
    np.testing.assert_allclose(device.value(batch), expected, rtol=1e-6, atol=1e-7)
    assert device.untouched()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("number", "at", "found"),
    [(0, 3, [0, 0]), (np.nan, 0, [1, 0]), (-np.inf, 2, [1, 0]), (np.inf, 3, [0, 1]), (np.nan, 19, [0, 1])],
)
def test_numbers_that_are_not_finite_are_found_among_parameters_and_slots(number, at, found, dtype):
    state, flags = np.full(20, np.finfo(dtype).max, dtype), np.zeros(2, np.int64)
    state[at] = number
    elementwise.find_not_finite(dtype)[2, THREADS](state, 3, flags)
    assert list(flags) == found


def test_scatter(rng):
    Z = rng.normal(size=(3, 11))
    device = Device("float64", 3, first=2)
    device.panels(device.matrix(Z))
    out = np.zeros((6, 11))
    scatter("float64")[2, THREADS](device.control, device.steps, device.record, 0, device.items, out)
    assert np.array_equal(out[2:5], Z) and not out[[0, 1, 5]].any()


SEPARABLE = [name for name, loss in LOSSES.items() if loss.term is not None]
BY_ROWS = {  # outputs, and targets of n rows
    "softmax_focal": (9, lambda rng, n: rng.integers(0, 9, (n, 1))),
    "ordinal": (9, lambda rng, n: rng.integers(0, 10, (n, 1))),
    "hinge": (9, lambda rng, n: rng.integers(0, 9, (n, 1))),
    "hinge of one": (1, lambda rng, n: rng.integers(0, 2, (n, 1))),
    "quantile": (3, lambda rng, n: rng.normal(size=(n, 1))),
    "gaussian": (10, lambda rng, n: rng.normal(size=(n, 5))),
}


def test_every_loss_of_whole_rows_has_a_case():
    assert {name.split()[0] for name in BY_ROWS} == {name for name, loss in LOSSES.items() if loss.row is not None}


@pytest.mark.parametrize("name", [*SEPARABLE, *BY_ROWS, "codes", "dense", "smoothed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_and_their_gradients(rng, name, dtype):
    rows, K, n = 5, 9, 8
    family = name.split()[0] if name.split()[0] in LOSSES else "softmax_cross_entropy"
    loss = SoftmaxCrossEntropy(0.2) if name == "smoothed" else LOSSES[family]()
    y = np.abs(rng.normal(size=(n, K))) if "poisson" in name or "binomial" in name else rng.uniform(size=(n, K))
    codes = name == "codes"
    y = rng.integers(0, K, (n, 1)) if codes else y.astype(dtype)
    if name in BY_ROWS:
        K, targets = BY_ROWS[name]
        y = targets(rng, n).astype(dtype)
    Z, weights, index = 2 * rng.normal(size=(rows, K)), rng.uniform(size=n).astype(dtype), [6, 0, 3, 3, 7]
    Z = Z.astype(dtype)
    for with_weights in (False, True):
        device = Device(dtype, rows, index)
        device.panels(device.matrix(Z))
        device.scalars[R.SCALE] = 0.25
        device.fields(
            SW=0 if with_weights else -1, WITH_GRADIENT=1, ROW_DATA=device.matrix(shape=(2 * rows, 32)).at.offset
        )
        losses, numbers = np.zeros(rows), np.array([*loss.numbers, 0.0, 0.0])
        kernel = loss_kernels.loss(dtype, f"{family}.{'codes' if codes else 'dense'}", False)
        data = (device.order, y, weights, numbers, device.items, losses)
        kernel[2, THREADS](device.control, device.steps, device.scalars, device.record, 0, *data)
        w = weights[index].astype(np.float64) if with_weights else np.ones(rows)
        tolerance = 20 * TOLERANCE[dtype]
        np.testing.assert_allclose(losses, w * loss.rows(Z, y[index]), rtol=tolerance, atol=tolerance)
        expected = 0.25 * w[:, None] * loss.gradient(Z, y[index])
        c = Plan(dtype, SIMD, 1, 1, rows).matrix("workspace", rows, K)
        np.testing.assert_allclose(device.value(c), expected, rtol=tolerance, atol=tolerance)
        assert device.untouched() and not device.control[NOT_FINITE]
        if name in BY_ROWS:  # a row's values and gradient lie apart from the other rows', which other threads write
            first = int(device.record[0, R.ROW_DATA]) // device.items.itemsize
            own = device.items[first : first + 2 * rows * K].reshape(rows, 2, K)
            assert np.array_equal(own[:, 0], Z)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_everything_after_it(bad):
    Z = np.array([[0.0, bad], [1.0, 2.0]])
    for kernel, y in (
        (loss_kernels.loss("float64", "softmax_cross_entropy.codes", False), np.zeros((2, 1), np.int64)),
        (loss_kernels.loss("float64", "squared_error.dense", False), np.zeros((2, 2))),
        (loss_kernels.loss("float64", "hinge.dense", False), np.zeros((2, 1))),
    ):
        device = Device("float64", 2)
        device.panels(device.matrix(Z))
        device.fields(SW=-1, ROW_DATA=device.matrix(shape=(4, 2)).at.offset)
        losses, sums = np.zeros(2), np.zeros(1)
        data = (device.order, y, np.zeros(1), np.zeros(2), device.items, losses)
        kernel[2, THREADS](device.control, device.steps, device.scalars, device.record, 0, *data)
        if y.dtype != np.int64 or bad != -np.inf:  # p = 0 is no error there
            assert device.control[NOT_FINITE] == 1
            loss_kernels.end_of_step(True)[1, THREADS](device.control, device.steps, losses, sums)
            assert device.control[STEP] == 0 and sums[0] == 0


def test_the_sum_of_losses_and_the_next_step(rng):
    losses, sums = rng.normal(size=11), np.zeros(2)
    device = Device("float64", 11)
    loss_kernels.end_of_step(True)[1, THREADS](device.control, device.steps, losses, sums)
    assert sums[0] == pytest.approx(losses.sum(), rel=1e-14) and sums[1] == 0
    assert list(device.control) == [0, 1, 0]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("tile", TILES["float32"])
@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(1, 1, 1), (11, 9, 13), (5, 17, 4)])
def test_updates_from_one_share_and_the_end_of_the_step(rng, rows, n_in, n_out, tile, at_once):
    """All that a step of a narrow network does after its rows, with two slots and an average."""
    A, dZ, W, b = (rng.normal(size=shape) for shape in ((rows, n_in), (rows, n_out), (n_in, n_out), (1, n_out)))
    change = updates.Update("", True, True, "adam", True, 3, "float32")
    device = Device("float32", rows)
    scalars, losses, sums = np.array([0.9, 0.8, 0.1, 0.2, 1e-3]), rng.normal(size=rows), np.full(1, np.nan)
    device.scalars[R.RULE : R.RULE + 5], device.scalars[R.CLIP], device.scalars[R.DECAY] = scalars, 0.7, 0.99
    device.scalars[R.AVERAGE] = 0.3
    a, dz = map(device.matrix, (A, dZ))
    at, distance = int(device.used.sum()), 600
    slots = rng.uniform(size=(3, n_in + 1, n_out))
    parameters = [device.matrix(W), device.matrix(b)]
    wt = device.matrix(shape=(n_out, n_in))
    first = [matrix.at.offset // 4 for matrix in parameters]
    assert at + distance > wt.at.offset // 4 + wt.items
    for k in range(3):
        for matrix, place, values in zip(parameters, first, (slots[k, :-1], slots[k, -1:]), strict=True):
            matrix.pack(values.astype("float32"), device.items[place + (k + 1) * distance :])
            device.used[place + (k + 1) * distance : place + (k + 1) * distance + matrix.items] = True
    device.panels(dz)
    device.operand(a)
    device.record = np.repeat(device.record, 2, axis=0)
    for k, (matrix, depth) in enumerate(zip(parameters, (n_in, 0), strict=True)):
        device.record[k, R.W], device.record[k, R.DEPTH], device.record[k, R.N_OUT] = matrix.at.offset, depth, n_out
    device.record[:, R.WT], device.record[:, R.WT_LAST_WIDTH] = (wt.at.offset, -1), wt.last_width
    columns = (dz.n_panels - 1) * SIMD.panel("float32") + dz.last_width
    of = [gradients.Gradient(k, k == 0, n_in if k == 0 else 1, columns, tile, 1) for k in range(2)]
    assert gradients.at_once(of)
    blocks, units, of_updates = gradients.tables(of, [0, 0], rows, "float32")
    common = device.control, device.steps, device.scalars, device.record
    rest = device.items, device.items, device.items, distance
    device.control[STEP_OF_UPDATES] = 0
    if at_once:
        kernel = gradients.updates_at_once("float32", tile, (change,), True)
        device.launch(kernel, len(blocks[tile]) + 1, tile.block, *common, blocks[tile], *rest, losses, sums)
    else:
        shares = np.full(gradients.n_items(of), np.nan, "float32")
        kernel = gradients.shares_of_gradients("float32", tile)
        numbers = device.record, blocks[tile], device.items, shares
        device.launch(kernel, len(blocks[tile]), tile.block, *common[:2], *numbers)
        kernel = gradients.updates("float32", (change,), units, True, True)
        device.launch(kernel, len(of_updates) + 1, THREADS, *common, of_updates, *rest, shares, losses, sums)
    for matrix, place, p, g, values in (
        (parameters[0], first[0], W, A.T @ dZ, slots[:, :-1]),
        (parameters[1], first[1], b, dZ.sum(axis=0, keepdims=True), slots[:, -1:]),
    ):
        m, v, average = values
        g = g.clip(-0.7, 0.7)
        m, v = m + scalars[1] * (g - m), v + scalars[2] * (g * g - v)
        p = 0.99 * p - scalars[0] * m / (np.sqrt(v) + scalars[3])
        for k, value in enumerate((p, m, v, average + 0.3 * (p - average))):
            found = matrix.unpack(device.items[place + k * distance :])
            np.testing.assert_allclose(found, value, rtol=2e-4, atol=2e-5)
    assert np.array_equal(device.value(wt), device.value(parameters[0]).T)
    assert sums[0] == pytest.approx(losses.sum(), rel=1e-12) and device.control[STEP] == 1
    assert device.untouched()


def test_the_simulator_is_what_runs():
    assert THREADS == 4 and cuda.is_available()


@cuda.jit
def neighbours(out, last, failing):
    """Each thread hands its number to the one before, by way of shared memory; those after `last` end before."""
    t = cuda.threadIdx.x
    shared = cuda.shared.array(4, np.int64)
    shared[t] = t
    if t > last:
        return
    cuda.syncthreads()
    if t == failing:
        raise ZeroDivisionError
    out[t] = shared[(t + 1) % 4]


def test_the_simulator_waits_at_barriers_and_reports_what_goes_wrong():
    out = np.full(4, -1)
    neighbours[1, 4](out, 3, -1)
    assert out.tolist() == [1, 2, 3, 0]
    for last in (0, 2):
        with pytest.raises(AssertionError, match="have ended while others wait"):
            neighbours[1, 4](out, last, -1)
    with pytest.raises(ZeroDivisionError):
        neighbours[1, 4](out, 3, 2)
    neighbours[1, 4](out, 3, -1)
