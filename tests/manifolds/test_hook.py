"""Optimizers that do not know manifolds give one warning each."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from isometry import manifolds


def model_with_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model(torch.randn(3, 5)).sum().backward()
    return model


def quiet_step(optimizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


WORDS = r"steps 4 constrained parameters \(0.weight, 1.weight, 2.weight, ...\) as if they were free, so they leave"


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_one_warning_per_optimizer(kind):
    model = model_with_gradients()
    manifolds.constrain_(model)
    optimizer = kind(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=f"{kind.__name__} {WORDS}") as caught:
        optimizer.step()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "isometry.manifolds.release(model)" in str(caught[0].message)
    quiet_step(optimizer)
    manifolds.constrain_(model_with_gradients())  # which lets all optimizers be looked at again
    quiet_step(optimizer)
    with pytest.warns(UserWarning, match=WORDS):
        kind(model.parameters(), lr=0.1).step()


def test_a_constraint_that_comes_after_the_first_step():
    model = model_with_gradients()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_step(optimizer)
    manifolds.constrain_(model)
    with pytest.warns(UserWarning, match=WORDS):
        optimizer.step()


def test_a_group_that_comes_after_the_first_step():
    model = model_with_gradients()
    manifolds.constrain_(model)
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.1)
    quiet_step(optimizer)
    optimizer.add_param_group({"params": [model[0].weight]})
    with pytest.warns(UserWarning, match=r"SGD steps 1 constrained parameter \(0.weight\)"):
        optimizer.step()


def test_no_warning_where_none_is_due():
    model = model_with_gradients()
    manifolds.constrain_(model)
    quiet_step(torch.optim.SGD([p for p in model.parameters() if manifolds.constraint_of(p) is None], lr=0.1))

    class Aware(torch.optim.SGD):
        manifold_aware = True

    quiet_step(Aware(model.parameters(), lr=0.1))
    manifolds.release(model)
    quiet_step(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_seen_optimizer_costs_a_look_up(monkeypatch):
    model = model_with_gradients()
    manifolds.constrain_(model)
    optimizer = torch.optim.SGD([model[4].weight], lr=0.1)
    quiet_step(optimizer)
    calls = []
    monkeypatch.setattr("isometry.manifolds._hook.constraint_of", calls.append)
    for _ in range(5):
        quiet_step(optimizer)
    assert calls == []
