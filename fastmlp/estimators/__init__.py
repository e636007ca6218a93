"""`MLPClassifier` and `MLPRegressor`: scikit-learn's estimators, trained by fastmlp's engine.

`base` holds what both share (parameters, the order of a fit, prediction), `solvers` the loops of "adam", "sgd" and
"lbfgs", `classifier` and `regressor` what y means. `wrappers` makes estimators of any `Sequential`. `perceptron` is on
its own: Rosenblatt's rule, for study. `encoder` is no estimator of y: it prepares the numbers of tables.
"""

from .classifier import MLPClassifier
from .encoder import PiecewiseLinearEncoder
from .perceptron import Perceptron
from .regressor import MLPRegressor
from .wrappers import SKLearnClassifier, SKLearnRegressor

__all__ = [
    "MLPClassifier",
    "MLPRegressor",
    "Perceptron",
    "PiecewiseLinearEncoder",
    "SKLearnClassifier",
    "SKLearnRegressor",
]
