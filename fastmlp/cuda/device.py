"""What all kernels agree on: the shapes of blocks and panels, and the words of `control`.

Matrices lie in panels, as on the CPU (`engine/records.py`); places in records are bytes from the start of a buffer. All
kernels begin alike:

- they find the step that they belong to in `control`, and its rows in `steps`, so every step launches the same;
- they return at once where an earlier loss was not finite: parameters then stay those of the last whole step.

Every number has one writer and a fixed order of summation, so the same device gives the same bits each time.
"""

from __future__ import annotations

from dataclasses import dataclass

from numba.core import config

from ..engine.simd import Simd

NOT_FINITE, STEP = 0, 1  # of `control`: whether a loss was not finite, and the number of the step


@dataclass(frozen=True)
class Tile:
    """A block of threads computes `rows` x `columns` of a product, `depth` factors at a time out of shared memory, each
    thread `own_rows` x `own_columns` of it in registers. All other kernels have blocks of `threads`, `most_blocks` of
    them where threads walk through more than one number.
    """

    rows: int
    columns: int
    depth: int
    own_rows: int
    own_columns: int
    threads: int
    most_blocks: int

    @property
    def shared(self) -> int:
        """Numbers of shared memory: two operands, a column of padding for the first, and later the results."""
        return max(self.depth * (self.rows + 1 + self.columns), self.rows * self.columns)

    @property
    def block(self) -> int:
        return self.rows // self.own_rows * (self.columns // self.own_columns)


SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:  # a thread of the device is a thread of Python there: as few as show what can go wrong
    TILE, SIMD = Tile(4, 8, 3, 2, 4, threads=4, most_blocks=2), Simd("CUDA simulator", 16, 1)
else:
    TILE, SIMD = Tile(64, 64, 16, 4, 4, threads=256, most_blocks=4096), Simd("CUDA", 64, 1)
