"""Chains of normalized layers: what all samples share must not grow at the cost of what tells them apart."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from isometry.init import critical_

DEPTH, WIDTH = 30, 64
NORMS = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "group": lambda width: nn.GroupNorm(4, width),
    "rms": nn.RMSNorm,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(norm, activation=nn.ReLU, *, bias=True):
    layers = []
    for _ in range(DEPTH):
        layers += [nn.Linear(WIDTH, WIDTH, bias=bias), norm(WIDTH), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def conv_chain(norm, channels=16):
    layers = []
    for index in range(DEPTH):
        conv = nn.Conv2d(channels if index else 3, channels, 3, padding=1, padding_mode="circular")
        layers += [conv, norm(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 10))


def levels(model, x):
    """What differs between samples in front of each activation, and the gradient there: mean squares."""
    seen = []

    def hook(_module, _args, result):
        result.retain_grad()
        seen.append(result)

    handles = [m.register_forward_hook(hook) for m in model if isinstance(m, tuple(_MODULES))]
    y = torch.randint(0, 10, (len(x),), generator=seeded(2))
    nn.functional.cross_entropy(model(x), y).backward()
    for handle in handles:
        handle.remove()
    signal = [(h - h.mean(0)).square().mean().item() for h in seen]
    return signal, [h.grad.square().mean().item() for h in seen]


_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def relu_variance(t, q):
    """Var relu(u) and E relu'(u)^2 for u ~ N(t, q), in closed form."""
    s = math.sqrt(q)
    inside, density = stats.norm.cdf(t / s), stats.norm.pdf(t / s)
    mean = t * inside + s * density
    return (t**2 + q) * inside + t * s * density - mean**2, inside


@pytest.mark.parametrize("norm", NORMS)
def test_what_tells_samples_apart_and_the_gradient_stay_level(norm):
    x = torch.randn(256, WIDTH, generator=seeded(1))
    model = chain(NORMS[norm])
    table = critical_(model, data=x, generator=seeded())
    point = table.operating_point
    assert table.converged
    assert point.shift > 0
    signal, gradient = levels(model, x)
    assert all(0.8 * point.q_star < level < 1.25 * point.q_star for level in signal)
    # Per layer the gradient's mean square grows by q* E phi'^2 / Var phi: weights of fixed outputs lose their scale.
    variance, slope = relu_variance(point.shift, point.q_star)
    growth = (gradient[0] / gradient[-1]) ** (1 / (DEPTH - 1))
    assert math.log(growth) == pytest.approx(math.log(point.q_star * slope / variance), abs=0.06)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.GroupNorm(1, c), lambda c: nn.GroupNorm(4, c)])
def test_the_same_holds_for_convolutions(norm):
    x = torch.randn(64, 3, 4, 4, generator=seeded(1))
    model = conv_chain(norm)
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    signal, gradient = levels(model, x)
    assert min(signal) > 0.6 * table.q_star
    assert max(gradient) < 30 * min(gradient)


def test_rms_normalization_leaves_the_shift_to_the_bias_in_front_of_it():
    x = torch.randn(256, WIDTH, generator=seeded(1))
    model = chain(nn.RMSNorm)
    table = critical_(model, data=x, generator=seeded())
    q, t = table.operating_point.q_star, table.operating_point.shift
    torch.testing.assert_close(model[31].weight, torch.full((WIDTH,), math.sqrt(q + t**2)))
    with torch.no_grad():
        front, behind = model[:31](x), model[:32](x)
    # The root mean square of 64 features varies by about 1 / sqrt(2 * 64) from sample to sample.
    assert ((front - behind).norm() / front.norm()).item() < 2 / math.sqrt(2 * WIDTH)
    assert front.mean().item() == pytest.approx(t, rel=0.1)
    assert "takes away the mean of the activations; shifts the pre-activations" in table["30.bias"].why


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_without_biases_the_point_stays_at_the_origin(norm):
    x = torch.randn(256, WIDTH, generator=seeded(1))
    model = chain(norm, bias=False)
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    assert table.operating_point.shift == 0
    torch.testing.assert_close(model[31].weight, torch.full((WIDTH,), table.q_star**0.5))
    if norm is nn.LayerNorm:
        assert model[31].bias.eq(0).all()
    signal, gradient = levels(model, x)
    # Classic ReLU at the origin: correlations grow to one like 1 - 1 / l^2 and take the signal along, not like 4^-l.
    assert signal[-1] > 1e-3 * signal[0]
    assert 0.1 < gradient[0] / gradient[-1] < 10


def test_a_scale_without_shift_stays_at_the_origin():
    model = chain(lambda width: nn.LayerNorm(width, bias=False))
    table = critical_(model, data=torch.randn(64, WIDTH, generator=seeded(1)), generator=seeded())
    assert table.operating_point.shift == 0
    assert table.converged


def test_an_activation_without_a_point_at_the_origin_is_named():
    model = chain(nn.LayerNorm, nn.Sigmoid, bias=False)
    table = critical_(model, data=torch.randn(64, WIDTH, generator=seeded(1)), generator=seeded())
    assert model[31].weight.eq(1).all()
    assert any(note.startswith("'31' stays at scale 1, since no bias can hold a shift: ") for note in table.notes), (
        table.notes
    )


def test_batch_normalization_needs_no_biases():
    x = torch.randn(256, WIDTH, generator=seeded(1))
    model = chain(nn.BatchNorm1d, bias=False)
    table = critical_(model, data=x, generator=seeded())
    assert table.operating_point.shift > 0
    signal, _ = levels(model, x)
    assert min(signal) > 0.9 * table.q_star


def test_a_normalization_behind_a_shifted_plain_layer():
    layers = []
    for index in range(DEPTH):
        layers += [nn.Linear(WIDTH, WIDTH), *([nn.LayerNorm(WIDTH)] if index % 2 else []), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    x = torch.randn(256, WIDTH, generator=seeded(1))
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    signal, _ = levels(model, x)
    assert signal[-1] > 0.5 * signal[0]
