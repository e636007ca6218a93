"""Declarations (layers, initialisers, schedules, optimisers) as dictionaries that JSON can hold, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

import numpy as np

from .errors import unknown_name


def plain_numbers(declaration) -> None:
    """Make Python's numbers of NumPy's, also of 0-dimensional arrays, among a frozen declaration's fields.

    They print and compare as what they are, and JSON takes them.

    >>> from fastmlp import Adam
    >>> Adam(np.logspace(-3, -1, 3)[1]).learning_rate
    0.01
    """
    for f in fields(declaration):
        value = getattr(declaration, f.name)
        if (plain := plain_number(value)) is not value:
            object.__setattr__(declaration, f.name, plain)


def plain_number(value):
    """Python's number of NumPy's; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        return float(value) if value.dtype.kind == "f" else value.item()  # a longdouble's item is itself
    return value


def describe(declaration, classes: Mapping[str, type], argument: str, parts: Mapping[type, Callable]) -> dict:
    """{"type": name of the class, field: its value, ...}, of values that are of the types of `parts` by their function;
    TypeError for what is none of the classes.
    """
    if type(declaration) not in classes.values():
        raise TypeError(f"`{argument}` must be one of {', '.join(classes)}; got {declaration!r}.")
    config = {"type": type(declaration).__name__}
    for f in fields(declaration):
        value = getattr(declaration, f.name)
        config[f.name] = next((to_config(value) for part, to_config in parts.items() if isinstance(value, part)), value)
    return config


def checked(config: Mapping, classes: Mapping[str, type]) -> tuple[type, dict]:
    """The class and the fields that `describe` described; ValueError for another type or another class's field."""
    values = dict(config)
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in classes:
        raise unknown_name("type", kind, classes)
    known = [f.name for f in fields(classes[kind])]
    for name in values:
        if name not in known:
            raise unknown_name(f"{kind} field", name, known)
    return classes[kind], values


def build(config: Mapping, classes: Mapping[str, type], part_from_config: Callable):
    """What `describe` described; the dictionaries among its values are parts."""
    cls, values = checked(config, classes)
    return cls(**{name: part_from_config(v) if isinstance(v, dict) else v for name, v in values.items()})
