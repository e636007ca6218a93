"""Initialisers of weight matrices: `initialize(name, rng, fan_in, fan_out)` draws an array (fan_in, fan_out) in
float64.

| name | distribution | source |
|---|---|---|
| zeros | 0 | |
| uniform | U(-0.05, 0.05) | Keras's default range |
| normal | N(0, 0.05^2) | Keras's default scale |
| lecun_uniform, lecun_normal | variance 1 / fan_in | LeCun et al., 1998 |
| glorot_uniform, glorot_normal | variance 2 / (fan_in + fan_out) | Glorot and Bengio, 2010 |
| he_uniform, he_normal | variance 2 / fan_in | He et al., 2015 |
"""

from __future__ import annotations

import numpy as np

from .errors import unknown_name

# name -> (distribution, variance as a function of fan_in and fan_out)
INITIALIZERS = {
    "zeros": ("zeros", lambda fan_in, fan_out: 0.0),
    "uniform": ("uniform", lambda fan_in, fan_out: 0.05**2 / 3),
    "normal": ("normal", lambda fan_in, fan_out: 0.05**2),
    "lecun_uniform": ("uniform", lambda fan_in, fan_out: 1 / fan_in),
    "lecun_normal": ("normal", lambda fan_in, fan_out: 1 / fan_in),
    "glorot_uniform": ("uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    "glorot_normal": ("normal", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    "he_uniform": ("uniform", lambda fan_in, fan_out: 2 / fan_in),
    "he_normal": ("normal", lambda fan_in, fan_out: 2 / fan_in),
}


def check(name: str, argument: str, *, auto: bool = False) -> str:
    """Return `name` if it is known ("auto" too where it is allowed), else raise ValueError."""
    accepted = [*(["auto"] if auto else []), *INITIALIZERS]
    if not isinstance(name, str) or name not in accepted:
        raise unknown_name(argument, name, accepted)
    return name


def initialize(name: str, rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Draw a (fan_in, fan_out) float64 array; a uniform of variance s^2 lies in (-s sqrt(3), s sqrt(3)).

    >>> initialize("zeros", np.random.default_rng(0), 2, 1)
    array([[0.],
           [0.]])
    """
    distribution, variance = INITIALIZERS[check(name, "initializer")]
    scale = float(np.sqrt(variance(fan_in, fan_out)))
    if distribution == "zeros":
        return np.zeros((fan_in, fan_out))
    if distribution == "uniform":
        return rng.uniform(-scale * np.sqrt(3), scale * np.sqrt(3), (fan_in, fan_out))
    return rng.normal(0.0, scale, (fan_in, fan_out))
