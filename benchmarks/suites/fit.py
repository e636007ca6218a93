"""Epochs of training on real and synthetic tasks, by library and threads; the score reached stands beside the time."""

import numpy as np

from benchmarks.measure import validate
from benchmarks.peers import CONTENDERS
from benchmarks.tasks import TASKS, score

EPOCHS = 3


class Fit:
    params = (list(TASKS), list(CONTENDERS))
    param_names = ("task", "library and threads")
    timeout = 600
    rounds, repeat, number, warmup_time = 2, 3, 1, 0

    def setup(self, task, label):
        self.network, (X, y), self.test = TASKS[task]()
        skipped = validate(self.network, [label])
        if skipped:
            raise NotImplementedError(skipped[label])  # asv's word for a benchmark to leave out
        make, n_threads = CONTENDERS[label]
        shuffle = self.network.batch_size < len(X)
        self.contender = make(self.network, X, y, self.network.parameters(), n_threads, shuffle)
        rng = np.random.default_rng(5)
        self.orders = np.stack([rng.permutation(len(X)) for _ in range(EPOCHS)])
        self.contender.run(self.orders)  # compiles

    def teardown(self, task, label):
        if hasattr(self, "contender"):
            self.contender.close()

    def time_fit(self, task, label):
        self.contender.run(self.orders)

    def peakmem_fit(self, task, label):
        self.contender.run(self.orders)

    def track_test_score(self, task, label):
        """After twice as many epochs, the first of which compiled."""
        self.contender.run(self.orders)
        return score(self.network, self.contender.parameters(), *self.test)

    track_test_score.unit = "accuracy or R^2"
