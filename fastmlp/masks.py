"""Random numbers of a step of training: hashes of the step's key, the layer, and the row and column in the batch.

The engine's kernels compile `hashed` and the numbers of dropout, and a forward pass by NumPy takes them on arrays: it
leaves out the same elements.
"""

from __future__ import annotations

import math

import numpy as np

U = np.uint32
GOLDEN = U(0x9E3779B9)
_1, _2 = U(0x21F0AAAD), U(0xD35A2D97)
_15, _16 = U(15), U(16)
_LOW = 0xFFFFFFFF


def hashed(index, key_1, key_2):
    """32 bits of a keyed integer hash: multiply and xor-shift rounds that LLVM vectorises."""
    x = U(index + key_1)
    x = U(x ^ U(x >> _16))
    x = U(x * _1)
    x = U(x ^ U(x >> _15))
    x = U(x ^ key_2)
    x = U(x * _2)
    return U(x ^ U(x >> _15))


LEAST_SELU = -1.7580993408473766  # SELU(-inf)


# What becomes of an element x: x * scale + offset where it is kept, else `dropped`
def dropout_numbers(rate):
    """(scale, offset, dropped)"""
    return 1 / (1 - rate), 0.0, 0.0


def alpha_dropout_numbers(rate):
    """Mean 0 and variance 1 stay what they are: Klambauer et al. (2017), section "New dropout technique"."""
    scale = 1 / math.sqrt((1 - rate) * (1 + rate * LEAST_SELU**2))
    offset = -scale * rate * LEAST_SELU
    return scale, offset, scale * LEAST_SELU + offset


def step_keys(seed: int, epoch: int, n_steps: int) -> np.ndarray:
    """64 random bits for each step of an epoch, int64 (n_steps,): the first ones whatever their number is."""
    sequence = np.random.SeedSequence(seed, spawn_key=(2, epoch))
    return np.random.Generator(np.random.Philox(sequence)).integers(0, 2**63 - 1, n_steps)


def layer_keys(key: int, layer: int) -> tuple[np.uint32, np.uint32]:
    """What the hashes of a layer start from in the step of this key."""
    return U((key + layer * int(GOLDEN)) & _LOW), U(key >> 32 & _LOW)


def kept(key: int, layer: int, rate: float, n: int) -> np.ndarray:
    """Which of so many elements, or rows, the layer keeps in the step of this key; bool (n,).

    >>> kept(3, 0, 0.5, 8).tolist()
    [True, False, True, True, False, True, True, False]
    """
    return hashed(np.arange(n, dtype=U), *layer_keys(key, layer)) >= U(int(rate * 2.0**32))


def normal(key: int, layer: int, n: int, dtype: np.dtype) -> np.ndarray:
    """So many numbers of a normal distribution: sqrt(-2 log u) cos(2 pi v) (Box and Muller, 1958) of 24 bits each."""
    keys, e = layer_keys(key, layer), np.arange(0, 2 * n, 2, dtype=U)
    u, v = (dtype.type(2.0**-24) * (hashed(e + U(k), *keys) >> U(8)).astype(dtype) for k in range(2))
    return np.sqrt(-2 * np.log(u + dtype.type(2.0**-24))) * np.cos(dtype.type(2 * math.pi) * v)
