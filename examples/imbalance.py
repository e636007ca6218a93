"""A class of 3 % of the rows: a network learns to say no; `class_weight="balanced"` makes it look for the rare ones."""

import warnings

import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import f1_score, recall_score

from fastmlp import MLPClassifier

warnings.simplefilter("ignore")  # ten epochs are enough to see it; that they are few is no news here

X, y = make_classification(8000, 10, n_informative=4, weights=[0.97], class_sep=0.6, flip_y=0, random_state=3)
X_train, y_train, X_test, y_test = X[:4000], y[:4000], X[4000:], y[4000:]
print(
    f"{np.mean(y_train):.1%} of the rows are of the rare class; saying no always is {np.mean(y_test == 0):.1%} accurate"
)
scores = {}
for class_weight in (None, "balanced"):
    model = MLPClassifier((16,), class_weight=class_weight, max_iter=10, random_state=0, early_stopping=False)
    predicted = model.fit(X_train, y_train).predict(X_test)
    scores[class_weight] = f1_score(y_test, predicted), recall_score(y_test, predicted)
    right, (f1, found) = np.mean(predicted == y_test), scores[class_weight]
    print(f"class_weight={class_weight!r}: accuracy {right:.1%}, F1 {f1:.2f}, rare ones found {found:.0%}")

assert scores["balanced"][0] > scores[None][0] + 0.1
