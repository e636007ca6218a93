"""How sure is a prediction? Quantiles, and a mean with its variance, of the house values of California.

Without the folder FASTMLP_DATA, scikit-learn's small diabetes data take their place.
"""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

from fastmlp import AdamW, CosineDecay, Dense, Dropout, Gaussian, QuantileLoss, ReLU, Sequential

file = Path(os.environ.get("FASTMLP_DATA", "")) / "california_housing.csv.gz"
if file.is_file():
    with gzip.open(file, "rt") as text:
        rows = [row for row in csv.DictReader(text) if row["total_bedrooms"]]
    near = sorted({row["ocean_proximity"] for row in rows})
    numbers = np.array([[float(v) for k, v in row.items() if k != "ocean_proximity"] for row in rows])
    numbers[:, 3:8] = np.log(numbers[:, 3:8])  # rooms, people, incomes are skewed
    X, y = (
        np.c_[numbers[:, :-1], [[row["ocean_proximity"] == place for place in near] for row in rows]],
        numbers[:, -1] / 1e5,
    )
    unit, epochs = "100 000 dollars", 20
else:
    print(f"No {file.name} in the folder named by FASTMLP_DATA: using scikit-learn's diabetes data instead.")
    X, y = load_diabetes(return_X_y=True)
    y, unit, epochs = y / 100, "100 units", 60
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order], y[order]
X = (X - X.mean(axis=0)) / X.std(axis=0)
n = len(X) * 4 // 5
losses = {"quantiles": QuantileLoss((0.05, 0.5, 0.95)), "gaussian": Gaussian(min_variance=1e-3)}
intervals = {}
for name, loss in losses.items():
    outputs = 3 if name == "quantiles" else 2
    model = Sequential(Dense(64), ReLU(), Dropout(0.1), Dense(64), ReLU(), Dropout(0.1), Dense(outputs))
    optimizer = AdamW(CosineDecay(3e-3, epochs=epochs), weight_decay=0.01)
    model.fit(X[:n], y[:n], loss=loss, optimizer=optimizer, epochs=epochs, batch_size=64, verbose=0)
    predicted = model.predict(X[n:])
    if name == "gaussian":
        mean, deviation = predicted[:, 0], np.sqrt(predicted[:, 1])
        predicted = np.stack([mean - 1.645 * deviation, mean, mean + 1.645 * deviation], axis=1)
    intervals[name] = predicted
    low, middle, high = predicted.T
    inside, error = np.mean((low <= y[n:]) & (y[n:] <= high)), np.mean(np.abs(middle - y[n:]))
    print(f"{name}: 90 % intervals hold {inside:.1%} of the test rows; the middle is off by {error:.2f} ({unit})")
    widths = np.argsort(high - low)
    sure, unsure = widths[: len(widths) // 5], widths[-len(widths) // 5 :]
    errors = [np.mean(np.abs(middle[rows] - y[n:][rows])) for rows in (sure, unsure)]
    print(f"  the fifth with the narrowest intervals is off by {errors[0]:.2f}, the widest by {errors[1]:.2f}")
    assert 0.7 < inside < 0.98 and errors[0] < errors[1]
