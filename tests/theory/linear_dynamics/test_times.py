"""Learning times against quadrature and the printed formulas, and step sizes against a dense Hessian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from isometry.theory.linear_dynamics import learning_time, optimal_rate


def by_quadrature(s, u0, uf, depth):
    power, rate = (2.0, 1.0) if math.isinf(depth) else (2 - 2 / depth, depth)
    # In x = log u the integrand has no spike near 0.
    return quad(lambda x: math.exp(x * (1 - power)) / (rate * (s - math.exp(x))), math.log(u0), math.log(uf), epsabs=0,
                epsrel=1e-12, limit=500)[0]  # fmt: skip


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 60, 1000, math.inf])
@pytest.mark.parametrize(
    ("s", "u0", "uf"),
    [(1.0, 1e-6, 0.5), (3.0, 0.1, 2.9999), (2.0, 5.0, 2.1), (0.3, 100.0, 0.4), (0.0, 2.0, 0.1), (1.0, 0.2, 0.2000001)],
)
def test_times_match_quadrature(s, u0, uf, depth):
    assert learning_time(s, u0, uf, depth=depth) == pytest.approx(by_quadrature(s, u0, uf, depth), rel=1e-8)


def test_the_printed_formulas():
    s, u0, uf, tau = 3.0, 1e-5, 2.0, 7.0
    ratio = math.log(uf * (s - u0) / (u0 * (s - uf)))
    assert learning_time(s, u0, uf, depth=2, tau=tau) == pytest.approx(tau / (2 * s) * ratio, rel=1e-13)
    deep = tau * (ratio / s**2 + 1 / (s * u0) - 1 / (s * uf))
    assert learning_time(s, u0, uf, depth=math.inf, tau=tau) == pytest.approx(deep, rel=1e-13)
    eps = 1e-3
    assert learning_time(s, eps, s - eps, depth=2, tau=tau) == pytest.approx(
        tau / s * math.log((s - eps) / eps), rel=1e-12
    )


def test_many_layers_tend_to_infinitely_many():
    deep = 10**7 * learning_time(1.0, 1e-3, 0.5, depth=10**7)
    assert deep == pytest.approx(learning_time(1.0, 1e-3, 0.5, depth=math.inf), rel=1e-5)


def test_arrays_broadcast_and_nothing_takes_no_time():
    times = learning_time([1.0, 2.0], 0.1, [[0.5], [0.1]], depth=3)
    assert times.shape == (2, 2)
    assert (times[1] == 0).all()
    assert (times[0] > 0).all()


@pytest.mark.parametrize(
    ("s", "u0", "uf"), [(1, 0.1, 1), (1, 0.1, 2), (1, 0.5, 0.2), (1, 2, 0.5), (1, 2, 3), (0, 1, 0)]
)
def test_strengths_that_are_never_reached_are_refused(s, u0, uf):
    with pytest.raises(ValueError, match=rf"uf={uf:g} is never reached from u0={u0:g}: the mode runs towards s={s:g}"):
        learning_time(float(s), float(u0), float(uf), depth=2)


@pytest.mark.parametrize(("s", "depth"), [(2.0, 1), (2.0, 2), (0.5, 3), (3.0, 8)])
def test_the_curvature_is_that_of_a_dense_hessian(s, depth):
    factors = torch.full((depth,), s ** (1 / depth), dtype=torch.float64)
    hessian = torch.func.hessian(lambda a: 0.5 * (s - a.prod()) ** 2)(factors)
    rates = optimal_rate(s, depth=depth)
    assert rates.curvature == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-10)
    assert float(rates) == rates.optimal == pytest.approx(1 / rates.curvature)
    assert rates.limit == pytest.approx(2 / rates.curvature)


def test_step_sizes_beyond_the_limit_diverge():
    # Near the solution, one mode: the deviation along the steepest direction is multiplied by 1 - lr / optimal.
    s, depth = 2.0, 3
    rates = optimal_rate(s, depth=depth)
    for lr, grows in ((0.95 * rates.limit, False), (1.05 * rates.limit, True)):
        a = np.full(depth, s ** (1 / depth)) * (1 + 1e-7)
        for _ in range(30):
            a = a + lr * (s - a.prod()) * a.prod() / a
        assert (abs(a.prod() - s) > 3e-7 * depth * s) == grows


def test_step_sizes_need_a_mode_and_a_depth():
    with pytest.raises(ValueError, match="s must be a finite number > 0, got 0"):
        optimal_rate(0.0, depth=2)
    with pytest.raises(ValueError, match="depth must be finite: the best step size falls as 1 / depth"):
        optimal_rate(1.0, depth=math.inf)
    assert "step size 0.25, below 0.5" in str(optimal_rate(2.0, depth=2))
