"""The same numbers on a CUDA device as on the processor; skipped where there is none."""

import pytest
import torch

import isometry as iso
from isometry import measure

from .test_conformance import MEASURES, START, build, labels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# Both compute in float64; sums are taken in another order, and a Lanczos eigenvalue has its residual's accuracy.
LOOSE = {"llama": 1e-5, "hessian": 1e-4, "gauss-newton": 1e-4}


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "gpt2", "llama", "resnet", "vit", "lstm", "encoder"])
@pytest.mark.parametrize("measured", MEASURES)
def test_measurements_agree_with_the_processor(measured, name):
    model, x = build(name)
    y = labels(model, x)
    here = MEASURES[measured](model, x, y, start=START.get(name))
    there = MEASURES[measured](model.cuda(), x.to("cuda"), y.cuda(), start=START.get(name))
    tolerance = max(1e-8, LOOSE.get(measured, 0), LOOSE.get(name, 0))
    assert torch.allclose(there.cpu().double(), here.double(), rtol=0, atol=tolerance * float(here.abs().max()))


@pytest.mark.parametrize("kind", ["true", "monte-carlo"])
def test_matrix_free_fisher(kind):
    model, x = build("mlp")
    options = {"kind": kind, "dense": False, "generator": torch.Generator().manual_seed(0)}
    here = measure.fisher(model, x, **options)
    vector = torch.ones(here.size, dtype=torch.float64)
    wanted = here.matvec(vector)
    options["generator"].manual_seed(0)
    there = measure.fisher(model.cuda(), x.to("cuda"), **options)
    found = there.matvec(vector.cuda())
    assert found.is_cuda
    if kind == "true":  # a drawn label may fall on the other side of a rounded probability
        assert torch.allclose(found.cpu(), wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))


def test_spectral_density_and_trace():
    model, x = build("mlp")
    y = labels(model, x)
    here = measure.curvature(model, x, y).trace(generator=torch.Generator().manual_seed(0))
    there = measure.curvature(model.cuda(), x.to("cuda"), y.cuda()).trace(generator=torch.Generator().manual_seed(0))
    assert float(there.value) == pytest.approx(float(here.value), abs=4 * (here.stderr + there.stderr))


def test_critical_draws_the_same_weights():
    drawn = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = iso.nn.reference_model("mlp:depth=5,width=16,activation=tanh", in_shape=(8,), classes=3).to(device)
        iso.init.critical_(model, activation="tanh", q_star=1 / 64, generator=torch.Generator().manual_seed(1))
        drawn.append([p.detach().cpu() for p in model.parameters()])
    for a, b in zip(*drawn, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


def test_a_whole_diagnosis():
    torch.manual_seed(0)
    model = iso.nn.reference_model("mlp:depth=40,width=32,activation=tanh", in_shape=(8,), classes=3).cuda()
    x = torch.randn(64, 8, device="cuda")
    diagnosis = iso.diagnose(model, (x, torch.arange(64, device="cuda") % 3), prove=30)
    assert any(finding.severity == "error" for finding in diagnosis.findings)
    assert diagnosis.prescription is not None
    diagnosis.prescription.apply_(model)
    assert all(p.is_cuda for p in model.parameters())
