"""Initialisers of a user's own, and given numbers; those that are built in are in test_declarations.py."""

import dataclasses
import doctest
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from fastmlp import Dense, Embedding, ReLU, Sequential, initializers, load_model
from fastmlp.initializers import Constant, Initializer, Orthogonal, Scaled, initialize


@dataclasses.dataclass(frozen=True)
class Own(Initializer):
    """What a function of rng and the shape gives."""

    draw: object

    def __call__(self, rng, fan_in, fan_out):
        return self.draw(rng, (fan_in, fan_out))

    def __repr__(self):
        return "Own()"


class OfShape(Initializer):  # the form of others
    def __call__(self, shape):
        return np.zeros(shape)


class Nothing(Initializer):
    pass


def build(**options):
    return Sequential(Dense(3, **options), ReLU(), Dense(1), dtype="float64").build(4, seed=1)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda rng, shape: np.zeros(shape[::-1]), r"numbers of shape \(4, 3\); got shape \(3, 4\)"),
        (lambda rng, shape: np.zeros(shape[1]), r"got shape \(3,\). A bias, too, takes the first row"),
        (lambda rng, shape: 0.1, r"got shape \(\)"),
        (lambda rng, shape: None, r"got shape \(\)"),
        (lambda rng, shape: np.full(shape, np.nan), r"shape \(4, 3\); got some that are not finite"),
        (lambda rng, shape: np.full(shape, "a"), "got an array of <U1"),
        (lambda rng, shape: np.full(shape, 1j), "got an array of complex128"),
        (lambda rng, shape: rng.norm(shape), r"`def __call__\(self, rng, fan_in, fan_out\)`.*raised AttributeError: "),
    ],
)
@pytest.mark.parametrize("argument", ["kernel_initializer", "bias_initializer"])
def test_what_ones_own_draws_is_checked(argument, draw, words):
    with pytest.raises((ValueError, TypeError), match=rf"^Own\(\) must .*{words}"):
        build(**{argument: Own(draw)})
    with pytest.raises((ValueError, TypeError), match=rf"^Own\(\) must .*{words}"):
        build(**{argument: Scaled(Own(draw), 2.0)})


def test_one_without_call_is_refused():
    with pytest.raises(TypeError, match="`def __call__.*NotImplementedError: Nothing defines no __call__"):
        build(kernel_initializer=Nothing())


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda given: Dense(3, kernel_initializer=given), "kernel_initializer"),
        (lambda given: Dense(3, bias_initializer=given), "bias_initializer"),
        (lambda given: Embedding(5, 2, embeddings_initializer=given), "embeddings_initializer"),
        (lambda given: Scaled(given, 0.5), "initializer"),
    ],
)
def test_what_is_no_initialiser_is_refused_with_how_to_write_one(make, argument):
    for given in (lambda shape: 0, Orthogonal, np.zeros(3), [0.0, 0.0], 0.5, None):
        with pytest.raises(TypeError) as error:
            make(given)
        for words in (
            f"`{argument}` must be one of",
            "'he_normal'",
            f"got {given!r}",
            "fastmlp.initializers.Initializer",
        ):
            assert words in str(error.value)
        assert "`def __call__(self, rng, fan_in, fan_out)`" in str(error.value)
    with pytest.raises(
        TypeError, match=rf"^`{argument}`: .*OfShape.* must have `def __call__\(self, rng, fan_in, fan_out"
    ):
        make(OfShape())  # at once: the signature needs no draw


def test_the_bias_takes_the_first_row_and_the_draws_are_of_the_seed():
    own = Own(lambda rng, shape: rng.normal(size=shape))
    p = build(kernel_initializer="zeros", bias_initializer=own).parameters
    assert p["dense_0.bias"].shape == (3,) and np.array_equal(
        p["dense_0.bias"], build(kernel_initializer="zeros", bias_initializer=own).parameters["dense_0.bias"]
    )


def test_one_that_is_no_dataclass_is_equal_to_itself_only():
    class Mine(Initializer):
        def __init__(self, value):
            self.value = value

    one = Mine(0.1)
    assert one == one and one != Mine(0.9)


def test_a_network_with_ones_own_is_saved_without_it(tmp_path):
    model = build(kernel_initializer=Own(lambda rng, shape: np.eye(*shape)))
    with pytest.raises(
        TypeError, match=r"a file holds no code; got Own\(\). Save .*set_parameters\(model.parameters\)"
    ):
        model.save(tmp_path / "model")
    plain = build()
    plain.set_parameters(model.parameters)
    plain.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert np.array_equal(loaded.parameters["dense_0.weight"], np.eye(4, 3))


@pytest.mark.parametrize("given", [[0.5, -1.0, 2], (0.5, -1.0, 2.0), np.array([0.5, -1, 2])], ids=repr)
def test_a_number_for_each_output(given, tmp_path):
    constant = Constant(given)
    assert constant.value == (0.5, -1.0, 2.0) and constant == Constant((0.5, -1.0, 2.0))
    assert hash(constant) == hash(Constant((0.5, -1.0, 2.0))) and eval(repr(constant)) == constant
    assert initializers.from_config(json.loads(json.dumps(initializers.to_config(constant)))) == constant
    assert pickle.loads(pickle.dumps(constant)) == constant
    model = build(kernel_initializer=Scaled(constant, 2.0), bias_initializer=constant)
    assert model.parameters["dense_0.bias"].tolist() == [0.5, -1.0, 2.0]
    assert model.parameters["dense_0.weight"].tolist() == [[1.0, -2.0, 4.0]] * 4
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").layers == model.layers


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant("12"), "`value` must be a number; got '12'"),
        (lambda: Constant(None), "`value` must be a number; got None"),
        (lambda: Constant([0.0, np.inf]), r"`value\[1\]`.*got inf"),
        (lambda: Constant(np.zeros((2, 3))), r"`value\[0\]` must be a number; got array"),
        (lambda: Constant(["a"]), r"`value\[0\]` must be a number; got 'a'"),
        (lambda: build(bias_initializer=Constant([0.1, 0.2])), r"one for each of 3 outputs; got 2: \(0.1, 0.2\)"),
        (lambda: build(bias_initializer=Constant([0.1])), "got 1"),
        (lambda: Constant([]), "one for each output; got none"),
        (lambda: initialize(Constant([1, 2]), np.random.default_rng(), 2, 3), "3 outputs; got 2"),
    ],
)
def test_given_numbers_are_checked(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


@pytest.mark.parametrize("cls", [Initializer, Constant])
def test_the_examples_of_the_page_run(cls):
    (test,) = doctest.DocTestFinder(recurse=False).find(cls)
    assert doctest.DocTestRunner().run(test).failed == 0
    page = (Path(__file__).parent.parent / "docs" / "initializers.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[cls is Initializer]
    exec(compile(code, "initializers.md", "exec"), found := {"__name__": __name__})
    assert f"{cls.__name__}\n" in code and isinstance(found["model"], Sequential)
