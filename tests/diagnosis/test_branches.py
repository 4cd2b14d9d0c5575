"""Layers in branches, on nets whose branches are known by construction, and the trend of gradients beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry.diagnosis import diagnose
from isometry.diagnosis._branches import branch_layers
from isometry.tape import as_inputs

from .nets import CLASSES, SIZE, assert_same, data, fingerprint, mlp


class Skip(nn.Module):
    """x + scale * branch(x)."""

    def __init__(self, scale, *, activation=nn.Tanh, gain=1.0):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(SIZE, SIZE), activation(), nn.Linear(SIZE, SIZE))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        for layer in self.branch[::2]:
            nn.init.orthogonal_(layer.weight, gain)

    def forward(self, x):
        return x + self.scale * self.branch(x)


def trunked(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, SIZE), *middle, nn.Linear(SIZE, CLASSES))


def branches(model, x=None):
    names = {name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None}
    return branch_layers(model, as_inputs(data()[0] if x is None else x), names)


def codes(model):
    return {f.code: f for f in diagnose(model, data()).findings}


def test_a_chain_has_no_branches():
    model = mlp(5)
    before = fingerprint(model)
    assert branches(model) == frozenset()
    assert_same(before, fingerprint(model))
    assert branches(trunked(nn.ReLU(inplace=True), nn.LayerNorm(SIZE), nn.Linear(SIZE, SIZE))) == frozenset()


def test_what_a_skip_goes_around_is_a_branch():
    assert {"1.branch.0", "1.branch.2"} == {n for n in branches(trunked(Skip(0.5))) if "branch" in n}
    model = trunked(Skip(0.5), nn.Linear(SIZE, SIZE), Skip(0.0))
    found = {n for n in branches(model) if "branch" in n}
    assert found == {"1.branch.0", "1.branch.2", "3.branch.0", "3.branch.2"}
    assert "2" not in branches(model)


def test_a_branch_from_the_input_is_one_and_calls_are_told_apart():
    assert {"0.branch.0", "0.branch.2"} <= branches(nn.Sequential(Skip(1.0), nn.Linear(SIZE, CLASSES)))
    layer = nn.Linear(SIZE, SIZE)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            h = self.layer(x)
            return h + self.layer(h)

    assert branch_layers(Twice(), as_inputs(data()[0]), {"layer", "layer#2"}) == {"layer#2"}


def test_tokens_start_at_their_embedding():
    model = nn.Sequential(nn.Embedding(9, SIZE), Skip(1.0), nn.Linear(SIZE, CLASSES))
    found = branches(model, torch.randint(9, (4, 3)))
    assert found == {"1.branch.0", "1.branch.2"}


def test_frozen_or_detached_models_have_no_branches():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(SIZE, SIZE)

        def forward(self, x):
            return self.layer(x).detach()

    assert branch_layers(Cut(), as_inputs(data()[0]), {"layer"}) == frozenset()


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("place", ["last", "first"])
def test_small_branches_at_either_end_make_no_trend(scale, place):
    plain = [nn.Linear(SIZE, SIZE), nn.Tanh()]
    middle = [*plain, Skip(scale), Skip(scale)] if place == "last" else [Skip(scale), Skip(scale), *plain]
    torch.manual_seed(0)
    model = nn.Sequential(*middle, nn.Linear(SIZE, CLASSES))
    assert not {"exploding_gradient", "vanishing_gradient"} & set(codes(model))


def test_a_trunk_that_explodes_is_found_beside_small_branches():
    loud = [part for _ in range(14) for part in (nn.Linear(SIZE, SIZE), nn.Tanh(), Skip(1e-6))]
    model = trunked(*loud)
    for module in model[:-1]:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, 3.0)
    assert "exploding_gradient" in codes(model)


def test_residual_branches_that_explode_the_trunk_are_found():
    found = codes(trunked(*[Skip(1.0, activation=nn.ReLU, gain=2.0) for _ in range(15)]))
    assert found["exploding_gradient"].value < 2


def test_a_trunk_that_vanishes_is_found_beside_small_branches():
    quiet = [part for _ in range(14) for part in (nn.Linear(SIZE, SIZE), nn.Tanh(), Skip(1e-6))]
    assert "vanishing_gradient" in codes(trunked(*quiet))
