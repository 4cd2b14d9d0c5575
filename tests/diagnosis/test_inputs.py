"""Are the samples samples: findings about data and models in which they are not."""

import pytest
import torch
from torch import nn

from isometry.diagnosis import diagnose

from .nets import mlp

SIZE = 16
Y = torch.arange(32) % 4
REAL = torch.randn(32, SIZE, generator=torch.Generator().manual_seed(0))


def found(model, x, y=Y):
    return {f.code: f for f in diagnose(model, (x, y)).findings}


@pytest.mark.parametrize(
    "x",
    [torch.zeros(32, SIZE), torch.ones(32, SIZE), torch.ones(32, SIZE) + 1e-7 * REAL, torch.zeros(32, SIZE).long()],
    ids=["zeros", "ones", "nearly ones", "tokens"],
)
def test_equal_inputs_are_an_error_and_come_first(x):
    model = mlp(2) if x.is_floating_point() else nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(2 * SIZE, 4))
    diagnosis = diagnose(model, (x, Y))
    assert diagnosis.verdict == "error"
    assert diagnosis.findings[0].code == "indistinct_inputs"
    assert "All 32 inputs are the same, up to rounding" in diagnosis.findings[0].message


def test_duplicates_are_not_blamed_on_the_units():
    codes = found(mlp(2), torch.eye(SIZE)[[0] * 31 + [1]])
    assert codes["indistinct_inputs"].severity == "warning"
    assert "identical_units" not in codes


def test_different_inputs_are_left_alone():
    assert not {"indistinct_inputs", "random_outputs", "coupled_samples"} & set(found(mlp(2), REAL))


class Odd(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = nn.Linear(SIZE, 4), change

    def forward(self, x):
        return self.net(self.change(x))


def test_random_outputs():
    codes = found(Odd(lambda x: x + torch.randn_like(x)), REAL)
    assert codes["random_outputs"].severity == "warning"
    assert "another output each time" in codes["random_outputs"].message


def test_coupled_samples():
    codes = found(Odd(lambda x: x - x.mean(0)), REAL)
    assert codes["coupled_samples"].severity == "warning"
    assert "depends on the others in the batch" in codes["coupled_samples"].message
    assert "coupled_samples" in found(Odd(lambda x: torch.eye(32) @ x), REAL)  # it cannot even take fewer


def test_weakly_coupled_samples_are_told_where_measurements_refuse_them():
    codes = found(Odd(lambda x: x + 1e-4 * torch.roll(x, 1, 0)), REAL)
    assert codes["coupled_samples"].severity == "warning"
    assert "depends weakly on the others" in codes["coupled_samples"].message
    assert 0 < codes["coupled_samples"].value < 1e-2
    assert "coupled_samples" not in found(Odd(lambda x: x), REAL)
