"""`MLPClassifier` and `MLPRegressor`: scikit-learn's estimators, trained by fastmlp's engine.

`base` holds what both share (parameters, the order of a fit, prediction), `solvers` the loops of "adam", "sgd" and
"lbfgs", `classifier` and `regressor` what y means.
"""

from .classifier import MLPClassifier
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
