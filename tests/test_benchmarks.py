"""Benchmarks: what the gate decides, and that it finds a slowdown; that everything timed computes the same."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks import (
    costs,
    embedding,
    gate,
    losses,
    measure,
    partial_fit,
    phases,
    predictions,
    race,
    report,
    sparse,
    tasks,
    time_to_accuracy,
)
from benchmarks.networks import BY_NAME, Network, loss_of, network_of
from benchmarks.peers import CONTENDERS, NumPy
from fastmlp import BinaryCrossEntropy, SquaredError

ROOT = Path(__file__).parent.parent


def verdicts(true_ratio, noise, n=2000, rounds=40):
    """What the gate decides in n trials, from ratios that are `exp(noise)` times the true one; heavy tails."""
    rng = np.random.default_rng(0)
    ratios = true_ratio * np.exp(noise * rng.standard_t(3, (n, rounds)))
    return [gate.decide(row) for row in ratios]


@pytest.mark.parametrize("noise", [0.02, 0.04, 0.07])
def test_noise_is_no_slowdown_and_hides_none(noise):
    assert "slower" not in verdicts(1.0, noise)
    slower = verdicts(1.15, noise)
    assert slower.count("fine") < 0.05 * len(slower)
    assert slower.count("slower") > (0.9 if noise > 0.05 else 0.99) * len(slower)


@given(st.lists(st.floats(0.1, 10)), st.floats(1, 2))
def test_longer_times_are_never_a_better_verdict(ratios, factor):
    order = ["fine", None, "slower"]
    assert order.index(gate.decide(ratios)) <= order.index(gate.decide([r * factor for r in ratios]))


@given(st.lists(st.floats(0.1, 10), max_size=40))
def test_a_verdict_needs_its_lead_and_stands(ratios):
    verdict = gate.decide(ratios)
    slower = sum(r > gate.THRESHOLD for r in ratios)
    if max(slower, len(ratios) - slower) < gate.FINE:
        assert verdict is None
    if slower < gate.SLOWER:
        assert verdict != "slower"
    if verdict:
        assert gate.decide([*ratios, 10.0, 0.1]) == verdict


def repository(folder):
    """A repository with one commit of the library and the benchmarks as they are here."""
    for package in ("fastmlp", "benchmarks"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        try:
            subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("git is not installed")


def run_gate(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-m", "benchmarks.gate", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_base_is_the_last_other_library(tmp_path):
    repository(tmp_path)
    changed = tmp_path / "fastmlp" / "__init__.py"
    before = changed.read_text()
    changed.write_text(before + "# slower\n")
    out = tmp_path / "out"
    out.mkdir()
    assert gate.earlier_revision(tmp_path, None, out).endswith(" first")
    assert (out / "fastmlp" / "__init__.py").read_text() == before and list(out.iterdir()) == [out / "fastmlp"]
    changed.write_text(before)
    with pytest.raises(subprocess.CalledProcessError):  # HEAD has no parent
        gate.earlier_revision(tmp_path, None, out)


def test_without_history_the_tree_is_compared_with_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gate, "compare", lambda base, head, budget: {"step": ("fine" if base == head else None, [1.0])})
    assert gate.main(["--repository", str(tmp_path / "nowhere")]) == 0
    out = capsys.readouterr().out
    assert "compared with itself" in out and "fine" in out


def test_a_base_that_cannot_run_is_said_loudly(tmp_path, capsys, monkeypatch):
    """As after a change of the interface that the cases use."""
    monkeypatch.setattr(gate, "earlier_revision", lambda repository, revision, folder: "abc1234 before")
    monkeypatch.setattr(gate, "runs", lambda tree: tree == ROOT)
    monkeypatch.setattr(gate, "compare", lambda base, head, budget: {"step": ("fine" if base == head else None, [1.0])})
    assert gate.main([]) == 0
    out = capsys.readouterr().out
    assert out.count("WARNING") == 2 and "NOTHING WAS LEARNED" in out and "cannot run the cases" in out
    monkeypatch.setattr(gate, "runs", lambda tree: True)
    gate.main([])
    assert "WARNING" not in capsys.readouterr().out


def test_one_round_is_made_whatever_the_budget(monkeypatch):
    monkeypatch.setattr(gate, "one_round", lambda trees, decided: {"step": 1.0})
    assert gate.compare("base", "head", -1.0) == {"step": (None, [1.0])}


def test_exit_status(capsys, monkeypatch):
    monkeypatch.setattr(gate, "compare", lambda *_: {"a": ("slower", [1.2] * 8), "b": ("fine", [1.0] * 4)})
    assert gate.main([]) == 1
    assert "SLOWER by about 15% or more: a\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_slowdown_of_15_percent_is_found(tmp_path):
    """Every call of the training loop takes 15 % longer; then only prediction does; then nothing."""
    repository(tmp_path)
    wait = """
def _slower(function):
    import time
    def slow(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        until = time.perf_counter() + 0.15 * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass
        return result
    return slow
"""
    cases = [("training.py", "Training.run", "step "), ("sequential.py", "Sequential.predict", "predict ")]
    for file, method, slow in cases:
        path = tmp_path / "fastmlp" / file
        before = path.read_text()
        path.write_text(f"{before}\n{wait}\n{method} = _slower({method})\n")
        done = run_gate(tmp_path, "--budget", "300")
        path.write_text(before)
        assert done.returncode == 1, done.stdout + done.stderr
        found = done.stdout.splitlines()[-1].removeprefix("SLOWER by about 15% or more: ").split("; ")
        assert all(name.startswith(slow) for name in found), done.stdout
    done = run_gate(tmp_path, "--budget", "300")
    assert done.returncode == 0 and "compared with itself" in done.stdout, done.stdout + done.stderr


# What is timed computes the same --------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["fastmlp 1", "fastmlp auto", "torch 1", "jax", "numpy", "sklearn"])
@pytest.mark.parametrize("name", ["10-64-64-2", "4-32-16-4"])
def test_contenders_do_the_same_updates_also_with_another_rate(name, label):
    network = BY_NAME[name]
    X, y = network.data(network.batch_size)
    order = np.arange(len(X))[None]
    parameters = network.parameters()
    make, n_threads = CONTENDERS[label]
    contenders = [NumPy(network, X, y, [(W.astype(float), b.astype(float)) for W, b in parameters])]
    contenders[0].uncorrected_epsilon = getattr(make, "uncorrected_epsilon", False)
    try:
        contenders.append(make(network, X, y, parameters, n_threads, shuffle=False))
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    losses = []
    for contender in contenders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one epoch is not converged
            contender.run(order)
            contender.set_rate(0.01)
            contender.run(order)
        losses.append(loss_of(network, contender.parameters(), X, y))
        contender.close()
    first = loss_of(network, parameters, X, y)
    assert abs(losses[1] - losses[0]) < 1e-3 * abs(losses[0] - first)


def test_whoever_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setitem(CONTENDERS, "lazy", (NumPy, None))
    assert measure.validate(BY_NAME["10-64-64-2"], ["lazy"]) == {}
    monkeypatch.setitem(CONTENDERS, "lazy", (type("Lazy", (NumPy,), {"adam": lambda self: None}), None))
    with pytest.raises(AssertionError, match="lazy on 10-64-64-2: loss"):
        measure.validate(BY_NAME["10-64-64-2"], ["lazy"])


def test_scores():
    network = BY_NAME["4-32-16-4"]
    X, y = network.data(50)
    assert tasks.score(network, network.parameters(), X, tasks.logits_of(network, network.parameters(), X)) == 1.0
    network = Network((3, 3), 10)
    X = np.eye(3, dtype=np.float32)
    assert tasks.score(network, [(X, np.zeros(3))], X, np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_report_writes_table_and_readme(tmp_path):
    times = measure.Times(BY_NAME["10-64-64-2"], steps={"fastmlp 1": [2e-5, 3e-5, 1e-5], "jax": [4e-5]})
    times.scores, times.peak_fractions = {"fastmlp 1": 0.9, "jax": 0.8}, {"fastmlp 2": [0.5]}
    table = report.markdown([times], {("10-64-64-2", "jax"): 123.4})
    row = next(line for line in table.splitlines() if line.startswith("| 10-64-64-2"))
    assert row == "| 10-64-64-2, 32 | 0.50 | 20 (44.6; 0.900) | 40 (22.3; 0.800; 123) |"
    assert table.endswith("\nNo peer is ahead on any of these networks.\n")
    times.steps["jax"] = [1e-5]
    assert report.ahead([times]) == ["- JAX is ahead on 10-64-64-2: fastmlp takes 2.00 times as long."]
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- speeds:begin -->\nold\n<!-- speeds:end -->\nb\n")
    report.write_into(readme, table)
    assert readme.read_text(encoding="utf-8") == f"a\n<!-- speeds:begin -->\n{table}<!-- speeds:end -->\nb\n"


def test_phases_account_for_the_whole_step():
    network = BY_NAME["10-64-64-2"]
    us, peak, records = phases.measure(network, 1, rounds=1, smoke=True)
    assert sum(share for _, share, _ in records) == pytest.approx(1) and records[-1][0] == "barriers"
    assert sum(operations for *_, operations in records) == network.flop
    lines = phases.markdown(network, 1, us, peak, records).splitlines()
    above = sum(float(line.split("|")[-2]) for line in lines[6:])
    assert above == pytest.approx(us - network.flop / peak / 1e3, abs=0.05 * len(records))


def test_phases_are_written_between_the_marks_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "performance.md"
    page.write_text((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    phases.main(["--smoke", "--docs", "--networks", "10-64-64-2", "--threads", "1", "--remark", "Only a test."])
    text = page.read_text(encoding="utf-8")
    assert text.count("### ") == 1 and "### 10-64-64-2, batch 32, 1 thread\n" in text and "Only a test." in text


def test_seconds_until_an_accuracy():
    course = [(1.0, 0.9), (2.0, 0.975), (3.0, 0.96)]
    assert time_to_accuracy.reached(course, 0.97) == 2.0 and time_to_accuracy.reached(course, 0.98) == np.inf


def test_time_to_accuracy_resumes_and_says_what_was_not_reached(tmp_path, monkeypatch, capsys):
    ran = []

    def course(label, network, train, test, decay, epochs, seed, limit):
        ran.append((label, seed))
        if label == "jax":
            raise ImportError("", name="jax")
        return [(1.0 * seed, 0.96), (2.0 * seed, 0.976)]

    monkeypatch.setattr(time_to_accuracy, "course", course)
    monkeypatch.setattr(time_to_accuracy, "task", lambda: (Network((3, 3), 10), None, None))
    file = tmp_path / "runs.jsonl"
    arguments = ["--output", str(file), "--epochs", "3", "--libraries", "fastmlp", "JAX", "--seeds"]
    time_to_accuracy.main([*arguments, "1"])
    assert ran == [("fastmlp auto", 1), ("jax", 1)] and len(file.read_text().splitlines()) == 1
    time_to_accuracy.main([*arguments, "3"])
    assert [seed for label, seed in ran if label == "fastmlp auto"] == [1, 2, 3]
    captured = capsys.readouterr()
    assert "| fastmlp | 3 | 4.00 s (3) | 4.00 s (3) | – (0) | – (0) | 0.9760 |" in captured.out
    assert "fastmlp never reached 98.0%, 98.5%." in captured.out and "Ended early, by --limit: fastmlp." in captured.out
    assert "JAX skipped" in captured.out and "min left" in captured.err
    with pytest.raises(SystemExit):
        time_to_accuracy.main([*arguments, "3", "--limit", "1"])
    assert "another recipe" in capsys.readouterr().err


def test_costs_are_written_between_the_marks_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "ROOT", tmp_path)
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- costs:begin -->\nold\n<!-- costs:end -->\nafter\n")
    costs.main(["--smoke", "--docs", "--only", "dropout"])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.count("| Dropout(0.5)") == 1 and "| +10% |" in text


def test_embeddings_beside_peers_are_written_into_the_page(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(embedding, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "performance.md"
    page.write_text("before\n<!-- embedding:begin -->\n<!-- embedding:end -->\nafter\n")
    embedding.main(["--smoke", "--docs", "--peers", "PyTorch"])
    row = next(line for line in page.read_text().splitlines() if line.startswith("| 27 x 10"))
    assert len([float(time) for time in row.split("|")[2:-1]]) == 2


def test_embeddings_that_do_other_work_are_not_timed(monkeypatch):
    class Other(embedding.FastMLP):
        def parameters(self):
            table, *others = super().parameters()
            return [table[::-1], *others]

    monkeypatch.setitem(embedding.COLUMNS, "PyTorch", [Other])
    with pytest.raises(AssertionError, match="PyTorch: not the same work"):
        embedding.measure(embedding.NETWORKS[0], ["fastmlp", "PyTorch"], rounds=1, steps=3)


def test_losses_beside_jax_are_written_into_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "ROOT", tmp_path)
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- losses:begin -->\n<!-- losses:end -->\nafter\n")
    losses.main(["--smoke", "--docs", "--peers"])
    assert re.search(r"\| softmax_cross_entropy, 10, 128 \| [\d.e+]+ \|\n", page.read_text())


def test_who_has_another_loss_is_found():
    """The gradient of a mean where a sum is meant would not show in Adam: another loss does."""
    case = BinaryCrossEntropy(), 1, 128, losses.labels(1)
    losses.compare(*case, {"fastmlp": losses.FastMLP, "JAX": losses.FastMLP})
    other = lambda loss, *of: losses.FastMLP(SquaredError(), *of)  # noqa: E731
    with pytest.raises(AssertionError, match="JAX, binary_cross_entropy: not the same work"):
        losses.compare(*case, {"fastmlp": losses.FastMLP, "JAX": other})


@pytest.mark.parametrize("case", losses.CASES, ids=lambda case: f"{case[0].name}-{case[1]}")
def test_losses_in_jax_are_ours(case, rng):
    pytest.importorskip("jax")
    loss, units, targets = case
    z, y = rng.normal(size=(20, units)).astype(np.float32), targets(rng, 20)
    assert float(losses.jax_losses()[loss.name](z, y).mean()) == pytest.approx(loss.value(z, y), rel=2e-5)


def test_streams_beside_scikit_learn_are_written_into_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_fit, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "performance.md"
    page.write_text("before\n<!-- partial_fit:begin -->\n<!-- partial_fit:end -->\nafter\n")
    partial_fit.main(["--smoke", "--docs"])
    assert re.search(r"\| 20, 64, 32 (\| [\d.e+]+ ms ){2}\|\n", page.read_text())


def test_sparse_rows_beside_scikit_learn_are_written_into_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse, "ROOT", tmp_path)
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- sparse:begin -->\n<!-- sparse:end -->\nafter\n")
    sparse.main(["--smoke", "--docs"])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert re.search(r"\| 400 x 1000, 20 (\| [\d.e+]+ ms ){4}\|\n", text)


def test_predictions_beside_their_peers_are_written_into_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "ROOT", tmp_path)
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- predictions:begin -->\n<!-- predictions:end -->\nafter\n")
    predictions.main(["--smoke", "--docs", "--peers", "MLPClassifier", "scikit-learn"])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    for rows in (1, 10, 100):
        assert re.search(rf"\| 784-128-64-10, {rows} (\| [\d.e+]+ ){{3}}\|\n", text)


def test_random_networks_race(capsys):
    drawn = [race.drawn(np.random.default_rng(7)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    rng = np.random.default_rng(7)
    networks = [race.drawn(rng) for _ in range(300)]
    assert {network.loss for network in networks} == {"squared_error", "softmax_cross_entropy"}
    assert max(network.flop for network in networks) < race.MOST_FLOP
    assert all(network.data(3)[1].max() < network.widths[-1] for network in networks if "softmax" in network.loss)
    race.main(["--smoke", "--peers", "numpy", "--seed", "3"])
    assert re.search(r": [\d.]+ us; numpy [\d.]+\n\nA peer was ahead on [01] of 1\.", capsys.readouterr().out)
    race.main(["--smoke", "--peers", "numpy", "--only", "9-4-1/20", "3-2"])
    assert re.search(r"\n9-4-1, 20, relu, squared_error: [\d.]+ us; numpy .*\n\nA .* of 1\.", capsys.readouterr().out)


def test_any_network_can_be_named():
    assert network_of("784-128-64-10") is BY_NAME["784-128-64-10"]
    network = network_of("64-8-1000/32")
    assert (network.widths, network.batch_size) == ((64, 8, 1000), 32)
    assert network_of("4-3-2").batch_size == 128
    for wrong in ("784", "4-x-2", "4--2", "4-3-2/0", "4-3-2/many"):
        with pytest.raises(ValueError, match=r"is no network: one of 784-128-64-10.*widths and a batch size"):
            network_of(wrong)
