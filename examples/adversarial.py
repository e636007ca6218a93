"""Adversarial examples: images changed by a tenth of their range, along the sign of the loss's gradient, fool a network
that noise of the same size does not; one that is trained on such images, too, stands up to them.

Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015. Without FASTMLP_DATA or a
network, scikit-learn's small digits take MNIST's place.
"""

import numpy as np

from fastmlp import Dense, ReLU, Sequential
from fastmlp.datasets import load_digits, load_mnist

SIZE = 0.1  # of the change of every pixel, which are from 0 to 1

try:
    (X, y), (X_test, y_test) = load_mnist()
    X, X_test, epochs = X.astype(np.float32) / 255, X_test.astype(np.float32) / 255, 3
except FileNotFoundError as reason:
    print(reason, "Using scikit-learn's digits instead.", sep="\n")
    (X, y), (X_test, y_test) = load_digits()
    epochs = 40


def network():
    return Sequential(Dense(128), ReLU(), Dense(64), ReLU(), Dense(10)).build(X.shape[1], seed=0)


def changed(X, direction):
    return np.clip(X + SIZE * np.sign(direction), 0, 1)


def report(name, model):
    noise = np.random.default_rng(0).normal(size=X_test.shape)
    images = X_test, changed(X_test, noise), changed(X_test, model.input_gradients(X_test, y_test))
    right = [model.evaluate(of_kind, y_test)["accuracy"] for of_kind in images]
    print(f"{name:<24} {right[0]:>8.1%} {right[1]:>8.1%} {right[2]:>12.1%}")
    return right


print(f"{'accuracy':<24} {'clean':>8} {'noisy':>8} {'adversarial':>12}")
fit = {"loss": "softmax_cross_entropy", "batch_size": 128, "verbose": 0}
plain, hardened = network(), network()
plain.fit(X, y, epochs=epochs, **fit)
hardened.fit(X, y, epochs=1, **fit)
for _ in range(epochs):
    for rows in np.array_split(np.random.default_rng(0).permutation(len(X)), -(-len(X) // 2000)):
        few, labels = X[rows], y[rows]
        adversarial = changed(few, hardened.input_gradients(few, labels))  # against the network as it is now
        hardened.fit(np.concatenate([few, adversarial]), np.concatenate([labels, labels]), epochs=1, **fit)
clean, noisy, fooled = report("trained on images", plain)
_, _, held = report("and on adversarial ones", hardened)
assert clean - noisy < 0.05 < clean - fooled
assert held > fooled + 0.1
