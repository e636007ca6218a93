"""Embedding: columns of categories become vectors that are learned.

Plain data like all layers; `forward` is the NumPy form that predicts a few rows, `engine/embedding_kernels.py` has the
compiled ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np

from . import configs, initializers
from .errors import check_count, check_flag, check_range
from .initializers import Initializer, Normal

MOST = 2**24  # categories of a column: codes up to here are exact in float32
_BLOCK = 4096  # rows looked at together


@dataclass(frozen=True)
class Embedding:
    """Columns of categories become learned vectors, as the first layer: a = (E[x_1], ..., E[x_k], the other columns).

    A code x in 0, 1, ..., input_dim - 1 chooses a row of the table E, (input_dim, output_dim), as the product of E with
    a one-hot row does. The vectors of the k columns lie side by side, in the order of `columns`, so the next layer gets
    k output_dim values, and then those of the other columns, as they are.

    When to use: words or characters (Bengio et al., 2003), with one table for all columns; categories of a table of
    data, with many values (Guo and Berkhahn, 2016), where each column has rows of its own: scikit-learn's
    `OrdinalEncoder` makes codes of them. (With `handle_unknown="use_encoded_value"` and `unknown_value=-1`, and 1 added
    to all codes, 0 is what the fit has not seen.) With few categories, one-hot columns do as well.

    Parameters
    ----------
    input_dim : int or sequence of int
        Number of categories; of each column, in the order of `columns`, where they share no rows: E has their sum.
    output_dim : int
        Length of a vector, at least 1.
    columns : sequence of int, optional
        Columns of X that hold codes, from 0 on; all of them where not given.
    embeddings_initializer : str or Initializer
        A name or an object of `fastmlp.initializers`. The vectors' numbers are of size 1 where it is not given, as the
        next layer's initialiser takes inputs to be.
    learning_rate_multiplier : float
        Factor of this layer's learning rate, at least 0.
    trainable : bool
        False keeps the table as it is: vectors that were learned elsewhere, say, given by `set_parameters`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, no or repeated columns, or another number of them than of `input_dim`; more than
        2^24 categories of a column, which float32 cannot tell apart; the layer is not the first, when a `Sequential` is
        made of it; when it meets X: fewer columns, or a code that is no integer in [0, input_dim).

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Embedding([2, 3], 2, columns=[0, 2]), Dense(1)).build(3)
    >>> E = model.parameters["embedding_0.weight"]
    >>> E.shape
    (5, 2)
    >>> a = model.activations([[1, 0.5, 2]], layer="embedding_0")
    >>> bool((a == [[*E[1], *E[2 + 2], 0.5]]).all())
    True
    """

    input_dim: int | Sequence[int]
    output_dim: int
    columns: Sequence[int] | None = None
    embeddings_initializer: str | Initializer = Normal(1.0)
    learning_rate_multiplier: float = field(default=1.0, kw_only=True)
    trainable: bool = field(default=True, kw_only=True)
    prefix: ClassVar[str] = "embedding"
    l1: ClassVar[float] = 0.0
    l2: ClassVar[float] = 0.0
    max_norm: ClassVar[None] = None

    def __post_init__(self):
        configs.plain_numbers(self)
        if self.columns is not None:
            if not _is_sequence(self.columns):
                raise TypeError(f"`columns` must be a sequence of numbers of columns; got {self.columns!r}.")
            columns = tuple(check_count(column, "columns", least=0) for column in self.columns)
            if not columns or len(set(columns)) < len(columns):
                raise ValueError(f"`columns` must be one column or more, each once; got {self.columns!r}.")
            object.__setattr__(self, "columns", columns)
        if _is_sequence(self.input_dim):
            counts = tuple(check_count(n, "input_dim", MOST) for n in self.input_dim)
            if not counts or (self.columns is not None and len(self.columns) != len(counts)):
                of = "" if self.columns is None else f" of {self.columns}"
                raise ValueError(f"`input_dim` must have a number for each column{of}; got {self.input_dim!r}.")
            object.__setattr__(self, "input_dim", counts)
        else:
            object.__setattr__(self, "input_dim", check_count(self.input_dim, "input_dim", MOST))
        object.__setattr__(self, "output_dim", check_count(self.output_dim, "output_dim"))
        initializers.check("embeddings_initializer", self.embeddings_initializer)
        check_range("learning_rate_multiplier", self.learning_rate_multiplier, 0, float("inf"))
        check_flag("trainable", self.trainable)

    def coded(self, width: int) -> list[tuple[int, int, int]]:
        """(column of X, how many categories it has, their first row of the table) of each that holds codes.

        ValueError where X, of so many columns, has too few, or others than `input_dim`.
        """
        columns = range(width) if self.columns is None else self.columns
        if max(columns) >= width:
            raise ValueError(f"{self!r} needs column {max(columns)}; X has {width}.")
        if isinstance(self.input_dim, int):
            return [(column, self.input_dim, 0) for column in columns]
        if len(self.input_dim) != len(columns):
            raise ValueError(f"{self!r} needs {len(self.input_dim)} columns; X has {width}.")
        firsts = np.cumsum([0, *self.input_dim]).tolist()
        return list(zip(columns, self.input_dim, firsts, strict=False))

    def others(self, width: int) -> list[int]:
        """Columns of X that hold no codes."""
        coded = {column for column, _, _ in self.coded(width)}
        return [column for column in range(width) if column not in coded]

    def output_width(self, width: int | None) -> int | None:
        """How many values a row of so many columns (None: not known) has behind it."""
        if width is None:
            return None
        return len(self.coded(width)) * self.output_dim + len(self.others(width))

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """The table, (rows, output_dim)."""
        n_rows = self.input_dim if isinstance(self.input_dim, int) else sum(self.input_dim)
        return {"weight": (n_rows, self.output_dim)}

    def check(self, X, argument: str = "X") -> None:
        """ValueError naming the first code of X, an array or CSR, that is no integer in its range."""
        columns, counts, _, _ = _arrays(self, X.shape[1])
        for start in range(0, X.shape[0], _BLOCK):
            codes = X[start : start + _BLOCK][:, columns]
            codes = np.asarray(codes if isinstance(codes, np.ndarray) else codes.toarray())
            good = (codes >= 0) & (codes < counts)
            if codes.dtype.kind == "f":
                good &= codes == np.floor(codes)
            if not good.all():
                row, k = np.argwhere(~good)[0]
                raise ValueError(
                    f"`{argument}` must have codes of categories, integers in [0, {counts[k]}), in column {columns[k]} "
                    f"for {self!r}; got {codes[row, k].item()!r} in row {start + row}."
                )

    def rows(self, table: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The rows of the table, one for each code: (..., output_dim)."""
        return np.take(table, codes, axis=0)

    def forward(self, x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
        """a, (n, k output_dim + others)."""
        columns, counts, firsts, others = _arrays(self, x.shape[1])
        codes = x[:, columns].astype(np.int64) + firsts
        vectors = self.rows(p["weight"], codes).reshape(-1, len(counts) * self.output_dim)
        return np.hstack([vectors, x[:, others]]) if others.size else vectors


def _is_sequence(value) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


@lru_cache
def _arrays(layer: Embedding, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `coded` and `others` say: a prediction of a row takes as long as making arrays of it."""
    columns, counts, firsts = np.array(layer.coded(width)).T
    return columns, counts, firsts, np.array(layer.others(width), np.int64)
