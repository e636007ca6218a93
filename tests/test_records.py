"""The tables of numbers through which plans and kernels speak."""

import ast
import inspect
from collections import Counter

from fastmlp.engine import records


def test_every_name_means_one_field():
    """A name that is given twice would silently move the field of another kernel."""
    tree = ast.parse(inspect.getsource(records))
    stored = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    assert len(stored) > 100
    assert [name for name, times in stored.items() if times > 1] == []
