"""A cosine schedule, clipping and early stopping together, and what the history tells of a fit.

The digits are scikit-learn's, which come with it: no download is needed.
"""

from fastmlp import SGD, CosineDecay, Dense, EarlyStopping, GradientNorms, ReLU, Sequential, Warmup
from fastmlp.datasets import load_digits

(X, y), (X_test, y_test) = load_digits()
X_train, y_train, X_val, y_val = X[:1000], y[:1000], X[1000:], y[1000:]
model = Sequential(Dense(64), ReLU(), Dense(64), ReLU(), Dense(10))
schedule = Warmup(CosineDecay(0.1, epochs=58), epochs=2)
stopping = EarlyStopping("val_accuracy", patience=15)
history = model.fit(
    X_train,
    y_train,
    loss="softmax_cross_entropy",
    optimizer=SGD(schedule, momentum=0.9, clip_value=0.05),
    epochs=60,
    batch_size=32,
    validation_data=(X_val, y_val),
    callbacks=[GradientNorms(), stopping],
    verbose=0,
)
print(history)
print(
    f"\nthe best of {len(history)} epochs was {stopping.best_epoch_}, with {stopping.best_:.1%}; its weights are kept"
)
print("epoch  loss (#) and learning rate (.), of their largest")
for epoch in range(0, len(history), 3):
    line = [" "] * 51
    for name, mark in (("learning_rate", "."), ("loss", "#")):
        line[int(50 * history[name][epoch] / max(history[name]))] = mark
    print(f"{epoch + 1:>5}  {''.join(line).rstrip()}")
accuracy = model.evaluate(X_test, y_test)["accuracy"]
print(f"test accuracy {accuracy:.1%}")
assert accuracy > 0.93 and stopping.best_ == max(history["val_accuracy"])
