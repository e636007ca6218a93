"""Whole processes: what a person waits for before the first step, with an empty cache and with a full one."""

import os
import tempfile
from pathlib import Path

from benchmarks.processes import SEQUENTIAL, digits_file, run  # a module named so would be asv's old word for rounds


class Start:
    rounds, repeat, number, warmup_time = 1, 5, 1, 0
    timeout = 300

    def setup_cache(self):
        """Data, and a cache that a first fit has filled; in the folder where asv runs the class's benchmarks."""
        data = digits_file(Path.cwd())
        run(SEQUENTIAL, data, cache=Path.cwd() / "cache", root=None)  # the revision that is measured is installed
        return str(Path.cwd())

    def timeraw_import(self, folder):
        return "import fastmlp; fastmlp.Sequential"  # exports are lazy: use one

    def timeraw_fit_warm_cache(self, folder):
        return fit(folder, Path(folder) / "cache")

    def timeraw_fit_empty_cache(self, folder):
        return fit(folder, tempfile.mkdtemp(dir=folder))

    timeraw_fit_empty_cache.repeat = 2

    def track_compilations(self, folder):
        """Kernels that a first fit compiles."""
        return len(list(Path(folder, "cache").glob("*/*.o")))

    track_compilations.unit = "kernels"


def fit(folder, cache):
    """A whole process's code: the first fit, with kernels kept in `cache`."""
    data = os.path.join(folder, "digits.npz")
    return f"import os, sys\nos.environ['FASTMLP_CACHE_DIR'] = {str(cache)!r}\nsys.argv[1:] = [{data!r}]\n" + (
        SEQUENTIAL
    )
