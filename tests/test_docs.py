"""The pages that docs/generate.py writes from the declarations: up to date, complete, and told apart rightly; and the
examples in docstrings: what a user calls has one, and it runs.
"""

import ast
import doctest
import importlib.util
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastmlp
from fastmlp.activations import ACTIVATIONS, Activation
from fastmlp.initializers import INITIALIZERS
from fastmlp.layers import LAYERS
from fastmlp.losses import LOSSES
from fastmlp.optimizers import OF_ALL_ROWS, OPTIMIZERS
from fastmlp.schedules import SCHEDULES

DOCS = Path(__file__).parent.parent / "docs"
spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def is_callback(value):
    of_base = inspect.isclass(value) and issubclass(value, fastmlp.Callback) and value is not fastmlp.Callback
    return of_base and not value.__name__.startswith("_")


NAMES = {
    "activations": ACTIVATIONS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS | OF_ALL_ROWS,
    "schedules": SCHEDULES,
    "layers": {name for name, cls in LAYERS.items() if cls not in ACTIVATIONS.values()},
    "initializers": INITIALIZERS,
    "callbacks": {name for name, value in vars(fastmlp.callbacks).items() if is_callback(value)},
}


PUBLIC = {
    name: value
    for name, value in ((name, getattr(fastmlp, name)) for name in fastmlp.__all__)
    if callable(value) and not (inspect.isclass(value) and issubclass(value, Exception))
}
CALLED = [
    fastmlp.Sequential,
    fastmlp.MLPClassifier,
    fastmlp.MLPRegressor,
    fastmlp.Perceptron,
    fastmlp.PiecewiseLinearEncoder,
]  # with methods to call


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("name", generate.PAGES)
def test_page_is_up_to_date_and_has_every_declaration(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert text == generate.page(name), "run python docs/generate.py"
    header, _, *rows = [cells(line) for line in text.split("##")[0].splitlines() if line.startswith("|")]
    assert all(len(row) == len(header) for row in rows)
    for declared in NAMES[name]:
        assert any(re.search(rf"\b{declared}\b", " ".join(row[:2])) for row in rows), declared


@pytest.mark.parametrize("cls", [*ACTIVATIONS.values(), *LOSSES.values()], ids=lambda cls: cls.__name__)
def test_formula_and_derivative_are_found(cls):
    parts = generate.parts(cls)
    assert re.match(r"(f\(z\)|l(_i)?) = \S", generate.formula(parts["summary"])), parts
    assert parts["derivative"], parts


def test_the_parts_of_a_docstring():
    @dataclass(frozen=True)
    class Cube(Activation):
        """f(z) = s |z|^3, f'(z) = 3 s z |z| (Euler, 1948; Gauss and Hilbert, 1900). Odd.

        When to use: never,
        or for fun.

        Parameters
        ----------
        s : float
            Above 0. When to use: not this.
        """

        name = "cube"
        s: float = 2.0

    parts = generate.parts(Cube)
    assert generate.formula(parts.pop("summary")) == "f(z) = s |z|^3"
    assert parts == {
        "derivative": "3 s z |z|",
        "use": "never, or for fun.",
        "source": "Euler, 1948; Gauss and Hilbert, 1900",
    }
    assert generate.signature(Cube) == "Cube(s=2.0)"
    assert generate.table(["a"], [["|z|"]]) == "| a |\n| --- |\n| \\|z\\| |"


def test_a_new_declaration_changes_its_page(monkeypatch):
    before = generate.page("activations"), generate.page("initializers")
    monkeypatch.setitem(ACTIVATIONS, "cube", ACTIVATIONS["relu"])
    assert "`cube`" in generate.page("activations") and generate.page("activations") != before[0]
    monkeypatch.setitem(INITIALIZERS, "cubic", None)
    with pytest.raises(ValueError, match="no row for .'cubic'"):
        generate.page("initializers")


def test_references_are_the_source():
    assert generate.parts(OPTIMIZERS["adamw"])["source"].startswith("Loshchilov and Hutter, Decoupled Weight Decay")


def own_methods(cls):
    """Public methods by name that are written in fastmlp, those of its base classes too."""
    found = {name: inspect.unwrap(getattr(cls, name)) for name in dir(cls) if not name.startswith("_")}
    return {n: f for n, f in found.items() if callable(f) and (f.__module__ or "").split(".")[0] == fastmlp.__name__}


def without_example(named):
    """The names of those whose own docstring has no line that an example would run."""
    examples = {name: doctest.DocTestParser().get_examples(value.__doc__ or "") for name, value in named.items()}
    return [n for n, found in examples.items() if all(example.options.get(doctest.SKIP) for example in found)]


def test_what_is_public_has_an_example():
    methods = {f"{cls.__name__}.{name}": f for cls in CALLED for name, f in own_methods(cls).items()}
    assert {"Sequential.load", "MLPRegressor.fit", "MLPClassifier.partial_fit"} <= set(methods)
    missing = without_example(PUBLIC | methods)
    assert not missing, f"no example, a line that begins with >>>, in the docstrings of {', '.join(missing)}"


def test_a_docstring_without_an_example_is_found():
    def silent():
        pass

    def skipped():
        """>>> 1 + 1  # doctest: +SKIP"""

    def shown():
        """>>> 1 + 1
        2
        """

    class Inherits(fastmlp.ReLU):  # the base class's example is not its own
        pass

    named = {"silent": silent, "skipped": skipped, "shown": shown, "Inherits": Inherits}
    assert without_example(named) == ["silent", "skipped", "Inherits"]


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name):
    if name == "export_onnx":
        pytest.importorskip("onnx", reason='onnx is not installed: pip install "fastmlp[onnx]"')
    runner, said = doctest.DocTestRunner(verbose=False), []
    for test in doctest.DocTestFinder().find(PUBLIC[name], name):  # of a class: its methods, too
        runner.run(test, out=said.append)
    assert runner.tries and not runner.failures, "".join(said)


def test_the_stub_names_what_the_package_has():
    """Editors complete by `__init__.pyi`: they do not see what `__getattr__` imports."""
    tree = ast.parse((DOCS.parent / "fastmlp" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == fastmlp._HOME
    assert all(alias.name == alias.asname and node.level == 1 for node in imports for alias in node.names)
