"""Double descent: the test error of a network rises until it can fit every training row, and falls again beyond.

Forty noisy rows, one hidden layer of growing width whose first weights stay as they were drawn (random features), and
the last layer fitted exactly, by least squares: the smallest weights among those that fit best. Where units and rows
are equal in number, fitting the noise takes huge weights; with more units, smaller ones do (Belkin et al., 2019).
"""

import numpy as np

from fastmlp import Dense, ReLU, Sequential

n = 40
errors = {}
for width in (5, 10, 20, 30, 40, 50, 80, 160, 640):
    train, test, sizes = [], [], []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        X, X_test = rng.normal(size=(n, 5)), rng.normal(size=(500, 5))
        truth = rng.normal(size=5)
        y, y_test = np.tanh(X @ truth) + 0.3 * rng.normal(size=n), np.tanh(X_test @ truth)
        model = Sequential(Dense(width, bias_initializer="normal"), ReLU(), Dense(1), dtype="float64").build(5, seed)
        hidden = model.activations(X, layer=1)
        weights = np.linalg.lstsq(hidden, y, rcond=None)[0]
        model.set_parameters({"dense_1.weight": weights[:, None], "dense_1.bias": [0.0]})
        train.append(np.mean((model.predict(X)[:, 0] - y) ** 2))
        test.append(np.mean((model.predict(X_test)[:, 0] - y_test) ** 2))
        sizes.append(np.linalg.norm(weights))
    errors[width] = np.median(test)
    error, size, bar = errors[width], np.median(sizes), "#" * min(60, int(20 * errors[width]))
    print(f"{width:>4} units: train {np.median(train):.3f}, weights {size:7.2f}, test {error:7.3f} {bar}")
assert errors[40] > 2 * errors[10] and errors[640] < errors[40] / 4
