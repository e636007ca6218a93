"""A perceptron learns AND and OR, but not XOR; a network with a hidden layer does, and only with an activation.

A song is a hit here if it is fast and sad, or slow and happy, which is XOR: neither tempo nor mood alone tells. Without
an activation, layers multiply into one, and every prediction collapses to one half.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmlp import Adam, Dense, Perceptron, Sequential, Tanh

X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
warnings.simplefilter("ignore", ConvergenceWarning)  # that XOR does not converge is what we came to see
learned = {}
for name, y in {"AND": [0, 0, 0, 1], "OR": [0, 1, 1, 1], "XOR": [0, 1, 1, 0]}.items():
    perceptron = Perceptron(max_iter=100).fit(X, y)
    predicted = perceptron.predict(X).tolist()
    learned[name] = predicted == y
    (w,), (b,) = perceptron.coef_, perceptron.intercept_
    mistakes = f"{perceptron.mistakes_[-1]} mistakes in epoch {perceptron.n_iter_}"
    print(f"{name:<3} of 00 01 10 11 is {y}, the perceptron says {predicted}: w = {w}, b = {b:.0f}, {mistakes}")

songs, hits = ["slow and sad", "slow and happy", "fast and sad", "fast and happy"], np.array([0, 1, 1, 0])
networks = {
    "with tanh": Sequential(Dense(8), Tanh(), Dense(1)),
    "without an activation": Sequential(Dense(8), Dense(1)),
}
predictions = {}
for name, model in networks.items():
    model.fit(X, hits, loss="binary_cross_entropy", optimizer=Adam(0.05), epochs=500, batch_size=4, verbose=0)
    predictions[name] = model.predict(X).ravel()
    print(f"\na hidden layer {name}:")
    for song, hit, p in zip(songs, hits, predictions[name], strict=True):
        print(f"  {song:<15} is {'a hit' if hit else 'no hit'}: {p:.2f}")

assert learned == {"AND": True, "OR": True, "XOR": False}
assert (np.abs(predictions["with tanh"] - hits) < 0.1).all()
assert np.abs(predictions["without an activation"] - 0.5).max() < 0.02
