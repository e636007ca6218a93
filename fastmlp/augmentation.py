"""Augmentation: rows changed at random while batches are gathered, in training only; predictions see them as they are.

Plain data like all layers. They stand first in a `Sequential`, behind a `Rescaling` if there is one, and act in the
order in which they are listed. The random numbers come from the fit's seed, the epoch, the batch and the row's place in
it: the same for any number of threads, and after a resume. `engine/augmentation_kernels.py` is the compiled form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .errors import check_range


def _image_shape(value) -> tuple[int, ...]:
    """(height, width) or (height, width, channels), as integers of at least 1."""
    try:
        shape = tuple(size.__index__() for size in value)
    except (TypeError, AttributeError):
        shape = ()
    if len(shape) not in (2, 3) or min(shape) < 1 or any(isinstance(size, bool) for size in value):
        raise ValueError(
            "`image_shape` must be (height, width) or (height, width, channels), integers of at least 1; "
            f"got {value!r}."
        )
    return shape


def _pair(argument: str, value, low: float, high: float, *, of_one=None) -> tuple[float, float]:
    """Two numbers in [low, high], or those that `of_one` makes of one."""
    if np.ndim(value) == 0 and of_one is not None:
        check_range(argument, value, 0, high, high_closed=True)
        value = of_one(value)
    if np.shape(value) != (2,):
        accepted = "a number or two" if of_one else "two numbers"
        raise TypeError(f"`{argument}` must be {accepted}; got {value!r}.")
    for one in value:
        check_range(argument, one, low, high, high_closed=True)
    return float(value[0]), float(value[1])


@dataclass(frozen=True)
class GaussianNoise:
    """x + stddev e, with e of the standard normal distribution for each element (Bishop, 1995).

    When to use: tables and signals with few rows: 0.05 to 0.3 where the inputs are standardised.

    Parameters
    ----------
    stddev : float
        Standard deviation of the noise, at least 0; in the units of the inputs behind a `Rescaling`.

    Raises
    ------
    ValueError, TypeError
        `stddev` is no finite number of at least 0.

    Examples
    --------
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> model = Sequential(GaussianNoise(0.1), Dense(16), ReLU(), Dense(1))
    """

    stddev: float

    def __post_init__(self):
        check_range("stddev", self.stddev, 0, float("inf"))
        object.__setattr__(self, "stddev", float(self.stddev))


@dataclass(frozen=True)
class RandomAffine:
    """Each image turned, scaled and shifted at random about its centre, in one bilinear interpolation (Simard,
    Steinkraus and Platt, 2003): a pixel at p comes from R(-angle) (p - shift) / scale.

    The angle, the shift along each axis and the scale of a row are uniform in their intervals. What lies outside the
    image counts as `fill`.

    When to use: images whose class does not depend on small turns and shifts; for digits
    `RandomAffine((28, 28), degrees=12, translate=2 / 28, scale=(0.9, 1.1))`.

    Parameters
    ----------
    image_shape : (int, int) or (int, int, int)
        Height, width and, where there are some, channels: how the columns of X are an image, row by row, the channels
        of a pixel side by side.
    degrees : float or (float, float)
        The angle is in [-degrees, degrees], or in this interval; above 0 is clockwise.
    translate : float or (float, float)
        Largest shift as a share of the width and of the height, in [0, 1].
    scale : (float, float)
        Interval of the scale, in [0.01, 100].
    fill : float
        The value outside the image, in the units of the inputs behind a `Rescaling`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range; a shape that is not X's, when the network is built.

    Examples
    --------
    >>> RandomAffine((28, 28), degrees=10, translate=0.1).degrees
    (-10.0, 10.0)
    """

    image_shape: tuple
    degrees: float | tuple = field(default=0.0, kw_only=True)
    translate: float | tuple = field(default=0.0, kw_only=True)
    scale: tuple = field(default=(1.0, 1.0), kw_only=True)
    fill: float = field(default=0.0, kw_only=True)

    def __post_init__(self):
        values = {
            "image_shape": _image_shape(self.image_shape),
            "degrees": _pair("degrees", self.degrees, -360, 360, of_one=lambda most: (-most, most)),
            "translate": _pair("translate", self.translate, 0, 1, of_one=lambda most: (most, most)),
            "scale": _pair("scale", self.scale, 0.01, 100),
        }
        for name in ("degrees", "scale"):
            low, high = values[name]
            if low > high:
                raise ValueError(f"`{name}` must be (least, most); got {(low, high)}.")
        check_range("fill", self.fill, float("-inf"), float("inf"), low_open=True)
        for name, value in {**values, "fill": float(self.fill)}.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class MixUp:
    """x = m x_i + (1 - m) x_j and y = m y_i + (1 - m) y_j, with one m from Beta(alpha, alpha) for each batch (Zhang et
    al., 2018).

    Row j is the next row of the shuffled batch (the first for the last), as the augmentations listed before left it.
    Integer codes count as one-hot rows. With weights w, the targets are mixed by m w_i and (1 - m) w_j, and the row's
    weight is their sum: the loss is that of both targets, each with its own weight and share.

    Works with losses that take mixed targets: "softmax_cross_entropy", "binary_cross_entropy", "squared_error",
    "absolute_error" and "huber".

    When to use: networks that are too sure of themselves, tables as well as images.

    Parameters
    ----------
    alpha : float
        Both parameters of the beta distribution, above 0: small values mix little, 1 draws m uniformly.

    Raises
    ------
    ValueError, TypeError
        `alpha` is no finite number above 0; another loss, when the network is fitted.

    Examples
    --------
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> model = Sequential(MixUp(0.2), Dense(16), ReLU(), Dense(3))
    """

    alpha: float = 0.2

    def __post_init__(self):
        check_range("alpha", self.alpha, 0, float("inf"), low_open=True)
        object.__setattr__(self, "alpha", float(self.alpha))

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """For n steps: the share of x_j, (n, 1)."""
        return rng.beta(self.alpha, self.alpha, (n, 1))


@dataclass(frozen=True)
class CutMix:
    """A part of x_i comes from x_j, and y = m y_i + (1 - m) y_j, with m the share of x_i that stays (Yun et al., 2019).

    For images the part is a rectangle, whose centre is uniform and whose sides are sqrt(1 - m) of the image's, cut off
    at its edges; without an `image_shape` it is a set of columns, each with probability 1 - m. There is one part and
    one m, drawn from Beta(alpha, alpha), for each batch; the targets are mixed by the exact share. Rows j, weights and
    losses are as in `MixUp`.

    When to use: as `MixUp`, where parts of a row tell its class.

    Parameters
    ----------
    alpha : float
        Both parameters of the beta distribution, above 0: small values cut little, or nearly all; 1 draws m uniformly.
    image_shape : (int, int) or (int, int, int), optional
        How the columns of X are an image, as in `RandomAffine`; sets of columns are cut where not given.

    Raises
    ------
    ValueError, TypeError
        `alpha` is no finite number above 0; a shape that is not X's, when the network is built; another loss, when it
        is fitted.

    Examples
    --------
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> model = Sequential(CutMix(1.0, image_shape=(8, 8)), Dense(16), ReLU(), Dense(10))
    """

    alpha: float = 1.0
    image_shape: tuple | None = None

    def __post_init__(self):
        check_range("alpha", self.alpha, 0, float("inf"), low_open=True)
        object.__setattr__(self, "alpha", float(self.alpha))
        if self.image_shape is not None:
            object.__setattr__(self, "image_shape", _image_shape(self.image_shape))

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """For n steps: 1 - m, (n, 1), or for images the share of the rectangle, its first row, the row behind it, and
        its columns likewise, (n, 5).
        """
        share = rng.beta(self.alpha, self.alpha, (n, 1))
        if self.image_shape is None:
            return share
        size = np.array(self.image_shape[:2])
        centre = rng.integers(0, size, (n, 2))
        sides = np.rint(np.sqrt(share) * size).astype(np.int64)
        first = centre - sides // 2
        first, behind = np.maximum(first, 0), np.minimum(first + sides, size)
        area = (behind - first).prod(axis=1, keepdims=True) / math.prod(self.image_shape[:2])
        return np.hstack([area, first[:, :1], behind[:, :1], first[:, 1:], behind[:, 1:]])


AUGMENTATIONS = (GaussianNoise, RandomAffine, MixUp, CutMix)
Mixing = MixUp | CutMix
