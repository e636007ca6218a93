"""Which house of a neighbourhood is worth most? A ranking is learned from comparisons within neighbourhoods only.

Every neighbourhood of California (a cell of a quarter degree) is a query; its districts are ranked by value, without
their place, so the price level of a region is no help. Without the folder FASTMLP_DATA, made-up queries take their
place.
"""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
from sklearn.metrics import ndcg_score

from fastmlp import Adam, Dense, ReLU, Sequential

file = Path(os.environ.get("FASTMLP_DATA", "")) / "california_housing.csv.gz"
rng = np.random.default_rng(0)
if file.is_file():
    with gzip.open(file, "rt") as text:
        rows = [row for row in csv.DictReader(text) if row["total_bedrooms"]]
    names = "housing_median_age total_rooms total_bedrooms population households median_income".split()
    X = np.array([[float(row[name]) for name in names] for row in rows])
    X[:, 1:5] /= X[:, 4:5]  # per household
    X[:, 1:] = np.log(X[:, 1:])
    X = np.delete(X, 4, axis=1)
    value = np.array([float(row["median_house_value"]) for row in rows]) / 1e5
    place = np.array([[float(row["longitude"]), float(row["latitude"])] for row in rows])
    groups = np.unique(np.floor(4 * place), axis=0, return_inverse=True)[1].reshape(-1)
else:
    print(f"No {file.name} in the folder named by FASTMLP_DATA: using made-up queries instead.")
    X, groups = rng.normal(size=(4000, 5)), rng.integers(0, 200, 4000)
    value = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 3 * rng.normal(size=200)[groups]
several = np.bincount(groups)[groups] > 1
X, value, groups = X[several], value[several], groups[several]
X = (X - X.mean(axis=0)) / X.std(axis=0)
test = np.isin(groups, rng.permutation(np.unique(groups))[::5])  # whole neighbourhoods


def quality(scores):
    """Mean over the test queries of NDCG (gain: from the cheapest up) and of the share of pairs in the right order."""
    ndcg, pairs = [], []
    for query in np.unique(groups[test]):
        rows = groups[test] == query
        y, z = value[test][rows], scores.ravel()[rows]
        better = y[:, None] > y
        if better.any():
            ndcg.append(ndcg_score([y - y.min()], [z], k=10))
            pairs.append(np.mean((z[:, None] > z)[better]))
    return np.mean(ndcg), np.mean(pairs)


print(f"{len(np.unique(groups))} queries of {len(X)} rows, {len(np.unique(groups[test]))} of them held out")
found = {"chance": quality(rng.normal(size=test.sum()))}
for loss in ("squared_error", "ranknet", "listnet"):
    model = Sequential(Dense(32), ReLU(), Dense(32), ReLU(), Dense(1))
    options = {"optimizer": Adam(3e-3), "epochs": 40, "batch_size": 8, "verbose": 0}
    if loss == "squared_error":
        options |= {"batch_size": 128}
    else:
        options |= {"groups": groups[~test]}
    history = model.fit(X[~test], value[~test], loss=loss, **options)
    found[loss] = quality(model.predict(X[test]))
    print(f"{loss}: {sum(history['seconds']):.1f} s")
for name, (ndcg, pairs) in found.items():
    print(f"{name:>13}: NDCG@10 {ndcg:.3f}, pairs in the right order {pairs:.1%}")
assert found["ranknet"][1] > found["chance"][1] + 0.15
