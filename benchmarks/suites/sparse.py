"""Sparse rows: an epoch of a classifier of texts, and its prediction."""

from benchmarks.sparse import problem, training


class Sparse:
    params = [2000, 20_000]
    param_names = ["columns"]

    def setup(self, columns):
        self.X, y = problem(4000, columns, 50)
        self.training = training(self.X, y)
        first, *_, last = self.training.run(4)
        assert last < first
        self.model = self.training.model
        self.time_logits(columns)  # compiles

    def teardown(self, columns):
        self.training.close()

    def time_epoch(self, columns):
        self.training.run(1)

    def time_logits(self, columns):
        self.model.logits(self.X)
