"""README: its examples run, its commands are what CI runs, and what it links to is there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from benchmarks.networks import NETWORKS
from fastmlp.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_are_what_ci_runs():
    train, test = (block.strip() for block in blocks("bash")[:2])
    assert train.endswith("fastmlp train mnist") and "pytest" in test
    lines = [line.split(" || ")[0] for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    assert train in lines and test in lines
    assert lines.index(train) < lines.index(test) == len(lines) - 1, "pytest's summary is the last thing CI prints"


@pytest.mark.parametrize("code", blocks("python"), ids=["MLPClassifier", "Sequential"])
def test_python_examples(code, tmp_path, monkeypatch, capsys):
    assert len(code.splitlines()) <= 14
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    last_number = re.findall(r"\d\.\d+", capsys.readouterr().out)[-1]
    assert float(last_number) > 0.93


def test_command_line_example(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason='PyArrow is not installed: pip install "fastmlp[table]"')
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"{rng.integers(1, 9)},{rng.choice(['near', 'far', ''])},{rng.integers(100, 900)}" for _ in range(60)]
    Path("houses.csv").write_text("\n".join(["rooms,sea,price", *rows]), encoding="utf-8")
    Path("new_houses.csv").write_text("sea,rooms\nfar,3\n,4\n", encoding="utf-8")
    for line in blocks("bash")[2].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "fastmlp" and main(arguments) == 0
    header, *prices = Path("prices.csv").read_text(encoding="utf-8").splitlines()
    assert header == "prediction" and all(0 < float(price) < 1000 for price in prices) and len(prices) == 2


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", ["keras.md", "pytorch.md"])
def test_names_for_those_who_come_from_elsewhere(page):
    """What the second column of these pages calls, there is."""
    rows = [
        line.split("|")[2]
        for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
        if line[:3] == "| `"
    ]
    known = {
        *fastmlp.__all__,
        *dir(fastmlp.Sequential),
        *dir(fastmlp.MLPClassifier),
        *dir(fastmlp.History),
        *fastmlp.losses.LOSSES,
    }
    known |= {*fastmlp.initializers.CLASSES, *fastmlp.initializers.INITIALIZERS}
    for code in re.findall(r"`([^`]+)`", " ".join(rows)):
        called = re.findall(r"(?:^|[ .])([A-Za-z_]+)\(", code) or re.findall(r'^"([a-z_]+)"$', code)
        assert {*called} <= known, code


def test_a_network_that_pytorch_has_trained(rng):
    torch = pytest.importorskip("torch")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "pytorch.md", "exec"), found := {})
    X = rng.normal(size=(50, 20)).astype(np.float32)
    with torch.no_grad():
        expected = found["theirs"](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found["ours"].logits(X), expected, atol=1e-5)


def test_the_speeds_have_their_place():
    table = README[README.index("<!-- speeds:begin -->") : README.index("<!-- speeds:end -->")]
    assert all(f"| {network.name}, {network.batch_size} |" in table for network in NETWORKS)
    module = re.search(r"`python -m (benchmarks\.\S+) --readme`", README)[1]
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
