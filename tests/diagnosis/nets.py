"""Small networks that the tests of this room share."""

from __future__ import annotations

import torch
from torch import nn

SIZE, CLASSES = 16, 4


def data(count=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    return 2 * torch.eye(CLASSES, SIZE)[y] + torch.randn(count, SIZE, generator=g), y


def mlp(depth, activation=nn.Tanh, gain=None, seed=0):
    """PyTorch's default initialization, or orthogonal weights times a gain and no biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for _ in range(depth):
            layers += [nn.Linear(SIZE, SIZE), activation()]
        model = nn.Sequential(*layers, nn.Linear(SIZE, CLASSES))
        for module in model if gain is not None else ():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain)
                nn.init.zeros_(module.bias)
    return model


def fingerprint(model):
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "grads": [p.grad for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
    }


def assert_same(before, after):
    assert before["state"].keys() == after["state"].keys()
    for name, value in before["state"].items():
        assert torch.equal(value.nan_to_num(9.0), after["state"][name].nan_to_num(9.0)), name
    assert {k: v for k, v in before.items() if k != "state"} == {k: v for k, v in after.items() if k != "state"}
