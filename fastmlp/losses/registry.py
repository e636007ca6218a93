"""The losses by name."""

from __future__ import annotations

from .base import Loss
from .classification import BinaryCrossEntropy, Focal, Hinge, Ordinal, SoftmaxCrossEntropy, SoftmaxFocal
from .embedding import Contrastive, Triplet
from .given import GivenGradient
from .ranking import ListNet, RankNet
from .regression import (
    AbsoluteError,
    Gaussian,
    Huber,
    NegativeBinomial,
    Poisson,
    QuantileLoss,
    SquaredError,
)

LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (
        SoftmaxCrossEntropy,
        BinaryCrossEntropy,
        SquaredError,
        AbsoluteError,
        Huber,
        QuantileLoss,
        Poisson,
        NegativeBinomial,
        Hinge,
        Focal,
        SoftmaxFocal,
        Ordinal,
        Contrastive,
        Triplet,
        RankNet,
        ListNet,
        Gaussian,
        GivenGradient,
    )
}
