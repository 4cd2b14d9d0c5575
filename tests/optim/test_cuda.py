"""The same trajectories on a CUDA device as on the processor; skipped where there is none."""

import pytest
import torch
from torch import nn

import isometry as iso

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(device, dtype, make, kind, scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 5)).to(dtype)
    iso.manifolds.constrain_(model, kind, scale=scale)
    model.to(device)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    y = (torch.arange(32) % 5).to(device)
    optimizer = make(model.named_parameters())
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).float(), y).backward()
        optimizer.step()
    assert iso.manifolds.check(model).ok
    return [p.detach().cpu() for p in model.parameters()]


@pytest.mark.parametrize("scale", ["fixed", "learned"])
@pytest.mark.parametrize("kind", ["stiefel", "oblique"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: iso.optim.RiemannianSGD(p, lr=0.1, momentum=0.9),
        lambda p: iso.optim.RiemannianAdam(p, lr=0.05),
    ],
    ids=["sgd", "adam"],
)
def test_trajectories_agree_with_the_processor(make, kind, scale):
    here = trained("cpu", torch.float64, make, kind, scale)
    there = trained("cuda", torch.float64, make, kind, scale)
    for a, b in zip(here, there, strict=True):
        # The loss is taken in float32 on both, so gradients agree to its rounding only.
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


def test_half_precision_keeps_masters_there():
    trained("cuda", torch.bfloat16, lambda p: iso.optim.RiemannianSGD(p, lr=0.1), "stiefel", "fixed")


@pytest.mark.filterwarnings("ignore")  # of the compiler, about the machine
def test_a_compiled_model_trains():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).cuda()
    iso.manifolds.constrain_(model, "stiefel", names="0.weight")
    compiled = torch.compile(model)
    optimizer = iso.optim.RiemannianAdam(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 64, device="cuda"), torch.arange(32, device="cuda") % 10
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(compiled(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert iso.manifolds.check(model).ok
