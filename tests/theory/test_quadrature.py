"""Gaussian averages on panels: exact for polynomials, resolved for spikes and kinks, honest about the rest."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.theory._quadrature import QuadratureError, erf, erfc, gaussian_average

PLAIN = np.linspace(-13.0, 13.0, 15)[None]


@pytest.mark.parametrize("degree", range(12))
def test_moments_of_a_gaussian(degree: int) -> None:
    expected = 0.0 if degree % 2 else math.prod(range(degree - 1, 0, -2))
    assert gaussian_average(lambda z, _: z**degree, PLAIN)[0] == pytest.approx(expected, rel=1e-13, abs=1e-11)


@settings(deadline=None, max_examples=25)
@given(st.floats(-4, 4), st.floats(0.01, 30))
def test_refines_what_no_break_announces(centre: float, sharpness: float) -> None:
    # E of a logistic step, against the symmetric identity E f(z) + E f(-z) at mirrored centres = 1
    step = lambda c: gaussian_average(lambda z, _: 0.5 * (1 + np.tanh(sharpness * (z - c))), PLAIN)[0]  # noqa: E731
    assert step(centre) + step(-centre) == pytest.approx(1.0, abs=1e-12)


def test_a_jump_off_the_breaks_is_found_by_halving() -> None:
    value = gaussian_average(lambda z, _: (z > 0.3).astype(float), PLAIN)[0]
    assert value == pytest.approx(0.5 * erfc(0.3 / math.sqrt(2)), abs=1e-13)


def test_rows_are_separate_integrals_with_their_own_breaks() -> None:
    kinks = np.array([-1.0, 0.2, 2.5])
    breaks = np.sort(np.concatenate([np.repeat(PLAIN, 3, axis=0), kinks[:, None]], axis=1), axis=1)
    values = gaussian_average(lambda z, row: np.maximum(z - kinks[row, None], 0.0), breaks)
    pdf = np.exp(-(kinks**2) / 2) / math.sqrt(2 * math.pi)
    assert values == pytest.approx(pdf - kinks * 0.5 * erfc(kinks / math.sqrt(2)), rel=1e-13)


def test_empty_panels_do_no_harm() -> None:
    breaks = np.sort(np.concatenate([PLAIN, PLAIN, np.zeros((1, 3))], axis=1), axis=1)
    assert gaussian_average(lambda z, _: z * z, breaks)[0] == pytest.approx(1.0, rel=1e-14)


def test_says_that_an_average_does_not_exist() -> None:
    with pytest.raises(QuadratureError, match="not finite, so the average does not exist"):
        gaussian_average(lambda z, _: np.exp(z**4), PLAIN)


def test_says_that_an_integrand_oscillates_too_fast() -> None:
    with pytest.raises(QuadratureError, match=r"could not be resolved.*kinks="):
        gaussian_average(lambda z, _: np.sin(1e9 * z) ** 2, PLAIN)


def test_error_functions_keep_their_tails() -> None:
    assert erfc(np.array([10.0]))[0] == pytest.approx(math.erfc(10.0), rel=1e-13)
    assert erf(np.array([1e-20]))[0] == pytest.approx(math.erf(1e-20), rel=1e-13)
