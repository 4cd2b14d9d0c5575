"""Every activation of the catalogue against torch's own, and its slope against autograd."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from isometry.theory import MeanField, activation_names, activation_of
from isometry.theory._catalogue import FAMILIES

REFERENCES: dict[str, nn.Module | object] = {
    "linear": nn.Identity(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "prelu": nn.PReLU(),
    "rrelu": nn.RReLU().eval(),
    "hardtanh": nn.Hardtanh(),
    "relu6": nn.ReLU6(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardshrink": nn.Hardshrink(),
    "softshrink": nn.Softshrink(),
    "elu": nn.ELU(),
    "celu": nn.CELU(),
    "selu": nn.SELU(),
    "tanh": nn.Tanh(),
    "erf": lambda x: torch.erf(math.sqrt(math.pi) / 2 * x),
    "sin": torch.sin,
    "softsign": nn.Softsign(),
    "tanhshrink": nn.Tanhshrink(),
    "sigmoid": nn.Sigmoid(),
    "logsigmoid": nn.LogSigmoid(),
    "softplus": nn.Softplus(),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "hardswish": nn.Hardswish(),
    "threshold(0.1, 20)": nn.Threshold(0.1, 20.0),
    "leaky_relu(0.2)": nn.LeakyReLU(0.2),
    "rrelu(0.1, 0.3)": nn.RReLU(0.1, 0.3).eval(),
    "hardtanh(-1, 2)": nn.Hardtanh(-1.0, 2.0),
    "elu(0.5)": nn.ELU(0.5),
    "celu(2)": nn.CELU(2.0),
    "softplus(3)": nn.Softplus(beta=3.0),
    "hardshrink(0.7)": nn.Hardshrink(0.7),
    "softshrink(0.7)": nn.Softshrink(0.7),
}


def test_no_activation_is_left_out_here() -> None:
    assert {name.split("(")[0] for name in REFERENCES} == set(FAMILIES) == set(activation_names())


@pytest.mark.parametrize("name", REFERENCES)
def test_value_and_slope_are_torchs(name: str) -> None:
    known, reference = MeanField(name).activation, REFERENCES[name]
    u = torch.linspace(-9.03, 9.1, 997, dtype=torch.float64, requires_grad=True)
    if isinstance(reference, nn.Module):
        reference = reference.double()
    out = reference(u)  # type: ignore[operator]
    (slope,) = torch.autograd.grad(out.sum(), u)
    # torch keeps 1/6 as a float32 in hard-sigmoid's backward, and makes softplus linear where it differs by 2e-9
    loose = 6e-9 if name.startswith(("hardsigmoid", "softplus")) else 1e-13
    np.testing.assert_allclose(known.value(u.detach().numpy()), out.detach().numpy(), rtol=1e-9, atol=loose)
    np.testing.assert_allclose(known.slope(u.detach().numpy()), slope.numpy(), rtol=1e-9, atol=loose)


@pytest.mark.parametrize("name", REFERENCES)
def test_kinks_jumps_and_symmetry_are_as_described(name: str) -> None:
    known = MeanField(name).activation
    at = np.array(known.kinks)
    jumps = dict(known.jumps)
    step = 1e-8
    for kink, rise in zip(known.kinks, known.value(at + step) - known.value(at - step), strict=True):
        assert rise == pytest.approx(jumps.get(kink, 0.0), abs=1e-6)
    u = np.linspace(0.01, 8.0, 200)
    assert known.odd == bool(np.allclose(known.value(u), -known.value(-u), atol=1e-12))
    linear = bool(
        np.allclose(known.value(3 * u), 3 * known.value(u)) and np.allclose(known.value(-3 * u), 3 * known.value(-u))
    )
    assert (known.homogeneous is not None) == linear


def test_piecewise_linear_ones_are_recognised() -> None:
    names = {n for n in REFERENCES if MeanField(n).activation.piecewise_linear}
    assert {n.split("(")[0] for n in names} == {
        "linear", "relu", "leaky_relu", "prelu", "rrelu", "hardtanh", "relu6", "hardsigmoid", "hardshrink",
        "softshrink", "threshold",
    }  # fmt: skip


def test_no_cancellation_for_small_and_large_arguments() -> None:
    tiny = np.array([1e-5])
    assert MeanField("tanhshrink").activation.value(tiny)[0] == pytest.approx(1e-15 / 3, rel=1e-9)
    assert MeanField("tanh").activation.slope(np.array([30.0]))[0] == pytest.approx(4 * math.exp(-60), rel=1e-12)
    assert MeanField("sigmoid").activation.value(np.array([-50.0]))[0] == pytest.approx(math.exp(-50), rel=1e-12)


def test_hardtanh_wants_ordered_bounds() -> None:
    with pytest.raises(ValueError, match=r"min_val must be below max_val, got 2\.0 and 1\.0; swap them"):
        MeanField("hardtanh(2, 1)")


@pytest.mark.parametrize("name", [n for n in REFERENCES if isinstance(REFERENCES[n], nn.Module)])
def test_modules_are_recognised(name: str) -> None:
    found = activation_of(REFERENCES[name])  # type: ignore[arg-type]
    assert found is not None
    assert MeanField(found).name == name
    assert isinstance(found, str) == ("(" not in name)
