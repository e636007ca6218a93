"""Activations: each declared once, with its formula, its derivative and what the derivative is computed from.

`value` and `derivative` are plain functions of one number, or of it and a parameter, written with NumPy's names
(`exp`, `expm1`, `tanh`, `sin`, `maximum`, `where`) and the two below: called as they stand they are the NumPy
implementation; the engine compiles the very same code for its vector loops, with those names bound to polynomials that
vectorise. To add an activation, add a class here; everything else iterates over `ACTIVATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import ClassVar

from numpy import cos, exp, expm1, log1p, maximum, sin, tanh, where

from . import user_functions
from .errors import check_range, unknown_name
from .hints import Hinted
from .initializers import Initializer, Scaled


def log1p_of_exp_minus_abs(x):
    """log(1 + exp(-|x|)), the part of softplus that is not linear."""
    return log1p(exp(-abs(x)))


def normal_cdf(x):
    """Phi(x), the standard normal distribution function, in the dtype of x."""
    from scipy.special import ndtr

    return ndtr(x)


@dataclass(frozen=True)
class Activation(Hinted):
    """An elementwise function a = f(z) between two layers.

    Attributes
    ----------
    name : str
        The name that estimators accept, and `get`.
    value : callable
        f(z), or f(z, parameter).
    derivative : callable
        f'(z), as a function of the output a where `from_output`, else of the input z; and of the parameter. Kernels are
        made of it; `gradient` takes z.
    from_output : bool
        The engine then overwrites z with a and keeps one buffer.
    parameter : str or None
        The field that holds the function's parameter, a number that is fixed during training.
    """

    value: ClassVar[Callable]
    derivative: ClassVar[Callable]
    name: ClassVar[str] = ""
    from_output: ClassVar[bool] = True
    parameter: ClassVar[str | None] = None
    default_initializer: ClassVar[str] = "glorot_uniform"

    @property
    def kernel(self) -> str:
        """What the names of its kernels begin with."""
        return self.name

    def __call__(self, z):
        """f(z), elementwise, in NumPy: an array of the shape of z.

        Examples
        --------
        >>> import numpy as np
        >>> ReLU()(np.array([-1.0, 2.0]))
        array([0., 2.])
        """
        return self.value(z) if self.parameter is None else self.value(z, getattr(self, self.parameter))

    def gradient(self, z):
        """f'(z), elementwise, in NumPy: an array of the shape of z.

        Examples
        --------
        >>> import numpy as np
        >>> Tanh().gradient(np.array([0.0, 1.0])).round(3)
        array([1.  , 0.42])
        """
        return self.slope(self(z) if self.from_output else z)

    def slope(self, x):
        """The same from what kernels have at hand: x is the output f(z) where `from_output`, else z."""
        return self.derivative(x) if self.parameter is None else self.derivative(x, getattr(self, self.parameter))


def _check_parameter(activation: Activation, *, low_open: bool) -> None:
    """Keep the parameter as a float; TypeError or ValueError where it is no number from 0 up."""
    name = activation.parameter
    value = getattr(activation, name)
    check_range(name, value, 0, float("inf"), low_open=low_open)
    object.__setattr__(activation, name, float(value))


def identity_value(z):
    return z


def identity_derivative(a):
    return a * 0.0 + 1.0


def relu_value(z):
    return maximum(z, 0.0)


def relu_derivative(a):
    return where(a > 0.0, 1.0, 0.0)


def tanh_value(z):
    return tanh(z)


def tanh_derivative(a):
    return 1.0 - a * a


def logistic_value(z):
    return 1.0 / (1.0 + exp(-z))


def logistic_derivative(a):
    return a * (1.0 - a)


def leaky_relu_value(z, negative_slope):
    return where(z > 0.0, z, negative_slope * z)


def leaky_relu_derivative(a, negative_slope):
    return where(a > 0.0, 1.0, negative_slope)


def elu_value(z, alpha):
    return where(z > 0.0, z, alpha * expm1(-maximum(-z, 0.0)))


def elu_derivative(a, alpha):
    return where(a > 0.0, 1.0, a + alpha)


def selu_value(z):
    return where(z > 0.0, 1.0507009873554805 * z, 1.7580993408473766 * expm1(-maximum(-z, 0.0)))


def selu_derivative(a):
    return where(a > 0.0, 1.0507009873554805, a + 1.7580993408473766)


def gelu_value(z):
    return z * normal_cdf(z)


def gelu_derivative(z):
    return normal_cdf(z) + z * 0.3989422804014327 * exp(-0.5 * z * z)


def gelu_tanh_value(z):
    return 0.5 * z * (1.0 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))


def gelu_tanh_derivative(z):
    t = tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))
    p = z * (1.0 - t * t)  # 0 where z * z is infinite
    return 0.5 * (1.0 + t) + p * 0.3989422804014327 + p * z * z * 0.053516112204450186


def silu_value(z):
    return z / (1.0 + exp(-z))


def silu_derivative(z):
    s = 1.0 / (1.0 + exp(-z))
    return s * (1.0 + z * (1.0 - s))


def mish_value(z):  # tanh(log(1 + e^z)) = n / (n + 2) with n = e^z (e^z + 2), with e^-|z| so that nothing overflows
    e = exp(-abs(z))
    n = where(z > 0.0, 1.0 + 2.0 * e, e * (e + 2.0))
    return z * (n / (n + where(z > 0.0, 2.0 * e * e, 2.0)))


def mish_derivative(z):
    e = exp(-abs(z))
    n = where(z > 0.0, 1.0 + 2.0 * e, e * (e + 2.0))
    t = n / (n + where(z > 0.0, 2.0 * e * e, 2.0))
    return t + z * (1.0 - t * t) * (where(z > 0.0, 1.0, e) / (1.0 + e))


def softplus_value(z):
    return maximum(z, 0.0) + log1p_of_exp_minus_abs(z)


def softplus_derivative(a):
    return -expm1(-a)


def sine_value(z, frequency):
    return sin(frequency * z)


def sine_derivative(z, frequency):
    return frequency * cos(frequency * z)


def hard_threshold_value(z):
    return where(z >= 0.0, 1.0, 0.0) + 0.0 * z


def hard_threshold_derivative(a):
    return 0.0 * a


@dataclass(frozen=True)
class Identity(Activation):
    """f(z) = z, f'(z) = 1.

    When to use: a linear layer; behind a hidden layer only to show that layers without an activation are one.

    Examples
    --------
    >>> import numpy as np
    >>> Identity()(np.array([-1.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    name: ClassVar[str] = "identity"
    value: ClassVar[Callable] = staticmethod(identity_value)
    derivative: ClassVar[Callable] = staticmethod(identity_derivative)


@dataclass(frozen=True)
class ReLU(Activation):
    """f(z) = max(z, 0), f'(z) = 1 where z > 0 else 0 (Nair and Hinton, 2010). The derivative at 0 is taken as 0.

    When to use: the default of hidden layers; the fastest.

    Examples
    --------
    >>> import numpy as np
    >>> ReLU()(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    name: ClassVar[str] = "relu"
    value: ClassVar[Callable] = staticmethod(relu_value)
    derivative: ClassVar[Callable] = staticmethod(relu_derivative)
    default_initializer: ClassVar[str] = "he_uniform"


@dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh(z), f'(z) = 1 - a^2.

    When to use: small networks and smooth functions; outputs in (-1, 1). Deep stacks saturate.

    Examples
    --------
    >>> import numpy as np
    >>> Tanh()(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.7616, 0.964]
    """

    name: ClassVar[str] = "tanh"
    value: ClassVar[Callable] = staticmethod(tanh_value)
    derivative: ClassVar[Callable] = staticmethod(tanh_derivative)


@dataclass(frozen=True)
class Logistic(Activation):
    """f(z) = 1 / (1 + exp(-z)), the sigmoid; f'(z) = a (1 - a).

    When to use: gates and values in (0, 1). In deep stacks gradients vanish; as an output, the loss applies it itself.

    Examples
    --------
    >>> import numpy as np
    >>> Logistic()(np.array([-1.0, 2.0])).round(4).tolist()
    [0.2689, 0.8808]
    """

    name: ClassVar[str] = "logistic"
    value: ClassVar[Callable] = staticmethod(logistic_value)
    derivative: ClassVar[Callable] = staticmethod(logistic_derivative)


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """f(z) = z where z > 0 else s z; f'(z) = 1 or s (Maas et al., 2013), with s = `negative_slope`.

    When to use: in place of ReLU where many units are dead.

    Parameters
    ----------
    negative_slope : float
        s, at least 0.

    Raises
    ------
    ValueError, TypeError
        `negative_slope` is no finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> LeakyReLU(negative_slope=0.1)(np.array([-1.0, 2.0])).tolist()
    [-0.1, 2.0]
    """

    name: ClassVar[str] = "leaky_relu"
    value: ClassVar[Callable] = staticmethod(leaky_relu_value)
    derivative: ClassVar[Callable] = staticmethod(leaky_relu_derivative)
    parameter: ClassVar[str] = "negative_slope"
    default_initializer: ClassVar[str] = "he_uniform"
    negative_slope: float = 0.01

    def __post_init__(self):
        _check_parameter(self, low_open=False)


@dataclass(frozen=True)
class ELU(Activation):
    """f(z) = z where z > 0 else alpha (exp(z) - 1); f'(z) = 1 or a + alpha (Clevert et al., 2016).

    When to use: in place of ReLU for means near 0 and a smooth curve, at the price of an exponential.

    Parameters
    ----------
    alpha : float
        alpha, above 0; f tends to -alpha for large negative z.

    Raises
    ------
    ValueError, TypeError
        `alpha` is no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> ELU(alpha=1.0)(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.6321, 2.0]
    """

    name: ClassVar[str] = "elu"
    value: ClassVar[Callable] = staticmethod(elu_value)
    derivative: ClassVar[Callable] = staticmethod(elu_derivative)
    parameter: ClassVar[str] = "alpha"
    default_initializer: ClassVar[str] = "he_uniform"
    alpha: float = 1.0

    def __post_init__(self):
        _check_parameter(self, low_open=True)


@dataclass(frozen=True)
class SELU(Activation):
    """f(z) = 1.0507 z where z > 0 else 1.7581 (exp(z) - 1), f'(z) = 1.0507 or a + 1.7581 (Klambauer et al., 2017).

    It keeps mean 0 and variance 1 through a deep stack of layers that start from "lecun_normal".

    When to use: deep stacks of dense layers without normalisation, on standardised inputs.

    Examples
    --------
    >>> import numpy as np
    >>> SELU()(np.array([-1.0, 2.0])).round(4).tolist()
    [-1.1113, 2.1014]
    """

    name: ClassVar[str] = "selu"
    value: ClassVar[Callable] = staticmethod(selu_value)
    derivative: ClassVar[Callable] = staticmethod(selu_derivative)
    default_initializer: ClassVar[str] = "lecun_normal"


@dataclass(frozen=True)
class GELU(Activation):
    """f(z) = z Phi(z), f'(z) = Phi(z) + z phi(z), with the normal distribution (Hendrycks and Gimpel, 2016).

    When to use: deep and residual networks, as in Transformers; slightly better than ReLU there, and slower.

    Examples
    --------
    >>> import numpy as np
    >>> GELU()(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.1587, 1.9545]
    """

    name: ClassVar[str] = "gelu"
    value: ClassVar[Callable] = staticmethod(gelu_value)
    derivative: ClassVar[Callable] = staticmethod(gelu_derivative)
    from_output: ClassVar[bool] = False
    default_initializer: ClassVar[str] = "he_uniform"


@dataclass(frozen=True)
class GELUTanh(Activation):
    """f(z) = z / 2 (1 + t) with t = tanh(c (z + 0.044715 z^3)) and c = sqrt(2 / pi), within 5e-4 of GELU.

    f'(z) = (1 + t) / 2 + c z / 2 (1 - t^2) (1 + 0.134145 z^2) (Hendrycks and Gimpel, 2016).

    When to use: weights from elsewhere that were trained with this form.

    Examples
    --------
    >>> import numpy as np
    >>> GELUTanh()(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.1588, 1.9546]
    """

    name: ClassVar[str] = "gelu_tanh"
    value: ClassVar[Callable] = staticmethod(gelu_tanh_value)
    derivative: ClassVar[Callable] = staticmethod(gelu_tanh_derivative)
    from_output: ClassVar[bool] = False
    default_initializer: ClassVar[str] = "he_uniform"


@dataclass(frozen=True)
class SiLU(Activation):
    """f(z) = z s(z), f'(z) = s (1 + z (1 - s)), s the sigmoid; also called Swish (Ramachandran et al., 2017).

    When to use: as GELU; the gate of SwiGLU.

    Examples
    --------
    >>> import numpy as np
    >>> SiLU()(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.2689, 1.7616]
    """

    name: ClassVar[str] = "silu"
    value: ClassVar[Callable] = staticmethod(silu_value)
    derivative: ClassVar[Callable] = staticmethod(silu_derivative)
    from_output: ClassVar[bool] = False
    default_initializer: ClassVar[str] = "he_uniform"


@dataclass(frozen=True)
class Mish(Activation):
    """f(z) = z t, f'(z) = t + z (1 - t^2) s(z), with t = tanh(softplus(z)) and s the sigmoid (Misra, 2019).

    When to use: as GELU, where its smoothness helps; the slowest.

    Examples
    --------
    >>> import numpy as np
    >>> Mish()(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.3034, 1.944]
    """

    name: ClassVar[str] = "mish"
    value: ClassVar[Callable] = staticmethod(mish_value)
    derivative: ClassVar[Callable] = staticmethod(mish_derivative)
    from_output: ClassVar[bool] = False
    default_initializer: ClassVar[str] = "he_uniform"


@dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + exp(z)), f'(z) = 1 - exp(-a), the sigmoid of z (Dugas et al., 2000).

    When to use: positive outputs, such as a scale; a smooth ReLU.

    Examples
    --------
    >>> import numpy as np
    >>> Softplus()(np.array([-1.0, 2.0])).round(4).tolist()
    [0.3133, 2.1269]
    """

    name: ClassVar[str] = "softplus"
    value: ClassVar[Callable] = staticmethod(softplus_value)
    derivative: ClassVar[Callable] = staticmethod(softplus_derivative)
    default_initializer: ClassVar[str] = "he_uniform"


@dataclass(frozen=True)
class Sine(Activation):
    """f(z) = sin(w z), f'(z) = w cos(w z), with the angular frequency w (Sitzmann et al., 2020).

    In float32, where |w z| is above 1e6, whose sine has lost its digits, f is some number from -1 to 1.

    When to use: a function of coordinates, such as an image or a field, in all layers; a frequency of 30 and weights
    `Uniform(1 / n_inputs)` in the first, 1 in the others. What is smooth and noisy needs none.

    Parameters
    ----------
    frequency : float
        w, above 0.

    Raises
    ------
    ValueError, TypeError
        `frequency` is no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> Sine()(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.8415, 0.9093]
    """

    name: ClassVar[str] = "sine"
    value: ClassVar[Callable] = staticmethod(sine_value)
    derivative: ClassVar[Callable] = staticmethod(sine_derivative)
    from_output: ClassVar[bool] = False
    parameter: ClassVar[str] = "frequency"
    frequency: float = 1.0

    def __post_init__(self):
        _check_parameter(self, low_open=True)

    @property
    def default_initializer(self) -> str | Initializer:
        """ "he_uniform", divided by the frequency."""
        return "he_uniform" if self.frequency == 1 else Scaled("he_uniform", 1 / self.frequency)


@dataclass(frozen=True)
class HardThreshold(Activation):
    """f(z) = 1 where z >= 0 else 0, the perceptron's (Rosenblatt, 1958). f' = 0: no gradient passes through it.
    `Perceptron` counts z = 0 as 0, as scikit-learn does.

    When to use: to show what a perceptron computes. It cannot be trained through.

    Examples
    --------
    >>> import numpy as np
    >>> HardThreshold()(np.array([-1.0, 2.0])).tolist()
    [0.0, 1.0]
    """

    name: ClassVar[str] = "hard_threshold"
    value: ClassVar[Callable] = staticmethod(hard_threshold_value)
    derivative: ClassVar[Callable] = staticmethod(hard_threshold_derivative)


ACTIVATIONS: dict[str, type[Activation]] = {
    cls.name: cls
    for cls in (
        Identity,
        ReLU,
        Tanh,
        Logistic,
        LeakyReLU,
        ELU,
        SELU,
        GELU,
        GELUTanh,
        SiLU,
        Mish,
        Softplus,
        Sine,
        HardThreshold,
    )
}
ALIASES = {"sigmoid": "logistic", "linear": "identity", "swish": "silu"}


@dataclass(frozen=True)
class CustomActivation(Activation):
    """Your own f(z) and f'(z), as plain functions of NumPy arrays; the engine compiles them as it does its own.

    They are elementwise and without branches: `np.where(z > 0, a, b)`. Numbers and functions that they refer to are
    compiled in; where one changes, the next fit compiles anew. `exp`, `expm1`, `log`, `log1p`, `tanh`, `where`,
    `maximum`, `minimum` and `clip` of NumPy, and `expit` and `ndtr` of SciPy, become vector code; others that Numba
    knows are slower. Write 2.0 for 2: with an integer, Numba computes in float64.

    Parameters
    ----------
    value, derivative : callable
        f and f': array in, array of the same shape out.
    name : str
        Its name in messages and files, an identifier that no built-in activation has.
    from_output : bool
        The derivative is a function of a = f(z), not of z; that needs less memory.
    check_derivative : bool
        Whether to compare the derivative with differences of f in [-3, 3], now.

    Raises
    ------
    TypeError, ValueError
        `value` or `derivative` is no plain function of arrays, or not finite everywhere; the derivative is not that of
        f; `name` is no identifier, or taken. When a fit compiles them: Numba cannot.

    Notes
    -----
    Pickles as its functions do: those at the top level of a module. A model file holds no code: pass the activation to
    `load_model` as ``custom_objects={name: activation}``.

    Examples
    --------
    >>> import numpy as np
    >>> snake = CustomActivation(lambda z: z + np.sin(z) ** 2, lambda z: 1.0 + np.sin(2.0 * z), "snake")
    >>> snake(np.array([0.0, np.pi])).round(6).tolist()
    [0.0, 3.141593]
    """

    value: Callable
    derivative: Callable
    name: str = "custom"
    from_output: bool = False
    check_derivative: InitVar[bool] = True

    def __post_init__(self, check_derivative):
        user_functions.check_name(self, [*ACTIVATIONS, *ALIASES])
        z = user_functions.POINTS
        a = user_functions.check_function(self, "value", z)
        slope = user_functions.check_function(self, "derivative", a if self.from_output else z)
        at_zero = user_functions.check_function(self, "value", user_functions.ZERO)
        user_functions.check_function(self, "derivative", at_zero if self.from_output else user_functions.ZERO)
        if check_derivative:
            user_functions.check_derivative(self, "value", "derivative", slope, z)
        self.kernel  # noqa: B018  what it refers to can be told apart

    @property
    def kernel(self):
        return user_functions.kernel_family(self, self.value, self.derivative)

    @property
    def samples(self):
        """Values by which a model file knows it again."""
        return self.value(user_functions.POINTS)


def get(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of that name, or the object itself; ValueError for anything else.

    >>> get("sigmoid")
    Logistic()
    """
    if isinstance(activation, Activation):
        return activation
    name = ALIASES.get(activation, activation) if isinstance(activation, str) else None
    if name not in ACTIVATIONS:
        raise unknown_name(argument, activation, [*ACTIVATIONS, *ALIASES])
    return ACTIVATIONS[name]()
