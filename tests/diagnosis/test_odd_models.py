"""Models that draw numbers, drop units or move buffers are measured as they are, and not taken for sick."""

import pytest
import torch
from torch import nn

import isometry as iso
from isometry.diagnosis import diagnose, prescribe


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 16, generator=generator), torch.randint(4, (60,), generator=generator)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        logits = self.linear(x)
        return logits + torch.randn_like(logits)


def test_a_random_forward_is_no_unruly_step(points):
    torch.manual_seed(0)
    found = diagnose(Noisy(), points, samples=40)
    assert found.verdict != "error", [f.code for f in found.findings]


def test_dropout_in_training_mode_does_not_hide_the_spectra(points):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).train()
    found = diagnose(model, points, samples=40)
    assert {"step_size", "effective_rank"} <= {f.code for f in found.findings}
    assert model.training


def test_spectral_normalization_is_measured_without_moving_its_vectors(points):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = diagnose(model, points, samples=40)
    assert "step_size" in {f.code for f in found.findings}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_more_outputs_than_classes_are_not_large_logits(points):
    x, y = points
    torch.manual_seed(0)
    found = diagnose(nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 40)), (x, y % 2), samples=40)
    assert "logits_too_large" not in {f.code for f in found.findings}


def test_a_wrong_dtype_is_named(points):
    x, y = points
    with pytest.raises(ValueError, match=r"the parameters are torch.float64, so convert the inputs"):
        diagnose(nn.Linear(16, 4).double(), (x, y))


def test_prescribed_weights_are_safetensors_by_name(points, tmp_path):
    torch.manual_seed(0)
    model = iso.nn.reference_model("mlp:depth=30,width=16,activation=tanh", in_shape=(16,), classes=4)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        prescribe(model, points).save(tmp_path / "weights.pt")
