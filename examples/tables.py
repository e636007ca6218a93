"""The numbers of a table in bins: a network bends where they begin. Half of what it leaves unexplained of Friedman's
table goes, and a little of the small diabetes data, by cross-validation.
"""

import warnings

from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPRegressor, PiecewiseLinearEncoder

warnings.simplefilter("ignore", ConvergenceWarning)  # so few epochs are meant
tables = {"diabetes": load_diabetes(return_X_y=True), "Friedman's": make_friedman1(2000, noise=1.0, random_state=0)}
left = {}
for name, (X, y) in tables.items():
    y = (y - y.mean()) / y.std()
    for what, encoders in (("numbers", []), ("and bins", [PiecewiseLinearEncoder(n_bins=len(X) // 64)])):
        network = MLPRegressor(hidden_layer_sizes=(64,), batch_size=32, max_iter=20, alpha=1.0, random_state=0)
        model = make_pipeline(make_union(StandardScaler(), *encoders), network)
        left[name, what] = 1 - cross_val_score(model, X, y, cv=5).mean()
        print(f"{name:10}  {what:8}  R2 {1 - left[name, what]:.3f}")

assert left["Friedman's", "and bins"] < 0.6 * left["Friedman's", "numbers"]
