"""XOR: a network with a hidden layer learns it; without an activation every prediction collapses to one half.

A song is a hit here if it is fast and sad, or slow and happy: neither tempo nor mood alone tells.
"""

import numpy as np

from fastmlp import Adam, Dense, Sequential, Tanh

songs = ["slow and sad", "slow and happy", "fast and sad", "fast and happy"]
X, y = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1, 0])
networks = {
    "with tanh": Sequential(Dense(8), Tanh(), Dense(1)),
    "without an activation": Sequential(Dense(8), Dense(1)),
}
predictions = {}
for name, model in networks.items():
    model.fit(X, y, loss="binary_cross_entropy", optimizer=Adam(0.05), epochs=500, batch_size=4, verbose=0)
    predictions[name] = model.predict(X).ravel()
    print(f"\n{name}:")
    for song, hit, p in zip(songs, y, predictions[name], strict=True):
        print(f"  {song:<15} is {'a hit' if hit else 'no hit'}: {p:.2f}")

assert (np.abs(predictions["with tanh"] - y) < 0.1).all()
assert np.abs(predictions["without an activation"] - 0.5).max() < 0.02
