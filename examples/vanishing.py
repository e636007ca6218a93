"""Twelve layers of sigmoids do not learn, and `diagnose` says why; with ReLU and He initialisation they do.

The digits are scikit-learn's, which come with it: no download is needed.
"""

from fastmlp import Adam, Dense, Logistic, ReLU, Sequential, diagnose
from fastmlp.datasets import load_digits
from fastmlp.diagnosis import gradient_norms

(X, y), (X_test, y_test) = load_digits()
scores, reports = {}, {}
for activation in (Logistic, ReLU):
    hidden = [layer for _ in range(11) for layer in (Dense(32), activation())]
    model = Sequential(*hidden, Dense(10)).build(X.shape[1])  # "auto" is he_uniform before a ReLU
    name = activation.__name__
    norms = gradient_norms(model, X, y, "softmax_cross_entropy")
    print(f"\n12 layers with {name}, gradient norms: " + " ".join(f"{norm:.0e}" for norm in norms.values()))
    reports[name] = diagnose(model, X, y, loss="softmax_cross_entropy")
    print(reports[name])
    model.fit(X, y, loss="softmax_cross_entropy", optimizer=Adam(1e-3), epochs=20, batch_size=32, verbose=0)
    scores[name] = model.evaluate(X_test, y_test)["accuracy"]
    print(f"test accuracy after 20 epochs: {scores[name]:.1%}")

assert "gradients" in {finding.name for finding in reports["Logistic"].problems}
assert reports["ReLU"]["gradients"].verdict == "ok"
assert scores["Logistic"] < 0.3 < 0.85 < scores["ReLU"]
