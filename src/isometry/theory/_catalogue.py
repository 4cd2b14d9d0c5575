"""The activations that the theory knows by name: all elementwise ones of torch.nn, sine, erf and the identity.

Each row of ``FAMILIES`` is a maker, a function of the activation's parameters (named as in torch.nn) that returns its
``Activation``. Everything is float64 numpy; the slopes are written out and tested against autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isometry.theory._activation import Activation, describe
from isometry.theory._closed_forms import clip_forms, erf_forms, homogeneous_forms, sine_forms
from isometry.theory._quadrature import Array, density, erf, erfc

__all__ = ["FAMILIES"]

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805
_GELU_CUBIC = 0.044715  # the constant of the tanh approximation


# the building blocks ------------------------------------------------------------------------------------------------


def _sigmoid(u: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -u)))


def _sech_squared(u: Array) -> Array:
    small = np.exp(-2 * np.abs(u))
    return np.asarray(4 * small / (1 + small) ** 2)  # 1 - tanh^2 would cancel


def _softplus(u: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, u))


def _normal_cdf(u: Array) -> Array:
    return np.asarray(0.5 * erfc(-u / math.sqrt(2)))


def _span(u: Array, low: float, high: float) -> Array:
    """Indicate low < u < high.

    Returns:
        Ones and zeros.
    """
    return ((u > low) & (u < high)).astype(np.float64)


def _label(name: str, default: bool, *parameters: float) -> str:
    return name if default else f"{name}({', '.join(f'{p:g}' for p in parameters)})"


# piecewise linear ---------------------------------------------------------------------------------------------------


def _two_slopes(name: str, a: float, b: float = 1.0) -> Activation:
    return describe(
        name,
        lambda u: np.where(u > 0, b * u, a * u),
        lambda u: np.where(u > 0, b, a),
        kinks=() if a == b else (0.0,),
        closed=homogeneous_forms(a, b),
    )


def _linear() -> Activation:
    return _two_slopes("linear", 1.0)


def _relu() -> Activation:
    return _two_slopes("relu", 0.0)


def _leaky_relu(negative_slope: float = 0.01) -> Activation:
    return _two_slopes(_label("leaky_relu", negative_slope == 0.01, negative_slope), negative_slope)


def _prelu(init: float = 0.25) -> Activation:
    return _two_slopes(_label("prelu", init == 0.25, init), init)


def _rrelu(lower: float = 1 / 8, upper: float = 1 / 3) -> Activation:
    """Describe the randomized leaky ReLU as it is in evaluation: its slope is the mean of the two bounds.

    Returns:
        The activation.
    """
    return _two_slopes(_label("rrelu", (lower, upper) == (1 / 8, 1 / 3), lower, upper), (lower + upper) / 2)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    if not min_val < max_val:
        raise ValueError(f"hardtanh: min_val must be below max_val, got {min_val} and {max_val}; swap them.")
    return describe(
        _label("hardtanh", (min_val, max_val) == (-1.0, 1.0), min_val, max_val),
        lambda u: np.clip(u, min_val, max_val),
        lambda u: _span(u, min_val, max_val),
        kinks=(min_val, max_val),
        closed=clip_forms(max_val) if min_val == -max_val else None,
    )


def _relu6() -> Activation:
    return describe("relu6", lambda u: np.clip(u, 0.0, 6.0), lambda u: _span(u, 0.0, 6.0), kinks=(0.0, 6.0))


def _hardsigmoid() -> Activation:
    return describe(
        "hardsigmoid",
        lambda u: np.clip(u / 6 + 0.5, 0.0, 1.0),
        lambda u: _span(u, -3.0, 3.0) / 6,
        kinks=(-3.0, 3.0),
    )


def _hardshrink(lambd: float = 0.5) -> Activation:
    lambd = abs(lambd)
    return describe(
        _label("hardshrink", lambd == 0.5, lambd),
        lambda u: np.where(np.abs(u) > lambd, u, 0.0),
        lambda u: (np.abs(u) > lambd).astype(np.float64),
        kinks=(-lambd, lambd),
    )


def _softshrink(lambd: float = 0.5) -> Activation:
    return describe(
        _label("softshrink", lambd == 0.5, lambd),
        lambda u: np.sign(u) * np.maximum(np.abs(u) - lambd, 0.0),
        lambda u: (np.abs(u) > lambd).astype(np.float64),
        kinks=(-lambd, lambd),
    )


def _threshold(threshold: float, value: float) -> Activation:
    return describe(
        f"threshold({threshold:g}, {value:g})",
        lambda u: np.where(u > threshold, u, value),
        lambda u: (u > threshold).astype(np.float64),
        kinks=(threshold,),
    )


# exponential on one side --------------------------------------------------------------------------------------------


def _elu(alpha: float = 1.0) -> Activation:
    return describe(
        _label("elu", alpha == 1.0, alpha),
        lambda u: np.where(u > 0, u, alpha * np.expm1(np.minimum(u, 0.0))),
        lambda u: np.where(u > 0, 1.0, alpha * np.exp(np.minimum(u, 0.0))),
        kinks=(0.0,),
    )


def _celu(alpha: float = 1.0) -> Activation:
    return describe(
        _label("celu", alpha == 1.0, alpha),
        lambda u: np.where(u > 0, u, alpha * np.expm1(np.minimum(u, 0.0) / alpha)),
        lambda u: np.where(u > 0, 1.0, np.exp(np.minimum(u, 0.0) / alpha)),
        kinks=(0.0,),
        feature=abs(alpha),
    )


def _selu() -> Activation:
    return describe(
        "selu",
        lambda u: _SELU_SCALE * np.where(u > 0, u, _SELU_ALPHA * np.expm1(np.minimum(u, 0.0))),
        lambda u: _SELU_SCALE * np.where(u > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(u, 0.0))),
        kinks=(0.0,),
    )


# smooth -------------------------------------------------------------------------------------------------------------


def _tanh() -> Activation:
    return describe("tanh", np.tanh, _sech_squared)


def _erf() -> Activation:
    return describe(
        "erf",
        lambda u: erf(math.sqrt(math.pi) / 2 * u),
        lambda u: np.asarray(np.exp(-math.pi / 4 * u * u)),
        closed=erf_forms(),
    )


def _sin() -> Activation:
    return describe("sin", np.sin, np.cos, closed=sine_forms())


def _sigmoid_() -> Activation:
    return describe("sigmoid", _sigmoid, lambda u: _sech_squared(u / 2) / 4)


def _logsigmoid() -> Activation:
    return describe("logsigmoid", lambda u: -_softplus(-u), lambda u: _sigmoid(-u))


def _softplus_(beta: float = 1.0) -> Activation:
    """Describe softplus; torch's switch to the identity far out (``threshold``) changes it by 2e-9 and is left out.

    Returns:
        The activation.
    """
    return describe(
        _label("softplus", beta == 1.0, beta),
        lambda u: _softplus(beta * u) / beta,
        lambda u: _sigmoid(beta * u),
        feature=1 / abs(beta),
    )


def _silu() -> Activation:
    def slope(u: Array) -> Array:
        s = _sigmoid(u)
        return np.asarray(s * (1 + u * _sigmoid(-u)))

    return describe("silu", lambda u: u * _sigmoid(u), slope)


def _mish() -> Activation:
    def slope(u: Array) -> Array:
        p = _softplus(u)
        return np.asarray(np.tanh(p) + u * _sech_squared(p) * _sigmoid(u))

    return describe("mish", lambda u: u * np.tanh(_softplus(u)), slope)


def _gelu() -> Activation:
    return describe("gelu", lambda u: u * _normal_cdf(u), lambda u: np.asarray(_normal_cdf(u) + u * density(u)))


def _gelu_tanh() -> Activation:
    root = math.sqrt(2 / math.pi)

    def slope(u: Array) -> Array:
        t = root * (u + _GELU_CUBIC * u**3)
        return np.asarray(_sigmoid(2 * t) + 0.5 * u * _sech_squared(t) * root * (1 + 3 * _GELU_CUBIC * u * u))

    # (1 + tanh t)/2 = sigmoid(2 t), without cancellation
    return describe("gelu_tanh", lambda u: u * _sigmoid(2 * root * (u + _GELU_CUBIC * u**3)), slope)


def _hardswish() -> Activation:
    return describe(
        "hardswish",
        lambda u: u * np.clip(u / 6 + 0.5, 0.0, 1.0),
        lambda u: np.where(u >= 3, 1.0, np.where(u <= -3, 0.0, u / 3 + 0.5)),
        kinks=(-3.0, 3.0),
    )


def _softsign() -> Activation:
    return describe("softsign", lambda u: u / (1 + np.abs(u)), lambda u: 1 / (1 + np.abs(u)) ** 2, kinks=(0.0,))


def _tanhshrink() -> Activation:
    # u - tanh u cancels near 0: the Taylor series is exact to rounding below 0.1
    series = (1 / 3, -2 / 15, 17 / 315, -62 / 2835, 1382 / 155925, -21844 / 6081075)

    def value(u: Array) -> Array:
        near = u**3 * np.polynomial.polynomial.polyval(np.minimum(u * u, 0.01), series)
        return np.where(np.abs(u) < 0.1, near, u - np.tanh(u))

    return describe("tanhshrink", value, lambda u: np.asarray(np.tanh(u) ** 2))


FAMILIES: dict[str, Callable[..., Activation]] = {
    # piecewise linear
    "linear": _linear,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "rrelu": _rrelu,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    "hardsigmoid": _hardsigmoid,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "threshold": _threshold,
    # exponential on one side
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    # smooth, odd
    "tanh": _tanh,
    "erf": _erf,
    "sin": _sin,
    "softsign": _softsign,
    "tanhshrink": _tanhshrink,
    # smooth, not odd
    "sigmoid": _sigmoid_,
    "logsigmoid": _logsigmoid,
    "softplus": _softplus_,
    "silu": _silu,
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": _hardswish,
}
