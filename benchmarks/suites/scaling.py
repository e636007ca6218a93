"""How time grows as work grows: threads (more than cores, too), width, depth, batch, rows. Milliseconds an epoch."""

import os

from benchmarks.measure import validate
from benchmarks.networks import BY_NAME, Network
from benchmarks.peers import FastMLP


class Epoch:
    """One epoch; subclasses say of what."""

    repeat, number, rounds, warmup_time = 10, 1, 2, 0
    timeout = 300  # in `setup`, everybody computes the first steps in float64
    rows = 12_800

    def setup(self, value):
        network, rows, n_threads = self.work(value)
        validate(network, ["fastmlp"], {"fastmlp": (FastMLP, n_threads)})
        X, y = network.data(rows)
        self.contender = FastMLP(network, X, y, network.parameters(), n_threads)
        self.contender.run([None])

    def teardown(self, value):
        self.contender.close()

    def epoch(self, value):
        self.contender.run([None])


class Threads(Epoch):
    params = [1, 2, 4, 8]
    param_names = ["threads"]

    def setup(self, value):
        os.environ["FASTMLP_OVERSUBSCRIBE"] = "1"  # more workers than cores: they must not collapse
        super().setup(value)

    def work(self, n_threads):
        return BY_NAME["784-256-128-10"], self.rows, n_threads

    time_epoch = Epoch.epoch


class Width(Epoch):
    params = [1, 8, 16, 64, 256, 1024]
    param_names = ["units of two hidden layers"]

    def work(self, width):
        return Network((64, width, width, 10), 128), self.rows, None

    time_epoch = Epoch.epoch


class Depth(Epoch):
    params = [1, 2, 4, 8, 16]
    param_names = ["hidden layers of 128"]

    def work(self, depth):
        return Network((64, *[128] * depth, 10), 128), self.rows, None

    time_epoch = Epoch.epoch


class Batch(Epoch):
    rows = 60_000
    params = [1, 8, 32, 128, 1280, 60_000]
    param_names = ["batch size"]

    def work(self, batch_size):
        return Network((64, 128, 64, 10), batch_size), self.rows, None

    time_epoch = Epoch.epoch


class Rows(Epoch):
    params = [128, 1280, 12_800, 128_000]
    param_names = ["rows"]

    def work(self, rows):
        return Network((64, 128, 64, 10), 128), rows, None

    time_epoch = Epoch.epoch


class Outputs(Epoch):
    params = [10, 1000, 30_000]
    param_names = ["classes"]

    def work(self, classes):
        return Network((classes, 16, classes), 128), 1280, None

    time_epoch = Epoch.epoch
