"""The tables of numbers through which plans and kernels speak."""

import ast
import inspect
from collections import Counter
from pathlib import Path

from fastmlp import lowering, records


def test_every_name_means_one_field():
    """A name that is given twice would silently move the field of another kernel."""
    tree = ast.parse(inspect.getsource(records))
    stored = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    assert len(stored) > 100
    assert [name for name, times in stored.items() if times > 1] == []


def names_of(node, functions):
    """The fields that a dictionary gives, with those of a function such as `panels` that it unpacks."""
    names = []
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Attribute) and isinstance(key.value, ast.Name) and key.value.id == "R":
            names.append(key.attr)
        elif key is None and isinstance(value, ast.Call) and getattr(value.func, "id", "") in functions:
            names += functions[value.func.id]
    return names


def test_no_record_is_given_two_fields_of_one_number():
    """A dictionary keeps the last of two names with the same number, and says nothing."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(lowering.__file__).parent.glob("*.py")]
    functions = {}
    for node in [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        if isinstance(node.body[-1], ast.Return) and isinstance(node.body[-1].value, ast.Dict):
            functions[node.name] = names_of(node.body[-1].value, functions)
    assert set(functions["panels"]) == {"C", "C_PANEL_BYTES", "N_PANELS", "LAST_WIDTH"}
    dictionaries = [names_of(n, functions) for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Dict)]
    assert sum(map(len, dictionaries)) > 100
    for names in dictionaries:
        numbers = Counter(getattr(records, name) for name in set(names))
        assert max(numbers.values(), default=1) == 1, names
