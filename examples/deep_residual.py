"""Forty layers deep: residual blocks (pre-norm, GELU, expansion 4) learn sooner and better than plain layers of the
same widths.

The digits are scikit-learn's, which come with it: no download is needed.
"""

from fastmlp import GELU, AdamW, CosineDecay, Dense, LayerNorm, Sequential, Warmup, pre_norm_block
from fastmlp.datasets import load_digits
from fastmlp.diagnosis import gradient_norms

(X, y), (X_test, y_test) = load_digits()
plain = [layer for _ in range(20) for layer in (Dense(128), GELU(), Dense(32), GELU())]
blocks = [pre_norm_block(32, dropout=0.1, drop_rate=0.1) for _ in range(20)]
scores = {}
for name, body in {"plain": plain, "residual": [*blocks, LayerNorm()]}.items():
    model = Sequential(Dense(32), *body, Dense(10)).build(X.shape[1])
    norms = list(gradient_norms(model, X, y, "softmax_cross_entropy").values())
    optimizer = AdamW(Warmup(CosineDecay(2e-3, epochs=15), epochs=1), weight_decay=0.05)
    history = model.fit(X, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=15, batch_size=32, verbose=0)
    scores[name] = model.evaluate(X_test, y_test)["accuracy"]
    print(f"{name:<8}  gradient of the first layer over that of the last: {norms[0] / norms[-1]:.0e}")
    losses = " ".join(f"{history['loss'][epoch]:.2f}" for epoch in (0, 4, 14))
    print(f"{'':<8}  loss after 1, 5, 15 epochs: {losses}; test accuracy {scores[name]:.1%}")

assert scores["residual"] > max(0.97, scores["plain"])
