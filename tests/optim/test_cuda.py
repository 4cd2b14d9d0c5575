"""The same trajectories on a CUDA device as on the processor; skipped where there is none."""

import pytest
import torch
from torch import nn

import isometry as iso
from tests.optim.problems import CASES, OPTIMIZERS, batch, flat, mixed

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


def mixed_run(entry, constraint, device, dtype, steps):
    """Train the mixed model there for some steps; gives its losses and itself."""
    model = mixed(constraint, dtype).to(device)
    optimizer = entry.make(model.parameters(), entry.lr)
    losses = on_its_batch(model, optimizer, steps)
    return model, optimizer, losses


def on_its_batch(model, optimizer, steps):
    parameter = next(model.parameters())
    x, y = (part.to(parameter.device) for part in batch(parameter.dtype))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


everywhere = pytest.mark.parametrize(("entry", "constraint"), CASES, ids=[f"{e.name}-{c}" for e, c in CASES])
each = pytest.mark.parametrize("entry", OPTIMIZERS, ids=lambda e: e.name)


@everywhere
def test_every_optimizer_agrees_with_the_processor(entry, constraint):
    here, _, _ = mixed_run(entry, constraint, "cpu", torch.float64, 15)
    there, optimizer, _ = mixed_run(entry, constraint, "cuda", torch.float64, 15)
    # Some states are float32 whatever the parameter is, and their rounding grows along a run.
    assert torch.allclose(flat(here), flat(there).cpu(), rtol=0, atol=2e-4)
    assert all(t.is_cuda for state in optimizer.state.values() for name, t in state.items() if name != "step")


@everywhere
def test_every_optimizer_trains_bfloat16_there(entry, constraint):
    model, _, losses = mixed_run(entry, constraint, "cuda", torch.bfloat16, 40)
    assert losses[-1] < 0.95 * losses[0]
    assert iso.manifolds.check(model).ok


@everywhere
def test_a_state_moves_between_devices(entry, constraint):
    model, optimizer, _ = mixed_run(entry, constraint, "cpu", torch.float64, 5)
    moved = mixed(constraint, torch.float64).cuda()
    moved.load_state_dict(model.state_dict())
    resumed = entry.make(moved.parameters(), entry.lr)
    resumed.load_state_dict(optimizer.state_dict())
    on_its_batch(model, optimizer, 5)
    on_its_batch(moved, resumed, 5)
    assert torch.allclose(flat(model), flat(moved).cpu(), rtol=0, atol=2e-4)


@everywhere
def test_a_gradient_that_is_not_finite_is_refused_there(entry, constraint):
    model, optimizer, _ = mixed_run(entry, constraint, "cuda", torch.float32, 2)
    before = flat(model)
    model.wide.weight.grad[1, 2] = float("nan")
    with pytest.raises(ValueError, match="holds 1 non-finite value"):
        optimizer.step()
    assert torch.equal(flat(model), before)


@each
def test_one_optimizer_moves_a_model_on_two_devices(entry):
    first, second = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2, device="cuda"))
    optimizer = entry.make([first, second], entry.lr)
    for _ in range(3):
        for p in (first, second):
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.allclose(first.detach(), second.detach().cpu(), atol=1e-6)
    assert not torch.equal(first.detach(), torch.ones(3, 2))


@each
def test_a_rate_may_be_a_tensor_there(entry):
    ends = []
    for lr in (entry.lr, torch.tensor(entry.lr, device="cuda")):
        p = nn.Parameter(torch.ones(3, 2, device="cuda"))
        p.grad = torch.ones_like(p)
        entry.make([p], lr).step()
        ends.append(p.detach())
    assert torch.allclose(*ends, atol=1e-7)


@pytest.mark.parametrize("polar", ["fast", "quick", "accurate"])
@pytest.mark.parametrize("shape", [(300, 300), (1024, 64), (64, 1024), (768, 3072)], ids=str)
def test_orthogonal_steps_have_their_stated_error_there(shape, polar):
    momentum = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    p = nn.Parameter(torch.zeros(shape, device="cuda"))
    p.grad = momentum.cuda()
    iso.optim.Muon([p], 1.0, polar=polar, scale="none").step()
    here = nn.Parameter(torch.zeros(shape))
    here.grad = momentum
    iso.optim.Muon([here], 1.0, polar=polar, scale="none", compute_dtype="float32").step()
    found, wanted = (torch.linalg.svdvals(q.detach().cpu().double()) for q in (p, here))
    slack = 0.04  # products in bfloat16
    assert float((found - 1).abs().max()) < float((wanted - 1).abs().max()) + slack


@pytest.mark.parametrize("n", [7, 64, 1000, 4096])
def test_the_cosine_transform_agrees_with_the_processor(n):
    x = torch.randn(5, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(iso.linalg.dct(x.cuda()).cpu(), iso.linalg.dct(x), atol=1e-10)
