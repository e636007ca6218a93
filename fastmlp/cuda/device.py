"""What all kernels agree on: the shapes of blocks and panels, and the words of `control`.

Matrices lie in panels, as on the CPU (`records.py`); places in records are bytes from the start of a buffer. All
kernels begin alike:

- they find the step that they belong to in `control`, and its rows in `steps`, so every step launches the same;
- they return at once where an earlier loss was not finite: parameters then stay those of the last whole step.

Every number has one writer and a fixed order of summation, so the same device gives the same bits each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from numba.core import config

from ..simd import Simd

# Of `control`: whether a loss was not finite, the number of the step, and a copy of it for the kernel that ends a step:
# that goes by the copy while it counts up the other
NOT_FINITE, STEP, STEP_OF_UPDATES, CONTROL = range(4)


VECTOR = 16  # bytes that a thread reads or writes at once


@dataclass(frozen=True)
class Tile:
    """A block of threads computes `rows` x `columns` of a product, `depth` factors at a time out of shared memory, each
    thread `own_rows` x `own_columns` of it in registers. Of several `groups` of threads each takes its part of the
    depth, and their sums are added at the end: fewer factors one after the other, for where there are few blocks.
    `precision` is one of tensor cores (`tensor_cores.py`).
    """

    rows: int
    columns: int
    depth: int
    own_rows: int
    own_columns: int
    groups: int = 1
    precision: str = ""

    @property
    def group(self) -> int:
        """Threads of a group."""
        return self.rows // self.own_rows * (self.columns // self.own_columns)

    @property
    def block(self) -> int:
        """Threads."""
        return self.groups * self.group

    def count(self, rows: int, columns: int) -> int:
        """Tiles of a matrix."""
        return -(-rows // self.rows) * -(-columns // self.columns)


SIMULATED = bool(config.ENABLE_CUDASIM)
# A thread of the device is a thread of Python there: as few as show what can go wrong, where the variable does not ask
# for a device's
TINY = SIMULATED and os.environ.get("FASTMLP_CUDA_SIZES") != "device"
if TINY:
    THREADS, MOST_BLOCKS, MOST_IN_Y, BUSY, SIMD = 4, 2, 2, 4, Simd("CUDA simulator", 16, 1, gpu=True)
    TILES = {
        "float32": (Tile(8, 8, 4, 4, 4), Tile(4, 8, 8, 4, 4, groups=2)),
        "float64": (Tile(8, 8, 4, 4, 4), Tile(4, 4, 4, 2, 4, groups=2)),
        "tf32x3": (Tile(32, 32, 8, 4, 8, precision="tf32x3"),),  # a warp; the least there is
        "tf32": (Tile(32, 32, 8, 4, 8, precision="tf32"),),
        "bf16": (Tile(32, 32, 16, 4, 8, precision="bf16"),),
    }
else:
    THREADS, MOST_BLOCKS, MOST_IN_Y, SIMD = 256, 4096, 65_535, Simd("CUDA", 64, 1, gpu=True)
    BUSY = 100  # blocks that keep a large device busy
    # The larger, the fewer times each number is read, and out of shared memory, too; the smaller, the more blocks
    TILES = {
        "float32": (Tile(64, 128, 16, 8, 8), Tile(64, 64, 32, 8, 4), Tile(32, 32, 64, 4, 4, groups=4)),
        "float64": (Tile(64, 64, 16, 8, 4), Tile(32, 32, 32, 4, 4, groups=4)),
        "tf32x3": (
            Tile(64, 128, 16, 8, 8, precision="tf32x3"),
            Tile(64, 64, 32, 4, 8, groups=2, precision="tf32x3"),
            Tile(32, 32, 64, 4, 8, groups=4, precision="tf32x3"),
        ),
        "tf32": (
            Tile(128, 128, 16, 8, 16, precision="tf32"),
            Tile(64, 64, 32, 8, 8, groups=2, precision="tf32"),
            Tile(32, 32, 64, 4, 8, groups=4, precision="tf32"),
        ),
        "bf16": (
            Tile(128, 128, 16, 8, 16, precision="bf16"),
            Tile(64, 64, 32, 8, 8, groups=2, precision="bf16"),
            Tile(32, 32, 64, 4, 8, groups=4, precision="bf16"),
        ),
    }


def tile_for(rows: int, columns: int, precision: str, times: int = 1) -> Tile:
    """The largest tile that fits a matrix and makes many blocks of it, cut `times` in depth; else the smallest."""
    for tile in TILES[precision]:
        if times * tile.count(rows, columns) >= BUSY and 2 * rows > tile.rows and 2 * columns > tile.columns:
            return tile
    return TILES[precision][-1]


def in_y_and_z(n: int) -> tuple[int, int]:
    """n blocks or more in the last two dimensions of a grid, for one has room for 65 535 only. A block's number out of
    these takes no registers; by a division it takes 26.
    """
    return min(n, MOST_IN_Y), -(-n // MOST_IN_Y)
