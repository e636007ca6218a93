"""Transfer: what a network learned from telling digits apart lets another find loops in them from fifty examples.

The new network takes over the hidden layers: frozen, as features for a new last layer, or fine-tuned with it. Without
FASTMLP_DATA or a network, scikit-learn's small digits take MNIST's place.
"""

import numpy as np

from fastmlp import Dense, ReLU, Sequential
from fastmlp.datasets import load_digits, load_mnist

try:
    (X, y), (X_test, y_test) = load_mnist()
    X, X_test, epochs = X.astype(np.float32) / 255, X_test.astype(np.float32) / 255, 3
except FileNotFoundError as reason:
    print(reason, "Using scikit-learn's digits instead.", sep="\n")
    (X, y), (X_test, y_test) = load_digits()
    epochs = 40
hidden = [Dense(128), ReLU(), Dense(64), ReLU()]
digits = Sequential(*hidden, Dense(10))
digits.fit(X, y, loss="softmax_cross_entropy", epochs=epochs, batch_size=64, verbose=0)
print(f"ten digits, {len(X)} images: {digits.evaluate(X_test, y_test)['accuracy']:.1%}")

loop, loop_test = np.isin(y, [0, 6, 8, 9]).astype(int), np.isin(y_test, [0, 6, 8, 9]).astype(int)
accuracies = {"from scratch": [], "frozen": [], "fine-tuned": []}
for seed in range(5):  # which fifty images they are matters
    few = np.random.default_rng(seed).choice(len(X), 50, replace=False)
    scratch = Sequential(*hidden, Dense(1)).build(X.shape[1], seed)
    tuned = Sequential(*hidden, Dense(1)).build(X.shape[1], seed).copy_parameters(digits, layers=4)
    last = Sequential(Dense(1))
    features, features_test = digits.activations(X[few], layer=3), digits.activations(X_test, layer=3)
    for name, model, rows, rows_test in (
        ("from scratch", scratch, X[few], X_test),
        ("frozen", last, features, features_test),
        ("fine-tuned", tuned, X[few], X_test),
    ):
        model.fit(rows, loop[few], loss="binary_cross_entropy", epochs=100, batch_size=10, seed=seed, verbose=0)
        accuracies[name].append(model.evaluate(rows_test, loop_test)["accuracy"])
print("a loop or none, 50 images, mean of five draws:")
for name, values in accuracies.items():
    print(f"  {name:<12} {np.mean(values):.1%}")
assert max(np.mean(accuracies["frozen"]), np.mean(accuracies["fine-tuned"])) > np.mean(accuracies["from scratch"])
