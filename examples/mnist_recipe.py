"""Closing the gap between training and test on MNIST: augmentation, dropout, weight decay and a one-cycle schedule.

The plain network learns its training images by heart. The recipe turns, shifts and scales them a little, another way
each time; `benchmarks/recipes/` has long forms. Without FASTMLP_DATA or a network, scikit-learn's small digits take
MNIST's place.
"""

from fastmlp import GELU, Adam, AdamW, Dense, Dropout, OneCycle, RandomAffine, ReLU, Rescaling, Sequential
from fastmlp.datasets import load_digits, load_mnist

try:
    (X, y), (X_test, y_test) = load_mnist()
    first, shape, epochs = [Rescaling(1 / 255)], (28, 28), 8
except FileNotFoundError as reason:
    print(reason, "Using scikit-learn's digits instead.", sep="\n")
    (X, y), (X_test, y_test) = load_digits()
    first, shape, epochs = [], (8, 8), 60
moved = RandomAffine(shape, degrees=8, translate=1 / 28, scale=(0.92, 1.08))
plain = Sequential(*first, Dense(256), ReLU(), Dense(256), ReLU(), Dense(10))
recipe = Sequential(*first, moved, Dense(256), GELU(), Dropout(0.1), Dense(256), GELU(), Dropout(0.1), Dense(10))
optimizers = {"plain": Adam(1e-3), "recipe": AdamW(OneCycle(3e-3, epochs=epochs), weight_decay=0.05)}
gaps, tests = {}, {}
for name, model in (("plain", plain), ("recipe", recipe)):
    options = {"loss": "softmax_cross_entropy", "epochs": epochs, "batch_size": 128, "verbose": 0}
    history = model.fit(X, y, optimizer=optimizers[name], **options)
    train, tests[name] = (model.evaluate(*data)["accuracy"] for data in ((X, y), (X_test, y_test)))
    gaps[name], seconds = train - tests[name], sum(history["seconds"])
    print(f"{name:<6} train {train:.2%}, test {tests[name]:.2%}, gap {gaps[name]:.2%}, {seconds:.1f} s")
assert tests["recipe"] >= tests["plain"]
