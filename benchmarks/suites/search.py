"""A grid of 20 small networks in 5 folds on the digits, by scikit-learn's own search: many short fits."""

import warnings

import numpy as np

GRID = {"hidden_layer_sizes": [(8,), (16,), (32,), (16, 16), (32, 16)], "learning_rate_init": [3e-4, 1e-3, 3e-3, 1e-2]}


class Search:
    params = (["fastmlp", "sklearn"], [1, 2])
    param_names = ("library", "n_jobs")
    rounds, repeat, number, warmup_time = 1, 3, 1, 0
    timeout = 900

    def setup(self, library, n_jobs):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import GridSearchCV

        if library == "fastmlp":
            from fastmlp import MLPClassifier
        else:
            from sklearn.neural_network import MLPClassifier
        warnings.simplefilter("ignore")  # ten epochs are not converged
        X, y = load_digits(return_X_y=True)
        self.X, self.y = np.float32(X / 16), y
        model = MLPClassifier(batch_size=32, max_iter=10, random_state=0)
        model.fit(self.X, self.y)  # compiles
        self.search = GridSearchCV(model, GRID, cv=5, n_jobs=n_jobs)

    def time_search(self, library, n_jobs):
        self.search.fit(self.X, self.y)

    def track_best_score(self, library, n_jobs):
        return self.search.fit(self.X, self.y).best_score_

    track_best_score.unit = "accuracy"
