"""Users' own activations: derivatives by torch.func, kinks by bisection."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from isometry.theory import MeanField, QuadratureError


@settings(deadline=None, max_examples=6)
@given(st.floats(-20, 20), st.floats(0.01, 3))
def test_finds_a_kink_wherever_it_lies(place: float, slope: float) -> None:
    activation = MeanField(lambda x: slope * (x - place).relu() + 0.1 * x).activation
    assert len(activation.kinks) == 1
    assert activation.kinks[0] == pytest.approx(place, abs=1e-10 * max(1, abs(place)))
    assert activation.slope_jumps[0][1] == pytest.approx(slope, rel=1e-9)


def test_two_kinks_between_neighbouring_grid_points() -> None:
    activation = MeanField(lambda x: (x - 1e-3).relu() - (x + 1e-3).relu()).activation
    assert activation.kinks == pytest.approx((-1e-3, 1e-3), abs=1e-12)


def test_jumps_are_found_with_their_heights() -> None:
    activation = MeanField(lambda x: torch.where(x > 0.25, x + 2.0, x)).activation
    assert activation.jumps[0] == pytest.approx((0.25, 2.0))
    assert activation.kinks == (0.25,)


def test_smooth_ones_have_no_kinks() -> None:
    for function in (lambda x: torch.tanh(5 * x), lambda x: x * torch.sigmoid(x), lambda x: torch.sin(3 * x)):
        assert MeanField(function).activation.kinks == ()


@pytest.mark.parametrize("name", ["tanh", "hardtanh", "gelu", "softshrink", "elu", "hardshrink", "relu6"])
def test_same_theory_as_the_catalogue(name: str) -> None:
    modules = {
        "tanh": nn.Tanh(), "hardtanh": nn.Hardtanh(), "gelu": nn.GELU(), "softshrink": nn.Softshrink(), "elu": nn.ELU(),
        "hardshrink": nn.Hardshrink(), "relu6": nn.ReLU6(),
    }  # fmt: skip
    own, known = MeanField(lambda x: modules[name](x)), MeanField(name)
    assert own.activation.kinks == (known.activation.kinks if name != "elu" else ())  # only a second derivative jumps
    for q in (0.02, 1.3):
        assert own.mu(1, q) == pytest.approx(known.mu(1, q), rel=1e-11)
        assert own.mu(2, q) == pytest.approx(known.mu(2, q), rel=1e-11)
        assert own.length_map(q, 1.2, 0.1) == pytest.approx(known.length_map(q, 1.2, 0.1), rel=1e-11)
    c = own.correlation_map(0.6, q=1.3, sigma_w=1.2, sigma_b=0.1)
    assert c == pytest.approx(known.correlation_map(0.6, q=1.3, sigma_w=1.2, sigma_b=0.1), rel=1e-11)


def test_given_kinks_replace_the_search() -> None:
    assert MeanField(lambda x: (x - 100.0).relu(), kinks=[100]).activation.kinks == (100.0,)
    with pytest.raises(ValueError, match="kinks must be finite numbers, got nan"):
        MeanField(torch.exp, kinks=[math.nan])


def test_growth_like_exp_is_averaged_with_long_tails_or_refused() -> None:
    mf = MeanField(torch.exp)
    # E exp(u)^2 = exp(2 q)
    assert mf.length_map(9.0, 1.0, 0.0) == pytest.approx(math.exp(18.0), rel=1e-12)
    with pytest.raises(QuadratureError, match="average of 'exp' at variance 900: the integrand is not finite"):
        mf.length_map(900.0, 1.0, 0.0)


def test_polynomials() -> None:
    mf = MeanField(lambda x: x**2)
    assert mf.length_map(2.0, 1.0, 0.0) == pytest.approx(12.0, rel=1e-13)
    assert mf.mu(1, 2.0) == pytest.approx(8.0, rel=1e-13)


def broken(x: Tensor) -> Tensor:
    raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (nn.Softmax(dim=-1), ValueError, "'Softmax' is not elementwise and deterministic"),
        (nn.Dropout(0.5), ValueError, "is not elementwise and deterministic"),
        (lambda x: x.sum(), ValueError, r"to the same shape, got shape \(\)"),
        (lambda x: 3.0, ValueError, "to the same shape, got float"),
        (torch.log, ValueError, "'log' is not finite at -3.3"),
        (torch.floor, ValueError, "more than 64 kinks or jumps"),
        (broken, TypeError, "'broken' failed on a float64 tensor.*RuntimeError: no such thing"),
        (lambda x: torch.from_numpy(x.detach().numpy() * 1.0), TypeError, "cannot be differentiated by torch.func"),
        (nn.Linear(3, 3), TypeError, "'Linear' failed on a float64 tensor"),
    ],
)
def test_refusals(function: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MeanField(function)  # type: ignore[arg-type]


def test_in_place_callables_do_not_spoil_their_nodes() -> None:
    assert MeanField(lambda x: x.relu_()).mu(1, 1.0) == pytest.approx(0.5, rel=1e-14)


def test_works_under_inference_mode_and_leaves_the_random_state() -> None:
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        value = MeanField(lambda x: torch.tanh(x)).mu(1, 0.5)
    assert value == pytest.approx(MeanField("tanh").mu(1, 0.5), rel=1e-12)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.isfinite(value)
