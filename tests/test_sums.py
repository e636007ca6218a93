"""Sums along the rows and columns of matrices in panels: right, and the same bits with every vector unit."""

import numpy as np
import pytest
from numba import njit

from fastmlp.engine.sums import maxima_of_rows, sums_of_columns, sums_of_rows
from fastmlp.simd import KNOWN

WIDTHS = (1, 3, 16, 31, 37, 100)
UNITS = [KNOWN[name] for name in ("avx512", "avx2", "sse")]  # neon has the panels of sse


def in_panels(M, simd):
    """(the matrix in panels, bytes from panel to panel, the last panel, its width); what is no column is NaN."""
    panel, last_width = simd.panel(M.dtype.name), simd.last_width(M.shape[1], M.dtype.name)
    parts = []
    for first in range(0, M.shape[1], panel):
        columns = M[:, first : first + panel]
        width = panel if first + panel < M.shape[1] else last_width
        parts.append(np.pad(columns, ((0, 0), (0, width - columns.shape[1])), constant_values=np.nan).ravel())
    return np.concatenate(parts), panel * len(M) * M.itemsize, len(parts) - 1, last_width


def some(n, dtype, seed):
    return np.random.default_rng(seed).normal(size=(5, n)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "kind, shifted", [("x", False), ("|x|", False), ("xx", True), ("xw", True), ("xy", False), ("xwy", False)]
)
def test_row_sums_are_those_of_float64_for_any_panels(dtype, kind, shifted):
    bits = {}
    for simd in UNITS:
        sums = sums_of_rows(dtype, simd, kind, shifted)

        @njit
        def run(out, x, w, y, stride, last_panel, last_width, shifts, first, last, sums=sums):
            sums(out, 1, x, w, y, stride, last_panel, last_width, shifts, first, last, 0, len(out))

        for n in WIDTHS:
            X, Y, w = some(n, dtype, 0), some(n, dtype, 1), some(n, dtype, 2)[0]
            shifts = np.linspace(-1, 1, 5).astype(dtype).astype(float)
            (x, stride, last_panel, last_width), y = in_panels(X, simd), in_panels(Y, simd)[0]
            centred = X - shifts.astype(dtype)[:, None] if shifted else X
            x64, xw = centred.astype(float), centred.astype(float) * w
            terms = {"x": x64, "|x|": abs(x64), "xx": x64 * x64, "xw": xw, "xy": x64 * Y, "xwy": xw * Y}[kind]
            for first, last in {(0, n), (n // 3, n - n // 5), (min(15, n), n), (min(31, n), n)}:
                out, places = np.zeros(5), (x.ctypes.data, w.ctypes.data, y.ctypes.data)
                run(out, *places, stride, last_panel, last_width, shifts, first, last)
                np.testing.assert_allclose(out, terms[:, first:last].sum(1), rtol=1e-13, atol=1e-13)
                assert out.tobytes() == bits.setdefault((n, first, last), out.tobytes()), (n, simd)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_of_a_row(dtype):
    for simd in UNITS:
        maxima = maxima_of_rows(dtype, simd)

        @njit
        def run(out, x, stride, last_panel, last_width, n, maxima=maxima):
            maxima(out, x, stride, last_panel, last_width, n, 0, len(out))

        for n in WIDTHS:
            X, out = some(n, dtype, n), np.zeros(5)
            x, *places = in_panels(X, simd)
            run(out, x.ctypes.data, *places, n)
            np.testing.assert_array_equal(out, X.max(1))
            X[:, 0] = 9.0  # NaN further on in its lane does not hide it
            X[:, n // 2] = X[:, max(n // 16 - 1, 0) * 16] = (
                np.nan
            )  # passed over, but in the first, from which all start
            x = in_panels(X, simd)[0]
            run(out, x.ctypes.data, *places, n)
            np.testing.assert_array_equal(out, np.nanmax(X, 1) if n >= 32 else X[:, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["values", "squares", "products"])
def test_column_sums_are_those_of_float64_row_after_row(dtype, kind):
    for simd in UNITS:
        add = sums_of_columns(dtype, simd, kind)

        @njit
        def run(out, x, y, centre, width, rows, add=add):
            add(out, x, y, centre, width, rows)

        for width in simd.widths(dtype):
            x, y, centre = (np.ascontiguousarray(some(width, dtype, seed)) for seed in range(3))
            out, expected = np.full(width, np.nan), np.zeros(width)
            run(*(a.ctypes.data for a in (out, x, y, centre)), width, 5)
            for i in range(5):
                d = (x[i] - centre[0]).astype(float)
                expected += {"values": x[i], "squares": d * d, "products": x[i].astype(float) * y[i]}[kind]
            if dtype == "float32":  # products are exact in float64, so fused or not they give the same
                np.testing.assert_array_equal(out, expected)
            np.testing.assert_allclose(out, expected, rtol=1e-14, atol=1e-14)
