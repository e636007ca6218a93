"""A neural language model of characters (Bengio et al., 2003): what comes next, from learned vectors of what came.

The text is the documentation of Python's language that every Python brings along.
"""

from pydoc_data.topics import topics

import numpy as np

from fastmlp import Adam, Dense, Embedding, Sequential, Tanh

CONTEXT, TEMPERATURE = 8, 0.7

text = "\n".join(topics[name] for name in sorted(topics))[:300_000]
characters = sorted(set(text))
codes = np.searchsorted(characters, list(text))
X = np.lib.stride_tricks.sliding_window_view(codes[:-1], CONTEXT)
y = codes[CONTEXT:]
n = len(y) * 9 // 10  # the last tenth is held out

pairs = np.ones((len(characters), len(characters)))  # how often one follows another; each once more (Laplace)
np.add.at(pairs, (X[:n, -1], y[:n]), 1)
chances = pairs / pairs.sum(axis=1, keepdims=True)
counted = -np.log2(chances[X[n:, -1], y[n:]]).mean()
print(f"{len(text):,} characters of {len(characters)} kinds; by counting pairs: {counted:.2f} bits a character")

model = Sequential(Embedding(len(characters), 24), Dense(256), Tanh(), Dense(len(characters)))
model.fit(X[:n], y[:n], loss="softmax_cross_entropy", optimizer=Adam(2e-3), epochs=4, batch_size=128)
learned = model.evaluate(X[n:], y[n:])["loss"] / np.log(2)
print(f"with {CONTEXT} characters before it: {learned:.2f} bits")
assert learned < counted - 1

rng, written = np.random.default_rng(2), list(codes[:CONTEXT])
for _ in range(300):
    z = model.logits([written[-CONTEXT:]])[0] / TEMPERATURE
    written.append(np.argmax(z + rng.gumbel(size=z.size)))  # a draw from softmax(z)
print("It writes:", "".join(characters[k] for k in written))
