"""Recurrent layers: how long they remember at the start."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from isometry.init import critical_


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Answer(nn.Module):
    """Answers from the last step."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def gated(kind, hidden=64):
    return Answer(kind(3, hidden, batch_first=True))


def remembered(rnn, x):
    """What is left of a gradient at the first state, over what it was at the last one (of the cell, for an LSTM)."""
    states = [s.detach().requires_grad_() for s in as_tuple(rnn(x)[1])]
    last = as_tuple(rnn(x, tuple(states) if len(states) > 1 else states[0])[1])[-1]
    cotangent = torch.randn(last.shape, generator=seeded(3))
    (gradient,) = torch.autograd.grad(last, states[-1], cotangent)
    return (gradient.norm() / cotangent.norm()).item()


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def expected(steps):
    """Root mean square over units of prod_t z_t with z_t = sigmoid(log u + e_t): gates alone, no feedback.

    u is uniform between 1 and T / 2, and e_t standard normal, since inputs of mean square one reach the gates.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(20)

    def squared(u):
        return math.exp(-2 * steps * np.log1p(np.exp(-points) / u) @ weights / weights.sum())

    return math.sqrt(integrate.quad(squared, 1, steps / 2)[0] / (steps / 2 - 1))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("steps", [16, 128])
def test_gates_carry_gradients_over_the_whole_sequence(kind, steps):
    x = torch.randn(32, steps, 3, generator=seeded(1))
    model = gated(kind)
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    # Feedback through the state-to-state blocks adds to what the gates keep.
    assert expected(steps) < remembered(model.rnn, x) < 1
    assert expected(128) > 1e6 * 0.73**128  # the usual bias of one


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_memories_are_spread_over_the_sequence(kind):
    steps, hidden = 50, 512
    model = gated(kind, hidden=hidden)
    table = critical_(model, data=torch.randn(8, steps, 3, generator=seeded(1)), generator=seeded())
    gate = model.rnn.bias_ih_l0[hidden : 2 * hidden]  # LSTM: input, forget, ...; GRU: reset, update, new
    memory = gate.exp()
    assert memory.min() >= 1 - 1e-5
    assert memory.max() <= steps / 2 + 1e-3
    deviation = (steps / 2 - 1) / math.sqrt(12)
    assert memory.mean().item() == pytest.approx((steps / 2 + 1) / 2, abs=4 * deviation / math.sqrt(hidden))
    assert memory.std().item() == pytest.approx(deviation, rel=0.15)
    others = [model.rnn.bias_hh_l0, model.rnn.bias_ih_l0[2 * hidden :]]
    assert all(part.eq(0).all() for part in others)
    if kind is nn.LSTM:
        torch.testing.assert_close(model.rnn.bias_ih_l0[:hidden], -gate / 2)
    assert "memories of 1 to 25 steps" in table["rnn.bias_ih_l0"].why
    again = gated(kind, hidden=hidden)
    critical_(again, data=torch.randn(8, steps, 3, generator=seeded(1)), generator=seeded())
    assert torch.equal(again.rnn.bias_ih_l0, model.rnn.bias_ih_l0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_shortest_sequences(steps):
    model = gated(nn.GRU, hidden=8)
    table = critical_(model, data=torch.randn(32, steps, 3, generator=seeded(1)), generator=seeded())
    assert table.converged
    assert model.rnn.bias_ih_l0.ge(0).all()
    assert model.rnn.bias_ih_l0.max() <= math.log(max(1, steps / 2)) + 1e-6


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_short_relu_networks_keep_gradients_and_mix_their_units(options):
    x = torch.randn(32, 12, 3, generator=seeded(1))
    model = nn.RNN(3, 48, nonlinearity="relu", batch_first=True, **options)
    table = critical_(Answer(model), data=x, generator=seeded())
    weight = model.weight_hh_l0.detach().double()
    gain = table["rnn.weight_hh_l0"].sigma_w
    torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(48, dtype=torch.float64), atol=1e-5, rtol=0)
    assert 1 < gain < 1.6
    # Another direction than the one that was levelled; the state is as at the end of a sequence.
    assert remembered(model, x) == pytest.approx(1, abs=0.25)
    assert "gradients are as large at the first step as at the last" in table["rnn.weight_hh_l0"].why


def test_long_relu_networks_and_cells_start_at_the_identity():
    long = nn.RNN(3, 16, nonlinearity="relu", batch_first=True)
    critical_(Answer(long), data=torch.randn(8, 33, 3, generator=seeded(1)), generator=seeded())
    assert torch.equal(long.weight_hh_l0, torch.eye(16))


def test_inputs_that_are_zero_at_first_do_not_mislead_the_gain():
    x = torch.randn(32, 12, 3, generator=seeded(1))
    x[:, :4] = 0  # from zero states, every unit would stay at its kink
    model = nn.RNN(3, 48, nonlinearity="relu", batch_first=True)
    table = critical_(Answer(model), data=x, generator=seeded())
    assert 1 < table["rnn.weight_hh_l0"].sigma_w < 1.6


def test_frozen_state_to_state_matrices_stay():
    model = nn.RNN(3, 16, nonlinearity="relu", batch_first=True)
    model.weight_hh_l0.requires_grad_(False)
    before = model.weight_hh_l0.clone()
    table = critical_(Answer(model), data=torch.randn(8, 12, 3, generator=seeded(1)), generator=seeded())
    assert torch.equal(model.weight_hh_l0, before)
    assert table["rnn.weight_hh_l0"].action == "skipped"
