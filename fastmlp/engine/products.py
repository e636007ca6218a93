"""Kernels of the three products: forward and input gradient (one kernel), weights' gradient, bias's gradient."""

from __future__ import annotations

from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE
from .ir import LINE, UNROLLED, call, int64_at, items_at, tile_of_columns, tile_of_rows, transpose_square

# rows of dz and of a block of A that stay in a first-level cache together: 1 to 2 % of a batch of 256
BATCH_CHUNK = 128
# of a panel of B that stays in a first-level cache while all rows go by, beside A: 5 % of a product 1024 deep
BLOCK_BYTES = 2**14


def shapes_of(dtype: str, simd: Simd, column: bool = False) -> list[tuple[int, int, int]]:
    """(width, vectors, lanes) of every panel width, and with `column` of a single column."""
    lanes = simd.vector_bytes // ITEMSIZE[dtype]
    widths = (*simd.widths(dtype), 1) if column else simd.widths(dtype)
    return [(w, max(1, w // lanes), min(w, lanes)) for w in widths]


def by_width(functions: list, widths: list[int]):
    """One function for panels of every width, which comes before the arguments of theirs; `functions` are by falling
    width.
    """
    full, half, quarter, eighth, least = (functions + functions[-1:] * 4)[:5]
    full_width, half_width, quarter_width, eighth_width = (widths + [0] * 4)[:4]

    @njit(**INLINE)
    def of_width(width, *arguments):
        if width == full_width:
            full(*arguments)
        elif width == half_width:
            half(*arguments)
        elif width == quarter_width:
            quarter(*arguments)
        elif width == eighth_width:
            eighth(*arguments)
        else:
            least(*arguments)

    return of_width


def _strip(dtype: str, simd: Simd, width: int, vectors: int, lanes: int):
    """All rows lo..hi of one panel of C, tile by tile."""
    item, tallest, panel = ITEMSIZE[dtype], simd.rows, simd.panel(dtype)
    asks = tallest * vectors >= 16 and width == panel
    tall = tile_of_rows(dtype, tallest, vectors, lanes, panel, asks)
    four, two, one = (tile_of_rows(dtype, r, vectors, lanes, panel) for r in (4, 2, 1))

    @njit(**INLINE)
    def strip(a, lo, hi, panel_bytes, stride_last, b, depth, c, init, more):
        i = lo
        ahead, n_tiles = b + depth * width * item, max(1, (hi - lo) // tallest)
        step = min(LINE, UNROLLED * width * item // n_tiles)
        while i + tallest <= hi and (tallest % 4 == 0 or hi - i != 8):  # 4 + 4 is faster than 6 + 2
            tall(a, i, panel_bytes, stride_last, b, depth, c + i * width * item, init, more, ahead, step)
            ahead += depth // UNROLLED * step
            i += tallest
        while i + 4 <= hi:
            four(a, i, panel_bytes, stride_last, b, depth, c + i * width * item, init, more, 0, 0)
            i += 4
        if i + 2 <= hi:
            two(a, i, panel_bytes, stride_last, b, depth, c + i * width * item, init, more, 0, 0)
            i += 2
        if i < hi:
            one(a, i, panel_bytes, stride_last, b, depth, c + i * width * item, init, more, 0, 0)

    return strip


def product(dtype: str, simd: Simd):
    """C = epilogue(init + A B) for rows lo..hi: the forward product, and the input gradient with B = W transposed."""
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
    shapes = shapes_of(dtype, simd)
    strip = by_width([_strip(dtype, simd, *shape) for shape in shapes], [shape[0] for shape in shapes])
    most = BLOCK_BYTES // (2 * simd.vector_bytes)

    def product(record, lo, hi, worker):
        r = int64_at(record)
        panel_bytes, stride_last = r[R.A_PANEL_BYTES], r[R.A_STRIDE_LAST]
        depth, n_panels, init = r[R.DEPTH], r[R.N_PANELS], r[R.INIT]
        n_blocks = (depth + most - 1) // most
        block = ((depth + n_blocks - 1) // n_blocks + panel_width - 1) // panel_width * panel_width
        int64_at(worker)[R.EPILOGUE_NUMBER] = r[R.NUMBER]
        for j in range(n_panels):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            c = r[R.C] + j * r[R.C_PANEL_BYTES]
            bias = init + j * panel_width * item if init != 0 else 0
            for first in range(0, depth, block):
                a = r[R.A] + first // panel_width * panel_bytes
                b = r[R.B] + (j * panel_width * depth + first * width) * item
                n = min(block, depth - first)
                strip(width, a, lo, hi, panel_bytes, stride_last, b, n, c, bias, first)
            if r[R.EPILOGUE] != 0:
                at = lo * width * item
                other = r[R.OTHER] + j * r[R.C_PANEL_BYTES] + at
                call(r[R.EPILOGUE], c + at, other, (hi - lo) * width, worker)

    return product


def product_panels(dtype: str, simd: Simd):
    """Units lo..hi: panels of C of a product, for all rows of the batch. Where rows are few, workers have some columns
    each, and their part of B stays in their caches.
    """
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)

    def product_panels(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        own = int64_at(w[R.OWN_RECORD])
        for k in range(R.RECORD):
            own[k] = r[k]
        own[R.B] += lo * panel_width * r[R.DEPTH] * item
        own[R.C] += lo * r[R.C_PANEL_BYTES]
        own[R.OTHER] += lo * r[R.C_PANEL_BYTES]
        if r[R.INIT] != 0:
            own[R.INIT] += lo * panel_width * item
        own[R.N_PANELS] = hi - lo
        if hi < r[R.N_PANELS]:
            own[R.LAST_WIDTH] = panel_width
        call(r[R.PRODUCT], w[R.OWN_RECORD], 0, w[R.ROWS], worker)

    return product_panels


@njit(**INLINE)
def update_block(r, worker, weights, gradient, n):
    """What a record does with `n` parameters whose gradient was just computed, with the numbers of its group."""
    w = int64_at(worker)
    scalars = w[R.SCALARS]
    w[R.SCALARS] = scalars + r[R.GROUP]
    if r[R.PENALTY] != 0:
        call(r[R.PENALTY], gradient, weights, n, worker)
    if r[R.CLIP_KERNEL] != 0:
        call(r[R.CLIP_KERNEL], gradient, weights, n, worker)
    if r[R.DECAY_KERNEL] != 0:
        call(r[R.DECAY_KERNEL], weights, gradient, n, worker)
    if r[R.OPTIMIZER] != 0:
        call(r[R.OPTIMIZER], weights, gradient, n, worker)
    if r[R.AVERAGE_KERNEL] != 0:
        call(r[R.AVERAGE_KERNEL], weights, gradient, n, worker)
    w[R.SCALARS] = scalars


def transposed_block(dtype: str, simd: Simd):
    """A function that writes a block of a matrix into its place in the transposed copy."""
    item, items, lanes = ITEMSIZE[dtype], items_at[dtype], simd.vector_bytes // ITEMSIZE[dtype]
    transpose = transpose_square(dtype, lanes)

    @njit(**INLINE)
    def write_transposed(src, n_rows, width, columns, dst, dst_width):
        if n_rows % lanes == 0 and columns % lanes == 0:
            for i in range(0, n_rows, lanes):
                for k in range(0, columns, lanes):
                    transpose(
                        src + (i * width + k) * item, width * item, dst + (k * dst_width + i) * item, dst_width * item
                    )
        else:
            s, d = items(src), items(dst)
            for k in range(columns):
                for i in range(n_rows):
                    d[k * dst_width + i] = s[i * width + k]

    return write_transposed


def weight_gradient(dtype: str, simd: Simd):
    """Units lo..hi: a block of W's gradient over the whole batch into scratch, or to where it is kept; then penalty,
    clipping and the optimiser on the hot block, and the block again into W transposed."""
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
    write_transposed = transposed_block(dtype, simd)
    tallest = simd.rows

    @njit(**INLINE)
    def upcoming_lines(worker, share, row_bytes):
        """(address, number) of the next lines of X, `share` at most, that this worker will gather in the next step."""
        if share == 0:
            return 0, 0
        w = int64_at(worker)
        i, offset = w[R.NEXT_ROW], w[R.NEXT_OFFSET]
        if i >= w[R.NEXT_END]:
            return 0, 0
        row = w[R.NEXT_FIRST] + i if w[R.NEXT_INDEX] == 0 else int64_at(w[R.NEXT_INDEX])[i]
        n = min(share, (row_bytes - offset + LINE - 1) // LINE)
        w[R.NEXT_OFFSET] = offset + n * LINE
        if w[R.NEXT_OFFSET] >= row_bytes:
            w[R.NEXT_ROW], w[R.NEXT_OFFSET] = i + 1, 0
        return w[R.NEXT_X] + row * w[R.NEXT_STRIDE] + offset, n

    def tiles_of(width, vectors, lanes):
        tall, four, two, one = (tile_of_columns(dtype, r, vectors, lanes) for r in (tallest, 4, 2, 1))

        @njit(**INLINE)
        def tiles(a, n, stride, b, depth, c, more):
            i = 0
            while i + tallest <= n:
                tall(a + i * item, stride, b, depth, c + i * width * item, more)
                i += tallest
            if i + 4 <= n:
                four(a + i * item, stride, b, depth, c + i * width * item, more)
                i += 4
            if i + 2 <= n:
                two(a + i * item, stride, b, depth, c + i * width * item, more)
                i += 2
            if i < n:
                one(a + i * item, stride, b, depth, c + i * width * item, more)

        return tiles

    shapes = shapes_of(dtype, simd)
    strips = [tiles_of(*shape) for shape in shapes]
    full, strip = strips[0], by_width(strips, [shape[0] for shape in shapes])
    tall_asking = tile_of_columns(dtype, tallest, *shapes[0][1:], ask_ahead=True)
    second = 5 if tallest == 6 else tallest  # 6 + 5 + 5 rows of a block of 16 keep more sums in flight than 6 + 6 + 4
    next_asking = tile_of_columns(dtype, second, *shapes[0][1:], ask_ahead=True)
    row_of_c, tiles_of_block = panel_width * item, max(1, panel_width // tallest)

    @njit(**INLINE)
    def full_asking(
        a, n, stride, b, depth, c, more, next_a, n_a, worker, share, row_bytes, update, slot_bytes, slots, wt
    ):
        """As `full`; and the tiles ask for what will be needed. Of narrower panels a layer has one at most."""
        i = 0
        while i + second <= n:
            x, n_x = upcoming_lines(worker, share, row_bytes)
            at, out, to = a + i * item, c + i * row_of_c, update + i * row_of_c
            copy = wt + i * row_of_c if wt != 0 else to
            if i == 0 and n >= tallest:
                tall_asking(at, stride, b, depth, out, more, next_a, n_a, x, n_x, to, slot_bytes, slots, copy)
                i += tallest
            else:
                next_asking(at, stride, b, depth, out, more, next_a, n_a, x, n_x, to, slot_bytes, slots, copy)
                i += second
            next_a += n_a * LINE
        if i < n:
            full(a + i * item, n - i, stride, b, depth, c + i * row_of_c, more)

    def weight_gradient(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, depth, n_blocks, n_panels, scratch = w[R.ROWS], r[R.DEPTH], r[R.N_BLOCKS], r[R.N_PANELS], w[R.SCRATCH]
        n_out, slots, slot_bytes, ahead = r[R.N_OUT], r[R.SLOTS], w[R.SLOT_BYTES], r[R.A_AHEAD]
        of_columns = r[R.OF_COLUMNS] != 0
        share, row_bytes = 0, min(w[R.NEXT_STRIDE], depth * 8)
        if r[R.GATHERS] != 0:  # evenly over the tiles, which each ask for a part of one row: many reads from memory at
            # a time would hold up all others
            parts = max(1, r[R.GATHERS] * ((rows + BATCH_CHUNK - 1) // BATCH_CHUNK) // rows)
            share = ((row_bytes + LINE - 1) // LINE + parts - 1) // parts
        for unit in range(lo, hi):
            # a block of A, whose rows lie far apart, stays in L1 for all panels, unless columns are to stay in L2
            p, j = (unit % n_blocks, unit // n_blocks) if of_columns else (unit // n_panels, unit % n_panels)
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            n = min(panel_width, depth - p * panel_width)
            a = r[R.A] + p * r[R.A_PANEL_BYTES]
            stride = panel_width * item if p < n_blocks - 1 else r[R.A_STRIDE_LAST]
            b = r[R.C] + j * r[R.C_PANEL_BYTES]
            weights = r[R.W] + (j * panel_width * depth + p * panel_width * width) * item
            wt_width = panel_width if p < n_blocks - 1 else r[R.WT_LAST_WIDTH]
            transposed, copy = r[R.WT], 0
            if transposed != 0:
                transposed += (p * panel_width * n_out + j * panel_width * wt_width) * item
                copy = transposed if n == panel_width and n_out - j * panel_width >= panel_width else 0
            out, to = scratch, weights
            if r[R.GRADIENT] != 0:
                out = to = r[R.GRADIENT] + weights - r[R.W]
            for first in range(0, rows, BATCH_CHUNK):
                k = min(BATCH_CHUNK, rows - first)
                if width == panel_width and ahead != 0:
                    # of the next block of A, this unit asks for its part; the last block has none
                    n_a = 1 + k * stride // (LINE * tiles_of_block * n_panels) if p < n_blocks - 1 else 0
                    next_a = a + ahead + j * tiles_of_block * n_a * LINE
                    full_asking(
                        a,
                        n,
                        stride,
                        b,
                        k,
                        out,
                        first,
                        next_a,
                        n_a,
                        worker,
                        share,
                        row_bytes,
                        to,
                        slot_bytes,
                        slots,
                        copy,
                    )
                else:
                    strip(width, a, n, stride, b, k, out, first)
                a += k * stride
                b += k * width * item
            update_block(r, worker, weights, out, n * width)
            if transposed != 0:
                write_transposed(weights, n, width, min(width, n_out - j * panel_width), transposed, wt_width)

    return weight_gradient


def bias_gradient(dtype: str, simd: Simd):
    """Units lo..hi: the sums of panels of dz over the rows of the batch, then the optimiser on that part of the
    bias.
    """
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
    shapes = shapes_of(dtype, simd)
    sums = [tile_of_columns(dtype, 1, vectors, lanes) for _, vectors, lanes in shapes]
    strip = by_width(sums, [shape[0] for shape in shapes])

    def bias_gradient(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        n_panels, rows, ones = r[R.N_PANELS], w[R.ROWS], r[R.ONES]
        for j in range(lo, hi):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            out = w[R.SCRATCH] if r[R.GRADIENT] == 0 else r[R.GRADIENT] + j * panel_width * item
            dz = r[R.C] + j * r[R.C_PANEL_BYTES]
            strip(width, ones, 0, dz, rows, out, 0)  # the product with a column of ones: one stored 1, stride 0
            update_block(r, worker, r[R.W] + j * panel_width * item, out, width)

    return bias_gradient
