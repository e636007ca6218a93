"""python -m benchmarks.phases: where a training step's time goes, record by record, and what lies above the FMA peak.

`--docs` puts the tables into docs/performance.md, where no number is typed. Every worker counts the cycles of every
record (`executor.start_profile`); a record's share of them, times the time of the step, is its time. That of a product
is compared with its 2 · rows · n_in · n_out operations at the FMA peak measured right before and after. Of several
rounds the one in the middle is shown, by the step's time relative to that peak.
"""

import argparse
import re
import time

from benchmarks import fma_peak
from benchmarks.networks import BY_NAME
from benchmarks.peers import FastMLP
from benchmarks.processes import ROOT
from benchmarks.report import machine, versions, write_into

NAMES = ("784-128-64-10", "784-512-512-10", "100-1024-1024-1024-10")
PRODUCTS = ("product", "product_panels", "weight_gradient")


def flop(step, rows):
    """Operations of a record; 0 where it is no product. Its text names the widths: "784 -> 128: ..." or "(64, 10)"."""
    if step.kernel.split(".")[0] not in PRODUCTS:
        return 0
    n_in, n_out = map(int, re.search(r"(\d+)(?: -> |, )(\d+)", step.text).groups())
    return 2 * rows * n_in * n_out


def measure(network, n_threads, rounds=7, smoke=False):
    """(microseconds a step, GFLOP/s at the peak, [(text, share of the step, operations)] of records and barriers)."""
    n_rows, epochs = network.plan(smoke)
    X, y = network.data(n_rows)
    contender = FastMLP(network, X, y, network.parameters(), n_threads)
    contender.run([None])
    executor, measured = contender.training.executor, []
    steps = [step for phase in executor.plan.phases for step in phase.steps]
    operations = [flop(step, network.batch_size) for step in steps]
    assert sum(operations) == network.flop, "a product's widths were not found in its text"
    for _ in range(rounds):
        before = fma_peak.measure(n_threads)
        executor.start_profile(n_threads)
        start = time.perf_counter()
        contender.run([None] * epochs)
        seconds = (time.perf_counter() - start) / (epochs * n_rows / network.batch_size)
        cycles = executor._profile.sum(axis=0)
        measured.append((seconds, (before + fma_peak.measure(n_threads)) / 2, cycles / cycles.sum()))
    contender.close()
    seconds, peak, shares = sorted(measured, key=lambda round: round[0] * round[1])[rounds // 2]
    texts = [f"{step.kernel}: {step.text}" for step in steps]
    return seconds * 1e6, peak, list(zip([*texts, "barriers"], shares, [*operations, 0], strict=True))


def markdown(network, n_threads, us, peak, records):
    """The table of one network."""
    lines = [
        f"### {network.name}, batch {network.batch_size}, {n_threads} thread{'s' * (n_threads > 1)}",
        "",
        f"{us:.0f} µs a step, of which {network.flop / peak / 1e3:.0f} µs at the peak of {peak:.0f} GFLOP/s: "
        f"{network.flop / peak / 1e3 / us:.2f} of it.",
        "",
        "| record | share of the step | of the FMA peak | µs above the peak |",
        "|---|---|---|---|",
    ]
    for text, share, operations in records:
        floor = operations / peak / 1e3
        fraction = f"{floor / (share * us):.2f}" if operations and share else ""
        lines.append(f"| {text.replace('|', chr(92) + '|')} | {share:.1%} | {fraction} | {share * us - floor:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NAMES), choices=list(BY_NAME), metavar="NETWORK")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--remark", default="", help="the conditions of the measurement, for the page")
    options = parser.parse_args(arguments)
    tables = [f"{machine()}; {versions()}. {options.remark}".strip() + "\n"]
    print(tables[0], flush=True)
    for name in options.networks:
        for n_threads in options.threads:
            result = measure(BY_NAME[name], n_threads, 1 if options.smoke else options.rounds, options.smoke)
            tables.append(markdown(BY_NAME[name], n_threads, *result))
            print(tables[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(tables), "phases")


if __name__ == "__main__":
    main()
