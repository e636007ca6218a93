"""Losses, each declared once: with its formula, its slope, its natural output and the targets it takes."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from .. import user_functions
from ..errors import unknown_name
from .base import Loss, sigmoid
from .classification import BinaryCrossEntropy, Focal, Hinge, Ordinal, SoftmaxCrossEntropy, SoftmaxFocal
from .custom import CustomLoss
from .embedding import BLOCK, Contrastive, Triplet
from .given import GivenGradient
from .ranking import ListNet, RankNet
from .registry import LOSSES
from .regression import AbsoluteError, Gaussian, Huber, NegativeBinomial, Poisson, QuantileLoss, SquaredError

__all__ = [
    "BLOCK",
    "LOSSES",
    "AbsoluteError",
    "BinaryCrossEntropy",
    "Contrastive",
    "CustomLoss",
    "Focal",
    "Gaussian",
    "GivenGradient",
    "Hinge",
    "Huber",
    "ListNet",
    "Loss",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "QuantileLoss",
    "RankNet",
    "SoftmaxCrossEntropy",
    "SoftmaxFocal",
    "SquaredError",
    "Triplet",
    "from_config",
    "get",
    "sigmoid",
    "to_config",
]


def get(loss: str | Loss, argument: str = "loss") -> Loss:
    """The loss of that name, or the object itself; ValueError for another name, TypeError for another class of losses.

    >>> get("huber")
    Huber(delta=1.0)
    """
    if type(loss) in (*LOSSES.values(), CustomLoss):
        return loss
    if isinstance(loss, Loss):
        raise TypeError(f"`{argument}` must be a CustomLoss, or one of {', '.join(map(repr, LOSSES))}; got {loss!r}.")
    if not isinstance(loss, str):
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, LOSSES))}, or one Loss object; got {loss!r}."
        )
    if loss not in LOSSES:
        raise unknown_name(argument, loss, LOSSES)
    return _by_default(loss)


@lru_cache
def _by_default(name: str) -> Loss:
    return LOSSES[name]()


def to_config(loss: Loss) -> dict:
    """The loss as a dictionary that JSON can hold.

    >>> to_config(Huber(2.0))
    {'name': 'huber', 'delta': 2.0}
    """
    if isinstance(loss, CustomLoss):
        return user_functions.describe(loss, loss.samples)
    return {"name": loss.name, **dataclasses.asdict(loss)}


def from_config(config: dict, custom_objects: dict | None = None) -> Loss:
    """The loss that `to_config` described; ValueError where a `CustomLoss` is not among `custom_objects`."""
    if config.get("type") == CustomLoss.__name__:
        return user_functions.recall(config, custom_objects, CustomLoss)
    fields = dict(config)
    return dataclasses.replace(get(fields.pop("name")), **fields)
