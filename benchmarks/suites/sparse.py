"""Sparse rows: an epoch of a classifier of texts, and its prediction."""

from benchmarks.sparse import problem
from fastmlp import Adam, Dense, ReLU, Sequential
from fastmlp.training import Training


class Sparse:
    params = [2000, 20_000]
    param_names = ["columns"]

    def setup(self, columns):
        self.X, y = problem(4000, columns, 50)
        self.model = Sequential(Dense(100), ReLU(), Dense(20)).build(columns)
        options = {"loss": "softmax_cross_entropy", "optimizer": Adam(1e-3), "batch_size": 200}
        self.training = Training(self.model, self.X, y, **options)
        first, *_, last = self.training.run(4)  # compiles
        assert last < first
        self.training.save_parameters()
        self.time_logits(columns)  # compiles

    def teardown(self, columns):
        self.training.close()

    def time_epoch(self, columns):
        self.training.run(1)

    def time_logits(self, columns):
        self.model.logits(self.X)
