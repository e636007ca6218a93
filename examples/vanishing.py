"""Twelve layers of sigmoids do not learn, and `diagnose` says why; with ReLU and He initialisation they do, and with
BatchNorm sooner.

The digits are scikit-learn's, which come with it: no download is needed.
"""

from fastmlp import Adam, BatchNorm, Dense, Logistic, ReLU, Sequential, diagnose
from fastmlp.datasets import load_digits
from fastmlp.diagnosis import gradient_norms

(X, y), (X_test, y_test) = load_digits()
scores, reports = {}, {}
networks = {"Logistic": [Logistic()], "ReLU": [ReLU()], "BatchNorm and ReLU": [BatchNorm(), ReLU()]}
for name, behind in networks.items():
    hidden = [layer for _ in range(11) for layer in (Dense(32), *behind)]
    model = Sequential(*hidden, Dense(10)).build(X.shape[1])  # "auto" is he_uniform before a ReLU
    norms = gradient_norms(model, X, y, "softmax_cross_entropy")
    print(f"\n12 layers with {name}, gradient norms: " + " ".join(f"{norm:.0e}" for norm in norms.values()))
    reports[name] = diagnose(model, X, y, loss="softmax_cross_entropy")
    print(reports[name])
    curve = model.fit(X, y, loss="softmax_cross_entropy", optimizer=Adam(3e-3), epochs=20, batch_size=32, verbose=0)
    scores[name] = model.evaluate(X_test, y_test)["accuracy"]
    losses = " ".join(f"{curve['loss'][epoch]:.2f}" for epoch in (0, 4, 9, 19))
    print(f"test accuracy after 20 epochs: {scores[name]:.1%}; loss after 1, 5, 10, 20: {losses}")

assert "gradients" in {finding.name for finding in reports["Logistic"].problems}
assert reports["ReLU"]["gradients"].verdict == "ok"
assert scores["Logistic"] < 0.3 < 0.85 < min(scores["ReLU"], scores["BatchNorm and ReLU"])
