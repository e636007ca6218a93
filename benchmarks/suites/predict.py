"""Prediction: one row, a thousand, sixty thousand, through a fitted network; time and memory."""

import numpy as np

from benchmarks.networks import Network, logits_of
from benchmarks.peers import FastMLP


class Predict:
    params = [1, 1000, 60_000]
    param_names = ["rows"]

    def setup(self, rows):
        network = Network((64, 256, 256, 256, 10), 128)
        X, y = network.data(1280)
        contender = FastMLP(network, X, y, network.parameters())
        contender.run([None])
        parameters = contender.parameters()
        contender.close()
        self.model, self.X = contender.model, network.data(rows, seed=2)[0]
        self.time_predict(rows)  # compiles
        expected = logits_of(network, parameters, self.X[:100])  # the model has not been told of a loss
        np.testing.assert_allclose(self.model.predict(self.X[:100]), expected, rtol=1e-3, atol=1e-3)

    def time_predict(self, rows):
        self.model.predict(self.X)

    def peakmem_predict(self, rows):
        self.model.predict(self.X)
