"""python -m benchmarks.gate: is the library in the working tree slower than it was in an earlier revision?

The meaning is that of `asv continuous`, made for shared machines, where nothing can be said from one time measured
after another. Rounds are repeated; in each, a new process for either revision keeps all cases ready, and the two take
turns at runs of a few milliseconds, in random order, each beside a loop of multiply-adds in the same process. The least
times of the round, over that of the loop, give one ratio of the two revisions for each case. Ratios of a noisy machine
are often wrong, but as often in one direction as in the other: a case is slower when `SLOWER` more rounds say so than
not, and fine when `FINE` more say that. Cases not decided when the time is up are reported and let pass.

Exit status 1 where a case is slower. Both revisions are measured with the working tree's benchmarks.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SLOWDOWN = 1.15  # what has to be found
THRESHOLD = SLOWDOWN**0.5  # a round votes for the nearer of "as fast" and "slower by that"
SLOWER, FINE = 8, 4  # if a fifth of all rounds were wrong: one false alarm in 65 000 cases
TURNS, SECONDS = 20, 0.003  # runs of each case in a round, and about how long one is

NETWORKS = {  # as `network_of` reads them -> numbers of threads; 0 stands for all
    "784-128-64-10": (1, 0),
    "784-512-512-10": (0,),
    "784-512-512-10/32": (0,),
    "20-256-128-10": (1,),
    "10-64-64-2": (1,),
    "4-32-16-4": (1, 0),
}


def decide(ratios, threshold=THRESHOLD):
    """ "slower", "fine" or None from the ratios of successive rounds: whoever first has the lead that it needs."""
    lead = 0
    for ratio in ratios:
        lead += 1 if ratio > threshold else -1
        if lead in (SLOWER, -FINE):
            return "slower" if lead > 0 else "fine"
    return None


# One process of one revision ------------------------------------------------------------------------------------------


def cases():
    """{name: function of no arguments}: steps of training, and prediction."""
    import numpy as np

    from benchmarks import sparse
    from benchmarks.networks import BY_NAME, network_of
    from benchmarks.peers import FastMLP
    from fastmlp.engine.threads import available_cores

    def training(network, n_threads):
        steps = max(1, round(SECONDS * n_threads * 5e10 / network.flop))
        X, y = network.data(network.batch_size * steps)
        model = FastMLP(network, X, y, network.parameters(), n_threads)
        return lambda: model.run([None])

    found = {}
    for name, threads in NETWORKS.items():
        for n_threads in dict.fromkeys(n or available_cores() for n in threads):
            found[f"step {name}, {n_threads} threads"] = training(network_of(name), n_threads)
    of_sparse_rows = sparse.training(*sparse.problem(2000, 1000, 20), n_threads=1)
    found["step of sparse rows, 1 threads"] = lambda: of_sparse_rows.run(1)
    network = BY_NAME["20-256-128-10"]
    X, y = network.data(1000)
    model = FastMLP(network, X, y, network.parameters(), 1).model
    found["predict 1 row"] = lambda: [model.predict(X[:1]) for _ in range(50)]
    found["predict 1000 rows"] = lambda: model.predict(X)
    assert np.isfinite(model.predict(X)).all()
    return found


def serve():
    """Print the names of the cases, then for each name read: seconds of a run of it and of the reference."""
    from benchmarks import fma_peak

    found, reference = cases(), fma_peak.iterations(0.0005)
    for case in found.values():
        case()
    print(*found, sep="\t", flush=True)
    for line in sys.stdin:
        peak = fma_peak.run(reference)
        start = time.perf_counter()
        found[line.rstrip("\n")]()
        print(time.perf_counter() - start, peak, flush=True)


# The comparison -------------------------------------------------------------------------------------------------------


class Revision:
    """A process that runs the cases with the library in `tree`."""

    def __init__(self, tree):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree, ROOT)))}
        command = [sys.executable, "-c", "from benchmarks.gate import serve; serve()"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a revision's process ended")
        return line.rstrip("\n")

    def run(self, case):
        """(seconds, seconds of the reference)."""
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        return tuple(map(float, self.line().split()))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()  # the end of its input is the end of its loop
        self.process.stdout.close()
        self.process.wait()


def runs(tree):
    """Whether the library in `tree` runs the cases; compiles its kernels."""
    try:
        with Revision(tree) as revision:
            revision.line()
    except RuntimeError:
        return False
    return True


def one_round(trees, decided):
    """{case: time of trees[1] over that of trees[0]} of the cases that are not decided."""
    order = random.sample((0, 1), 2)
    with contextlib.ExitStack() as stack:
        started = {i: stack.enter_context(Revision(trees[i])) for i in order}
        names = [revision.line().split("\t") for revision in started.values()][0]
        best = {name: [(float("inf"),) * 2] * 2 for name in names if name not in decided}
        for _ in range(TURNS):
            for name, least in best.items():
                for i in random.sample((0, 1), 2):
                    least[i] = tuple(map(min, least[i], started[i].run(name)))
    return {name: (head[0] / head[1]) / (base[0] / base[1]) for name, (base, head) in best.items()}


def compare(base, head, budget):
    """{case: (verdict, ratios)} after as many rounds as are needed, or as `budget` seconds allow; at least one."""
    start, ratios, verdicts = time.monotonic(), {}, {}
    while not ratios or time.monotonic() - start < budget:
        for name, ratio in one_round((base, head), {k for k, v in verdicts.items() if v}).items():
            ratios.setdefault(name, []).append(ratio)
        verdicts = {name: decide(values) for name, values in ratios.items()}
        if all(verdicts.values()):
            break
    return {name: (verdicts[name], values) for name, values in ratios.items()}


def earlier_revision(repository, revision, folder):
    """Write the library of a revision to `folder`; its name.

    By default that of HEAD where the working tree has another, else that of HEAD's (first) parent.
    """

    def git(*arguments):
        return subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True).stdout

    revision = revision or ("HEAD" if git("status", "--porcelain", "--", "fastmlp") else "HEAD~1")
    archive = git("archive", revision, "fastmlp")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return git("log", "-1", "--format=%h %s", revision).decode().strip()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="revision to compare with (default: HEAD, or HEAD~1 if the tree is as in HEAD)")
    parser.add_argument("--repository", default=ROOT, help="where its history is, if not here")
    parser.add_argument("--budget", type=float, default=120, help="seconds until the last round begins; default 120")
    options = parser.parse_args(arguments)
    start, reason = time.monotonic(), None
    with tempfile.TemporaryDirectory() as folder:
        try:
            print("compared with", earlier_revision(options.repository, options.base, folder), flush=True)
            base = folder
        except (OSError, subprocess.CalledProcessError) as error:
            lines = getattr(error, "stderr", b"").decode().strip().splitlines()[-1:] or [str(error)]
            reason, base = f"there is no earlier revision here ({lines[0]})", ROOT
        if base != ROOT and not runs(base):
            reason, base = "the earlier revision cannot run the cases of this tree (see above)", ROOT
        if reason:
            print(f"WARNING: {reason}: the tree is compared with itself.", flush=True)
        results = compare(base, ROOT, options.budget - (time.monotonic() - start))  # compiling counts
    print(f"{'time over that of the base':30}  median   least    most  rounds")
    for name, (verdict, ratios) in results.items():
        numbers = "".join(f"{number:8.3f}" for number in (median(ratios), min(ratios), max(ratios)))
        print(f"{name:30}{numbers}{len(ratios):8}  {verdict or 'not decided in time'}")
    slower = [name for name, (verdict, _) in results.items() if verdict == "slower"]
    if reason:
        print(f"WARNING: NOTHING WAS LEARNED about this tree's speed: {reason}, and it was compared with itself.")
    print(f"SLOWER by about {SLOWDOWN - 1:.0%} or more: {'; '.join(slower)}" if slower else "No case is slower.")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
