"""Rate networks against a loop over their equation, and torch's own recurrent module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry.nn import RateNetwork


def test_it_follows_its_equation():
    torch.manual_seed(0)
    net, x = RateNetwork(3, 6, 2, leak=0.4, activation="tanh"), torch.randn(5, 7, 3)
    h, states = torch.zeros(5, 6), []
    for t in range(7):
        h = torch.tanh(0.6 * h + 0.4 * (x[:, t] @ net.input.weight.T + h @ net.recurrent.weight.T))
        states.append(h @ net.output.weight.T)
    torch.testing.assert_close(net(x), torch.stack(states, 1))
    net.every_step = False
    torch.testing.assert_close(net(x), states[-1])


def test_without_leak_it_is_torchs_recurrent_network():
    torch.manual_seed(1)
    net = RateNetwork(2, 5, 4, every_step=False)
    peer = nn.RNN(2, 5, bias=False, nonlinearity="relu", batch_first=True)
    peer.weight_ih_l0.data.copy_(net.input.weight)
    peer.weight_hh_l0.data.copy_(net.recurrent.weight)
    x = torch.randn(3, 8, 2)
    torch.testing.assert_close(net(x), peer(x)[0][:, -1] @ net.output.weight.T)
    assert "leak=1, every_step=False" in repr(net)


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((0, 2, 2), {}, "inputs must be a positive whole number, got 0"),
    ((1, 2.5, 2), {}, "hidden must be a positive whole number, got 2.5"),
    ((1, 2, 2), {"leak": 1.5}, "leak must be at most 1, got 1.5: a step cannot be longer than the time constant"),
    ((1, 2, 2), {"leak": 0.0}, "leak must be a finite number > 0"),
])  # fmt: skip
def test_bad_options_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        RateNetwork(*arguments, **options)


def test_sequences_are_needed():
    with pytest.raises(ValueError, match=r"x must have 3 dimensions, got shape \(4, 3\)"):
        RateNetwork(3, 5, 2)(torch.ones(4, 3))
