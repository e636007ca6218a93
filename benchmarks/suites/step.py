"""The step's operations over the multiply-adds that the machine does right before and after: noise moves both."""

from statistics import median

from benchmarks.measure import measure_network
from benchmarks.networks import BY_NAME


class Step:
    params = (list(BY_NAME), [1, 2])
    param_names = ("network", "threads")
    timeout = 600

    def track_peak_fraction(self, name, n_threads):
        label = f"fastmlp {n_threads}"
        return median(measure_network(BY_NAME[name], [label], rounds=3).peak_fractions[label])

    track_peak_fraction.unit = "of the FMA peak"
