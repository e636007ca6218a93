"""Benchmarks: what the gate decides, and that it finds a slowdown; that everything timed computes the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gate

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
        done = run_gate(tmp_path)
        path.write_text(before)
        assert done.returncode == 1, done.stdout + done.stderr
        found = done.stdout.splitlines()[-1].removeprefix("SLOWER by about 15% or more: ").split("; ")
        assert all(name.startswith(slow) for name in found), done.stdout
    done = run_gate(tmp_path)
    assert done.returncode == 0 and "compared with itself" in done.stdout, done.stdout + done.stderr
