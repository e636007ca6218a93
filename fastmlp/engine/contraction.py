"""Which products and sums are one fused multiply-add, decided here and not by LLVM's code generators.

With the flag `contract` they fuse what they find worth it, and in a sum of two products either may be the one that is
not rounded. ARM's looks at latencies: a loop's vectors and its rest had other bits for the same numbers. Here every sum
with a product is fused, of two products with the first, and no others: the flag goes from both. But a product that is
used twice is a value of its own, and rounded: x - x is 0.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

_NAME = r'%(?:[-\w.$]+|"[^"]*")'
_TYPE = r"(?:<(?:vscale x )?\d+ x (?:float|double)>|float|double)"
_OPERATION = re.compile(rf"^(\s+)({_NAME}) = (fmul|fadd|fsub|fneg) ((?:[a-z]+ )*?)({_TYPE}) (.*)$")
_FUNCTION = re.compile(r"^define .*?^}$", re.M | re.S)
_CONTRACT = re.compile(r"(= f(?:mul|add|sub|neg|div|rem|cmp) (?:[a-z]+ )*?)contract ")


class _Product(NamedTuple):
    a: str
    b: str
    negative: bool


def contracted(assembly: str) -> str:
    """LLVM's text of a module, with calls of `llvm.fma` for sums with products that both have the flag `contract`.

    >>> print(contracted('''define float @f(float %a, float %b, float %c) {
    ...   %p = fmul contract float %a, %b
    ...   %q = fadd contract float %c, %p
    ...   ret float %q
    ... }'''))
    define float @f(float %a, float %b, float %c) {
      %p = fmul float %a, %b
      %q = call float @llvm.fma.f32(float %a, float %b, float %c)
      ret float %q
    }
    declare float @llvm.fma.f32(float, float, float)
    <BLANKLINE>
    """
    types: set[str] = set()
    assembly = _FUNCTION.sub(lambda function: _in_function(function[0], types), assembly)
    assembly = _CONTRACT.sub(r"\1", assembly)
    for kind in sorted(types):
        name = _intrinsic(kind)
        if not re.search(rf"^declare .*@{re.escape(name)}\(", assembly, re.M):
            assembly += f"\ndeclare {kind} @{name}({kind}, {kind}, {kind})\n"
    return assembly


def _in_function(text: str, types: set[str]) -> str:
    lines = text.split("\n")
    found = [_OPERATION.match(line) for line in lines]
    operations = {m[2]: m for m in found if m and "contract" in m[4].split()}
    mentioned = Counter(re.findall(_NAME, text))
    products: dict[str, _Product] = {}
    for name, m in operations.items():
        if m[3] == "fmul" and mentioned[name] == 2:
            products[name] = _Product(*_operands(m[6]), False)
    for name, m in operations.items():
        of = products.get(_operands(m[6])[0])
        if m[3] == "fneg" and of and mentioned[name] == 2:
            products[name] = of._replace(negative=not of.negative)
    for k, m in enumerate(found):
        if m and m[3] in ("fadd", "fsub") and m[2] in operations:
            x, y = _operands(m[6])
            subtracted = m[3] == "fsub"
            if x in products:
                product, addend, negative_addend = products[x], y, subtracted
                negative = product.negative
            elif y in products:
                product, addend, negative_addend = products[y], x, False
                negative = product.negative != subtracted
            else:
                continue
            lines[k] = _fused(m, product, negative, addend, negative_addend)
            types.add(m[5])
    return "\n".join(lines)


def _fused(m: re.Match, product: _Product, negative: bool, addend: str, negative_addend: bool) -> str:
    """The lines of one fused multiply-add; values of its own have names, for numbers must be in order."""
    indent, name, kind = m[1], m[2], m[5]
    own, before, a = f'%"fma of {name.strip("%").strip(chr(34))}', "", product.a
    if negative:
        before += f'{indent}{own} a" = fneg {kind} {a}\n'
        a = f'{own} a"'
    if negative_addend:
        before += f'{indent}{own} c" = fneg {kind} {addend}\n'
        addend = f'{own} c"'
    arguments = ", ".join(f"{kind} {value}" for value in (a, product.b, addend))
    return f"{before}{indent}{name} = call {kind} @{_intrinsic(kind)}({arguments})"


def _operands(text: str) -> list[str]:
    """Those of an operation, two at most, of which constants may have commas; what follows is metadata."""
    parts, depth, start = [], 0, 0
    for k, letter in enumerate(text):
        depth += (letter in "<([{") - (letter in ">)]}")
        if letter == "," and depth == 0:
            parts.append(text[start:k].strip())
            start = k + 1
    return [*parts, text[start:].strip()][:2]


def _intrinsic(kind: str) -> str:
    of = {"float": "f32", "double": "f64"}
    if kind in of:
        return f"llvm.fma.{of[kind]}"
    *scalable, lanes, _, item = kind.strip("<>").split()
    return f"llvm.fma.{'nx' if scalable else ''}v{lanes}{of[item]}"
