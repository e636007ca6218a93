"""One rounding for each number, wherever it lies: in a loop's vectors or in what is left over, in any panel or tile."""

import ctypes
import platform
import re
from dataclasses import replace
from fractions import Fraction

import llvmlite.binding
import numpy as np
import pytest

from fastmlp import SGD, Adam, Dense, RMSprop, Sequential
from fastmlp.activations import ACTIVATIONS
from fastmlp.engine import jit
from fastmlp.engine.contraction import contracted
from fastmlp.losses import LOSSES
from fastmlp.optimizers import OPTIMIZERS

A, B, C, D = 1 + 2.0**-30, 1 - 2.0**-31, -1.0, 1 + 2.0**-29


def fma(a, b, c):
    return float(Fraction(a) * Fraction(b) + Fraction(c))


# The last value is what is returned
BODIES = {
    "product first": ("%p = fmul contract double %a, %b\n %s = fadd contract double %p, %c", fma(A, B, C)),
    "product last": ("%p = fmul contract double %a, %b\n %s = fadd contract double %c, %p", fma(A, B, C)),
    "subtracted from": ("%p = fmul contract double %a, %b\n %s = fsub contract double %p, %c", fma(A, B, -C)),
    "subtracted": ("%p = fmul contract double %a, %b\n %s = fsub contract double %c, %p", fma(-A, B, C)),
    "of two products the first": (
        "%p = fmul contract double %a, %b\n %q = fmul contract double %a, %d\n %s = fsub contract double %p, %q",
        fma(A, B, -(A * D)),
    ),
    "negative": (
        "%p = fmul contract double %a, %b\n %n = fneg contract double %p\n %s = fadd contract double %n, %d",
        fma(-A, B, D),
    ),
    "negative, subtracted": (
        "%p = fmul contract double %a, %b\n %n = fneg contract double %p\n %s = fsub contract double %d, %n",
        fma(A, B, D),
    ),
    "negative twice": (
        "%p = fmul contract double %a, %b\n %n = fneg contract double %p\n %m = fneg contract double %n\n"
        " %s = fadd contract double %m, %c",
        fma(A, B, C),
    ),
    "negative, used twice": (
        "%p = fmul contract double %a, %b\n %n = fneg contract double %p\n %t = fadd contract double %n, %c\n"
        " %u = fadd contract double %n, %t\n %s = fsub contract double %u, %t",
        -(A * B) + (-(A * B) + C) - (-(A * B) + C),
    ),
    "quoted and negative": (
        '%p = fmul contract double %a, %b\n %"q, r" = fsub contract double %c, %p\n %s = fadd double %"q, r", 0.0',
        fma(-A, B, C),
    ),
    "metadata": (
        "%p = fmul contract double %a, %b, !note !0\n %n = fneg contract double %p, !note !0\n"
        " %s = fadd contract double %c, %n, !note !0",
        fma(-A, B, C),
    ),
    "a value of its own": ("%p = fmul contract double %a, %b\n %s = fsub contract double %p, %p", 0.0),
    "without the flag": ("%p = fmul double %a, %b\n %s = fadd contract double %p, %c", A * B + C),
    "numbers for names": ("%1 = fmul contract double %a, %b\n %s = fsub contract double %c, %1", fma(-A, B, C)),
    "vectors, constants with commas": (
        "%v = insertelement <2 x double> <double 1.0, double 1.0>, double %a, i32 1\n"
        " %p = fmul contract <2 x double> %v, <double 0x3FF0000000000000, double 0x3FEFFFFFFF800000>\n"
        ' %"q, r" = fadd contract <2 x double> <double 5.0, double -1.0>, %p\n'
        ' %s = extractelement <2 x double> %"q, r", i32 1',
        fma(A, float.fromhex("0x1.fffffff8p-1"), -1.0),
    ),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_sums_with_products_are_fused(body, expected):
    if not jit.has_fma():
        pytest.skip("this processor has no fused multiply-add")
    symbol = f"test.contraction.{abs(hash(body))}"
    arguments = "double %a, double %b, double %c, double %d"
    function = f'define double @"{symbol}"({arguments}) {{\n {body}\n ret double %s\n}}\n'
    # of another function, with the same names
    text = contracted(f"{function}{function.replace(symbol, symbol + '.other')}!0 = !{{}}\n")
    assert "contract " not in text
    jit._engine()  # sets LLVM up
    module = llvmlite.binding.parse_assembly(text)
    object_code = jit._target_machine(llvmlite.binding.get_process_triple()).emit_object(module)
    function = ctypes.CFUNCTYPE(ctypes.c_double, *[ctypes.c_double] * 4)(jit._link(symbol, object_code))
    assert function(A, B, C, D) == expected


def test_vectors_whose_length_the_processor_knows():
    """SVE's."""
    kind = "<vscale x 4 x float>"
    text = f"define {kind} @f({kind} %a, {kind} %b) {{\n %p = fmul contract {kind} %a, %b\n"
    text = contracted(f"{text} %s = fsub contract {kind} %p, %b\n ret {kind} %s\n}}\n")
    assert f"%s = call {kind} @llvm.fma.nxv4f32({kind} %a, {kind} %b, {kind} " in text and "contract" not in text
    llvmlite.binding.parse_assembly(text).verify()


def test_kernels_are_compiled_so(monkeypatch):
    texts = []
    monkeypatch.setattr(jit, "contracted", lambda text: texts.append(contracted(text)) or texts[-1])
    monkeypatch.setattr(jit, "save_file", lambda *_: None)
    jit._compile_now("momentum", "float32", "momentum-float32")
    features = llvmlite.binding.get_host_cpu_features()
    arm = platform.machine().lower() in ("arm64", "aarch64")
    assert bool(texts) == jit.has_fma() == (arm or bool(features.get("fma")))
    for text in texts:
        assert "@llvm.fma" in text and not re.search("= f(add|sub|mul) [a-z ]*contract", text)


def equal_everywhere(n_features, units, dtype, optimizer, layers=(), loss="squared_error", n_threads=2):
    """Train on equal features, from equal weights, to equal targets: so all units are equal, and so are weights and
    biases, for X is 1. (The gradient of a single unit's bias is summed in another order.)"""
    y = np.random.default_rng(1).integers(0, 2, 40) + 3 * (loss == "squared_error")
    outputs = units if layers == () else 1
    model = Sequential(Dense(units), *layers, dtype=dtype).build(n_features)
    model.set_parameters({name: np.full(a.shape, 0.0123) for name, a in model.parameters.items()})
    X, Y = np.ones((40, n_features), dtype), np.repeat(y[:, None], outputs, 1).astype(dtype)
    model.fit(X, Y, loss=loss, optimizer=optimizer, epochs=4, batch_size=13, verbose=0, n_threads=n_threads, seed=3)
    kinds = ("weight", "bias") if units > 1 else ("weight",)
    first = np.concatenate([model.parameters[f"dense_0.{kind}"].ravel() for kind in kinds])
    assert len(np.unique(first)) == 1, np.unique(first, return_counts=True)
    return first[0]


RULES = {name: cls() for name, cls in OPTIMIZERS.items()}
RULES |= {"momentum": SGD(0.05, momentum=0.9), "nesterov": SGD(0.05, momentum=0.9, nesterov=True)}
RULES |= {name: replace(RULES[name], weight_decay=0.0) for name in ("adamw", "lion")}  # not of biases
RULES |= {"rmsprop, momentum": RMSprop(0.01, momentum=0.9, centered=True), "ema": Adam(0.01, ema_decay=0.9)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_of_an_update(name, dtype, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    for n_threads, (n_features, units) in enumerate([(1, 2), (11, 1), (37, 1), (5, 13), (70, 33)], 1):
        trained = equal_everywhere(n_features, units, dtype, RULES[name], n_threads=n_threads)
        assert trained != trained.dtype.type(0.0123)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_of_an_activation(name):
    for units in (1, 2, 13, 33):
        equal_everywhere(7, units, "float32", SGD(0.02), (ACTIVATIONS[name](), Dense(1)))


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.term is not None])
def test_of_a_loss(name):
    for outputs in (1, 2, 3, 33):
        equal_everywhere(7, outputs, "float32", SGD(0.5), loss=name)
