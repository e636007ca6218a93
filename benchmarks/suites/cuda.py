"""Training steps on an NVIDIA GPU by network; left out without one."""

from benchmarks.cuda import NETWORKS as ALL, CudaFastMLP

NETWORKS = {f"{network.name}, {network.batch_size}": network for network in ALL}


class Steps:
    params = list(NETWORKS)
    param_names = ["network, batch"]
    repeat, number, rounds, warmup_time, timeout = 10, 1, 2, 0, 600
    n_rows = 2**18  # of an epoch, and 30 steps at most

    def setup(self, name):
        from fastmlp import cuda

        try:
            cuda.require()
        except (ImportError, RuntimeError) as error:
            raise NotImplementedError(str(error)) from error  # asv's word for a benchmark to leave out
        network = NETWORKS[name]
        X, y = network.data(network.batch_size * min(30, self.n_rows // network.batch_size))
        self.contender = CudaFastMLP(network, X, y, network.parameters())
        self.contender.run([None])  # compiles, and captures the step

    def teardown(self, name):
        if hasattr(self, "contender"):
            self.contender.close()

    def time_epoch(self, name):
        self.contender.run([None])
