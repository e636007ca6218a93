"""exp, tanh, log, sin and cos that the vectoriser can vectorise: branch-free polynomials, in float32 and float64.

Numba has no vector math library, so libm's functions keep a loop scalar. Rounding to an integer adds and subtracts
1.5 * 2^mantissa: no conversion, whose result for NaN would be undefined. NaN stays NaN: clamps compare so that NaN
passes. Measured against float64 over all float32 inputs: see tests/test_elementary.py.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numba import njit

from .ir import bits_of

JIT = {"error_model": "numpy", "fastmath": {"contract"}, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INLINE = {**JIT, "nogil": True}  # for the pieces of kernels
SCALAR = {**INLINE, "forceinline": True}  # of one number: a call would keep a loop from being vectorised
# dtype: mantissa bits, exponent bias, degree of exp's Taylor polynomial on |r| <= ln2 / 2, terms of log's series,
# ln 2 in two parts (the upper with zeros behind, so that n times it is exact), bounds of exp's and tanh's arguments
_FORMAT = {
    "float32": (23, 127, 7, 6, 0.693359375, -2.12194440054690583e-4, -110.0, 89.0, 10.0),
    "float64": (52, 1023, 13, 12, 6.93147180369123816490e-01, 1.90821492927058770002e-10, -760.0, 710.0, 23.0),
}
# tanh(x) = x P(t) / Q(t) with t = x^2, |x| <= 9.011, highest power first: weighted least squares with 40 digits, until
# the largest relative error, 2.2e-8, was the least. Beyond, tanh is 1 in float32.
_TANH = (
    (1.33994693955247949e-8, 2.06466817486923143e-5, 0.00349811435911454253, 0.133832393408942181, 1.0),
    (7.79643191996385324e-7, 3.28959338658462836e-4, 0.0258868564818695102, 0.467165607109452392, 1.0),
)
# Q of normal_cdf, highest power first: Q(s) = erfcx(y) / t with s = 2 t - 1, t = 2 / (2 + y), y >= 0, interpolated in
# Chebyshev's points with 40 digits; largest relative error 1.8e-8 and 1.4e-17.
_ERFCX = {
    "float32": (
        -1.9773342853812134e-06, 4.20878745841014e-05, -3.114843706032603e-05, -0.00029919966937622496,
        0.00042519710672849316, 0.0015289973226966262, -0.003241045923911842, -0.010751569274896282,
        0.01822123701682574, 0.13973572644353033, 0.3435803405315631, 0.5107913570561573,
    ),
    "float64": (
        1.2565876671046624e-09, -1.0739710885609953e-09, -1.0077816229884818e-08, 1.3309830940317543e-08,
        2.999580329977785e-08, -6.99159976379271e-08, -3.287972916831083e-09, 1.790827994296027e-07,
        -2.8384032508211476e-07, -1.4173156855938717e-08, 9.996810544806938e-07, -1.814750225538453e-06,
        -5.622017367229187e-07, 8.057744185145306e-06, -1.0848266170667704e-05, -1.7073740273014313e-05,
        7.223539810034382e-05, -1.7185840159784045e-05, -0.00033153675453695327, 0.0004186480443178199,
        0.0015453060296562178, -0.0032395925346550146, -0.010755330944743213, 0.018221115753461418,
        0.13973604627802735, 0.3435803422069051, 0.5107913526210115,
    ),
}  # fmt: skip

# sin(r) = r + r^3 P(r^2), |r| <= pi / 2, highest power first: Remez's exchange with 50 digits; largest relative error
# 6.1e-9 and 2.8e-19. And pi in three parts, of which n times the first two is exact for n up to 2^15 and 2^21
_SINE = {
    "float32": (2.60576096e-6, -1.980959449545e-4, 8.3330661388831e-3, -1.666665954659067e-1),
    "float64": (
        2.7211630877851996607e-15, -7.6429903844449304133e-13, 1.6058939664354891541e-10, -2.5052106871994718971e-8,
        2.7557319211128669904e-6, -1.9841269841209170281e-4, 8.333333333333194175e-3, -1.6666666666666665568e-1,
    ),
}  # fmt: skip
_PI = {
    "float32": (3.140625, 9.670257568359375e-4, 6.278329570959e-7),
    "float64": (3.14159265346825122834, 1.2154201012607931952e-10, 4.0445324975919012631e-21),
}


@lru_cache
def functions(dtype: str) -> SimpleNamespace:
    """The compiled functions for one dtype, by NumPy's names."""
    mantissa, bias, degree, terms, ln2_high, ln2_low, least, most, tanh_most = _FORMAT[dtype]
    T = getattr(np, dtype)
    I = np.int32 if dtype == "float32" else np.int64
    to_bits, from_bits = bits_of(dtype)
    log2e, high, low = T(1 / math.log(2)), T(ln2_high), T(ln2_low)
    magic, shift, offset = T(1.5 * 2.0**mantissa), I(mantissa), I(bias)
    magic_bits = I(np.array(magic).view(I))
    least, most, tanh_most = T(least), T(most), T(tanh_most)
    taylor = tuple(T(1 / math.factorial(k)) for k in range(degree, 1, -1))  # highest first, down to r^2
    atanh = tuple(T(2 / (2 * k + 1)) for k in range(terms, 0, -1))  # highest first, down to 2/3 s^2
    atanh_third = tuple(T(2 / (2 * k + 1)) for k in range(terms + terms // 3, 0, -1))  # the same, for |s| <= 1 / 3
    middle_third = len(atanh_third) // 2
    erfcx, root_half = tuple(T(c) for c in _ERFCX[dtype]), T(math.sqrt(0.5))
    middle = len(erfcx) // 2
    sine, (pi_1, pi_2, pi_3), most_left = tuple(T(c) for c in _SINE[dtype]), (T(p) for p in _PI[dtype]), T(2)
    one_by_pi, last_bit = T(1 / math.pi), I(8 * np.dtype(dtype).itemsize - 1)
    most_rational, (numerator, denominator) = T(9.011), (tuple(T(c) for c in p) for p in _TANH)
    zero, one, two, half = T(0), T(1), T(2), T(0.5)
    least_expm1 = -two * tanh_most - two * tanh_most  # exp of it is far below one ulp of 1
    half_sqrt2_bits = I(np.array(math.sqrt(0.5), dtype).view(I))

    @njit(**SCALAR)
    def reduce(x):
        """n, bits of n, r with x = n ln 2 + r."""
        shifted = x * log2e + magic
        n = shifted - magic
        r = (x - n * high) - n * low
        return I(to_bits(shifted) - magic_bits), r

    @njit(**SCALAR)
    def power_of_two(n):
        return from_bits(I(I(n + offset) << shift))

    @njit(**SCALAR)
    def expm1_reduced(r):
        p = taylor[0]
        for k in range(1, len(taylor)):
            p = p * r + taylor[k]
        return r + r * r * p

    @njit(**SCALAR)
    def exp(x):
        x = T(x)  # a loss's own number, which is float64, may have made it float64
        x = least if x < least else x
        x = most if x > most else x
        n, r = reduce(x)
        first = I(n >> I(1))  # 2^n in two factors: it may be subnormal or infinite
        return (one + expm1_reduced(r)) * power_of_two(first) * power_of_two(I(n - first))

    @njit(**SCALAR)
    def expm1(x):
        """exp(x) - 1 without cancellation, for x <= 0."""
        x = least_expm1 if x < least_expm1 else x
        n, r = reduce(x)
        scale = power_of_two(n)
        return scale * expm1_reduced(r) + (scale - one)

    @njit(**SCALAR)
    def rational_tanh(x):
        """x P(x^2) / Q(x^2): a third of the time of the other one."""
        y = most_rational if x > most_rational else x
        y = -most_rational if y < -most_rational else y
        t = y * y
        p, q = numerator[0], denominator[0]
        for k in range(1, len(numerator)):
            p, q = p * t + numerator[k], q * t + denominator[k]
        y = y * p / q
        y = one if y > one else y
        return -one if y < -one else y

    @njit(**SCALAR)
    def tanh_of_exp(x):
        y = -abs(x)
        y = -tanh_most if y < -tanh_most else y
        n, r = reduce(two * y)
        scale = power_of_two(n)
        t = scale * expm1_reduced(r) + (scale - one)  # exp(2y) - 1 without cancellation
        t = t / (t + two)  # tanh(y), not positive
        return -t if x > zero else t

    @njit(**SCALAR)
    def log(x):
        """Natural logarithm of a positive normal number; NaN for NaN."""
        bits = to_bits(x)
        n = I((bits - half_sqrt2_bits) >> shift)
        m = from_bits(I(bits - I(n << shift)))  # in [sqrt(1/2), sqrt(2))
        f = m - one  # exact
        s = f / (m + one)
        s2 = s * s
        p = atanh[0]
        for k in range(1, len(atanh)):
            p = p * s2 + atanh[k]
        h = half * f * f
        e = T(n)
        nan = x - x  # 0, or NaN, which the bits do not show
        return (
            nan + e * high - ((h - (s * (h + p * s2) + e * low)) - f)
        )  # log(1 + f) = f - (h - s (h + R)), as fdlibm has it

    @njit(**SCALAR)
    def log1p_of_exp_minus_abs(x):
        """log(1 + exp(-|x|)), the part of softplus that is not linear: 2 atanh(s), s = e / (2 + e) <= 1 / 3."""
        e = exp(-abs(x))
        u = two + e
        s = e / u
        lost = s * (e - (u - two)) * (one - s)  # of 2 s, as u was rounded: 1 / u = (1 - s) / 2
        s2 = s * s
        p = atanh_third[0]
        for k in range(1, middle_third):  # two loops, each short enough for LLVM to unroll
            p = p * s2 + atanh_third[k]
        for k in range(middle_third, len(atanh_third)):
            p = p * s2 + atanh_third[k]
        return s + s + (s * (s2 * p) - lost)

    @njit(**SCALAR)
    def sigmoid(x):
        return one / (one + exp(-x))

    @njit(**SCALAR)
    def normal_cdf(x):
        """Phi(x) = erfc(-x / sqrt(2)) / 2: exp(-x^2 / 2) t Q(2 t - 1) / 2 on the lower side."""
        t = two / (two + abs(x) * root_half)
        s = two * t - one
        q = erfcx[0]
        for k in range(1, middle):  # two loops, each short enough for LLVM to unroll
            q = q * s + erfcx[k]
        for k in range(middle, len(erfcx)):
            q = q * s + erfcx[k]
        lower = half * t * q * exp(-half * x * x)
        return one - lower if x > zero else lower

    @njit(**SCALAR)
    def sine_behind(x, n, parity):
        """(-1)^parity sin(x - n pi)."""
        r = ((x - n * pi_1) - n * pi_2) - n * pi_3
        r = most_left if r > most_left else r  # where x is so large that nothing is known of its phase
        r = -most_left if r < -most_left else r
        t = r * r
        p = sine[0]
        for k in range(1, len(sine)):
            p = p * t + sine[k]
        return from_bits(I(to_bits(r + r * (t * p)) ^ I(parity << last_bit)))

    @njit(**SCALAR)
    def sin(x):
        x = T(x)
        shifted = x * one_by_pi + magic
        return sine_behind(x, shifted - magic, to_bits(shifted))

    @njit(**SCALAR)
    def cos(x):
        """sin(x + pi / 2)."""
        x = T(x)
        shifted = x * one_by_pi + half + magic
        return sine_behind(x, shifted - magic - half, to_bits(shifted))

    @njit(**SCALAR)
    def maximum(a, b):
        """The larger; NaN if a is NaN."""
        return b if a < b else a

    @njit(**SCALAR)
    def where(condition, a, b):
        return a if condition else b

    @njit(**INLINE)
    def sum_of(x, n):
        """Four sums, none of which waits for another."""
        a, b, c, d, whole = zero, zero, zero, zero, n - n % 4
        for k in range(0, whole, 4):
            a, b, c, d = a + x[k], b + x[k + 1], c + x[k + 2], d + x[k + 3]
        for k in range(whole, n):
            a += x[k]
        return (a + b) + (c + d)

    @njit(**INLINE)
    def max_of(x, n):
        a, b, c, d, whole = x[0], x[0], x[0], x[0], n - n % 4
        for k in range(0, whole, 4):
            a, b = x[k] if x[k] > a else a, x[k + 1] if x[k + 1] > b else b
            c, d = x[k + 2] if x[k + 2] > c else c, x[k + 3] if x[k + 3] > d else d
        for k in range(whole, n):
            a = x[k] if x[k] > a else a
        a, c = b if b > a else a, d if d > c else c
        return c if c > a else a

    return SimpleNamespace(
        exp=exp,
        expm1=expm1,
        tanh=rational_tanh if dtype == "float32" else tanh_of_exp,
        log=log,
        log1p_of_exp_minus_abs=log1p_of_exp_minus_abs,
        normal_cdf=normal_cdf,
        sigmoid=sigmoid,
        sin=sin,
        cos=cos,
        maximum=maximum,
        where=where,
        sum_of=sum_of,
        max_of=max_of,
    )
