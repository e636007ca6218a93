"""Networks of the layers of others, with copies of their parameters: parts, and two joined."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .embedding import Embedding
from .errors import check_count
from .layers import Dense, Layer, Residual, flatten, width_behind
from .lowering import parameter_shapes

if TYPE_CHECKING:
    from .sequential import Sequential


def cut(model: Sequential, first: int, stop: int) -> Sequential:
    """Some consecutive layers as a network; ValueError where they make none."""
    from .sequential import Sequential

    try:
        part = Sequential(*model.layers[first:stop], dtype=model.dtype.name)
    except ValueError as error:
        raise ValueError(f"model[{first}:{stop}] is no network: {error}") from None
    if first == 0:
        part._columns = model._columns
    if stop == len(model.layers):
        part._loss = model._loss
    if model.built:
        before, width = list(flatten(model.layers[:first])), model.n_features
        for layer in before:
            width = width_behind(layer, width)
        _copy(part, width, [(model, name) for name, _ in model._flat[len(before) :]])
    return part


def join(first: Sequential, second: Sequential) -> Sequential:
    """One network behind the other; ValueError where they do not fit."""
    from .sequential import Sequential

    if first.dtype != second.dtype:
        raise ValueError(f"both networks must have one dtype; got {first.dtype.name} and {second.dtype.name}.")
    if first.built != second.built:
        one = "first" if first.built else "second"
        raise ValueError(f"both networks must have parameters, or none; only the {one} has.")
    if first.built and first.n_outputs != second.n_features:
        raise ValueError(
            f"the second network must have as many inputs as the first has outputs, {first.n_outputs}; it has "
            f"{second.n_features}."
        )
    whole = Sequential(*first.layers, *second.layers, dtype=first.dtype.name)
    whole._columns, whole._loss = first._columns, second._loss
    if first.built:
        _copy(whole, first.n_features, [(part, name) for part in (first, second) for name, _ in part._flat])
    return whole


def _copy(model: Sequential, n_features: int, owners: list[tuple[Sequential, str]]) -> None:
    """Give a network copies of the parameters of its layers, in their order, of other networks under other names."""
    of = {name: owner for (name, _), owner in zip(model._flat, owners, strict=False)}
    arrays = {}
    for key in parameter_shapes(model.layers, n_features):
        name, _, what = key.partition(".")
        owner, own = of[name]
        arrays[key] = owner._arrays[f"{own}.{what}"].copy()
    model._adopt(n_features, arrays)


def shared(mine: Sequential, its: Sequential, layers: int | None) -> int:
    """So many leading layers, or all of the second network's, if they are alike in both; else ValueError."""
    most = min(len(mine.layers), len(its.layers))
    layers = check_count(len(its.layers) if layers is None else layers, "layers", most)
    for i, (one, other) in enumerate(zip(mine.layers[:layers], its.layers, strict=False)):
        if not _alike(one, other):
            raise ValueError(f"`layers`={layers} must be layers that both models share; {i} is {one} and {other}.")
    return layers


def _alike(mine: Layer, its: Layer) -> bool:
    """Whether the layers are equal but for whether they are frozen, and for a Dense's or an Embedding's initialisers,
    penalties and the like.
    """
    if type(mine) is not type(its):
        return False
    if isinstance(mine, Residual):
        return len(mine.layers) == len(its.layers) and all(map(_alike, mine.layers, its.layers))
    if isinstance(mine, (Dense, Embedding)):
        sizes = ("units", "use_bias") if isinstance(mine, Dense) else ("input_dim", "output_dim", "columns")
        return all(getattr(mine, size) == getattr(its, size) for size in sizes)
    return mine == (replace(its, trainable=mine.trainable) if "trainable" in vars(its) else its)
