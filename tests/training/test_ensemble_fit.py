"""Training a whole ensemble equals training each network by torch's own SGD; the closed form of a linear unit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from isometry.training import ensemble, fit_ensemble

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3


def stack(nets=3):
    return list(ensemble(nets, [5, 4, 4, 3], weights="gaussian", generator=torch.Generator().manual_seed(1)))


def test_each_network_equals_torch_sgd():
    # Seen to fail with one step size for all networks, and with biases left out.
    weights, rates = stack(), [0.1, 0.5, 1.0]
    curve = fit_ensemble(weights, X, Y, activation="tanh", steps=15, lr=rates, test=(X[:5], Y[:5]))
    assert curve.loss.shape == (16, 3)
    for net, rate in enumerate(rates):
        layers = [nn.Linear(w.shape[2], w.shape[1], dtype=torch.float64) for w in weights]
        for layer, w in zip(layers, weights, strict=True):
            nn.init.zeros_(layer.bias)
            layer.weight.data.copy_(w[net])
        model = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        stepper, losses = torch.optim.SGD(model.parameters(), lr=rate), []
        for _ in range(16):
            loss = functional.cross_entropy(model(X), Y)
            losses.append(loss.detach())
            stepper.zero_grad()
            if len(losses) < 16:
                loss.backward()
                stepper.step()
        torch.testing.assert_close(curve.loss[:, net], torch.stack(losses), rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            out = model(X[:5])
        torch.testing.assert_close(curve.test_loss[net], functional.cross_entropy(out, Y[:5]))
        assert float(curve.test_accuracy[net]) == float((out.argmax(1) == Y[:5]).double().mean())
    assert torch.equal(curve.final_loss, curve.loss[-1])
    assert not curve.diverged.any()


def test_a_linear_unit_in_closed_form():
    # loss = (w - 3)^2 q / 2 with q = mean x^2 and, for symmetric x, the bias stays 0: w - 3 shrinks by 1 - lr q a step.
    x = torch.linspace(-1, 1, 21, dtype=torch.float64).reshape(-1, 1)
    q = float(x.square().mean())
    curve = fit_ensemble([torch.ones(1, 1, 1, dtype=torch.float64)], x, 3 * x, activation="linear", steps=10, lr=0.5)
    wanted = [0.5 * q * 4 * (1 - 0.5 * q) ** (2 * step) for step in range(11)]
    assert curve.loss[:, 0].tolist() == pytest.approx(wanted)
    assert torch.isnan(curve.accuracy).all()
    assert torch.isnan(curve.test_loss).all()


def test_a_network_that_diverges_leaves_the_others_alone():
    weights = stack()
    before = [w.clone() for w in weights]
    wild = fit_ensemble(weights, X, X[:, :3], activation="linear", steps=60, lr=[0.05, 1e4, 0.05])
    calm = fit_ensemble(weights, X, X[:, :3], activation="linear", steps=60, lr=0.05)
    assert wild.diverged.tolist() == [False, True, False]
    torch.testing.assert_close(wild.loss[:, [0, 2]], calm.loss[:, [0, 2]])
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))
    assert str(wild).startswith("3 networks, 60 steps, 1 diverged, loss ")


def test_refusals():
    weights = stack()
    with pytest.raises(ValueError, match="lr holds 2 step sizes for 3 networks"):
        fit_ensemble(weights, X, Y, activation="tanh", steps=2, lr=[0.1, 0.2])
    with pytest.raises(ValueError, match="steps must be a positive whole number, got 0"):
        fit_ensemble(weights, X, Y, activation="tanh", steps=0, lr=0.1)
    with pytest.raises(ValueError, match=r"inputs have shape \(12, 4\), targets \(12,\) and weights\[0\] \(3, 4, 5\)"):
        fit_ensemble(weights, X[:, :4], Y, activation="tanh", steps=2, lr=0.1)
    with pytest.raises(ValueError, match="weights holds no layers"):
        fit_ensemble([], X, Y, activation="tanh", steps=2, lr=0.1)
