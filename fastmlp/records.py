"""Layout of the int64 tables through which a plan speaks to kernels: one place for every field's index.

A record is one row of `RECORD` numbers: field 0 is the kernel's address, the others are addresses (bytes) or sizes.
Every kernel is a C function `void(record, lo, hi, worker)`; the elementwise ones that a kernel calls on a tile it
has just computed (activations, penalties, optimisers) are `void(target, other, n, worker)`.

Matrices of activations and weights lie in panels: [rows][width] blocks of `panel` columns, the last one narrower.
"""

RECORD = 32  # int64 numbers in a record
ADDRESS = 0
NUMBER = 29  # a float64's bits: the parameter of an activation, such as a slope
UNITS, COST = 30, 31  # of records in a "tiles" phase: number of units and the relative cost of one

# product: C = epilogue(init + A B) for rows lo..hi; A_STRIDE_LAST are bytes between the rows of A's last panel
A, A_PANEL_BYTES, A_STRIDE_LAST = 1, 2, 5
B, DEPTH = 6, 7
C, C_PANEL_BYTES, N_PANELS, LAST_WIDTH = 8, 9, 10, 11
INIT, EPILOGUE, OTHER = 12, 13, 14

# product_panels: the same with the kernel PRODUCT, by columns: unit u is panel u of C, for all rows of the batch
PRODUCT = 15

# weight_gradient: unit u is the block (p, j) of W: panel p of inputs, panel j of outputs; all of a p follow each other,
# or with OF_COLUMNS, all of a j. Uses A, A_PANEL_BYTES,
# A_STRIDE_LAST (rows of the batch), DEPTH (number of inputs), N_PANELS, LAST_WIDTH (of outputs) and C, C_PANEL_BYTES
# (dz) as above.
OF_COLUMNS, N_BLOCKS = 3, 6
W, WT, WT_LAST_WIDTH, N_OUT, PENALTY, OPTIMIZER, SLOTS, A_AHEAD, GATHERS = range(15, 24)
CLIP_KERNEL, DECAY_KERNEL = 24, 25  # 0 or kernels: of the gradient before the optimiser, and of the weights
GROUP = 26  # bytes from a step's scalars to those of the layer's group
GRADIENT = 27  # 0, or where the gradient is kept, in panels like W; then there is no OPTIMIZER
AVERAGE_KERNEL = 28  # 0, or the kernel of the moving average, after the optimiser

# bias_gradient: unit j is panel j. Uses C, C_PANEL_BYTES, N_PANELS, LAST_WIDTH, W (the bias), PENALTY, OPTIMIZER, ONES,
# CLIP_KERNEL
ONES = 1

# update: unit (p, j) is a block of W: its GRADIENT times the number at COEFFICIENT, then as in weight_gradient
# square_sums: unit j is panel j of GRADIENT: float64 sums of the squares of its columns at SUMS
# clip_norm: one unit: COEFFICIENT = min(1, bound / (sqrt(sum of N_SUMS numbers at SUMS) + 1e-6))
# max_norm: unit j is panel j of W, whose columns get a norm of NUMBER at most
SUMS, N_SUMS, COEFFICIENT = 1, 2, 3

# gather: N_FEATURES columns of rows of X into C, converted. X, X_STRIDE in bytes; CSR: X = data, INDICES, INDPTR
X, X_STRIDE, N_FEATURES, INDICES, INDPTR, SCALING = 1, 2, 3, 4, 5, 6

# losses, in place on C: targets Y (row stride in items), weights SW or 0, per-row losses ROW_LOSS (float64)
Y, Y_STRIDE, SW, ROW_LOSS, WITH_GRADIENT, ROW_MASS, ROW_PICK = 1, 2, 3, 4, 5, 6, 7
# the loss's own numbers (float64); workspace: targets in panels, or logits and gradients row by row, or two more
# float64 numbers of each row, the second ROW_BYTES behind the first
NUMBERS, ROW_DATA, ROW_BYTES = 12, 13, 15

# 1 where targets and weights lie in the batch's order, mixed, and not in the data's
IN_BATCH = 14

# losses across the rows of a batch, on C: values by column, labels and weights in the batch's order (all of the dtype),
# the gradient in C's panels, and for every anchor two rows that it chose (int64) with their slopes. Units are rows.
# With QUERIES (of the data's rows, int64; or 0), CHOSEN has the query of each row of the batch
COLUMNS, COLUMN_STRIDE, LABELS, WEIGHTS, DZ, CHOSEN, SLOPES, QUERIES = 13, 14, 6, 7, 15, 16, 17, 19

# sparse_product: product of rows of CSR (X, INDICES, INDPTR as in gather), with B, DEPTH, C and so on as in product.
# batch_columns: the entries of the batch by columns of X, of ROW_SHARES shares of its rows, which are the units: where
# each column's begin (N_FEATURES + 2 int64 for each share at STARTS), their rows in the batch (int64) and values.
# sparse_gradient: as weight_gradient, without A, from those; unit u is the block (u % N_BLOCKS, u // N_BLOCKS)
STARTS, ENTRY_ROWS, ENTRY_VALUES, ROW_SHARES = 12, 13, 14, 2

# embedding: rows of the table W (DEPTH rows, N_OUT columns) that codes in columns of A choose, side by side, and A's
# other columns (N_FEATURES in all) -> C. CODED: for each of N_CODED columns which it is, how many categories it has and
# their first row of the table, then the N_OTHERS columns (int64). Which rows were chosen (int64, those of a row of the
# batch together) lies at TABLE_ROWS. embedding.gradient: C (da) -> DZ, N_OUT columns, a row for each of those (DZ_ROWS
# in all). embedding.codes: one unit: from TABLE_ROWS what batch_columns makes of entries
N_CODED, N_OTHERS, DZ_ROWS, CODED, TABLE_ROWS, TABLE_LAST_WIDTH = 4, 6, 12, 13, 16, 17

# scatter: logits out of their panels into OUT, row-major (OUT_STRIDE in bytes)
OUT, OUT_STRIDE = 1, 2

# elementwise: a layer's activation on its own: IN -> C
IN = 1

# norms: IN -> C in panels; W the scale, SHIFT (or 0) the shift, N_OUT the columns. STATISTICS: three arrays of
# STATISTICS_BYTES, a number for each column, or (row norms, in float64) for each row and group
NORMED, STATISTICS, STATISTICS_BYTES, SHIFT, GROUPS, CENTERED = 2, 3, 4, 5, 6, 7
EPSILON, RUNNING_MEAN, RUNNING_VAR = 12, 16, 17

# prelu: IN -> C with the slopes W. prelu.gradient: IN (da), Z -> C, and NORMED
Z = 3

# activity_penalty: of rows of N_OUT columns in C, weighted by SW as losses are, added to ROW_LOSS.
# activity_gradient: IN -> C, with the slopes at ACTIVITY. The factors are float64 bits
ACTIVITY, ACTIVITY_L1, ACTIVITY_L2 = 12, 13, 15

# dropout: IN -> C in panels; NUMBER is the rate, or that of GROUP where there is one; N_OUT the columns
LAYER = 15

# augmentation of rows of N_OUT columns in panels, random numbers by LAYER. gaussian_noise: in place on C, NUMBER is the
# deviation. random_affine: images in place on C, with intervals of each row's numbers (float64); IMAGES has room for
# the batch. mixup, cutmix: IN -> C by the numbers of GROUP, of images where there is a HEIGHT; targets (CODES, or
# rows of the dtype) and weights (or 0) from the data's order into the batch's. Units are rows
HEIGHT, WIDTH, CHANNELS = 19, 20, 21
LEAST_ANGLE, MOST_ANGLE, MOST_SHIFT_X, MOST_SHIFT_Y, LEAST_SCALE, MOST_SCALE, FILL = range(22, 29)
IMAGES = 2
FROM_TARGETS, TO_TARGETS, N_TARGETS, FROM_WEIGHTS, TO_WEIGHTS, CODES = 2, 3, 4, 5, 6, 7

# a worker's private record
ROWS, INDEX, FIRST, SCALARS, SCRATCH, CONTROL, STEP_LOSS, SLOT_BYTES = 0, 1, 2, 3, 4, 5, 6, 7
NEXT_X, NEXT_STRIDE, NEXT_INDEX, NEXT_FIRST, NEXT_ROW, NEXT_END = range(8, 14)  # rows that the next step will gather
NEXT_OFFSET = 17  # bytes of row NEXT_ROW that have been asked for
KEY = 15  # 64 random bits of the step
EPILOGUE_NUMBER = 14  # NUMBER of the record that is being run, for its epilogue
OWN_RECORD = 18  # where a kernel puts a record for another one
AVERAGE_BYTES = 16  # from a parameter to its moving average, the last slot
CLAIMED = (32, 48)  # how many pieces of its tiles have been claimed, by anyone; alternating from phase to phase; the
# first is 0 between runs
WORKER = 64  # int64 numbers in it, as in the arguments of a worker's `run`
PAIRS = 256  # rows whose distances to another are taken at once, by losses across rows
LEAST_SCRATCH = 2 * 8 * PAIRS  # bytes at SCRATCH: a block of a panel's width, squared, or this; also for sparse entries

# scalars of a step (float64), a row for each group of layers: 1 / sum of weights, factors of p and sign(p) in the
# gradient, the bound of the gradient, 1 - learning rate * weight decay, the new parameters' share in their average,
# a rate of dropout, then the optimiser's own, five at most
SCALE, L2, L1, CLIP, DECAY, AVERAGE, DROPOUT, RULE = 0, 1, 2, 3, 4, 5, 6, 7
N_SCALARS = 12
# in the row of a layer that mixes rows: the partner's share, and the rectangle (first row, row behind it, columns)
SHARE, CUT_TOP, CUT_BOTTOM, CUT_LEFT, CUT_RIGHT = range(7, 12)

# control block (int64, shared by the workers of a run): fields on cache lines of their own (128 bytes for Apple's)
ARRIVED, NOT_FINITE, DONE, LEFT = 0, 16, 32, 48
ARRIVED_BEFORE, LEFT_BEFORE = 33, 34  # what the counters, which are never reset, were before this run
N_CONTROL = 64

# mailbox of a worker's thread (STATE first): what it does, the next run's function and arguments, whether that comes by
# the queue, and how often it gives its core away before it goes to sleep
STATE, MAIL_FUNCTION, MAIL_ARGUMENTS, QUEUED, PATIENCE = range(5)
ASLEEP, RUNNING, WAITING, RESERVED, POSTED = range(5)
MAILBOX = 16

# steps of a run (int64 rows)
STEP_ROWS, STEP_INDEX, STEP_FIRST, STEP_SCALARS, STEP_LOSS_AT, STEP_KEY = 0, 1, 2, 3, 4, 5
STEP = 6

# phases of a program (int64 rows)
KIND, FIRST_RECORD, N_RECORDS, HAS_LOSS = 0, 1, 2, 3
ROW_PHASE, TILE_PHASE = 0, 1
PHASE = 4

# arguments of `run`
RANK, N_WORKERS, PROGRAM, PHASES, N_PHASES, RUN_WORKER, STEPS, N_STEPS, RUN_CONTROL, YIELD, CHUNK = range(11)
PROFILE = 11  # 0, or where each record's cycles are added up, the barriers' last
WORKERS = 12  # addresses of all workers' records
SHARES, SHARE_BYTES = 13, 14  # what each worker owns (see `engine.sharing`), and the bytes from one's to the next's
