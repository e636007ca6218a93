"""An epoch of a language model: its first layer is an embedding."""

from benchmarks.embedding import NETWORKS, FastMLP

OF_NAME = {network.name: network for network in NETWORKS}


class Steps:
    params = list(OF_NAME)
    param_names = ["network"]

    def setup(self, name):
        self.contender = FastMLP(OF_NAME[name], *OF_NAME[name].data(steps=20))
        first, *_, last = self.contender.training.run(4)  # compiles
        assert last < first

    def teardown(self, name):
        self.contender.training.close()

    def time_epoch(self, name):
        self.contender.epoch()
