"""Activations as functions of tensors: the catalogue's values and slopes, and finite differences for the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from isometry.theory import MeanField, activation_names
from isometry.theory._derivatives import derivatives, tensor_function
from isometry.theory._resolve import resolve_activation

U = torch.linspace(-3.7, 4.1, 41, dtype=torch.float64)  # no kink of the catalogue is hit
NAMES = [n if n != "threshold" else "threshold(0.3, 0.1)" for n in activation_names()]
MORE = ["leaky_relu(0.123456789)", "ELU(alpha=0.7)", "softplus(2.5)", "hardtanh(-0.4, 1.9)", "celu(0.3)"]


@pytest.mark.parametrize("name", NAMES + MORE)
def test_value_and_slope_are_the_catalogues(name):
    function, known = tensor_function(name)
    value, slope = derivatives(function, 1, U)
    np.testing.assert_allclose(value.numpy(), known.value(U.numpy()), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(slope.numpy(), known.slope(U.numpy()), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_higher_derivatives_by_finite_differences(name):
    # Central differences with step 1e-5 are good to 1e-10 f''' + 1e-16 / 1e-5.
    function = tensor_function(name)[0]
    here, above, below = (derivatives(function, 3, U + step) for step in (0.0, 1e-5, -1e-5))
    for order in (1, 2):
        difference = (above[order] - below[order]) / 2e-5
        torch.testing.assert_close(here[order + 1], difference, rtol=1e-7, atol=1e-7)
    assert not any(value.requires_grad for value in here)


@pytest.mark.parametrize(
    "given",
    [
        nn.LeakyReLU(0.123456789),
        nn.PReLU(init=0.123456789),
        nn.RReLU(0.1, 0.3),
        nn.ReLU(inplace=True),
        nn.ELU(0.123456789, inplace=True),
        torch.tanh,
        MeanField(nn.LeakyReLU(0.123456789)).activation,
        MeanField("elu(0.5)").activation,
    ],
    ids=lambda g: getattr(g, "name", None) or getattr(g, "__name__", str(g)),
)
def test_modules_descriptions_and_callables(given):
    function, known = tensor_function(given)
    before = U.clone()
    np.testing.assert_allclose(function(U).detach().numpy(), known.value(U.numpy()), rtol=1e-7, atol=1e-8)
    assert torch.equal(U, before)
    if known.homogeneous:
        np.testing.assert_allclose(function(U).detach().numpy(), known.value(U.numpy()), rtol=1e-14)


def test_a_description_that_leads_nowhere_is_refused():
    described = resolve_activation(lambda u: u + 0.1 * torch.sin(u))
    with pytest.raises(TypeError, match="from which no tensor function can be made; pass the module or callable"):
        tensor_function(described)
    rounded = resolve_activation(nn.ELU(0.123456789))  # its name says 0.123457
    with pytest.raises(TypeError, match=r"named 'elu\(0.123457\)'"):
        tensor_function(rounded)
