"""python -m benchmarks.report: every speed that fastmlp claims, beside its peers and this machine's FMA peak.

It prints what it measures and the targets reached; `--output FOLDER` writes one table and one picture, and `--readme`
puts the table into README.md.

Times are microseconds a training step (Adam, float32, data in memory, shuffled), medians over rounds in which all
contenders take turns; every contender first shows that it computes the same updates. Each network's share of the FMA
peak is taken against a loop of multiply-adds timed right before and after it.
"""

import argparse
import platform
import warnings
from pathlib import Path
from statistics import median

from benchmarks import processes
from benchmarks.fma_peak import lanes
from benchmarks.measure import measure_network
from benchmarks.networks import BY_NAME, network_of
from benchmarks.peers import CONTENDERS

OURS = "fastmlp auto"  # what a user gets who asks for nothing: it stands for fastmlp in the ratios
SMOKE = ("784-128-64-10", "10-64-64-2", "4-32-16-4")
COLUMNS = {
    "fastmlp": ("fastmlp 1", "fastmlp 2", "fastmlp auto"),
    "JAX": ("jax",),
    "PyTorch": ("torch 1", "torch 2"),
    "torch.compile": ("torch.compile",),
    "scikit-learn": ("sklearn",),
    "NumPy": ("numpy",),
}


class Targets:
    """Prints one line for each target and counts those reached; in a smoke run the numbers mean nothing."""

    def __init__(self, smoke):
        self.smoke, self.reached, self.total = smoke, 0, 0

    def line(self, what, value, target, unit="x", at_least=True, remark=""):
        passed = value >= target if at_least else value <= target
        self.total += 1
        self.reached += passed
        verdict = "smoke" if self.smoke else "pass" if passed else "FAIL"
        bound = f"{'>=' if at_least else '<='} {target:g} {unit}".rstrip()
        print(f"  [{verdict}] {what}: {f'{value:.3g} {unit}'.rstrip()} ({bound}){remark}", flush=True)


def print_times(times):
    network = times.network
    activation = "" if network.activation == "relu" else f" {network.activation}"
    print(f"\n{network.name}{activation}, batch {network.batch_size} ({network.flop / 1e6:.3g} MFLOP a step)")
    peaks = ", ".join(f"{median(peaks):.0f} GFLOP/s on {n}" for n, peaks in sorted(times.peaks.items()))
    if peaks:
        busy = times.machine_was_busy()
        print(f"  FMA peak beside it: {peaks} thread(s){'; OTHER PROCESSES HAD THE CORES TOO' if busy else ''}")
    for label in times.steps:
        share = times.peak_fractions.get(label)
        share = f"  {median(share):.3f} of peak (best {max(share):.3f})" if share else ""
        us, best = times.microseconds(label), times.microseconds(label, min)
        speed, score = times.gflops(label), times.scores[label]
        print(f"  {label:13}{us:10.1f} us  (best {best:.1f}){speed:8.1f} GFLOP/s  score {score:.3f}{share}", flush=True)
    for label, reason in times.skipped.items():
        print(f"  {label:13} skipped: {reason}")


def check_network(times, targets):
    """The targets of this network."""
    network, steps = times.network, times.steps
    if network.peak and "fastmlp 2" in steps:
        share = times.peak_fractions["fastmlp 2"]
        targets.line("share of the FMA peak, two threads", median(share), network.peak, unit="")
    if network.scaling and {"fastmlp 1", "fastmlp 2"} <= steps.keys():
        targets.line("one thread over two", times.ratio("fastmlp 1", "fastmlp 2"), network.scaling)
    if OURS not in steps:
        return
    fixed = times.best_of("fastmlp 1", "fastmlp 2")
    if fixed:
        ratio = times.ratio(OURS, fixed)
        targets.line("n_threads=None over the best fixed number", ratio, 1.05, at_least=False, remark=f", {fixed}")
    for target, labels in ((network.torch, COLUMNS["PyTorch"]), (network.jax, COLUMNS["JAX"])):
        peer = times.best_of(*labels)
        if target and peer:
            best = f", {times.ratio(peer, OURS, min):.3g} x by best times"
            targets.line(f"faster than {peer}", times.ratio(peer, OURS), target, remark=best)


def check_processes(targets, smoke):
    """The lines that are not about steps."""
    print("\nwhole processes")
    seconds = processes.processes(1 if smoke else 5)
    for name, value in seconds.items():
        print(f"  {name}: {value:.3f} s")
    name = "first fit, empty cache"
    targets.line(f"{name}, digits, whole process", seconds[name], 10, "s", at_least=False)
    name = "Sequential, warm cache"
    targets.line("Sequential 64-32-10, 20 epochs, warm cache, whole process", seconds[name], 1.0, "s", at_least=False)
    if "MLPClassifier, warm cache" in seconds:
        extra = seconds["MLPClassifier, warm cache"] - seconds["import sklearn.base"]
        targets.line("MLPClassifier, more than importing sklearn.base", extra, 0.8, "s", at_least=False)
    extra = seconds["import fastmlp"] - seconds["import numpy"]
    targets.line("import fastmlp, more than import numpy", extra, 0.3, "s", at_least=False)
    print("\nsingle calls")
    row = processes.one_row(1 if smoke else 9)
    targets.line("predict of one row, 3 x 256", row, 50, "us", at_least=False)
    result = processes.mnist(n_seeds=1 if smoke else 5, epochs=1 if smoke else 10)
    if result is None:
        print("  MNIST skipped: FASTMLP_DATA is not set")
    else:
        targets.line("MNIST, ten epochs", result[0], 2.5, "s", at_least=False)
        targets.line("MNIST, mean test accuracy", 100 * result[1], 97.5, "%")


def memory(network, label):
    """Peak resident MiB of a process that imports the library of `label` and trains for two epochs; None where the
    system does not tell."""
    code = f"""
import warnings
import numpy as np
from benchmarks.networks import Network
from benchmarks.peers import CONTENDERS
warnings.simplefilter("ignore")
network, (make, n_threads) = {network!r}, CONTENDERS[{label!r}]
X, y = network.data(network.plan()[0])
contender = make(network, X, y, network.parameters(), n_threads, network.batch_size < len(X))
contender.run(np.tile(np.arange(len(X)), (2, 1)))
status = open("/proc/self/status").read()  # ru_maxrss would be that of this process, from before exec
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""
    try:
        return float(processes.output(code))
    except RuntimeError:
        return None


def number(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def markdown(measured, memories):
    """The table: networks by libraries, each with its better number of threads."""
    columns = {name: labels for name, labels in COLUMNS.items() if any(t.best_of(*labels) for t in measured)}
    lines = [
        "Microseconds a training step (GFLOP/s; accuracy, R² for 4-32-16-4, on fresh rows; peak MiB of a process).",
        "Adam, float32, shuffled data in memory, equal updates and epochs, each library's better number of threads.",
        "Share of FMA peak: of what two threads reach in a loop of nothing but multiply-adds.",
        f"{machine()}; {versions()}.",
        "",
        f"| network, batch | share of FMA peak | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for times in measured:
        cells = []
        for labels in columns.values():
            best = times.best_of(*labels)
            mib = memories.get((times.network.name, best))
            facts = [f"{number(times.gflops(best))}", f"{times.scores[best]:.3f}"] if best else []
            facts += [f"{mib:.0f}"] if mib else []
            cells.append(f"{number(times.microseconds(best))} ({'; '.join(facts)})" if best else "")
        share = times.peak_fractions.get("fastmlp 2")
        share = f"{median(share):.2f}" if share else ""
        lines.append(f"| {times.network.name}, {times.network.batch_size} | {share} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *ahead(measured)]) + "\n"


def ahead(measured):
    """A sentence for each peer that takes less time than fastmlp; one sentence where there is none."""
    lines = []
    for times in measured:
        ours = times.best_of(*COLUMNS["fastmlp"])
        peers = {name: times.best_of(*labels) for name, labels in COLUMNS.items() if name != "fastmlp"}
        for name, peer in peers.items():
            if ours and peer and times.ratio(ours, peer) > 1:
                factor = times.ratio(ours, peer)
                lines.append(f"- {name} is ahead on {times.network.name}: fastmlp takes {factor:.2f} times as long.")
    return lines or ["No peer is ahead on any of these networks."]


def picture(measured, path):
    """GFLOP/s of every library on every network, under the FMA peak."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 5), layout="constrained")
    width = 0.85 / len(COLUMNS)
    for k, (name, labels) in enumerate(COLUMNS.items()):
        best = [(i, times, times.best_of(*labels)) for i, times in enumerate(measured) if times.best_of(*labels)]
        x = [i + (k - (len(COLUMNS) - 1) / 2) * width for i, _, _ in best]
        if best:
            axes.bar(x, [times.gflops(label) for _, times, label in best], width, label=name)
    for i, times in enumerate(measured):
        if times.peaks:
            peak = median(times.peaks[max(times.peaks)])
            axes.plot([i - 0.45, i + 0.45], [peak, peak], "k:", label="FMA peak" if i == 0 else None)
    names = [f"{times.network.name}\nbatch {times.network.batch_size}" for times in measured]
    axes.set_xticks(range(len(measured)), names, fontsize="small")
    axes.set_ylabel("GFLOP/s of a training step")
    axes.legend(ncols=3)
    figure.savefig(path, dpi=120)


def write_into(page, table, mark="speeds"):
    """Put the table between the marks of a Markdown page."""
    begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    page.write_text(before + begin + table + end + rest.split(end)[1], encoding="utf-8")


def machine():
    """The processor's name and how many cores this process may use."""
    from fastmlp.engine.threads import usable_cores

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        name = platform.processor() or platform.machine()
    return f"{name.strip()}, {usable_cores()} cores, vectors of {4 * lanes()} bytes"


def versions():
    """What ran: Python and the installed contenders."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("numpy", "numba", "torch", "jax", "scikit-learn"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"Python {platform.python_version()}, {platform.machine()}, " + ", ".join(found)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: only that everything runs")
    parser.add_argument("--networks", nargs="*", help="only these, or any others: 784-128-64-10, 64-64-1000/128")
    parser.add_argument("--peers", nargs="*", help=f"only these of: {', '.join(CONTENDERS)} (a first word names all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-processes", action="store_true", help="only the training steps")
    parser.add_argument("--output", type=Path, help="folder of report.md and report.png (default: none is written)")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md, too")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # peers that did not converge
    names = options.networks or (SMOKE if options.smoke else list(BY_NAME))
    try:
        networks = [network_of(name) for name in names]
    except ValueError as error:
        parser.error(str(error))
    labels = [k for k in CONTENDERS if not options.peers or {k, k.split()[0]} & set(options.peers)]
    print(versions())
    targets, measured = Targets(options.smoke), []
    for network in networks:
        times = measure_network(network, labels, 1 if options.smoke else options.rounds, options.smoke)
        print_times(times)
        check_network(times, targets)
        measured.append(times)
    if not options.no_processes:
        check_processes(targets, options.smoke)
    if options.output or options.readme:
        best = {(t.network, t.best_of(*labels)) for t in measured for labels in COLUMNS.values()}
        memories = {(network.name, label): memory(network, label) for network, label in best if label}
        table = markdown(measured, memories)
        print(f"\n{table}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "report.md").write_text(table, encoding="utf-8")
        picture(measured, options.output / "report.png")
    if options.readme:
        write_into(processes.ROOT / "README.md", table)
    if not options.smoke:
        print(f"\n{targets.reached} of {targets.total} targets reached")


if __name__ == "__main__":
    main()
