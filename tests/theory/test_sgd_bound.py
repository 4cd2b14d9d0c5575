"""The bounds of gradient confusion against exact expectations over every path that stochastic descent can take."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.theory import sgd_bound


class LeastSquares:
    """f_i(w) = (x_i w - y_i)^2 / 2: L = max |x_i|^2, and |grad f_i|^2 / 2 = |x_i|^2 f_i, so mu = min |x_i|^2."""

    def __init__(self, n, d, noise, seed):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(n, d))
        self.y = self.x @ rng.normal(size=d) + noise * rng.normal(size=n)
        squares = (self.x**2).sum(1)
        self.smoothness, self.pl = float(squares.max()), float(squares.min())
        self.start = rng.normal(size=d)
        best = np.linalg.lstsq(self.x, self.y, rcond=None)[0]
        self.lowest = self.loss(best)

    def loss(self, w):
        return float(0.5 * ((self.x @ w - self.y) ** 2).mean())

    def gradients(self, w):
        return (self.x @ w - self.y)[:, None] * self.x

    def walk(self, lr, steps):
        """Follow every path: expected losses and squared gradients by step, and the confusion met on the way."""
        losses, squares, eta = [], [], 0.0
        n = len(self.x)
        here = [self.start]  # every point that t steps can reach, all equally likely
        for _ in range(steps + 1):
            slopes = [self.gradients(w) for w in here]
            eta = max([eta, *(-(g @ g.T)[np.triu_indices(n, 1)].min() for g in slopes)])
            losses.append(np.mean([self.loss(w) for w in here]))
            squares.append(np.mean([(g.mean(0) ** 2).sum() for g in slopes]))
            here = [w - lr * step for w, g in zip(here, slopes, strict=True) for step in g]
        return np.array(losses), np.array(squares), eta


# Seen to fail: rho without its 1 / N; the printed first term of Theorem 3.2, without 1 / a; the floor without a.
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 3),
    d=st.integers(1, 3),
    noise=st.sampled_from([0.0, 0.3]),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 10**6),
)
def test_no_problem_exceeds_the_bounds(n, d, noise, share, seed):
    problem, steps = LeastSquares(n, d, noise, seed), 5
    lr = share * 2 / (n * problem.smoothness)
    losses, squares, eta = problem.walk(lr, steps)
    options = {"smoothness": problem.smoothness, "samples": n, "lr": lr, "gap": losses[0] - problem.lowest}
    for t in range(1, steps + 1):
        bound = sgd_bound(eta, steps=t, pl=problem.pl, **options)
        assert losses[t] - problem.lowest <= float(bound) * (1 + 1e-9) + 1e-12
        assert squares[:t].min() <= float(sgd_bound(eta, steps=t, **options)) * (1 + 1e-9) + 1e-12


def test_one_function_of_one_variable_meets_the_recursion():
    """N = 1, f = w^2 / 2, so L = mu = 1: the derivation's inequality F+ <= F - a (1 - a/2) w^2 is an equality."""
    lr, steps = 0.3, 7
    exact = 0.5 * (1 - lr) ** (2 * steps)
    bound = sgd_bound(0.0, smoothness=1.0, samples=1, lr=lr, steps=steps, gap=0.5, pl=1.0)
    assert bound.value == pytest.approx(exact, rel=1e-12)
    assert (bound.floor, bound.quantity) == (0, "suboptimality")


@given(eta=st.floats(0, 10), lr=st.floats(0.01, 0.19), gap=st.floats(0, 100), steps=st.integers(1, 1000))
def test_both_forms_as_they_are_printed(eta, lr, gap, steps):
    n, smooth, mu = 10, 1.0, 0.5
    rho = 1 - (2 * mu / n) * (lr - n * smooth * lr**2 / 2)
    bound = sgd_bound(eta, smoothness=smooth, samples=n, lr=lr, steps=steps, gap=gap, pl=mu)
    assert bound.rate == pytest.approx(rho)
    assert bound.value == pytest.approx(rho**steps * gap + lr * eta / (1 - rho))
    rho = 2 * n / (2 - n * smooth * lr)
    bound = sgd_bound(eta, smoothness=smooth, samples=n, lr=lr, steps=steps, gap=gap)
    assert bound.value == pytest.approx(rho * gap / (lr * steps) + rho * eta)
    assert bound.lr_limit == pytest.approx(2 / (n * smooth))


def test_more_steps_lower_the_transient_and_leave_the_floor():
    few, many = (sgd_bound(0.1, smoothness=1.0, samples=10, lr=0.1, steps=t, gap=1.0, pl=0.5) for t in (10, 10**6))
    assert few.floor == many.floor > 0
    assert many.transient < 1e-300
    assert "falls with the steps, + " in str(few)
    assert math.isclose(few.to_dict()["value"], few.transient + few.floor)


GOOD = {"smoothness": 1.0, "samples": 10, "lr": 0.1, "steps": 5, "gap": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": -0.1}, r"eta must be a finite number >= 0, got -0.1"),
        ({"smoothness": 0.0}, r"smoothness must be a finite number > 0, got 0.0"),
        ({"lr": 0.2}, r"lr=0.2 is not below 2 / \(samples \* smoothness\) = 0.2.*pass a smaller lr"),
        ({"lr": float("nan")}, r"lr must be a finite number > 0, got nan"),
        ({"samples": 0}, r"samples must be a whole number >= 1, got 0"),
        ({"steps": 2.5}, r"steps must be a whole number >= 1, got 2.5"),
        ({"gap": -1.0}, r"gap must be a finite number >= 0, got -1.0"),
        ({"pl": 2.0}, r"pl=2 exceeds smoothness=1, which no function allows; mu is at most L"),
        ({"pl": 0.0}, r"pl must be a finite number > 0, got 0.0"),
    ],
)
def test_bad_numbers_are_refused(change, message):
    options = {**GOOD, **change}
    with pytest.raises(ValueError, match=message):
        sgd_bound(options.pop("eta", 0.1), **options)
