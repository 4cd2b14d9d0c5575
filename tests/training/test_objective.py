from __future__ import annotations

import math

import pytest
import torch

from isometry.training import chance_loss, infer_likelihood, objective


def test_integer_targets_are_classes_and_floats_are_values():
    assert infer_likelihood(torch.tensor([0, 1])) == "categorical"
    assert infer_likelihood(torch.tensor([0.5])) == "gaussian"
    with pytest.raises(TypeError, match="class indices or real values"):
        infer_likelihood(torch.tensor([True]))


def test_gaussian_objective_is_half_the_squared_distance_per_sample():
    out, y = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert objective(out, y, "gaussian").item() == pytest.approx(0.5 * (1 + 4 + 4) / 2)


def test_chance_is_what_the_best_constant_scores():
    y = torch.tensor([0, 1, 2, 0])
    assert chance_loss(y, "categorical") == pytest.approx(math.log(3))
    assert chance_loss(y, "categorical", classes=10) == pytest.approx(math.log(10))
    values = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    constant = values.mean(0).expand_as(values)
    assert chance_loss(values, "gaussian") == pytest.approx(objective(constant, values, "gaussian").item(), rel=1e-5)
