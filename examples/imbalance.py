"""A class of 3 % of the rows: after five epochs a plain network says no too often. Class weights make it look for the
rare ones, with BatchNorm early and dropout late. Weights that balance the classes find most, for many false alarms.
"""

import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import f1_score, recall_score

from fastmlp import Adam, BatchNorm, Dense, Dropout, ReLU, Sequential

X, y = make_classification(8000, 10, n_informative=4, weights=[0.97], class_sep=0.6, flip_y=0, random_state=3)
X_train, y_train, X_test, y_test = X[:4000], y[:4000], X[4000:], y[4000:]
print(
    f"{np.mean(y_train):.1%} of the rows are of the rare class; saying no always is {np.mean(y_test == 0):.1%} accurate"
)
plain = (Dense(64), ReLU(), Dense(32), ReLU(), Dense(1))
careful = (Dense(64), BatchNorm(), ReLU(), Dense(32), BatchNorm(), ReLU(), Dropout(0.3), Dense(1))
scores = {}
for name, layers, class_weight in (
    ("plain", plain, None),
    ("weights 1 : 3", plain, {0: 1, 1: 3}),
    ("and BatchNorm, dropout", careful, {0: 1, 1: 3}),
    ("balanced", careful, "balanced"),
):
    values = []
    for seed in range(5):
        model = Sequential(*layers)
        options = {"loss": "binary_cross_entropy", "optimizer": Adam(3e-3), "epochs": 5, "batch_size": 64}
        model.fit(X_train, y_train, class_weight=class_weight, seed=seed, verbose=0, **options)
        predicted = (model.predict(X_test).ravel() > 0.5).astype(int)
        values.append((np.mean(predicted == y_test), f1_score(y_test, predicted), recall_score(y_test, predicted)))
    right, f1, found = scores[name] = np.mean(values, axis=0)
    print(f"{name:<22}  accuracy {right:.1%}, F1 {f1:.2f}, rare ones found {found:.0%}")

assert scores["and BatchNorm, dropout"][1] > scores["plain"][1]
assert scores["balanced"][2] > scores["plain"][2] + 0.2
